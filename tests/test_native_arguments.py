"""Tensors that the training extension cannot use: one line that says which, what was given and what was expected.

Every call with every argument wrong is in native_calls.py, which needs no torch.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mast_train.engines import native
from mast_train.engines.native import Inputs, SparseSequence, Wanted, together
from mast_train.engines.native import targets as native_targets
from mast_train.engines.native.extension import extension
from mast_train.engines.native.mixer import SparseMixer
from mast_train.engines.native.optimizer import SparseStep
from mast_train.networks.agents import AgentNets
from mast_train.networks.mixers import MonotonicMixer
from mast_train.settings.config import MixerConfig

pytestmark = pytest.mark.skipif(not native.available(), reason=native.status())


def make() -> tuple[AgentNets, SparseSequence, torch.Tensor]:
    torch.manual_seed(0)
    nets = AgentNets(2, 8, 16, 4)
    return nets, SparseSequence(nets, {}), torch.randn(6, 5, 2, 8)


def test_parameters_that_changed_under_the_networks():
    """What a tensor is, is asked at every call: memory that it had before is not touched."""
    for data, message in (
        (torch.zeros(1), r"parameters\['fc2_bias'\] is float32 \[1\], expected float32 \[2, 4\]"),
        (torch.zeros(2, 4).double(), r"is float64 \[2, 4\], expected float32"),
        (torch.zeros(4, 2).t(), r"stored in steps of \[1, 2\], expected contiguous memory"),
    ):
        nets, sequence, x = make()
        sequence.forward(x).sum().backward()
        q = sequence.forward(x)
        nets.fc2_bias.data = data
        with pytest.raises(ValueError, match=message):
            sequence.forward(x)
        with pytest.raises(ValueError, match=message):
            q.sum().backward()


def test_memory_that_is_gone():
    nets, sequence, x = make()
    nets.weight_hh.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"parameters\['weight_hh'\] is without its memory"):
        sequence.forward(x)


def test_masks_of_another_shape():
    nets, _, x = make()
    with pytest.raises(ValueError, match=r"masks\['fc1_weight'\] is bool \[2, 16, 9\], expected bool \[2, 16, 8\]"):
        SparseSequence(nets, {"fc1_weight": torch.ones(2, 16, 9, dtype=torch.bool)}).forward(x)


def test_values_of_transitions_that_nobody_counted():
    _, sequence, x = make()
    with pytest.raises(ValueError, match="order is None"):
        together(Inputs(x, transitions=25), (sequence, Wanted(now=True)))
    order = torch.tensor([[0, 1, 2, 3, 7], [6] * 5, [0, 5, 10, 15, 20]], dtype=torch.int32)
    with pytest.raises(ValueError, match="order has episode 7 of 6 steps"):
        together(Inputs(x, order=order, transitions=25), (sequence, Wanted(now=True)))
    order[0, 4] = 4
    with pytest.raises(ValueError, match="within 24 transitions"):
        together(Inputs(x, order=order, transitions=24), (sequence, Wanted(now=True)))


def test_networks_that_do_not_go_together():
    _, sequence, x = make()
    with pytest.raises(ValueError, match="passes are 5, expected 1 to 4"):
        together(Inputs.of(x), *[(sequence, Wanted(whole=True))] * 5)
    with pytest.raises(ValueError, match="different groups or inputs: 2 of 8 and 1 of 8"):
        shared = SparseSequence(AgentNets(1, 8, 16, 4), {})
        together(Inputs.of(x), (sequence, Wanted(whole=True)), (shared, Wanted(whole=True)))


def test_rows_and_sizes_of_a_mixer():
    mixer = SparseMixer(MonotonicMixer(3, 17, MixerConfig(8, 12)), {})
    q, state, target = torch.randn(5, 3), torch.randn(9, 17), torch.randn(5)
    for rows in (torch.tensor([0, 1, 2, 3, 9]), torch.tensor([0, -1, 2, 3, 4])):
        with pytest.raises(ValueError, match=r"rows has -?\d+, expected 0 to 8"):
            mixer(q, state, rows)
        with pytest.raises(ValueError, match="rows has"):
            mixer.fit(q, state, rows, target, None, 1.0)
    with pytest.raises(ValueError, match=r"state is \[9, 17\], expected \[5, 17\]"):
        mixer(q, state)
    with pytest.raises(ValueError, match=r"rows is int32 \[5\], expected int64 \[R\]"):
        mixer(q, state, torch.arange(5).int())
    with pytest.raises(ValueError, match=r"target is float32 \[4\], expected float32 \[5\]"):
        mixer.fit(q, state, torch.arange(5), target[1:], None, 1.0)


def test_an_optimisers_state_of_another_model():
    layer = nn.Linear(13, 21)
    optimizer = torch.optim.Adam(layer.parameters())
    step = SparseStep(optimizer, {layer.weight: torch.ones(21, 13, dtype=torch.bool)})
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    step.step(1.0)
    moments, optimizer.state[layer.weight]["exp_avg"] = optimizer.state[layer.weight]["exp_avg"], torch.zeros(2)
    with pytest.raises(ValueError, match=r"parameter\['first'\] is float32 \[2\], expected float32 \[273\]"):
        step.step(1.0)
    optimizer.state[layer.weight]["exp_avg"] = moments
    layer.weight.grad = None
    layer.weight.data = torch.zeros(3)
    layer.weight.grad = torch.zeros(3)
    with pytest.raises(ValueError, match="parameter"):
        step.step(1.0)


def test_targets_of_other_sizes():
    q, avail = torch.randn(7, 3, 5), torch.ones(7, 3, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"avail is bool \[7, 3, 4\], expected bool \[21, 5\]"):
        native_targets.soft_mellowmax(q, avail[..., 1:], 1.0, 1.0)
    flags = torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"next_value is \[7\], expected \[8\], the filled transitions"):
        native_targets.td_lambda(torch.randn(2, 4), torch.randn(7), flags, flags, 0.9, 0.5)


class Exported:
    """A tensor of a library that has DLPack's Python protocol alone, as older torch has: no parameter that learns."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def detach(self) -> Exported:
        return Exported(self._tensor.detach())

    def __dlpack__(self) -> object:
        return self._tensor.__dlpack__()


def test_tensors_of_any_library():
    mask, gone = torch.rand(50) < 0.5, torch.ones(50, dtype=torch.bool)
    weight, gradient = nn.Parameter(torch.randn(50)), torch.randn(50)
    results = []
    for wrap in (lambda tensor: tensor, Exported):
        own = nn.Parameter(weight.detach().clone())
        second, count, norm = torch.zeros(50), torch.zeros(()), torch.empty(())
        fields = {"parameter": own, "gradient": gradient, "second": second, "step": count}
        one = {name: wrap(tensor) for name, tensor in fields.items()} | {"positions": extension().positions(mask=mask)}
        rule = {"lr": 0.1, "beta1": 0.0, "beta2": 0.9, "eps": 1e-5, "max_norm": 1.0, "norm": norm}
        extension().step(level=native.levels()[-1], parameters=[one], **rule)
        results.append(torch.cat([own.detach(), second, count[None], norm[None]]))
    assert torch.equal(*results) and torch.equal(results[0][:50][~mask], weight[~mask])
    gone.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="mask is without its memory"):
        extension().positions(mask=gone)
    with pytest.raises(ValueError, match="mask is no tensor in plain memory"):
        extension().positions(mask=gone.to("meta"))
    with pytest.raises(TypeError, match=r"mask is of type list, expected a tensor, bool \[\*\]"):
        extension().positions(mask=[True])


def test_arguments_have_names():
    with pytest.raises(TypeError, match="positions: takes arguments by name alone"):
        extension().positions(torch.ones(3, dtype=torch.bool))
    with pytest.raises(TypeError, match="positions: mask is missing"):
        extension().positions()
    with pytest.raises(TypeError, match="positions: has no argument 'masks'"):
        extension().positions(masks=1)
