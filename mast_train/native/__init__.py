"""The agents' networks over whole sequences in C, sparse, forward and backward. The torch path is the oracle.

One call carries tiles of 32 rows of one group through all steps; weights are read, and gradients made, only where the
masks have connections. Needs float32 on the CPU. Letters: G groups, T steps, B episodes, N agents, I input, H hidden,
A actions, R rows of a group; of several seeds (AgentNets) each takes its part of B.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mast_train.native.gradients import Gradients
from mast_train.native.inputs import LANES, Inputs, Memory, addresses, located, plain
from mast_train.nets import WEIGHTS, AgentNets

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
        self._masks = masks
        self._structure = Watched(self._build)
        self._full: Any = None
        self._memory = Memory()
        self._gradients = Gradients()
        self._parameters = [getattr(nets, name) for name in PARAMETERS]
        check_parameters(self._parameters)

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
        there on. Inputs made of them once may be given in their place: what several networks read is then brought into
        lanes once.
        Differentiable in the parameters, once, unless gradients are off: the backward pass sets their .grad itself
        (mast_train.native.gradients). Weight gradients are 0 off the masks; with dense_gradients they are torch's, for
        updates that grow connections. Raises ValueError.
        """
        keep = torch.is_grad_enabled()
        inputs = x if isinstance(x, Inputs) else Inputs.of(x, actions, lengths, self.nets.seeds, keep=keep)
        return self.values(inputs, dense_gradients=dense_gradients)[0]

    def values(self, inputs: Inputs, *, dense_gradients: bool = False) -> tuple[Tensor, Tensor]:
        """`forward`, and the values of the actions taken [R,N]: the inputs' transitions, episode by episode.

        Both are differentiable as `forward` is; without actions the second is empty.
        """
        if not torch.is_grad_enabled():
            return self._run(inputs)
        if self._masks is None:
            raise ValueError("no gradients without masks")
        return _Sequence.apply(self, dense_gradients, inputs, self._parameters[0])

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
        return self._run(Inputs.of(x[None], keep=False), initial=hidden, final=after)[0][0], after

    def structure(self) -> Any:
        """The extension's structure of the connections as they are now."""
        return self._structure.current(self._weights if self._masks is None else list(self._masks.values()))

    @property
    def _weights(self) -> list[Tensor]:
        return self._parameters[: len(WEIGHTS)]

    def full_structure(self) -> Any:
        """That of full masks, one for all groups."""
        if self._full is None:
            self._full = _train.build(1, *self._widths(), (0, 0, 0, 0))
        return self._full

    def _widths(self) -> tuple[int, int, int]:
        return self.nets.inputs, self.nets.hidden, self.nets.n_actions

    def _build(self) -> Any:
        weights = self._weights
        if self._masks is None:
            masks = [weight != 0 for weight in weights]
        elif self._masks:
            full = torch.ones((), dtype=torch.bool)
            masks = [self._masks.get(n, full).expand(w.shape) for n, w in zip(WEIGHTS, weights, strict=True)]
        else:
            return self.full_structure()
        masks = [mask.contiguous() for mask in masks]
        return _train.build(self.nets.groups, *self._widths(), tuple(mask.data_ptr() for mask in masks))

    def _shape(self, inputs: Inputs) -> tuple[int, int, int, int, int]:
        """G, T, B, N, seeds. Raises ValueError."""
        seeds, groups, (t, b, n, width) = self.nets.seeds, self.nets.groups, inputs.x.shape
        one_hot = self.nets.n_actions if inputs.one_hot else 0
        if inputs.laid_out not in (None, (groups, *self._widths())):
            raise ValueError(f"inputs laid out for {inputs.laid_out}, expected {(groups, *self._widths())}")
        fits = self.nets.inputs - width - one_hot in (0, n) and groups in (seeds, seeds * n) and b % seeds == 0
        if not fits or min(t, b, n) < 1:
            raise ValueError(
                f"x is {list(inputs.x.shape)}, expected [T,B,N,{self.nets.inputs}], B a multiple of {seeds} and "
                f"N = {groups // seeds} groups or 1 group"
            )
        if inputs.actions is not None and inputs.actions.shape != (t - 1, b, n):
            raise ValueError(f"actions is {list(inputs.actions.shape)}, expected {[t - 1, b, n]}")
        return groups, t, b, n, seeds

    def _run(
        self,
        inputs: Inputs,
        saved: Tensor | None = None,
        initial: Tensor | None = None,
        final: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        shape = self._shape(inputs)
        q = inputs.x.new_empty(*shape[1:4], self.nets.n_actions)
        taken = inputs.x.new_empty(inputs.transitions, shape[3])
        _train.forward(
            self.structure(),
            self.level,
            torch.get_num_threads(),
            shape,
            addresses(self._parameters),
            inputs.placed(self.nets),
            *located(q),
            *addresses([taken if inputs.transitions else None, initial, final, saved]),
        )
        if inputs.keep:
            inputs.laid_out = (shape[0], *self._widths())
        return q, taken

    def _saved(self, shape: tuple[int, int, int, int, int]) -> Tensor:
        """For what a forward pass saves."""
        groups, t, b, n, _ = shape
        return self._memory.take(_train.saved_size(self.structure(), t) * groups * -(-(b * n // groups) // LANES))

    def _backward(
        self, structure: Any, wanted: Any, inputs: Inputs, saved: Tensor, grad_q: Tensor | None, grad_taken: Tensor | None
    ) -> None:
        """The gradients of q and of the values taken, None where they are 0."""
        shape, parameters = self._shape(inputs), self._parameters
        grad_q = None if grad_q is None else plain(grad_q)
        grad_taken = None if grad_taken is None else grad_taken.contiguous()

        def fill(gradients: Sequence[Tensor]) -> None:
            _train.backward(
                structure,
                wanted,
                self.level,
                torch.get_num_threads(),
                shape,
                addresses(parameters),
                inputs.placed(self.nets),
                *((0, (0, 0, 0)) if grad_q is None else located(grad_q)),
                *addresses([grad_taken, saved]),
                addresses(gradients),
            )

        self._gradients.write(parameters, wanted, fill)
        self._memory.give(saved)


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sequence: SparseSequence, dense_gradients: bool, inputs: Inputs, parameter: Tensor
    ) -> tuple[Tensor, Tensor]:
        """parameter: any of them, so that what comes out is differentiable."""
        ctx.set_materialize_grads(False)
        ctx.sequence, ctx.structure = sequence, sequence.structure()
        ctx.wanted = sequence.full_structure() if dense_gradients else ctx.structure
        ctx.saved = sequence._saved(sequence._shape(inputs))
        ctx.inputs = inputs
        ctx.save_for_backward(inputs.x, *sequence._parameters)
        return sequence._run(inputs, ctx.saved)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        ctx.saved_tensors  # raises when one was changed since the forward pass
        saved, ctx.saved = ctx.saved, None
        if saved is None:
            raise RuntimeError("a second backward pass: what the forward pass saved is gone")
        ctx.sequence._backward(ctx.structure, ctx.wanted, ctx.inputs, saved, *grad_outputs)
        return None, None, None, None
