"""The agents' networks over whole sequences in C, sparse, forward and backward.

One call carries tiles of rows of one group through all steps; weights are read, and gradients made, only where the
masks have connections. Letters: G groups, T steps, B episodes, N agents, I input, H hidden, A actions, R rows of a
group; of several seeds (AgentNets) each takes its part of B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mast_train.engines.native.extension import check_level, extension
from mast_train.engines.native.gradients import Gradients
from mast_train.engines.native.inputs import Inputs, plain
from mast_train.engines.native.structure import Structure
from mast_train.networks.agents import WEIGHTS, AgentNets


class SparseSequence:
    """Native forward and backward of `nets`, whose weights it reads at every call.

    masks: the weights' bool masks by name, as of Masks.state_dict(); a name left out is full. They may change in place:
    the structure is rebuilt when one did. None: the connections are the weights that are not 0, which suits target
    networks; no gradients then. level: one of `levels()`; default MAST_NATIVE_LEVEL or the best. Raises ValueError.
    """

    def __init__(self, nets: AgentNets, masks: Mapping[str, Tensor] | None, level: str | None = None) -> None:
        self.nets, self.level = nets, check_level(level)
        self.parameters = dict(nets.named_parameters())
        self.structure = Structure(self._build, {name: self.parameters[name] for name in WEIGHTS}, masks)
        self.gradients = Gradients(self.parameters)
        self.memory = _Memory()

    def _build(self, masks: Mapping[str, Tensor]) -> Any:
        nets = self.nets
        sizes = {"inputs": nets.inputs, "hidden": nets.hidden, "actions": nets.n_actions}
        return extension().agents_build(groups=nets.groups, masks=dict(masks), **sizes)

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
        (gradients.py). Weight gradients are 0 off the masks; with dense_gradients they are torch's, for updates that
        grow connections. Raises ValueError.
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
        hidden = hidden.detach().contiguous()
        after = torch.empty_like(hidden)
        values = Values(self, Inputs.of(x[None]), Wanted(whole=True))
        _run(values.inputs, self, [values.outputs | {"hidden": hidden, "next_hidden": after}])
        assert values.q is not None
        return values.q[0], after


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
        self.sequence, self.inputs = sequence, inputs
        (t, b, n, _), transitions, empty = inputs.x.shape, inputs.transitions, inputs.x.new_empty
        actions = sequence.nets.n_actions
        self.q = empty(t, b, n, actions) if wanted.whole else None
        self.taken = None if inputs.actions is None else empty(transitions, n)
        self.now = empty(transitions, n, actions) if wanted.now else None
        self.after = empty(transitions, n, actions) if wanted.after else None
        self._network, self._saved = sequence.structure.current(), None
        if wanted.learning:
            self._wanted = sequence.structure.wanted(wanted.dense_gradients)
            sizes = {"groups": sequence.nets.groups, "steps": t, "batch": b, "agents": n, "seeds": sequence.nets.seeds}
            self._saved = sequence.memory.take(extension().agents_saved(network=self._network, **sizes))

    @property
    def outputs(self) -> dict[str, Any]:
        """The pass, as the extension takes it."""
        return {
            "network": self._network,
            "parameters": self.sequence.parameters,
            "q": self.q,
            "taken": self.taken,
            "now": self.now,
            "after": self.after,
            "saved": self._saved,
        }

    def backward(self, grad_q: Tensor | None, grad_taken: Tensor | None) -> None:
        """Set the parameters' gradients from those of q and of the values taken, None where they are 0. Once."""
        saved, self._saved = self._saved, None
        if saved is None:
            raise RuntimeError("a second backward pass: what the forward pass saved is gone")
        sequence, inputs, grad_q = self.sequence, self.inputs, None if grad_q is None else plain(grad_q)
        grad_taken = None if grad_taken is None else grad_taken.contiguous()

        def fill(gradients: dict[str, Tensor]) -> None:
            extension().agents_backward(
                **_shared(inputs, sequence),
                network=self._network,
                wanted=self._wanted,
                parameters=sequence.parameters,
                grad_q=grad_q,
                grad_taken=grad_taken,
                saved=saved,
                gradients=gradients,
            )

        sequence.gradients.write(self._wanted, fill)
        sequence.memory.give(saved)

    def differentiable(self) -> tuple[Tensor | None, Tensor | None]:
        """q and the values taken as autograd knows them, whose backward pass is this one's."""
        return _Differentiable.apply(self, next(iter(self.sequence.parameters.values())))


def together(inputs: Inputs, *passes: tuple[SparseSequence, Wanted]) -> list[Values]:
    """One pass over the inputs for up to four networks of the same groups and widths. Raises ValueError."""
    values = [Values(sequence, inputs, wanted) for sequence, wanted in passes]
    _run(inputs, passes[0][0], [one.outputs for one in values])
    return values


def _shared(inputs: Inputs, sequence: SparseSequence) -> dict[str, Any]:
    """What a pass of any direction is given."""
    return {
        "level": sequence.level,
        "threads": torch.get_num_threads(),
        "seeds": sequence.nets.seeds,
        "one_hot": inputs.one_hot,
        "x": inputs.x,
        "actions": inputs.actions,
        "order": inputs.order,
    }


def _run(inputs: Inputs, sequence: SparseSequence, passes: list[dict[str, Any]]) -> None:
    extension().agents_forward(**_shared(inputs, sequence), passes=passes)


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Values, parameter: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """parameter: any of them, so that what comes out is differentiable."""
        ctx.set_materialize_grads(False)
        ctx.values = values
        ctx.save_for_backward(values.inputs.x, *values.sequence.parameters.values())
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


class _Memory:
    """Memory that is used again: the system's work on new pages takes longer than many a pass over them."""

    def __init__(self) -> None:
        self._spare: list[Tensor] = []

    def take(self, size: int) -> Tensor:
        """At least `size` floats, given back or new."""
        while self._spare:
            memory = self._spare.pop()
            if memory.numel() >= size:
                return memory
        return torch.empty(size)

    def give(self, memory: Tensor) -> None:
        """For the next."""
        self._spare.append(memory)
