"""One gradient step of several learners at once: what an update computes, from its batch to the losses.

Letters: B episodes, T steps, N agents, A actions, S state, R transitions of all seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mast_train.engines.engine import Execution, Values
from mast_train.engines.graph import Graphs
from mast_train.experience.episodes import EpisodeBatch, Rows, pick
from mast_train.learning import targets
from mast_train.learning.losses import Goal, central_weight, total
from mast_train.native import Wanted
from mast_train.native import targets as native_targets

if TYPE_CHECKING:
    from mast_train.learning.learner import Learner


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
        for learner, steps in zip(self.learners, env_steps, strict=True):
            learner.anneal(steps)
        if self._graphs and recorded and not evolving and all(learner.warm for learner in self.learners):
            rows = self._graphs.update(batch, delayed)
        else:
            rows = self._gradients(batch, self.execution.rows(batch), evolving, delayed)
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
        """The losses and their backward pass; scalars for the log of each seed. The logged "loss" is a seed's sum."""
        run, central = self.execution, self.config.algorithm == "cwqmix"
        inputs = run.inputs(batch, rows)
        learning = Wanted(learning=True, dense_gradients=evolving)
        wanted = {
            "agents": replace(learning, now=central, after=self._online_selects),
            "target_agents": Wanted(now=central, after=True),
        } | ({"central_agents": learning} if self._weighted else {})
        values = run.sequences(inputs, batch, rows, wanted)
        online, target = values["agents"], values["target_agents"]
        with torch.no_grad():
            y = self._targets(batch, rows, target, online, delayed)
            goals = self._goals(batch, rows, y, target, online)
        for learner in self.learners:  # not earlier: a sixth of a torch update's time goes into new pages then
            learner.clear_gradients()
        logs = run.fit("mixer", online, batch, rows, goals, evolving)
        if self._weighted:
            goals = {"central_loss": Goal(y)}
            fitted = run.fit("central_mixer", values["central_agents"], batch, rows, goals, evolving)
            logs = [more | log for more, log in zip(fitted, logs, strict=True)]
        for log in logs:
            log["loss"] = total([log[name] for name in ("loss", "return_loss", "central_loss") if name in log])
        run.hand_out_gradients()
        return logs

    def _goals(self, batch: EpisodeBatch, rows: Rows, y: Tensor, target: Values, online: Values) -> dict[str, Goal]:
        """What Q_tot is fitted to."""
        low = self.config.wqmix.weight
        if self.config.algorithm == "owqmix":
            return {"loss": Goal(y, low=low)}
        if self.config.algorithm == "cwqmix":
            return {"loss": Goal(y, self._central_weight(batch, rows, y, target, online))}
        if self.config.algorithm != "res":
            return {"loss": Goal(y)}
        returns = targets.episode_return(batch.reward, batch.terminated, batch.last, self.config.train.gamma)
        to_returns = Goal(pick(returns, rows.transition), scale=self.config.res.return_weight)
        return {"loss": Goal(y), "return_loss": to_returns}

    def _targets(self, batch: EpisodeBatch, rows: Rows, target: Values, online: Values, delayed: bool) -> Tensor:
        """y [R]: the target networks' values reduced and mixed on every next state, then one-step, n-step or TD(lambda)
        returns."""
        values = self._joint_softmax if self.config.algorithm == "res" else self._mixed
        assert target.after is not None
        following = values(rows, target.after, pick(batch.avail_actions, rows.after), online.after, batch.state)
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

    def _central_weight(self, batch: EpisodeBatch, rows: Rows, y: Tensor, target: Values, online: Values) -> Tensor:
        """CW-QMIX's weight of every transition [R]."""
        assert target.now is not None and online.now is not None
        greedy = targets.greedy_actions(online.now, pick(batch.avail_actions, rows.now))
        values = targets.value_of(target.now, greedy)
        q_greedy = self.execution.mix("target_mixer", values, batch.state, rows.now, rows.sizes)
        is_greedy = (pick(batch.actions, rows.transition) == greedy).all(-1)
        return central_weight(y, q_greedy, is_greedy, self.config.wqmix.weight)

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
