"""The training loop, of one run or of several that differ in their seed alone: a generator of events.

Each run is what it would be by itself: networks, replay, optimiser and random streams are its own, and what the runs do
together keeps to that: stepping environments (envs/together.py), acting (rollout.py) and updates (cohort.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from mast_train.learning.update import Cohort
from mast_train.envs.together import together
from mast_train.settings.errors import UserError
from mast_train.runs.events import Event, Progress
from mast_train.experience.replay import gather
from mast_train.experience.rollout import Actor, AgentPolicy, Exploration, Rollout, rollouts

if TYPE_CHECKING:
    from mast_train.runs.run import Trainer


class Lockstep:
    """Rounds of one episode in every environment of every run, then the updates that they pay for.

    A run that has taken all its steps leaves; the others go on together.
    """

    def __init__(self, runs: Sequence[Trainer]) -> None:
        """Raises UserError for several runs with train.overlap."""
        self.runs, self.config = list(runs), runs[0].config
        if len(runs) > 1 and self.config.train.overlap:
            raise UserError("train.overlap is for one seed: a thread plays ahead of one run; leave it out with --seeds")
        threads = (self.config.threads,)
        self._thread: Executor = ThreadPoolExecutor(1, "mast-environment", torch.set_num_threads, threads)
        self._active: list[Trainer] = []
        self._batch_memory: dict[str, torch.Tensor] = {}
        self._form(self.runs)

    def events(self) -> Iterator[tuple[Trainer, Event]]:
        """Train; set `stop_requested` of a run to end all early, where `Trainer.resume` continues each exactly."""
        saved_at, active = time.monotonic(), [run for run in self.runs if not run.finished]
        self._form(active)
        while active and not any(run.stop_requested for run in self.runs):
            for run in active:
                if run.step >= run.next_eval:
                    yield run, run.evaluate()
            yield from zip(active, self._round(), strict=True)
            for run in active:
                if run.finished:
                    yield run, run.evaluate()
                    if run.folder:
                        yield run, run.save("finished")
            active = [run for run in active if not run.finished]
            self._form(active)
            if time.monotonic() - saved_at > 60 * self.config.train.save_minutes:
                for run in active:
                    if run.folder:
                        yield run, run.save("interval")
                saved_at = time.monotonic()
        for run in active:
            if run.folder:
                yield run, run.save("interrupted")

    def close(self) -> None:
        """Release the environments, once no thread steps them any more."""
        self._thread.shutdown()
        for run in self.runs:
            run.env.close()
            run.eval_env.close()

    def _form(self, active: Sequence[Trainer]) -> None:
        """Put together what the active runs do together."""
        if not active or active == self._active:
            return
        self._active = list(active)
        alone = active[0].learner.alone
        self._cohort = alone if len(active) == 1 else Cohort([run.learner for run in active])
        self._env = together([run.env for run in active], len(self.runs))

    def _round(self) -> list[Progress]:
        """One episode in every environment, then the updates they pay for; with `train.overlap` also the next round's
        episodes, by the agents as they are before these updates."""
        runs = self._active
        ahead = [run.ahead for run in runs if run.ahead is not None]
        played = ahead or self._play(self._policy(self._cohort.execution.actor))
        for run, own in zip(runs, played, strict=True):
            run.ahead = None
            run.step += own.steps
        if not self.config.train.overlap or runs[0].finished:
            metrics = self._learn(played)
        else:
            future = self._thread.submit(self._play, self._policy(self._cohort.execution.frozen_actor()))
            try:
                metrics = self._learn(played)
            finally:
                (runs[0].ahead,) = future.result()
        return [run.progress(own) for run, own in zip(runs, metrics, strict=True)]

    def _policy(self, actor: Actor) -> AgentPolicy:
        exploration = [Exploration(run.epsilon, run.exploration) for run in self._active]
        return AgentPolicy(actor, self._active[0].inputs, exploration)

    def _play(self, policy: AgentPolicy) -> list[Rollout]:
        """Touches only the environments, the exploration's random streams and two fields of the clocks."""
        started = time.perf_counter()
        played = rollouts(self._env, policy, len(self._active))
        share = 1 / len(self._active)
        for run in self._active:
            run.clock.acting += share * policy.seconds
            run.clock.environment += share * (time.perf_counter() - started - policy.seconds)
        return played

    def _learn(self, played: Sequence[Rollout]) -> list[dict[str, float]]:
        """Store a round of episodes and take its updates; returns means for the log of each run. Raises UserError."""
        c, runs, started = self.config, self._active, time.perf_counter()
        logs: list[list[dict[str, torch.Tensor]]] = []
        for run, own in zip(runs, played, strict=True):
            run.replay.add(own.episodes)
        for _ in range(round(c.env.num_envs / c.train.episodes_per_update)):
            # Rounds are of one size, and no buffer forgets its last batch: all can sample, or none.
            if runs[0].replay.can_sample():
                ages = [run.replay.draw(run.sampling) for run in runs]
                batch = gather([run.replay for run in runs], ages, self._batch_memory)
                logs.append(self._cohort.update(batch, [run.step for run in runs]))
                for run in runs:
                    run.adapt_replay()
        metrics = [_means([log[k] for log in logs]) for k in range(len(runs))]
        self._check_finite(metrics)
        for run, own, row in zip(runs, played, metrics, strict=True):
            row["train_return"] = float(own.returns.mean())
            if own.won is not None:
                row["train_win_rate"] = float(own.won.float().mean())
            run.clock.learning += (time.perf_counter() - started) / len(runs)
        return metrics

    def _check_finite(self, metrics: Sequence[dict[str, float]]) -> None:
        """Raises UserError for a loss that is not finite, after the other runs were saved."""
        losses = [row.get("loss", 0.0) for row in metrics]
        if all(math.isfinite(loss) for loss in losses):
            return
        saved = [run for run, loss in zip(self._active, losses, strict=True) if math.isfinite(loss) and run.folder]
        for run in saved:
            run.save("interrupted")
        run, loss = next(pair for pair in zip(self._active, losses, strict=True) if not math.isfinite(pair[1]))
        seed = f"seed {run.config.seed}: " if len(self.runs) > 1 else ""
        others = "".join(f"; saved, to --resume --name: {other.folder}" for other in saved)
        raise UserError(
            f"{seed}the loss became {loss} at step {run.step:,}: lower train.lr (now {self.config.train.lr:g}); "
            f"the last checkpoint is untouched{others}"
        )


def _means(rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Of each quantity over the updates that report it, read back once for all of them."""
    found: dict[str, list[torch.Tensor]] = {}
    for row in rows:
        for key, value in row.items():
            found.setdefault(key, []).append(value)
    return {key: float(torch.stack(values).cpu().mean()) for key, values in found.items()}
