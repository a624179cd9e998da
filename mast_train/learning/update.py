"""One gradient step of one learner, or of several that differ only in their seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from mast_train.algorithms.base import Seen
from mast_train.engines.base import GivenActions, Schedule
from mast_train.engines.choice import make_engine
from mast_train.engines.graph import Recorder
from mast_train.experience.episodes import EpisodeBatch
from mast_train.experience.packed import Batch
from mast_train.learning import evolution
from mast_train.learning.learner import Learner, sync_targets
from mast_train.learning.losses import total

Log = dict[str, Tensor]
"""Scalars of every learner by name [K], still on the device."""


class Update:
    """Steps all learners at once: their agents run as one network of K times as many groups.

    Each becomes what it becomes alone: to the bit where networks run in C, and in torch as far as its products give the
    same bits beside other groups and padding. From here on the learners' parameters may share one memory.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        """Raises UserError where the configured kernel cannot run here."""
        self.learners, first = list(learners), learners[0]
        self.algorithm, self._clip = first.algorithm, first.config.train.grad_clip
        self._config, self._spec = first.config, first.spec
        self.engine, graphs = make_engine(
            first.config, first.spec, first.device, [each.parts for each in learners], self.algorithm.in_torch
        )
        self._recorder = Recorder(first.spec.episode_limit) if graphs else None

    @property
    def packs(self) -> bool:
        """Whether its batches are best without their padding."""
        return self.engine.packs

    def steps(self, longest: int) -> int:
        """How many steps a batch is best padded to, of its longest episode's."""
        return self._recorder.steps(longest) if self._recorder else longest

    def __call__(self, batch: Batch, env_steps: Sequence[int]) -> Log:
        """One step of every learner on its equal part of the episodes; env_steps: where each learner's run is."""
        due = [learner.evolves(steps) for learner, steps in zip(self.learners, env_steps, strict=True)]
        if len(set(due)) > 1 and self.engine.one_stage:
            return self._in_turn(batch, env_steps)
        at = [learner.stage(steps) for learner, steps in zip(self.learners, env_steps, strict=True)]
        self.engine.schedule(Schedule([x.rate for x in at], [x.lam for x in at], [x.delayed for x in at]))
        if self._recorder and not any(due):
            log = self._recorder(batch, self._gradients, self._optimise, self.engine.version)
            log["changed"] = torch.zeros(len(due))
        else:
            log = self._gradients(batch, evolving=any(due))
            own = [k for k, now in enumerate(due) if now]
            found = evolution.scores([self.learners[k] for k in own]) if own else None
            log |= self._optimise()
            log |= self._evolve(own, found, env_steps)
        sync_targets([learner for learner in self.learners if learner.advance()])
        return log

    def _in_turn(self, batch: Batch, env_steps: Sequence[int]) -> Log:
        """Learner by learner, where some evolve and others do not."""
        assert isinstance(batch, EpisodeBatch)
        parts = zip(self.learners, batch.split(len(self.learners)), env_steps, strict=True)
        logs = [Update([learner])(part, [steps]) for learner, part, steps in parts]
        missing = torch.full((1,), math.nan)
        names = {name: None for log in logs for name in log}
        return {name: torch.cat([log.get(name, missing) for log in logs]) for name in names}

    def _gradients(self, batch: Batch, evolving: bool = False) -> Log:
        """The losses and their backward pass. The logged "loss" is a learner's sum."""
        engine, rows = self.engine, self.engine.rows(batch)
        values = engine.passes(batch, rows, self.algorithm.wanted(evolving))
        seen = Seen(self._config, self._spec, engine, batch, rows, values)
        with torch.no_grad():
            following = self.algorithm.next_value(seen)
            each = following.unbind(-1) if following.dim() == 2 else [following]
            returns = [engine.returns(batch, rows, value) for value in each]
            y = torch.stack(returns, -1) if following.dim() == 2 else returns[0]
            fits, ascents = self.algorithm.fits(seen, y), self.algorithm.ascents(seen)
        engine.clear_gradients()  # not earlier: a sixth of a torch update's time goes into new pages then
        log: Log = {}
        for fit in fits:
            log = engine.fit(fit.mixer, values[fit.agents], batch, rows, fit.goals, evolving) | log
        for ascent in ascents:
            log = cast(GivenActions, engine).ascend(ascent, values, batch, rows) | log
        engine.hand_out_gradients()
        return log | {"loss": total([log[name] for fit in fits for name in fit.goals])}

    def _optimise(self) -> Log:
        return {"grad_norm": self.engine.optimise(self._clip)}

    def _evolve(self, due: Sequence[int], found: evolution.Scores | None, env_steps: Sequence[int]) -> Log:
        """Change the topology of the learners that are due. "idle" is the share of connections that carried nothing,
        not a number for those that are not."""
        log = {"changed": torch.zeros(self.engine.seeds)}
        if found:
            changed = evolution.evolve([self.learners[k] for k in due], found, [env_steps[k] for k in due])
            log["idle"] = torch.full((self.engine.seeds,), math.nan)
            log["changed"][due], log["idle"][due] = torch.stack([changed, found.idle]).cpu()
        return log
