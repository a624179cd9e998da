"""The process of one battle: which interpreter plays it, its start, its answers and its end. Loads no torch."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from mast_train.envs import smac_worker
from mast_train.settings.errors import UserError

INSTALL = "mast smac install"
VARIABLE = "MAST_SMAC_PYTHON"
PATIENCE_S = 10.0
"""How long a worker may take to stop its game before it is ended."""
TAIL_BYTES = 4096
PYSC2_SAYS = re.compile(r"[A-Z]+:absl:")
"""How PySC2 begins its own remarks, which say nothing of the reason."""
Answer = tuple[dict[str, Any], list[np.ndarray]]


def default_folder() -> Path:
    """Where `mast smac install` makes its environment: $XDG_DATA_HOME/mast/smac, else ~/.local/share/mast/smac."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "mast" / "smac"


def python_in(folder: Path) -> Path:
    """The interpreter of the virtual environment `folder`."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find_python(chosen: str | None = None) -> str:
    """The interpreter that plays battles.

    `chosen` (env.options.python), else $MAST_SMAC_PYTHON, else that of `mast smac install`, else this one if SMAC is
    installed beside us. Raises UserError.
    """
    for given, name in ((chosen, "env.options.python"), (os.environ.get(VARIABLE), VARIABLE)):
        if given:
            path = Path(given).expanduser()
            if not path.is_file() or not os.access(path, os.X_OK):
                raise UserError(f"{name} = {given}: expected a Python interpreter that has SMAC; {INSTALL} makes one")
            return str(path)
    installed = python_in(default_folder())
    if installed.is_file():
        return str(installed)
    here = smac_worker.which_smac()
    if here == "smac":
        return sys.executable
    if here == "other":
        raise UserError(
            "the installed 'smac' is SMAC3, a hyper-parameter optimiser (PyPI's package of that name), not the "
            f"StarCraft challenge, which gets a Python of its own: {INSTALL}"
        )
    raise UserError(f"the smac environment needs SMAC, in a Python of its own: {INSTALL}")


def probe(python: str) -> dict[str, Any]:
    """What `python` has of SMAC, PySC2 and the game: see smac_worker.describe. Raises UserError."""
    worker = Worker(python)
    try:
        worker.send("probe")
        answer = worker.receive()
    finally:
        worker.close()
    if isinstance(answer, UserError):
        raise answer
    return answer[0]


class Worker:
    """A battle in a process of its own, with the game that it starts. One request at a time."""

    def __init__(self, python: str) -> None:
        """Start it; it imports SMAC at its first request. Raises UserError where `python` cannot be started."""
        self.python = python
        # A session of its own: Ctrl-C in a terminal reaches neither the worker nor the game, which would look like a
        # crash, and whatever is left of both can be ended together. -E: a PYTHONPATH of ours is not theirs. What they
        # say is appended, so that it can be read meanwhile.
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115
        environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ}
        try:
            self._process = subprocess.Popen(
                [python, "-E", smac_worker.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise UserError(f"{python} cannot be started ({error.strerror}): {INSTALL} makes one for SMAC") from None
        self._requests = cast(BinaryIO, self._process.stdin)
        self._answers = cast(BinaryIO, self._process.stdout)

    def send(self, call: str, *arguments: Any) -> None:
        """Ask for a method of smac_worker.Battle."""
        with suppress(OSError):  # receive says what happened
            smac_worker.send(self._requests, {"call": call, "arguments": arguments})

    def receive(self) -> Answer | UserError:
        """The answer to what was sent last, or why there is none."""
        try:
            values, arrays = smac_worker.receive(self._answers)
        except EOFError:
            return UserError(self._epitaph())
        except (ValueError, TypeError, KeyError) as error:
            return UserError(f"the process of a smac environment ({self.python}) answered nonsense: {error}")
        if "error" in values:
            return UserError(
                values["error"] + (f"; the game last said: {self._last_words()}" if values["game"] else "")
            )
        return values, arrays

    def hang_up(self) -> None:
        """Ask for nothing more: the worker stops its game and ends."""
        for stream in (self._requests, self._answers):
            with suppress(OSError):
                stream.close()

    def close(self) -> None:
        """Stop the game and the process, and whatever is left of them. May be called twice."""
        if self._log.closed:
            return
        self.hang_up()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_S)
        self._end_group()
        self._process.wait()
        self._log.close()

    def _end_group(self) -> None:
        if os.name == "nt":
            self._process.kill()
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _epitaph(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        return (
            f"the process of a smac environment ({self.python}) stopped with exit code {self._process.returncode}; "
            f"it last said: {self._last_words()}"
        )

    def _last_words(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - TAIL_BYTES))
        text = self._log.read().decode(errors="replace")
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        return next((line for line in reversed(lines) if not PYSC2_SAYS.match(line)), lines[-1] if lines else "nothing")
