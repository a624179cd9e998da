"""An evaluation: what it needs of the moment at which it is due, what it finds, and the files that it leaves."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from mast_train.experience.episodes import EpisodeBatch
from mast_train.experience.rollout import Rollout
from mast_train.learning.learner import scaling
from mast_train.runs import checkpoint
from mast_train.runs.events import Evaluation
from mast_train.runs.run import Run, summarise

TRACE_STEPS = 200
"""Recorded observations on which every export is verified (docs/format.md)."""


class Due:
    """A run whose evaluation is due, as it is now. `learner` has what is evaluated."""

    def __init__(self, run: Run, later: bool = False) -> None:
        """later: the run trains on before the episodes are played, so what is evaluated is copied. Its next evaluation
        is due from here on. Waits for nothing on a device but where its environments are: SMAX's next battles."""
        self.run = run
        self.learner = run.learner.frozen() if later else run.learner
        self._seen = {name: tensor.clone() if later else tensor for name, tensor in run.seen.state_dict().items()}
        self._due_from, interval = run.next_eval, run.config.train.eval_interval
        run.next_eval = (run.step // interval + 1) * interval
        self._where = run.where()

    def put_back(self) -> None:
        """It was not played: the run is due again as it was, with the networks that it has by then."""
        self.run.next_eval = self._due_from

    def evaluated(self, rounds: list[Rollout]) -> Evaluation:
        """Take note of greedy episodes that were played, at least `train.eval_episodes`."""
        run, episodes = self.run, self.run.config.train.eval_episodes
        estimate, realised = self.values(rounds, episodes)
        outcome = summarise(rounds, self._where["step"], episodes)
        found = run.last_eval = replace(outcome, value_estimate=estimate, value_realised=realised)
        if run.folder:
            self._snapshot([r.episodes for r in rounds])
        return found

    @torch.no_grad()
    def values(self, rounds: list[Rollout], episodes: int) -> tuple[float, float]:
        """The mean value of greedy actions in the first states by the online networks, and the mean discounted
        return."""
        obs, avail, state = (
            torch.cat([getattr(r.episodes, name)[:, 0] for r in rounds])[:episodes]
            for name in ("obs", "avail_actions", "state")
        )
        run, learner, seen_as = self.run, self.learner, scaling([self.learner])
        seen, state = (obs, state) if seen_as is None else (seen_as.observed(obs), seen_as.states(state))
        _, (values,) = learner.algorithm.decides(
            run.spec, learner.networks, run.inputs(seen, None).unsqueeze(0), avail[None]
        )
        returns = []
        for r in rounds:
            discounts = run.config.train.gamma ** torch.arange(r.episodes.reward.shape[1], device=obs.device)
            returns.append(r.episodes.reward @ discounts)
        return float(learner.mixer(values, state).mean()), float(torch.cat(returns)[:episodes].mean())

    def _snapshot(self, rounds: list[EpisodeBatch]) -> None:
        """Agents and masks at this evaluation, and the observations that exports are verified on."""
        run, step = self.run, self._where["step"]
        assert run.folder is not None
        (run.folder / "snapshots").mkdir(exist_ok=True)
        header = run.header(self._where, self.learner)
        self._put(f"snapshots/step-{step:010d}.safetensors", self.learner.policy_state(), header)
        trace = {}
        for name in ("obs", "avail_actions"):
            steps = torch.cat([getattr(episodes, name)[:, :-1][episodes.filled] for episodes in rounds])
            repeats = -(-TRACE_STEPS // steps.shape[0])
            trace[name] = steps.repeat(repeats, *[1] * (steps.dim() - 1))[:TRACE_STEPS]
        first = [torch.arange(x.filled.shape[1], device=x.filled.device).expand_as(x.filled) == 0 for x in rounds]
        starts = torch.cat([start[x.filled] for start, x in zip(first, rounds, strict=True)])
        trace["starts"] = starts.repeat(-(-TRACE_STEPS // len(starts)))[:TRACE_STEPS]
        trace |= {f"seen.{name}": tensor for name, tensor in self._seen.items()}
        self._put("trace.safetensors", trace, {"step": step})

    def _put(self, name: str, tensors: dict[str, torch.Tensor], header: dict) -> None:
        """Now, or soon where the run has `files`."""
        run = self.run
        assert run.folder is not None
        write = partial(checkpoint.put, run.folder / name, checkpoint.encoded(tensors, run.config, run.spec, header))
        if run.files:
            run.files.add(write)
        else:
            write()
