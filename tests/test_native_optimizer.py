"""The native optimiser step against torch's clipping and step, with topology changes and resuming in between."""

from __future__ import annotations

import copy

import pytest
import torch
from learning import change
from torch import nn

from mast_train.engines import native
from mast_train.engines.native.extension import extension
from mast_train.engines.native.optimizer import SparseStep
from mast_train.sparse.evolution import dense_gradients
from mast_train.sparse.masks import MaskedLayer, Masks

pytestmark = pytest.mark.skipif(not native.available(), reason=native.status())
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=3e-3, eps=1e-5),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=3e-3, alpha=0.99, eps=1e-5),
}


def make(seed=0):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(13, 21), nn.Linear(21, 5))
    layers = [MaskedLayer("0.weight"), MaskedLayer("1.weight")]
    return module, Masks(module, layers, 0.7, "erdos_renyi", True, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("level", native.levels())
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("max_norm", [0.05, 1e6])
def test_a_hundred_steps_with_topology_changes(level, kind, max_norm):
    """Gradients are given where there is no connection too, and must not matter."""
    modules, masks = zip(*(make() for _ in range(2)), strict=True)
    optimizers = [OPTIMIZERS[kind](module.parameters()) for module in modules]
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    step = SparseStep(optimizers[1], masks[1].connections(), level)
    for update in range(1, 101):
        gradients = [torch.randn_like(parameter) for parameter in modules[0].parameters()]
        for module in modules:
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
        dense = dense_gradients([masks[0]])
        masks[0].apply_to_gradients()
        expected = torch.nn.utils.clip_grad_norm_(modules[0].parameters(), max_norm)
        optimizers[0].step()
        torch.testing.assert_close(step.step(max_norm), expected)
        if update % 20 == 0:
            for own, optimizer, generator in zip(masks, optimizers, generators, strict=True):
                assert change("magnitude", "gradient", dense, own, generator, optimizer) > 0
        assert torch.equal(masks[0]["0.weight"], masks[1]["0.weight"])
    for a, b in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-4)
        for name, value in optimizers[0].state[a].items():
            torch.testing.assert_close(optimizers[1].state[b][name], value, atol=1e-6, rtol=1e-4)
    for parameter, mask in masks[1].connections().items():
        assert not parameter[~mask].any()
        assert all(not v[~mask].any() for v in optimizers[1].state[parameter].values() if v.shape == mask.shape)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_its_state_is_torchs(kind):
    """Either step continues from the other's state; parameters without a gradient stay."""
    module, masks = make()
    optimizer = OPTIMIZERS[kind](module.parameters())
    step = SparseStep(optimizer, masks.connections())
    for update in range(4):
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        module[1].bias.grad = None
        if update % 2:
            masks.apply_to_gradients()
            optimizer.step()
        else:
            step.step(1.0)
    assert [float(optimizer.state[p]["step"]) for p in (module[0].weight, module[0].bias)] == [4.0, 4.0]
    assert not optimizer.state[module[1].bias]
    other = OPTIMIZERS[kind](copy.deepcopy(module).parameters())
    other.load_state_dict(optimizer.state_dict())


def test_connections_are_looked_up_again_only_after_a_change(monkeypatch):
    """Gradients are new tensors at every update of several seeds."""
    module, masks = make()
    step, looked = SparseStep(torch.optim.Adam(module.parameters()), masks.connections()), []
    positions = extension().positions
    monkeypatch.setattr(extension(), "positions", lambda mask: looked.append(1) or positions(mask=mask))
    for update in range(3):
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        step.step(1.0)
        assert len(looked) == len(masks.connections()), update
    next(iter(masks.connections().values())).logical_not_().logical_not_()
    step.step(1.0)
    assert len(looked) == len(masks.connections()) + 1


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("whole", [False, True])
def test_it_follows_a_state_that_was_loaded(kind, whole):
    """By torch, or tensor by tensor as a learner does; the step after it is the one that followed when it was saved."""
    module, masks = make()
    optimizer = OPTIMIZERS[kind](module.parameters())
    step = SparseStep(optimizer, masks.connections())
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    for _ in range(3):
        step.step(1.0)
    saved, start = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(module.state_dict())
    results = []
    for _ in range(2):
        step.step(1.0)
        results.append(copy.deepcopy(module.state_dict()))
        module.load_state_dict(start)
        if whole:
            optimizer.load_state_dict(copy.deepcopy(saved))
        for i, parameter in enumerate(module.parameters() if not whole else []):
            for name, value in saved["state"][i].items():
                optimizer.state[parameter][name] = value.clone()
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_what_is_not_done_in_c_is_refused():
    module, masks = make()
    with pytest.raises(ValueError, match="weight_decay"):
        SparseStep(torch.optim.Adam(module.parameters(), weight_decay=0.1), masks.connections())
    with pytest.raises(ValueError, match="SGD"):
        SparseStep(torch.optim.SGD(module.parameters(), lr=0.1), masks.connections())
