"""The fused recurrence on a CPU: the CUDA source under an emulation, the Triton kernels in its interpreter.

Both are compared with torch's path and a slow loop: states, gradients, ragged rows, NaN in the padding. What was
compiled for sm_90 is checked for spills and shared memory. The interpreter has to be chosen before triton is imported,
so its tests run in a process of their own (`fused_interpreted.py`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import emulated
import pytest
import torch
from oracles import loop_sequence, torch_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from mast_train.engines.fused import layout, nvrtc, sparse
from mast_train.engines.fused.sequence import gru_places, gru_sequence
from mast_train.engines.fused.structure import Structure, fits
from mast_train.settings.errors import UserError

TESTS = Path(__file__).parent
SHARED = 232448
"""Bytes a block may have on sm_90."""
READS_BACK = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal"}
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler is here")


class Recording(TorchDispatchMode):
    """Refuses what no graph can hold: results that the host has to wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name not in READS_BACK, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def emulation(monkeypatch):
    monkeypatch.setattr(nvrtc, "kernel", emulated.kernel)
    monkeypatch.setattr(emulated.Emulated, "falling", False)


def problem(g, t, r, h, sparsity, ragged, seed=0):
    """gates, weight, bias, lengths, masks, upstream; group 1 has empty units and columns, group 0 one full row."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(g, 3 * h, h, generator=generator) >= sparsity
    masks[0, h // 2] = True
    if g > 1:
        masks[1, : h + 1], masks[1, :, h // 3] = False, False
    weight = torch.randn(g, 3 * h, h, generator=generator) * masks
    bias, gates = torch.randn(g, 3 * h, generator=generator), torch.randn(g, t, r, 3 * h, generator=generator)
    lengths = torch.randint(0, t + 1, (g, r), generator=generator, dtype=torch.int32) if ragged else None
    return gates, weight, bias, lengths, masks, torch.randn(g, t, r, h, generator=generator)


def alive(lengths, gates):
    if lengths is None:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool)
    return (torch.arange(gates.shape[1])[None, :, None] < lengths[:, None]).unsqueeze(-1)


def run(gates, weight, bias, lengths, structure, upstream, channels=True, **options):
    """States and gradients of gates, weight and bias; nothing may read what is behind a row's end."""
    inputs = [(layout.as_channel_major(gates.flatten(1, 2)) if channels else gates.flatten(1, 2)), weight, bias]
    inputs = [x.requires_grad_() for x in inputs]
    with Recording():
        whole = inputs[0].unflatten(1, gates.shape[1:3])
        states = gru_sequence(whole, *inputs[1:], lengths, structure, **options)
        found = torch.autograd.grad(states, inputs, upstream)
    return states, found[0].unflatten(1, gates.shape[1:3]), *found[1:]


def run_packed(gates, weight, bias, lengths, structure, upstream, channels=True, **options):
    """The same with the rows' steps packed, the longest row first, and 5 places that are nobody's."""
    order = lengths.argsort(dim=1, descending=True, stable=True)
    falling = lengths.gather(1, order)
    used = alive(falling, gates)[..., 0]
    begins = torch.nn.functional.pad(used.sum(2).cumsum(1), (1, 0)).int()
    rank = torch.arange(gates.shape[2]).expand_as(used)
    places = (begins[:, :-1, None] + rank)[used]
    group, step, row = used.nonzero(as_tuple=True)
    at, of = (group, places), (group, step, order.gather(1, torch.arange(gates.shape[2]).expand_as(order))[group, row])
    size = int(begins.max()) + 5

    def packed(x):
        whole = torch.full((len(x), size, x.shape[-1]), torch.nan)
        whole[at] = x[of]
        return layout.as_channel_major(whole) if channels else whole

    inputs = [x.requires_grad_() for x in (packed(gates), weight, bias)]
    with Recording():
        where = layout.Places(gates.shape[2], gates.shape[1], falling, begins)
        states = gru_places(*inputs, where, structure, **options)
        found = (states, *torch.autograd.grad(states, inputs, packed(upstream)))
    own = torch.zeros(len(gates), size, dtype=torch.bool)
    own[at] = True
    assert not found[0][~own].any() and not found[1][~own].any()
    unpacked = [torch.zeros(*gates.shape[:3], x.shape[-1]).index_put(of, x[at]) for x in found[:2]]
    return *unpacked, *found[2:]


def compare(gates, weight, bias, lengths, structure, upstream, channels=True, oracle=None, **options):
    """States and gradients against the oracle, NaN in the padding; returns them. Ragged rows packed, too."""
    used = alive(lengths, gates)
    inputs = [x.clone().requires_grad_() for x in (gates, weight, bias)]
    expected = oracle(*inputs) if oracle else torch_sequence(*inputs) * used
    wanted = (expected, *torch.autograd.grad(expected, inputs, upstream * used))
    poisoned = torch.where(used, gates, torch.nan)
    given = (poisoned, *(x.detach() for x in inputs[1:]), lengths, structure, torch.where(used, upstream, torch.nan))
    found = [x.detach() for x in run(*given, channels, **options)]
    packed = found if lengths is None else run_packed(*given, channels, **options)
    for a, b, other in zip(found, wanted, packed, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(other, b, atol=2e-5, rtol=2e-5)
    for a, other in zip(found[:2], packed[:2], strict=True):
        assert not a.masked_select(~used.expand_as(a)).any()
        assert torch.equal(a, other)
    return found


@needs_compiler
@pytest.mark.parametrize(
    ("shape", "sparsity", "split"),
    [
        ((1, 1, 1, 16), 0.8, (1, 4)),
        ((3, 7, 37, 24), 0.8, (1, 4)),
        ((2, 5, 33, 64), 0.95, (1, 16)),
        ((6, 4, 8, 37), 0.99, (2, 8)),
        ((2, 4, 33, 64), 0.95, (4, 8)),
        ((1, 3, 32, 256), 0.95, (1, 16)),
        ((2, 3, 5, 250), 0.95, (8, 16)),
    ],
)
@pytest.mark.parametrize("ragged", [False, True])
def test_the_connections_compute_what_torch_does(emulation, shape, sparsity, split, ragged):
    gates, weight, bias, lengths, masks, upstream = problem(*shape, sparsity, ragged)
    structure = Structure(masks, cluster=split[0], warps=split[1], shared=SHARED)
    compare(gates, weight, bias, lengths, structure, upstream, channels=not ragged)


@needs_compiler
def test_the_connections_against_a_slow_loop(emulation):
    gates, weight, bias, lengths, masks, upstream = problem(2, 5, 3, 16, 0.9, True)
    structure = Structure(masks, warps=4, shared=SHARED)

    def oracle(*inputs):
        return loop_sequence(*inputs, lengths)

    compare(gates, weight, bias, lengths, structure, upstream, oracle=oracle)


@needs_compiler
@pytest.mark.parametrize("cluster", [1, 2])
def test_the_order_of_threads_changes_nothing(emulation, monkeypatch, cluster):
    gates, weight, bias, lengths, masks, upstream = problem(2, 4, 33, 40, 0.9, True)
    structure = Structure(masks, cluster=cluster, warps=8, shared=SHARED)
    rising = compare(gates, weight, bias, lengths, structure, upstream)
    monkeypatch.setattr(emulated.Emulated, "falling", True)
    for a, b in zip(rising, compare(gates, weight, bias, lengths, structure, upstream), strict=True):
        assert torch.equal(a, b)


@needs_compiler
def test_a_missing_barrier_shows_in_the_order_of_threads(emulation, monkeypatch, tmp_path):
    broken = tmp_path / "sparse.cu"
    barrier, rest = "        barrier();\n", "    }\n    for (int s"
    broken.write_text(sparse.SOURCE.read_text().replace(barrier + rest, rest))
    monkeypatch.setattr(sparse, "SOURCE", broken)
    gates, weight, bias, lengths, masks, _ = problem(1, 4, 33, 40, 0.9, False)
    structure, results = Structure(masks, warps=8, shared=SHARED), []
    for falling in (False, True):
        monkeypatch.setattr(emulated.Emulated, "falling", falling)
        results.append(gru_sequence(gates, weight, bias, lengths, structure))
    assert not torch.equal(*results)


@needs_compiler
def test_new_connections_and_weights_in_the_same_buffers(emulation):
    gates, weight, bias, lengths, masks, upstream = problem(3, 4, 5, 32, 0.9, True)
    structure = Structure(masks, cluster=2, warps=4, shared=SHARED)
    buffers = [x.data_ptr() for walks in (structure.forward, structure.backward) for x in sparse._walk(walks)]
    others = masks.flatten()[torch.randperm(masks.numel(), generator=torch.Generator().manual_seed(5))].view_as(masks)
    structure.update(others)
    assert buffers == [x.data_ptr() for walks in (structure.forward, structure.backward) for x in sparse._walk(walks)]
    assert structure.version == 1
    compare(gates, torch.randn_like(weight) * others, bias, lengths, structure, upstream)


@needs_compiler
def test_a_launch_for_a_smaller_structure_stops(emulation):
    gates, weight, bias, _, masks, _ = problem(2, 2, 3, 32, 0.9, False)
    structure = Structure(masks, warps=4, shared=SHARED)
    crowded = torch.zeros_like(masks)
    crowded.view(2, -1)[0, : masks.sum()] = True
    before = dict(structure.capacity)
    structure.update(crowded)
    assert structure.version == 2 and structure.capacity[False] > before[False]
    structure.capacity = before
    with pytest.raises(RuntimeError, match="trapped"):
        gru_sequence(gates, weight, bias, None, structure)


def test_what_does_not_fit_says_so():
    masks = torch.zeros(1, 3 * 64, 64, dtype=torch.bool)
    masks[:, :, :20] = True
    with pytest.raises(UserError, match=r"pairs of connections in a block, room for .* use the dense kernel"):
        Structure(masks, shared=40_000)
    structure = Structure(masks, shared=SHARED)
    masks[:, :, 20] = True
    with pytest.raises(UserError, match="4032 connections, but the structure was made for 3840"):
        structure.update(masks)


@pytest.mark.parametrize(
    ("hidden", "sparsity", "cluster", "expected"),
    [(64, 0.95, 1, True), (64, 0.0, 1, True), (256, 0.95, 1, True), (256, 0.8, 1, False), (256, 0.8, 8, True)],
)
def test_fits(hidden, sparsity, cluster, expected):
    assert fits(hidden, int(3 * hidden**2 * (1 - sparsity)), SHARED, cluster=cluster) == expected
    masks = torch.rand(2, 3 * hidden, hidden, generator=torch.Generator().manual_seed(0)) >= sparsity
    if expected:
        Structure(masks, cluster=cluster, shared=SHARED)


def test_wrong_shapes_are_one_line():
    gates, weight, bias = torch.zeros(2, 3, 4, 24), torch.zeros(2, 24, 8), torch.zeros(2, 24)
    with pytest.raises(
        UserError, match=r"weight_hh is torch.float32 \[2, 24, 7\], expected torch.float32 \[2, 24, 8\]"
    ):
        gru_sequence(gates, weight[..., :7], bias)
    with pytest.raises(UserError, match=r"lengths are torch.int64 \[2, 4\], expected torch.int32 \[2, 4\]"):
        gru_sequence(gates, weight, bias, torch.zeros(2, 4, dtype=torch.int64))
    structure = Structure(torch.zeros(1, 24, 8, dtype=torch.bool), shared=SHARED)
    with pytest.raises(UserError, match="the structure is of 1 groups of 8 units, not 2 of 8"):
        gru_sequence(gates, weight, bias, None, structure)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no CUDA compiler is here")
@pytest.mark.parametrize(("cluster", "warps"), [(1, 8), (1, 16), (1, 32), (4, 16)])
def test_the_cuda_source_spills_nothing(tmp_path, cluster, warps):
    flags = ["-arch=sm_90", "-cubin", "-Xptxas", "-v", f"-DCLUSTER={cluster}", f"-DWARPS={warps}"]
    command = ["nvcc", *flags, str(sparse.SOURCE), "-o", str(tmp_path / "sparse.cubin")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert re.findall(r"(\d+) bytes spill stores", said) == ["0", "0"]
    assert all(int(count) <= 64 for count in re.findall(r"Used (\d+) registers", said))


@pytest.mark.parametrize("part", ["persistent", "steps", "resources"])
def test_triton(part):
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "0" if part == "resources" else "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    command = [sys.executable, str(TESTS / "fused_interpreted.py"), part]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
