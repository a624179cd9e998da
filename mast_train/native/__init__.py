"""The agents' networks over whole sequences in C, sparse, forward and backward. The torch path is the oracle.

One call carries tiles of 32 rows of one group through all steps; weights are read, and gradients made, only where the
masks have connections. Needs float32 on the CPU. Letters: G groups, T steps, B episodes, N agents, I input, H hidden,
A actions, R rows of a group; of several seeds (AgentNets) each takes its part of B.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mast_train.native.gradients import Gradients
from mast_train.native.inputs import LANES, Inputs, Memory, addresses, located, plain
from mast_train.networks.agents import WEIGHTS, AgentNets

_train: Any
try:
    from mast_train.native import _train  # pyright: ignore[reportAttributeAccessIssue]

    _missing = ""
except ImportError as error:
    _train, _missing = None, str(error)

PARAMETERS = (*WEIGHTS, "fc1_bias", "bias_ih", "bias_hh", "fc2_bias")
"""In the order of train.h."""


def available() -> bool:
    """Whether SparseSequence works here; `status` says why not."""
    return _train is not None


def status() -> str:
    """One line: the instruction set in use ("native training: avx512"), or why there is none."""
    if _train is None:
        return f"native training: not built ({_missing}); install a C compiler and reinstall mast-marl"
    return f"native training: {check_level(None)}"


def levels() -> tuple[str, ...]:
    """Instruction sets whose kernels run here, best first; empty when the extension is not built."""
    return () if _train is None else _train.levels()


def extension() -> Any:
    """The compiled module."""
    return _train


def check_level(level: str | None) -> str:
    """The level itself, or MAST_NATIVE_LEVEL, or the best. Raises ValueError for one that does not run here."""
    level = level or os.environ.get("MAST_NATIVE_LEVEL") or levels()[0]
    if level not in levels():
        raise ValueError(f"native level {level!r}: this machine runs {', '.join(levels()) or 'none'}")
    return level


def check_parameters(parameters: Sequence[Tensor]) -> None:
    """Raises ValueError for parameters that the C code cannot read."""
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in parameters):
        raise ValueError("native training needs float32 parameters on the CPU")


class Watched:
    """Something built from tensors, built again when one of them changed in place."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build, self._value = build, None
        self._versions: list[int] | None = None

    def current(self, tensors: Sequence[Tensor]) -> Any:
        versions = [tensor._version for tensor in tensors]
        if versions != self._versions:
            self._value, self._versions = self._build(), versions
        return self._value


class SparseSequence:
    """Native forward and backward of `nets`, whose weights it reads at every call.

    masks: the weights' bool masks by name, as of Masks.state_dict(); a name left out is full. They may change in place:
    the structure is rebuilt when one did. None: the connections are the weights that are not 0, which suits target
    networks; no gradients then. level: one of `levels()`; default MAST_NATIVE_LEVEL or the best. Raises ValueError.
    """

    def __init__(self, nets: AgentNets, masks: Mapping[str, Tensor] | None, level: str | None = None) -> None:
        if _train is None:
            raise ValueError(status())
        self.nets, self.level = nets, check_level(level)
        self.masks = masks
        self._structure = Watched(self._build)
        self._full: Any = None
        self.memory = Memory()
        self.gradients = Gradients()
        self.parameters = [getattr(nets, name) for name in PARAMETERS]
        check_parameters(self.parameters)

    def forward(
        self,
        x: Tensor | Inputs,
        actions: Tensor | None = None,
        lengths: Tensor | None = None,
        *,
        dense_gradients: bool = False,
    ) -> Tensor:
        """x [T,B,N,I] -> q [T,B,N,A], from a zero memory; AgentNets.forward without the hidden states.

        With actions [T-1,B,N] int64, taken at each step but the last (-1: none), x may be observations alone: the
        one-hots of the action before and, where the networks have that many inputs more, of the agent follow as in
        networks.agent_inputs. lengths [B] int64: each episode's steps; q is undefined, and its gradient ignored, from
        there on. Inputs made of them may be given in their place.
        Differentiable in the parameters, once, unless gradients are off: the backward pass sets their .grad itself
        (mast_train.native.gradients). Weight gradients are 0 off the masks; with dense_gradients they are torch's, for
        updates that grow connections. Raises ValueError.
        """
        learning = torch.is_grad_enabled()
        inputs = x if isinstance(x, Inputs) else Inputs.of(x, actions, lengths, self.nets.seeds)
        (values,) = together(inputs, (self, Wanted(whole=True, learning=learning, dense_gradients=dense_gradients)))
        q = values.differentiable()[0] if learning else values.q
        assert q is not None
        return q

    def initial_hidden(self, batch: int, n_agents: int) -> Tensor:
        """AgentNets.initial_hidden."""
        return self.nets.initial_hidden(batch, n_agents)

    def step(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One decision: x [B,N,I], hidden [G,R,H] -> q [B,N,A], next hidden [G,R,H]; AgentNets.step, no gradients."""
        shape = (self.nets.groups, x.shape[0] * x.shape[1] // self.nets.groups, self.nets.hidden)
        if hidden.shape != shape:
            raise ValueError(f"hidden is {list(hidden.shape)}, expected {list(shape)}")
        hidden = hidden.detach().contiguous()
        after = torch.empty_like(hidden)
        inputs = Inputs.of(x[None])
        values = Values(self, inputs, Wanted(whole=True))
        _forward([values], [hidden, after])
        assert values.q is not None
        return values.q[0], after

    def structure(self) -> Any:
        """The extension's structure of the connections as they are now."""
        return self._structure.current(self._weights if self.masks is None else list(self.masks.values()))

    @property
    def _weights(self) -> list[Tensor]:
        return self.parameters[: len(WEIGHTS)]

    def full_structure(self) -> Any:
        """That of full masks, one for all groups."""
        if self._full is None:
            self._full = _train.build(1, *self._widths(), (0, 0, 0, 0))
        return self._full

    def _widths(self) -> tuple[int, int, int]:
        return self.nets.inputs, self.nets.hidden, self.nets.n_actions

    def _build(self) -> Any:
        weights = self._weights
        if self.masks is None:
            masks = [weight != 0 for weight in weights]
        elif self.masks:
            full = torch.ones((), dtype=torch.bool)
            masks = [self.masks.get(n, full).expand(w.shape) for n, w in zip(WEIGHTS, weights, strict=True)]
        else:
            return self.full_structure()
        masks = [mask.contiguous() for mask in masks]
        return _train.build(self.nets.groups, *self._widths(), tuple(mask.data_ptr() for mask in masks))

    def shape(self, inputs: Inputs) -> tuple[int, int, int, int, int]:
        """G, T, B, N, seeds. Raises ValueError."""
        seeds, groups, (t, b, n, width) = self.nets.seeds, self.nets.groups, inputs.x.shape
        one_hot = self.nets.n_actions if inputs.one_hot else 0
        fits = self.nets.inputs - width - one_hot in (0, n) and groups in (seeds, seeds * n) and b % seeds == 0
        if not fits or min(t, b, n) < 1:
            raise ValueError(
                f"x is {list(inputs.x.shape)}, expected [T,B,N,{self.nets.inputs}], B a multiple of {seeds} and "
                f"N = {groups // seeds} groups or 1 group"
            )
        if inputs.actions is not None and inputs.actions.shape != (t - 1, b, n):
            raise ValueError(f"actions is {list(inputs.actions.shape)}, expected {[t - 1, b, n]}")
        return groups, t, b, n, seeds


@dataclass(frozen=True)
class Wanted:
    """What a pass gives (Values), and whether a backward pass follows: with the gradients of connections alone, or with
    torch's (dense_gradients)."""

    whole: bool = False
    now: bool = False
    after: bool = False
    learning: bool = False
    dense_gradients: bool = False


class Values:
    """What a pass computed, None where it was not wanted.

    q [T,B,N,A] (`whole`), undefined from an episode's end on. Of the inputs' R transitions, episode by episode: the
    values of the actions taken [R,N], where the inputs have actions; those of all actions now and after [R,N,A].
    """

    def __init__(self, sequence: SparseSequence, inputs: Inputs, wanted: Wanted) -> None:
        """Memory for it, undefined. Raises ValueError for networks that cannot learn."""
        if wanted.learning and sequence.masks is None:
            raise ValueError("no gradients without masks")
        self.sequence, self.inputs, self.shape = sequence, inputs, sequence.shape(inputs)
        self.structure, self._saved = sequence.structure(), None
        (groups, t, b, n, _), actions, empty = self.shape, sequence.nets.n_actions, inputs.x.new_empty
        self.q = empty(t, b, n, actions) if wanted.whole else None
        self.taken = None if inputs.actions is None else empty(inputs.transitions, n)
        self.now = empty(inputs.transitions, n, actions) if wanted.now else None
        self.after = empty(inputs.transitions, n, actions) if wanted.after else None
        if wanted.learning:
            self._wanted = sequence.full_structure() if wanted.dense_gradients else self.structure
            tiles = groups * -(-(b * n // groups) // LANES)
            self._saved = sequence.memory.take(_train.saved_size(self.structure, t) * tiles)

    def placed(self, hidden: Sequence[Tensor | None]) -> tuple[Any, ...]:
        """As the extension takes it. hidden: the memory before and after, None: zeros, and not wanted."""
        outputs = addresses([self.taken, self.now, self.after, *hidden, self._saved])
        return self.structure, addresses(self.sequence.parameters), *located(self.q), *outputs

    def backward(self, grad_q: Tensor | None, grad_taken: Tensor | None) -> None:
        """Set the parameters' gradients from those of q and of the values taken, None where they are 0. Once."""
        saved, self._saved = self._saved, None
        if saved is None:
            raise RuntimeError("a second backward pass: what the forward pass saved is gone")
        sequence, grad_q = self.sequence, None if grad_q is None else plain(grad_q)
        grad_taken = None if grad_taken is None else grad_taken.contiguous()

        def fill(gradients: Sequence[Tensor]) -> None:
            _train.backward(
                self.structure,
                self._wanted,
                sequence.level,
                torch.get_num_threads(),
                self.shape,
                addresses(sequence.parameters),
                self.inputs.placed(sequence.nets),
                *located(grad_q),
                *addresses([grad_taken, saved]),
                addresses(gradients),
            )

        sequence.gradients.write(sequence.parameters, self._wanted, fill)
        sequence.memory.give(saved)

    def differentiable(self) -> tuple[Tensor | None, Tensor | None]:
        """q and the values taken as autograd knows them, whose backward pass is this one's."""
        return _Differentiable.apply(self, self.sequence.parameters[0])


def together(inputs: Inputs, *passes: tuple[SparseSequence, Wanted]) -> list[Values]:
    """One pass over the inputs for up to four networks of the same groups and widths. Raises ValueError."""
    values = [Values(sequence, inputs, wanted) for sequence, wanted in passes]
    widths = {(one.shape, one.sequence.nets.inputs) for one in values}
    if len(widths) > 1:
        raise ValueError(f"networks of different groups or inputs: {sorted(widths)}")
    _forward(values, [None, None])
    return values


def _forward(values: Sequence[Values], hidden: Sequence[Tensor | None]) -> None:
    first = values[0]
    _train.forward(
        first.sequence.level,
        torch.get_num_threads(),
        first.shape,
        first.inputs.placed(first.sequence.nets),
        tuple(one.placed(hidden) for one in values),
    )


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Values, parameter: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """parameter: any of them, so that what comes out is differentiable."""
        ctx.set_materialize_grads(False)
        ctx.values = values
        ctx.save_for_backward(values.inputs.x, *values.sequence.parameters)
        return values.q, values.taken

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[None, None]:
        _ = ctx.saved_tensors  # raises when one was changed since the forward pass
        values, ctx.values = ctx.values, None  # which holds what holds this: a cycle that would outlive the update
        if values is None:
            raise RuntimeError("a second backward pass: what the forward pass saved is gone")
        values.backward(*grad_outputs)
        return None, None
