"""Training as a user sees it, of one run or several seeds: folders, logs, display, and Ctrl-C."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from mast_runtime.streams import pasted
from mast_train.commands.display import TrainingDisplay
from mast_train.learning.flops import costs
from mast_train.runs.events import Evaluation, Event, Progress
from mast_train.runs.folders import RunLog, locked, new_run
from mast_train.runs.inputs import LOOKED_AT, far_inputs
from mast_train.runs.loop import Loop
from mast_train.runs.malloc import keep_freed_memory
from mast_train.runs.run import Run, threads
from mast_train.settings.config import Config, load_toml
from mast_train.settings.limits import validate

Watch = Callable[[Event], bool | None]
"""Is shown an event; False ends the runs."""


def start(
    config: Config, root: Path, name: str | None, console: Console, seeds: int = 1, watch: Watch | None = None
) -> list[Path]:
    """Train new runs to their end or to Ctrl-C, of `seeds` seeds from the config's on; returns their folders.

    A name is that of one run; several get their seed appended. watch: is shown every event; where it returns False the
    runs are saved and end, as by Ctrl-C. Raises UserError.
    """
    configs = [replace(config, seed=config.seed + k) for k in range(seeds)]
    names = [f"{name}-seed{own.seed}" if name and seeds > 1 else name for own in configs]
    return begin(configs, names, root, console, watch)


def begin(
    configs: Sequence[Config], names: Sequence[str | None], root: Path, console: Console, watch: Watch | None = None
) -> list[Path]:
    """Train new runs in one process, which may differ in seed and learning rate; as `start`. Raises UserError."""
    for config in configs:
        validate(config)
    keep_freed_memory()
    with ExitStack() as stack:
        stack.enter_context(threads(configs[0].threads))
        runs = [stack.enter_context(closing(Run(config))) for config in configs]
        loop = stack.enter_context(closing(Loop(runs)))
        for run, config, name in zip(runs, configs, names, strict=True):
            run.folder = new_run(root, config, name)
            stack.callback(_remove_unless_begun, run.folder)
            stack.enter_context(locked(run.folder))
        stack.callback(loop.close)  # what waits for the disk is written before the folders are given up
        _train(loop, console, resumed=False, watch=watch)
    return [run.folder for run in runs if run.folder]


def resume(folders: Sequence[Path], console: Console) -> None:
    """Continue runs exactly where each was saved, in one process; several may differ in seed and learning rate.

    Raises UserError, also for a run that has finished.
    """
    keep_freed_memory()
    with ExitStack() as stack:
        stack.enter_context(threads(load_toml(folders[0] / "config.toml").threads))
        for folder in folders:
            stack.enter_context(locked(folder))
        runs = [stack.enter_context(closing(Run.resume(folder))) for folder in folders]
        loop = stack.enter_context(closing(Loop(runs)))
        for run in runs:
            console.print(f"resuming {run.folder} at step {run.step:,}")
        _train(loop, console, resumed=True)


def _remove_unless_begun(folder: Path) -> None:
    if not (folder / "run.json").exists():
        shutil.rmtree(folder)


def _train(loop: Loop, console: Console, resumed: bool, watch: Watch | None = None) -> None:
    runs, config, spec = loop.runs, loop.config, loop.runs[0].spec
    names = _names([run.config for run in runs])
    sparsity = runs[0].learner.sparsity()["agents"]
    kind = "actions" if spec.box is None else "continuous actions"
    console.print(
        f"{config.method} {config.algorithm} on {spec.env} {spec.map}: {spec.n_agents} agents, obs {spec.obs_dim}, "
        f"{kind} {spec.n_actions}, state {spec.state_dim}; {f'sparsity {sparsity:.1%}' if sparsity else 'dense'}; "
        f"{_together(names)}, {runs[0].device}; {', '.join(f'{run.folder}/' for run in runs)}"
    )
    display = TrainingDisplay(console, config.train.total_steps, [run.step for run in runs], names)
    unseen = runs[0].step < LOOKED_AT
    with ExitStack() as stack:
        logs = [stack.enter_context(_log(run, resumed)) for run in runs]
        stack.enter_context(display)
        stack.enter_context(_interrupt_stops(runs[0]))
        for run, event in loop.events():
            k = runs.index(run)
            _write(logs[k], run, event)
            if isinstance(event, Progress):
                display.round(event, k)
                if unseen and event.step >= min(LOOKED_AT, config.train.total_steps):
                    unseen = False
                    display.say(far_inputs(run))
            elif isinstance(event, Evaluation):
                display.evaluation(event, k)
            if watch is not None and watch(event) is False:
                runs[0].stop_requested = True
    for run, log in zip(runs, logs, strict=True):
        console.print(_outcome(run, log), end="")
    interrupted = any(log.status == "interrupted" for log in logs)
    if len(runs) > 1 and interrupted and (command := _resuming(runs)):
        console.print(f"all of them together: {command}")


def _names(configs: Sequence[Config]) -> list[str]:
    """What tells the runs apart: "seed 3", or "seed 3 lr 0.001" where rates differ."""
    rates = len({config.train.lr for config in configs}) > 1
    return [f"seed {config.seed}" + f" lr {config.train.lr:g}" * rates for config in configs]


def _together(names: Sequence[str]) -> str:
    """ "seed 3", "seeds 3, 4"."""
    return names[0] if len(names) == 1 else f"seeds {', '.join(name.removeprefix('seed ') for name in names)}"


def _log(run: Run, resumed: bool) -> RunLog:
    assert run.folder is not None
    return RunLog(run.folder, run.config, run.spec, (run.step, run.next_eval) if resumed else None)


def _write(log: RunLog, run: Run, event: Event) -> None:
    if isinstance(event, Progress):
        values = {"updates": event.updates, "epsilon": event.epsilon, **event.metrics, "seconds": event.seconds}
        log.row("train", event.step, values)
    elif isinstance(event, Evaluation):
        log.row("evaluation", event.step, {**asdict(event), "win_rate": event.win_rate})
    elif event.reason != "interval":
        log.status = event.reason
        if event.reason == "finished":
            log.row("summary", event.step, costs(run.learner.counts(), run.training_flops(), run.passes.searched))


def _resuming(runs: Sequence[Run]) -> str:
    """The command that continues several seeds in one process, and passes over those that have finished; "" where the
    folders of all seeds from the lowest to the highest are not there or not named alike."""
    seeds = [run.config.seed for run in runs]
    first, stem = min(seeds), str(runs[0].folder).removesuffix(f"-seed{seeds[0]}")
    between = [f"{stem}-seed{seed}" for seed in range(first, max(seeds) + 1)]
    named = len(set(seeds)) == len(runs) and all(
        str(run.folder) == f"{stem}-seed{seed}" for run, seed in zip(runs, seeds, strict=True)
    )
    if not named or not all((Path(name) / "run.json").is_file() for name in between):
        return ""
    seed = ["--seed", str(first)] if first else []
    return pasted("mast", "train", "--resume", "--name", stem, "--seeds", str(len(between)), *seed)


def _outcome(run: Run, log: RunLog) -> str:
    """What a person is told when the training of a run has ended."""
    if log.status == "interrupted":
        return (
            f"saved {run.folder}/checkpoint.safetensors at step {run.step:,}; "
            f"continue with: {pasted('mast', 'train', '--resume', '--name', run.folder)}\n"
        )
    flops = run.training_flops()
    return (
        f"training FLOPs per sample: {flops.sparse.paper_flops:,.0f} by the paper's count, "
        f"{flops.paper_reduction:.1f}x below dense; everything counted {flops.sparse.counted_flops:,.0f}, "
        f"{flops.counted_reduction:.1f}x below\nfinished {run.step:,} steps; "
        f"next: {pasted('mast', 'export', run.folder)}\n"
    )


@contextmanager
def _interrupt_stops(run: Run) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the round and saves; a second Ctrl-C interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        run.stop_requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nsaving after this round; Ctrl-C again to stop without saving", file=sys.stderr)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
