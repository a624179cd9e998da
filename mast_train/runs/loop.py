"""The training loop, of one run or of several that differ in seed and learning rate alone: a generator of events.

Each run is what it would be by itself: networks, replay, optimiser and random streams are its own, and what the runs do
together keeps to that: stepping environments (envs/together.py), acting (experience/rounds.py), updates
(learning/update.py) and evaluations.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import torch

from mast_runtime.streams import pasted
from mast_train.experience.exploration import Exploration
from mast_train.experience.packed import Batch
from mast_train.experience.replay import add, gather, pack, share
from mast_train.experience.rollout import Actor, Rollouts
from mast_train.experience.rounds import Rounds
from mast_train.experience.scaling import Scaling
from mast_train.experience.storage import forget_peak
from mast_train.learning.learner import scaling
from mast_train.learning.update import Log, Update
from mast_train.networks.agents import AgentNets, side_by_side
from mast_train.runs.due import Due
from mast_train.runs.events import Event, Progress
from mast_train.runs.files import Files
from mast_train.runs.run import Run
from mast_train.settings.config import flatten
from mast_train.settings.errors import UserError

OWN = ("seed", "train.lr")
"""The settings that each of several runs has for itself."""
SOMETIMES = "idle"
"""What only updates that change the topology report: not a number in the others."""


class Loop:
    """Rounds of one episode in every environment of every run, then the updates that they pay for.

    A run that has taken all its steps leaves; the others go on together.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        """Raises UserError for runs that differ in more, for several with train.overlap, and for a kernel that cannot
        run here."""
        self.runs, self.config = list(runs), runs[0].config
        for run in self.runs[1:]:
            _alike(self.runs[0], run)
        if len(runs) > 1 and self.config.train.overlap:
            raise UserError("train.overlap is for one seed: a thread plays ahead of one run; leave it out with --seeds")
        threads = (self.config.threads,)
        self._thread: Executor = ThreadPoolExecutor(1, "mast-environment", torch.set_num_threads, threads)
        if len(runs) > 1 and runs[0].device.type != "cpu":
            share([run.replay for run in runs])
        self._files = Files()
        for run in self.runs if len(runs) > 1 else ():
            run.files = self._files
        self._active: list[Run] = []
        self._due: list[Due] = []
        self._planned = False
        self._batch_memory: dict[str, torch.Tensor] = {}
        self._form(self.runs)

    def events(self) -> Iterator[tuple[Run, Event]]:
        """Train; set `stop_requested` of a run to end all early, where `Run.resume` continues each exactly."""
        saved_at, active = time.monotonic(), [run for run in self.runs if not run.finished]
        self._form(active)
        while active and not any(run.stop_requested for run in self.runs):
            yield from self._evaluate([run for run in active if run.step >= run.next_eval])
            progress = self._round()
            yield from self._check_finite(progress)
            yield from zip(active, progress, strict=True)
            finished = [run for run in active if run.finished]
            yield from self._evaluate(finished, now=True)
            for run in finished:
                if run.folder:
                    yield run, run.save("finished")
                run.replay.release()
            active = [run for run in active if not run.finished]
            self._form(active)
            if time.monotonic() - saved_at > 60 * self.config.train.save_minutes:
                yield from self._save(active, "interval")
                saved_at = time.monotonic()
        yield from self._save(active, "interrupted")

    def close(self) -> None:
        """Wait for the threads that play ahead and write: then the runs may be closed."""
        self._thread.shutdown()
        self._files.close()

    def _save(self, runs: Sequence[Run], reason: str) -> Iterator[tuple[Run, Event]]:
        """Play what waits and save. Raises UserError for what failed, after the rest."""
        saved, failed = yield from self._saved(runs, reason)
        if failed:
            raise UserError(failed.removeprefix("; ") + saved)

    def _saved(self, runs: Sequence[Run], reason: str) -> Generator[tuple[Run, Event], None, tuple[str, str]]:
        """As `_save`, raising nothing: the commands that continue what was saved, and what failed, each after "; "."""
        saved = failed = ""
        try:
            yield from self._play_due()
        except UserError as error:
            failed += f"; {error}"
        for run in runs:
            if not run.folder:
                continue
            try:
                event = run.save(reason)
            except UserError as error:
                failed += f"; {error}"
            else:
                saved += f"; saved: {pasted('mast', 'train', '--resume', '--name', run.folder)}"
                yield run, event
        return saved, failed

    def _form(self, active: Sequence[Run]) -> None:
        """Put together what the active runs do together."""
        if not active or active == self._active:
            return
        self._active = list(active)
        self._update = Update([run.learner for run in active])
        self._rounds = Rounds([run.env for run in active], len(self.runs), self.config)

    def _evaluate(self, runs: Sequence[Run], now: bool = False) -> Iterator[tuple[Run, Event]]:
        """Greedy episodes of the runs whose turn it is. Where one program plays those of one run in the time of all,
        they wait for the other runs', at most until their run's next one is due or it is saved. now: none waits.

        Raises UserError, after the runs that have steps to take were saved."""
        try:
            yield from self._take_turns(runs, now)
        except UserError as error:
            saved, failed = yield from self._saved([run for run in self._active if not run.finished], "interrupted")
            raise UserError(f"{error}{saved}{failed}") from error

    def _take_turns(self, runs: Sequence[Run], now: bool) -> Iterator[tuple[Run, Event]]:
        if not runs:
            return
        if any(own.run in runs for own in self._due):
            yield from self._play_due()
        everyone = len(self._due) + len(runs) == len(self._active)
        waits = not (now or everyone) and self._rounds.at_once(self._update.engine.actor)
        self._due += [Due(run, waits) for run in runs]
        if not waits:
            yield from self._play_due()

    def _play_due(self) -> Iterator[tuple[Run, Event]]:
        """The evaluations that are due, all at once. Raises UserError: those that were not told are due again."""
        due, self._due = self._due, []
        told = 0
        try:
            for found in self._evaluated(due) if due else ():
                told += 1
                yield found
        except UserError:
            for own in due[told:]:
                own.put_back()
            raise

    def _evaluated(self, due: Sequence[Due]) -> Iterator[tuple[Run, Event]]:
        rounds = Rounds([own.run.eval_env for own in due], len(self.runs), self.config)
        count = -(-self.config.train.eval_episodes // due[0].run.eval_env.num_envs)
        actor, seen_as = self._judged(due), scaling([own.learner for own in due])
        played = [rounds.play(actor, scaling=seen_as) for _ in range(count)]
        for k, own in enumerate(due):
            yield own.run, own.evaluated([of_runs[k] for of_runs in played])

    def _judged(self, due: Sequence[Due]) -> Actor:
        """The agents that are evaluated."""
        engine = self._update.engine
        if self._rounds.at_once(engine.actor):
            agents = [own.learner.agents for own in due]
            return side_by_side([nets for nets in agents if isinstance(nets, AgentNets)])
        return engine.actor_of([self._active.index(own.run) for own in due])

    def _round(self) -> list[Progress]:
        """One episode in every environment, then the updates they pay for; with `train.overlap` also the next round's
        episodes, by the agents as they are before these updates."""
        runs, engine = self._active, self._update.engine
        ahead = runs[0].ahead
        played = self._play(engine.actor, *self._acting()) if ahead is None else Rollouts.of(ahead)
        for run, steps in zip(runs, played.steps, strict=True):
            run.ahead = None
            run.step += steps
        if not self.config.train.overlap or runs[0].finished:
            metrics = self._learn(played)
        else:
            future = self._thread.submit(self._play, engine.frozen_actor(), *self._acting())
            try:
                metrics = self._learn(played)
            finally:
                (runs[0].ahead,) = future.result()
        return [run.progress(own) for run, own in zip(runs, metrics, strict=True)]

    def _acting(self) -> tuple[list[Exploration], Scaling | None]:
        """How a round that begins now explores, and what its observations are scaled by."""
        explorations = [Exploration(run.epsilon, run.exploration, run.noise) for run in self._active]
        return explorations, scaling([run.learner for run in self._active])

    def _play(self, actor: Actor, exploration: Sequence[Exploration], seen_as: Scaling | None) -> Rollouts:
        """Touches only the environments, the exploration's random streams and two fields of the clocks."""
        started = time.perf_counter()
        played = self._rounds.play(actor, exploration, seen_as)
        seconds, each = self._rounds.acting, 1 / len(self._active)
        for run in self._active:
            run.clock.acting += each * seconds
            run.clock.environment += each * (time.perf_counter() - started - seconds)
        return played

    def _learn(self, played: Rollouts) -> list[dict[str, float]]:
        """Store a round of episodes and take its updates; returns means for the log of each run. Raises UserError."""
        c, runs, started, logs = self.config, self._active, time.perf_counter(), []
        add([run.replay for run in runs], played.episodes)
        for run, own in zip(runs, played, strict=True) if runs[0].learner.statistics else ():
            run.learner.see(own.episodes)
        seen_as = scaling([run.learner for run in runs])
        if not self._planned:
            forget_peak(runs[0].device)
        for _ in range(round(c.env.num_envs / c.train.episodes_per_update)):
            # Of whole episodes all can, or none; of pieces the runs wait for the one that has the fewest steps.
            if all(run.replay.can_sample() for run in runs):
                batch = self._batch()
                logs.append(self._updated(batch if seen_as is None else seen_as.in_place(batch)))
                for run in runs:
                    run.adapt_replay()
        for run, own in zip(runs, played, strict=True):  # while a device is still at the updates
            run.seen.add(own.episodes)
        if logs and not self._planned:  # what updates take is known from the first on
            self._planned = True
            runs[0].replay.storage.check()
        metrics = _means(logs, len(runs))
        for run, means, row in zip(runs, played.means(), metrics, strict=True):
            row |= means
            run.clock.learning += (time.perf_counter() - started) / len(runs)
        return metrics

    def _batch(self) -> Batch:
        """What the runs learn from next."""
        replays, ages = zip(*((run.replay, run.replay.draw(run.sampling)) for run in self._active), strict=True)
        if self._update.packs:
            return pack(replays, ages, self._batch_memory)
        return gather(replays, ages, self._batch_memory, self._update.steps)

    def _updated(self, batch: Batch) -> Log:
        try:
            return self._update(batch, [run.step for run in self._active])
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"an update of {len(self._active)} seeds on {batch.size} does not fit the memory of "
                f"{batch.reward.device}: lower --seeds, replay.batch or net.hidden"
            ) from error

    def _check_finite(self, progress: Sequence[Progress]) -> Iterator[tuple[Run, Event]]:
        """Raises UserError for a loss that is not finite, after the other runs were saved; it says what failed too."""
        losses = [each.metrics.get("loss", 0.0) for each in progress]
        if all(math.isfinite(loss) for loss in losses):
            return
        healthy = [run for run, loss in zip(self._active, losses, strict=True) if math.isfinite(loss)]
        saved, failed = yield from self._saved(healthy, "interrupted")
        run, loss = next(pair for pair in zip(self._active, losses, strict=True) if not math.isfinite(pair[1]))
        seed = f"seed {run.config.seed}: " if len(self.runs) > 1 else ""
        raise UserError(
            f"{seed}the loss became {loss} at step {run.step:,}: lower train.lr (now {run.config.train.lr:g}); "
            f"the last checkpoint is untouched{saved}{failed}"
        )


def _alike(first: Run, other: Run) -> None:
    """Raises UserError for a setting in which runs that train together may not differ."""
    settings, others = flatten(first.config), flatten(other.config)
    for key in settings:
        if key not in OWN and settings[key] != others[key]:
            raise UserError(
                f"{first.folder or 'the first run'} has {key} = {settings[key]!r} and {other.folder or 'another'} "
                f"{others[key]!r}: runs train together where they differ in {' and '.join(OWN)} alone; give them apart"
            )


def _means(logs: Sequence[Log], runs: int) -> list[dict[str, float]]:
    """Of each quantity over the updates that report it, for each run; read back once for all of them."""
    found: dict[str, list[torch.Tensor]] = {}
    for log in logs:
        for name, values in log.items():
            found.setdefault(name, []).append(values)
    # Run by run: a mean over all at once would round differently beside other runs.
    means = {
        name: [row.nanmean() if name == SOMETIMES else row.mean() for row in torch.stack(values, 1).cpu()]
        for name, values in found.items()
    }
    each = [{name: float(values[k]) for name, values in means.items()} for k in range(runs)]
    return [{name: mean for name, mean in row.items() if name != SOMETIMES or mean == mean} for row in each]
