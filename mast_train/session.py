"""One training run as a user sees it: its folder, its log, its display, and Ctrl-C."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from mast_train.config import Config, validate
from mast_train.display import TrainingDisplay
from mast_train.flops import costs
from mast_train.runs import RunLog, locked, new_run
from mast_train.events import Evaluation, Progress, Saved
from mast_train.trainer import Trainer


def start(config: Config, root: Path, name: str | None, console: Console) -> Path:
    """Train a new run to its end or to Ctrl-C; returns its folder. Raises UserError."""
    validate(config)
    torch.set_num_threads(config.threads)
    trainer = Trainer(config)
    trainer.folder = folder = new_run(root, config, name)
    try:
        with locked(folder):
            _train(trainer, folder, console, resumed=False)
    finally:
        if not (folder / "run.json").exists():
            shutil.rmtree(folder)
    return folder


def resume(folder: Path, console: Console) -> Path:
    """Continue a run exactly where it was saved; returns its folder. Raises UserError."""
    with locked(folder):
        trainer = Trainer.resume(folder)
        torch.set_num_threads(trainer.config.threads)
        console.print(f"resuming {folder} at step {trainer.step:,}")
        _train(trainer, folder, console, resumed=True)
    return folder


def _train(trainer: Trainer, folder: Path, console: Console, resumed: bool) -> None:
    config, spec = trainer.config, trainer.spec
    console.print(
        f"{config.method} {config.algorithm} on {spec.env} {spec.map}: {spec.n_agents} agents, obs {spec.obs_dim}, "
        f"actions {spec.n_actions}, state {spec.state_dim}; seed {config.seed}, {trainer.device}; {folder}/"
    )
    log = RunLog(folder, config, spec, (trainer.step, trainer.next_eval) if resumed else None)
    display = TrainingDisplay(console, config.train.total_steps, trainer.step, trainer.learner.sparsity())
    with closing(trainer), log, display, _interrupt_stops(trainer):
        for event in trainer.events():
            if isinstance(event, Progress):
                log.row(
                    "train",
                    event.step,
                    {"updates": event.updates, "epsilon": event.epsilon, **event.metrics, "seconds": event.seconds},
                )
                display.round(event)
            elif isinstance(event, Evaluation):
                log.row("evaluation", event.step, {**asdict(event), "win_rate": event.win_rate})
                display.evaluation(event)
            elif isinstance(event, Saved) and event.reason != "interval":
                log.status = event.reason
                if event.reason == "finished":
                    log.row("summary", event.step, costs(trainer.learner.counts(), trainer.training_flops()))
    if log.status == "interrupted":
        console.print(
            f"saved {folder}/checkpoint.safetensors at step {trainer.step:,}; "
            f"continue with: mast train --resume --name {folder}"
        )
    else:
        flops = trainer.training_flops()
        console.print(
            f"training FLOPs per sample: {flops.sparse.paper_flops:,.0f} by the paper's count, "
            f"{flops.paper_reduction:.1f}x below dense; everything counted {flops.sparse.counted_flops:,.0f}, "
            f"{flops.counted_reduction:.1f}x below"
        )
        console.print(f"finished {trainer.step:,} steps; next: mast export {folder}")


@contextmanager
def _interrupt_stops(trainer: Trainer) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the round and saves; a second Ctrl-C interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        trainer.stop_requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nsaving after this round; Ctrl-C again to stop without saving", file=sys.stderr)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
