"""One gradient step of several learners at once: what an update computes, from its batch to the losses.

Letters: B episodes, T steps, N agents, A actions, S state, R transitions of all seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mast_train import targets
from mast_train.episodes import EpisodeBatch, Rows, pick
from mast_train.execution import Execution, Values
from mast_train.graphs import Graphs
from mast_train.losses import central_weight, mean_of, optimistic_weight
from mast_train.native import targets as native_targets

if TYPE_CHECKING:
    from mast_train.learner import Learner


class Cohort:
    """Learners that differ in nothing but their seed. The agents of all run as one network of seeds x N groups.

    Each becomes what it becomes alone: to the bit where networks run in C, and in torch as far as its products give the
    same bits beside other groups and padding. From here on the learners' agents share one memory.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self.learners, first = list(learners), learners[0]
        self.config, self._weighted = first.config, first.central is not None
        networks, masks = [learner.networks for learner in learners], [learner.masks for learner in learners]
        self.execution = Execution(first.config, first.spec, networks, masks, first.native)
        if len(self.learners) > 1:
            for learner in self.learners:
                learner.settle()
        self._graphs = Graphs(self, first.spec.episode_limit) if first.graph else None

    def update(self, batch: EpisodeBatch, env_steps: Sequence[int], recorded: bool = True) -> list[dict[str, Tensor]]:
        """One step of every learner on its equal part of the episodes; of each, scalars for the log, still on the
        device. Learners on two sides of a point of their schedule go one after another. recorded: on a GPU, whether as
        a graph."""
        stages = {learner.stage(steps) for learner, steps in zip(self.learners, env_steps, strict=True)}
        if len(stages) > 1:
            parts = zip(self.learners, batch.split(len(self.learners)), env_steps, strict=True)
            return [learner.alone.update(part, [steps], recorded=False)[0] for learner, part, steps in parts]
        evolving, delayed = stages.pop()
        if self._graphs and recorded and not evolving and all(learner.warm for learner in self.learners):
            rows = self._graphs.update(batch, delayed)
        else:
            rows = self._gradients(batch, batch.rows(len(self.learners)), evolving, delayed)
            for learner, row, steps in zip(self.learners, rows, env_steps, strict=True):
                row |= learner.evolve(steps) if evolving else learner.optimise()
        for learner in self.learners:
            learner.advance()
        return rows

    def recordable_gradients(self, batch: EpisodeBatch, delayed: bool) -> list[dict[str, Tensor]]:
        """What an update that does not evolve the topology does before its optimisers' steps, over padding too: every
        shape in it follows from the batch's, and nothing is read back."""
        return self._gradients(batch, batch.all_rows(len(self.learners)), False, delayed)

    def recordable_steps(self) -> list[dict[str, Tensor]]:
        """The optimisers' steps that follow; of each seed what they add to the log."""
        return [learner.optimise() for learner in self.learners]

    def _gradients(self, batch: EpisodeBatch, rows: Rows, evolving: bool, delayed: bool) -> list[dict[str, Tensor]]:
        """The losses and their backward pass; scalars for the log of each seed."""
        inputs = self.execution.inputs(batch)
        online = self.execution.sequence("agents", inputs, batch, rows, evolving)
        q_tot = self.execution.mix("mixer", online.taken, batch.state, rows.now, rows.sizes, evolving)
        with torch.no_grad():
            target = self.execution.sequence("target_agents", inputs, batch, rows)
            y = self._targets(batch, rows, target, online, delayed)
            weight = self._weight(batch, rows, q_tot, y, target, online)
        losses = {"loss": self._td_losses(rows, q_tot, y, weight)}
        if self._weighted:
            central = self.execution.sequence("central_agents", inputs, batch, rows, evolving)
            q_central = self.execution.mix(
                "central_mixer", central.taken, batch.state, rows.now, rows.sizes, evolving
            )
            losses["central_loss"] = self._td_losses(rows, q_central, y)
        if self.config.algorithm == "res":
            returns = targets.episode_return(batch.reward, batch.terminated, batch.last, self.config.train.gamma)
            distances = self._td_losses(rows, q_tot, pick(returns, rows.transition))
            losses["return_loss"] = [self.config.res.return_weight * distance for distance in distances]
        means = {"q_taken": online.taken, "q_tot": q_tot, "target": y} | ({} if weight is None else {"weight": weight})
        logs = {
            name: [mean_of(*part) for part in zip(rows.split(values.detach()), rows.split_any(rows.real), strict=True)]
            for name, values in means.items()
        }
        return self._backward(losses, logs)

    def _backward(self, losses: dict[str, list[Tensor]], logs: dict[str, list[Tensor]]) -> list[dict[str, Tensor]]:
        """The backward pass of all losses; losses and logs of each seed by name. The logged "loss" is a seed's sum."""
        losses["loss"] = [_total(terms) for terms in zip(*losses.values(), strict=True)]
        for learner in self.learners:
            learner.clear_gradients()
        _total(losses["loss"]).backward()
        self.execution.hand_out_gradients()
        found = losses | logs
        return [{name: values[k].detach() for name, values in found.items()} for k in range(len(self.learners))]

    def _targets(self, batch: EpisodeBatch, rows: Rows, target: Values, online: Values, delayed: bool) -> Tensor:
        """y [R]: the target networks' values reduced and mixed on every next state, then one-step, n-step or TD(lambda)
        returns."""
        values = self._joint_softmax if self.config.algorithm == "res" else self._mixed
        select = online.after() if self._online_selects else None
        following = values(rows, target.after(), pick(batch.avail_actions, rows.after), select, batch.state)
        return self._returns(batch, rows, following, delayed)

    def _returns(self, batch: EpisodeBatch, rows: Rows, following: Tensor, delayed: bool) -> Tensor:
        """y [R] from the next states' values [R]."""
        c, gamma, reward, terminated = self.config.target, self.config.train.gamma, batch.reward, batch.terminated
        kind = "one_step" if delayed else c.returns
        if self.execution.native and kind != "n_step":
            lam = 0.0 if kind == "one_step" else c.td_lambda
            return native_targets.td_lambda(reward, following, terminated, batch.filled, gamma, lam)
        value = torch.zeros_like(reward).flatten().scatter(0, rows.transition, following).view_as(reward)
        if kind == "one_step":
            y = targets.one_step(reward, value, terminated, gamma)
        elif kind == "n_step":
            y = targets.n_step(reward, value, terminated, batch.last, gamma, c.n_step)
        else:
            y = targets.td_lambda(reward, value, terminated, batch.last, gamma, c.td_lambda)
        return pick(y, rows.transition)

    def _weight(
        self, batch: EpisodeBatch, rows: Rows, q_tot: Tensor, y: Tensor, target: Values, online: Values
    ) -> Tensor | None:
        """WQMIX's weight of every real transition [R], None for the other algorithms."""
        low = self.config.wqmix.weight
        if self.config.algorithm == "owqmix":
            return optimistic_weight(q_tot, y, low)
        if self.config.algorithm != "cwqmix":
            return None
        greedy = targets.greedy_actions(online.now(), pick(batch.avail_actions, rows.now))
        values = targets.value_of(target.now(), greedy)
        q_greedy = self.execution.mix("target_mixer", values, batch.state, rows.now, rows.sizes)
        return central_weight(y, q_greedy, (pick(batch.actions, rows.transition) == greedy).all(-1), low)

    @property
    def _online_selects(self) -> bool:
        """Whether the online values choose or weigh actions. Beside Q* they always do: an unrestricted mixer gives the
        order of its agents' values no meaning."""
        return self.config.target.double_q or self._weighted or self.config.algorithm == "res"

    def _mixed(self, rows: Rows, q: Tensor, avail: Tensor, select: Tensor | None, state: Tensor) -> Tensor:
        """The target mixer on every agent's reduced values: q, select [R,N,A], avail bool, all of next states,
        state [B,T+1,S] -> [R]."""
        if self.config.target.scale == "spread":
            # The unit is one seed's own: its spread is over that seed's transitions.
            optional = rows.split_any(select), rows.split_any(rows.real)
            parts = zip(rows.split(q), rows.split(avail), *optional, strict=True)
            reduced = torch.cat([self._reduce(v, can, by, self._unit(v, can, real)) for v, can, by, real in parts])
        else:
            reduced = self._reduce(q, avail, select, 1.0)
        return self.execution.mix("target_mixer", reduced, state, rows.after, rows.sizes)

    def _joint_softmax(self, rows: Rows, q: Tensor, avail: Tensor, select: Tensor | None, state: Tensor) -> Tensor:
        """RES's operator, as _mixed: target Q_tot near the greedy joint action, weighted by the softmax of Q_tot."""
        assert select is not None
        greedy = targets.greedy_actions(select, avail)
        online = self.execution.mix("mixer", targets.neighbours(select, greedy), state, rows.after, rows.sizes)
        target = self.execution.mix("target_mixer", targets.neighbours(q, greedy), state, rows.after, rows.sizes)
        return targets.softmax_value(target.t(), avail.flatten(1), self.config.res.beta, online.t())

    def _unit(self, q: Tensor, avail: Tensor, real: Tensor | None) -> float | Tensor:
        """targets.spread, as a number where C needs one."""
        unit = targets.spread(q, avail, real)
        return float(unit) if self.execution.native else unit

    def _reduce(self, q: Tensor, avail: Tensor, select: Tensor | None, unit: float | Tensor) -> Tensor:
        """Per-agent target values by the configured operator: q, select [R,N,A], avail bool [R,N,A] -> [R,N]."""
        c = self.config.target
        if c.operator == "max":
            return targets.greedy_value(q, avail, select)
        if c.operator == "softmax":
            return targets.softmax_value(q, avail, c.alpha / unit, select)
        if c.operator == "mellowmax":
            return targets.mellowmax(q, avail, c.omega / unit)
        return self.execution.soft_mellowmax(q, avail, c.alpha / unit, c.omega / unit, select)

    def _td_losses(self, rows: Rows, q_tot: Tensor, y: Tensor, weight: Tensor | None = None) -> list[Tensor]:
        """losses.td_loss of each seed's transitions."""
        parts = zip(rows.split(q_tot), rows.split(y), rows.split_any(weight), rows.split_any(rows.real), strict=True)
        return [self.execution.td_loss(*part) for part in parts]


def _total(scalars: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(scalars)).sum() if len(scalars) > 1 else scalars[0]
