"""The optimisers' steps as CUDA launches, here under the CPU's emulation, against torch's over flat memory."""

from __future__ import annotations

import emulated
import pytest
import torch
from test_graphs import Recording, learners

from mast_train.engines.fused import nvrtc, optimise, sparse
from mast_train.engines.fused.optimise import FusedFlat
from mast_train.engines.optimise import Flat

RMSPROP = {"train.optimizer": "rmsprop"}


@pytest.fixture(autouse=True)
def emulation(monkeypatch):
    """Few threads, so that pieces have more weights than threads, and sums more pieces."""
    monkeypatch.setattr(nvrtc, "kernel", emulated.kernel)
    monkeypatch.setattr(optimise, "runs_on", lambda device: True)
    monkeypatch.setattr(optimise, "THREADS", 8)
    monkeypatch.setattr(optimise, "PIECE", 100)


def both(method, settings, seeds):
    found = []
    for way in (Flat, FusedFlat):
        own = learners(method, settings, seeds)
        flat = way([each.parts for each in own])
        flat.set_rates([1e-3 * (1 + k) for k in range(seeds)])
        found.append((own, flat))
    return found


def draw(flats, generator, scale=1.0):
    """The same gradients for both; off the masks they may be anything, as after an update that evolves."""
    gradients = torch.randn(flats[0]._gradients.shape, generator=generator) * scale
    flats[0]._gradients.copy_(gradients)
    flats[1]._gradients.copy_(torch.where(flats[1]._mask, gradients, torch.nan))


@pytest.mark.parametrize(("method", "settings"), [("mast", {}), ("dense", {}), ("mast", RMSPROP), ("set", RMSPROP)])
@pytest.mark.parametrize("seeds", [1, 3])
def test_steps_are_those_of_torch(method, settings, seeds):
    """With norms below and above the limit, and through new connections."""
    (own, flat), (beside, fused) = both(method, settings, seeds)
    assert fused._pieces.shape[0] > 30 and int(fused._pieces[:, 2].sum()) * seeds == fused._mask.numel()
    generator, norms = torch.Generator().manual_seed(0), []
    for number, scale in enumerate((1e-4, 1.0, 30.0, 1e-3)):
        draw((flat, fused), generator, scale)
        found, expected = fused.step(10.0), flat.step(10.0)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        norms.append((found, expected))
        for one, other in zip(own, beside, strict=True):
            state = other.state_dict()
            for name, value in one.state_dict().items():
                torch.testing.assert_close(state[name], value, rtol=2e-5, atol=2e-7, msg=f"{name} {number}")
        shuffle(own, beside)
    for found, expected in norms:  # a log reads them later
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("way", [Flat, FusedFlat])
def test_the_first_steps_of_adam_lose_no_digits(way):
    """Of constant gradients every moment without its bias is the gradient: a step is rate g / (|g| + eps)."""
    flat = way([own.parts for own in learners("dense", {}, 1)])
    flat.set_rates([1e-3])
    gradient = torch.linspace(-2.0, 2.0, len(flat._gradients)).double()
    step = 1e-3 * gradient / (gradient.abs() + 1e-5)
    for _ in range(3):
        flat._parameters.zero_()
        flat._gradients.copy_(gradient)
        flat.step(1e9)
        torch.testing.assert_close(-flat._parameters.double(), step, rtol=2e-6, atol=0)


def test_more_weights_than_places_can_be_counted_are_stepped_by_torch(monkeypatch):
    monkeypatch.setattr(optimise, "LIMIT", 100)
    monkeypatch.setattr(optimise, "_launch", None)
    (own, flat), (beside, fused) = both("mast", {}, 2)
    assert not hasattr(fused, "_pieces"), "a table of them in int32 would raise"
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(flat._gradients.shape, generator=generator)
    for each in (flat, fused):
        each._gradients.copy_(gradients)
    assert torch.equal(fused.step(10.0), flat.step(10.0))
    ours, theirs = (torch.cat([p.flatten() for each in own for p in each.parameters]) for own in (beside, own))
    assert torch.equal(ours, theirs)


def shuffle(own, beside):
    """Other connections: weights and moments are 0 where there are none."""
    order = torch.Generator().manual_seed(1)
    for one, other in zip(own, beside, strict=True):
        for key, masks in one.masks.items():
            for name, mask in masks.state_dict().items():
                mask.copy_(mask.flatten()[torch.randperm(mask.numel(), generator=order)].view_as(mask))
                other.masks[key][name].copy_(mask)
                for learner in (one, other):
                    parameter = dict(learner.online[key].named_parameters())[name]
                    moments = [x for x in learner.optimizer.state[parameter].values() if x.dim()]
                    with torch.no_grad():
                        for x in (parameter, *moments):
                            x.mul_(mask)


def test_a_norm_that_is_no_number_shows_and_harms_one_seed():
    (_, (_, fused)), generator = both("mast", {}, 2), torch.Generator().manual_seed(0)
    draw((fused, fused), generator)
    whole, gradients = next(iter(fused._wholes.values()))
    gradients[1].fill_(torch.inf)
    before = whole[0].clone()
    norms = fused.step(10.0)
    assert norms[0].isfinite() and not norms[1].isfinite()
    assert whole[0].isfinite().all() and not torch.equal(whole[0], before) and not whole[1].isfinite().all()


def test_the_order_of_threads_changes_nothing(monkeypatch):
    found = []
    for falling in (False, True):
        monkeypatch.setattr(emulated.Emulated, "falling", falling)
        _, (beside, fused) = both("mast", {}, 2)
        draw((fused, fused), torch.Generator().manual_seed(0))
        fused.step(1.0)
        found.append(torch.cat([parameter.flatten() for own in beside for parameter in own.parameters]))
    assert torch.equal(*found)


def test_two_launches_however_many_seeds_and_nothing_is_waited_for():
    for seeds in (1, 3):
        launched = []
        _, (_, fused) = both("mast", {}, seeds)
        with pytest.MonkeyPatch.context() as patch, Recording():
            patch.setattr(optimise, "_launch", lambda name, *given, launched=launched: launched.append(name))
            fused.step(10.0)
        assert launched == ["squares", "clipped"]


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_the_cuda_sources_compile_at_run_time(target):
    """By NVRTC, which needs no GPU."""
    try:
        assert len(nvrtc.compiled(optimise.SOURCE, (("THREADS", optimise.THREADS),), target)) > 1000
        assert len(nvrtc.compiled(sparse.SOURCE, (("CLUSTER", 1), ("WARPS", 16)), target)) > 1000
    except (ImportError, OSError, RuntimeError) as error:
        if "does not compile" in str(error):
            raise
        pytest.skip(f"NVRTC is not here: {str(error)[:80]}")
