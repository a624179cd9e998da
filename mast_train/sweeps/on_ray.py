"""A sweep's cells on a Ray cluster. No shared file system: a cell trains in a scratch folder of its node, and its files
travel through Ray, to the node when an unfinished cell is continued and back when it ends or is stopped.

Every node needs the same mast-marl[train,ray] in the Python environment that Ray runs.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from mast_train.settings.errors import UserError
from mast_train.sweeps.display import Status
from mast_train.sweeps.run import Launch, LocalWorker
from mast_train.sweeps.sweep import Cell, Sweep


class RemoteCells:
    """On a node: trains cells in a process there. A Ray actor; its methods are called in order."""

    def __init__(self, cells: Sequence[Cell], tomls: Sequence[str], files: Sequence[bytes | None]) -> None:
        self._folder, self._names = Path(tempfile.mkdtemp(prefix="mast-")), [cell.name for cell in cells]
        for name, toml, archive in zip(self._names, tomls, files, strict=True):
            (self._folder / f"{name}.toml").write_text(toml)
            if archive is not None:
                unpack(archive, self._folder / name)
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        self._worker = LocalWorker(cells, self._folder)

    def poll(self) -> tuple[list[Status], int | None]:
        return self._worker.poll()

    def stop(self, now: bool) -> None:
        self._worker.stop(now)

    def collect(self) -> tuple[list[bytes | None], bytes]:
        """(each run folder as an archive, the log); the node keeps nothing."""
        log = (self._folder / f"{self._names[0]}.log").read_bytes()
        files = [pack_begun(self._folder / name) for name in self._names]
        shutil.rmtree(self._folder)
        return files, log


class RayWorker:
    """On the sweep's side: the status of remote cells, whose files are put into the sweep's folder once they ended."""

    def __init__(self, cells: Sequence[Cell], folder: Path) -> None:
        self._runs, self._log = [folder / cell.name for cell in cells], folder / f"{cells[0].name}.log"
        tomls = [(folder / f"{cell.name}.toml").read_text() for cell in cells]
        remote = ray.remote(num_cpus=cells[0].config.threads, max_restarts=0)(RemoteCells)
        self._actor: Any = remote.remote(cells, tomls, [pack_begun(run) for run in self._runs])
        self._statuses, self._pending = [Status()] * len(cells), self._actor.poll.remote()

    def poll(self) -> tuple[list[Status], int | None]:
        try:
            if not ray.wait([self._pending], timeout=0)[0]:
                return self._statuses, None
            self._statuses, code = ray.get(self._pending)
            if code is None:
                self._pending = self._actor.poll.remote()
            else:
                archives, log = ray.get(self._actor.collect.remote())
                self._log.write_bytes(log)
                for run, files in zip(self._runs, archives, strict=True):
                    if files is not None:
                        replace_folder(files, run)
                ray.kill(self._actor)
        except RayError as error:
            self._log.write_text(f"lost on the cluster: {str(error).strip()}\n")
            return self._statuses, -1
        return self._statuses, code

    def stop(self, now: bool = False) -> None:
        self._actor.stop.remote(now)


def pack_begun(run: Path) -> bytes | None:
    """A run folder as an archive; None before there is anything to continue."""
    return pack(run) if (run / "run.json").is_file() else None


def pack(folder: Path) -> bytes:
    """A folder as a tar archive; its locks and TensorBoard's live files travel as they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, arcname=".")
    return buffer.getvalue()


def unpack(files: bytes, folder: Path) -> None:
    """Write an archive's files; the "data" filter refuses any path outside `folder`."""
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        archive.extractall(folder, filter="data")


def replace_folder(files: bytes, folder: Path) -> None:
    """Unpack beside and rename, so that an interrupted copy leaves no half a run."""
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    unpack(files, beside)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


@contextmanager
def cluster(address: str, sweep: Sweep) -> Iterator[tuple[Launch, int]]:
    """Connect; yields what launches cells there, and how many cells its cores hold. Raises UserError."""
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"--ray {address}: no Ray cluster answers there ({reason}); start one with ray start") from None
    try:
        threads = max(group.config.threads for group in sweep.groups)
        yield RayWorker, sweep.jobs or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
    finally:
        ray.shutdown()
