"""A run's numbers for TensorBoard. Importing this imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined] (made when imported)
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
from torch.utils.tensorboard import FileWriter


class Board:
    """One event a row of numbers: for many seeds an event a number, as SummaryWriter writes, takes as long as their
    updates."""

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        """purge_step: what TensorBoard has from this step on is not shown any more; None: nothing was there."""
        self._writer = FileWriter(str(folder))
        if purge_step is not None:
            self._writer.add_event(Event(step=purge_step, file_version="brain.Event:2"))
            self._writer.add_event(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def row(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """The numbers among the values, under kind/name."""
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        scalars = [Summary.Value(tag=f"{kind}/{name}", simple_value=value) for name, value in numbers.items()]
        self._writer.add_summary(Summary(value=scalars), step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
