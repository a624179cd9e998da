"""Run folders: where a run's files lie, how the newest is found, and the log of its events.

config.toml             the resolved settings; `mast train --config` on it repeats the run
run.json                versions, command, environment contract, status
metrics.jsonl           one object per line: kind "train", "evaluation" or "summary"
tensorboard/            the same numbers
checkpoint.safetensors  networks, masks, optimiser, random streams
replay-STEP.safetensors episodes, while the run is unfinished
snapshots/              agents and masks at each evaluation
trace.safetensors       recorded observations on which exports are verified
"""

from __future__ import annotations

import fcntl
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mast_runtime.bundle import write_atomically
from mast_runtime.imports import why
from mast_train.settings.config import Config, load_toml, to_toml
from mast_train.settings.errors import UserError

if TYPE_CHECKING:
    from mast_train.envs.base import EnvSpec  # imports torch, which finding and listing runs can do without
    from mast_train.runs.board import Board

PACKAGES = ("mast-marl", "torch", "numpy", "jax", "jaxmarl", "smac", "vmas", "pettingzoo", "mujoco", "safetensors")


def new_run(root: Path, config: Config, name: str | None = None) -> Path:
    """Create the folder of a new run, named after what it trains. Raises UserError when it exists or cannot be made."""
    if name is not None and (not name.isprintable() or Path(name).name != name or not name):
        raise UserError(f"--name {name!r}: expected a plain, printable name; --runs chooses the folder")
    task = config.env.map.rpartition(":")[2] or config.env.name
    stem = name or f"{task}-{config.algorithm}-{config.method}-seed{config.seed}"
    folder = root / stem
    suffix = 2
    while name is None and folder.exists():
        folder, suffix = root / f"{stem}-{suffix}", suffix + 1
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UserError(
            f"{folder}: a run of this name exists; choose another --name or continue it with --resume"
        ) from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be created ({error.strerror})") from error
    return folder


def find_run(given: str | None, root: Path) -> Path:
    """The named run (a path, or a name under `root`), or the newest one. Raises UserError."""
    if given is not None:
        for folder in (Path(given), root / given):
            if (folder / "run.json").is_file():
                return folder
        if Path(given).is_file():
            raise UserError(f"{given} is a file; expected a run, its folder or its name under {root}/")
        raise UserError(f"{given}: no run there or under {root}/ (a run folder holds run.json)")
    runs = sorted(root.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise UserError(f"no run under {root}/; train one first: mast train --map 3m")
    return runs[-1].parent


def find_unfinished(name: str | None, root: Path, seeds: int = 1, seed: int = 0) -> list[Path]:
    """The named run, or the newest one that has not finished; of several seeds, from `seed` on, of runs that were
    named together those that have not. Raises UserError."""
    if seeds > 1:
        if name is None:
            raise UserError(f"--resume --seeds {seeds}: which runs? give the --name that they were started with")
        found = [find_run(f"{name}-seed{seed + k}", root) for k in range(seeds)]
        left = [run for run in found if _read_info(run).get("status") != "finished"]
        if not left:
            raise UserError(f"{found[0]} to {found[-1]}: all of them have finished; start new ones")
        return left
    if name is not None:
        return [find_run(name, root)]
    for path in sorted(root.glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        if _read_info(path.parent).get("status") != "finished" and not _is_locked(path.parent):
            return [path.parent]
    raise UserError(f"no unfinished run under {root}/")


@contextmanager
def locked(folder: Path, doing: str = "training this run") -> Iterator[None]:
    """Hold the folder for this process. Raises UserError when another one is `doing` it."""
    path = folder / ".lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is {doing}; wait for it or stop it") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _is_locked(folder: Path) -> bool:
    try:
        with (folder / ".lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _read_info(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "run.json").read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        raise UserError(f"{folder}/run.json: damaged ({error}); restore it, or move the folder away") from error


def status_of(folder: Path) -> str:
    """running, finished, interrupted (saved by Ctrl-C), failed, or stopped: killed, so that it could not say."""
    status = str(_read_info(folder).get("status"))
    return "stopped" if status == "running" and not _is_locked(folder) else status


def find_snapshot(folder: Path, which: str = "last") -> Path:
    """The networks of one evaluation: "last", "best" or a step. Raises UserError.

    Best is the highest win rate, or return where winning is not defined or `train.score` says so; the later of equals.
    """
    snapshots = {
        int(path.stem.removeprefix("step-")): path for path in sorted((folder / "snapshots").glob("step-*.safetensors"))
    }
    if not snapshots:
        raise UserError(f"{folder}: no snapshot yet; a run writes one at each evaluation")
    if which == "last":
        return snapshots[max(snapshots)]
    if which == "best":
        rows = [row for row in read_metrics(folder, "evaluation") if row["step"] in snapshots]
        by_return = load_toml(folder / "config.toml").train.score == "return"
        scores = "return_mean" if by_return or any(row["win_rate"] is None for row in rows) else "win_rate"
        return snapshots[max(rows, key=lambda row: (row[scores], row["step"]))["step"]]
    if not which.isdigit() or int(which) not in snapshots:
        raise UserError(f"--at {which!r}: expected last, best or one of the steps {', '.join(map(str, snapshots))}")
    return snapshots[int(which)]


def versions() -> dict[str, str]:
    """What the run was made with: packages, Python, platform and, in a git checkout of this source, the commit."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    source = Path(__file__).resolve().parents[2]
    if (source / ".git").exists():
        try:
            git = ["git", "-C", str(source), "describe", "--always", "--dirty"]
            found["commit"] = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass
    return found


def read_metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of one kind from a run's metrics.jsonl; a last line cut off by a crash is ignored."""
    rows = []
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["kind"] == kind:
            rows.append(row)
    return rows


class RunLog:
    """Writes a run's config, versions and metrics. Use as a context manager; `status` ends up in run.json."""

    def __init__(self, folder: Path, config: Config, spec: EnvSpec, resumed_at: tuple[int, int] | None = None) -> None:
        """resumed_at: the checkpoint's step and the step from which its next evaluation is due; None for a new run."""
        self.folder, self.status = folder, "running"
        self._started, self._info = time.time(), {"seed": config.seed, "spec": asdict(spec), "sessions": []}
        if resumed_at is None:
            write_atomically(folder / "config.toml", to_toml(config).encode())
        else:
            self._info = _read_info(folder)
            self._started -= self._drop_after(*resumed_at)
        session = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": sys.argv, "versions": versions()}
        self._info["sessions"].append(session)
        self._write_info()
        self._metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._board = _board(folder / "tensorboard", resumed_at[0] + 1 if resumed_at else None)

    def row(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one line of numbers."""
        elapsed = round(time.time() - self._started, 3)
        self._metrics.write(json.dumps({"kind": kind, "step": step, "elapsed_s": elapsed, **values}) + "\n")
        if self._board is not None:
            self._board.row(kind, step, values)

    def _drop_after(self, step: int, next_eval: int) -> float:
        """A resumed run logs again what came after its checkpoint; returns the seconds that the kept rows took."""
        limits = {"train": step + 1, "evaluation": min(step + 1, next_eval)}
        rows = [row for kind, limit in limits.items() for row in read_metrics(self.folder, kind) if row["step"] < limit]
        rows.sort(key=lambda row: row["elapsed_s"])
        write_atomically(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        return rows[-1]["elapsed_s"] if rows else 0.0

    def _write_info(self) -> None:
        info = {"status": self.status, **{key: value for key, value in self._info.items() if key != "status"}}
        write_atomically(self.folder / "run.json", (json.dumps(info, indent=1) + "\n").encode())

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.status != "finished":
            self.status = "failed"
        self._write_info()
        self._metrics.close()
        if self._board is not None:
            self._board.close()


def _board(folder: Path, purge_step: int | None) -> Board | None:
    """TensorBoard's writer; None, and one line, where it cannot be imported: metrics.jsonl has the same numbers."""
    try:
        from mast_train.runs.board import Board

        return Board(folder, purge_step)
    except Exception as error:
        print(f"no TensorBoard files, metrics.jsonl has the same numbers: {why(error)}", file=sys.stderr)
        return None
