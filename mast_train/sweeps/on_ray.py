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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from mast_train.settings.errors import UserError
from mast_train.sweeps.display import Status
from mast_train.sweeps.run import Launch, LocalWorker
from mast_train.sweeps.sweep import Cell, Sweep


class RemoteCell:
    """On a node: trains one cell as a process there. A Ray actor; its methods are called in order."""

    def __init__(self, cell: Cell, toml: str, files: bytes | None) -> None:
        self._folder, self._name = Path(tempfile.mkdtemp(prefix="mast-")), cell.name
        (self._folder / f"{cell.name}.toml").write_text(toml)
        if files is not None:
            unpack(files, self._folder / cell.name)
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        self._worker = LocalWorker(cell, self._folder)

    def poll(self) -> tuple[Status, int | None]:
        return self._worker.poll()

    def stop(self, now: bool) -> None:
        self._worker.stop(now)

    def collect(self) -> tuple[bytes | None, bytes]:
        """(the run folder as an archive, the log); the node keeps nothing."""
        run, log = self._folder / self._name, (self._folder / f"{self._name}.log").read_bytes()
        files = pack(run) if (run / "run.json").is_file() else None
        shutil.rmtree(self._folder)
        return files, log


class RayWorker:
    """On the sweep's side: the status of a remote cell, whose files are put into the sweep's folder once it ended."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        self._run, self._log = folder / cell.name, folder / f"{cell.name}.log"
        files = pack(self._run) if (self._run / "run.json").is_file() else None
        remote = ray.remote(num_cpus=cell.config.threads, max_restarts=0)(RemoteCell)
        self._actor: Any = remote.remote(cell, (folder / f"{cell.name}.toml").read_text(), files)
        self._status, self._pending = Status(), self._actor.poll.remote()

    def poll(self) -> tuple[Status, int | None]:
        try:
            if not ray.wait([self._pending], timeout=0)[0]:
                return self._status, None
            self._status, code = ray.get(self._pending)
            if code is None:
                self._pending = self._actor.poll.remote()
            else:
                files, log = ray.get(self._actor.collect.remote())
                self._log.write_bytes(log)
                if files is not None:
                    replace_folder(files, self._run)
                ray.kill(self._actor)
        except RayError as error:
            self._log.write_text(f"lost on the cluster: {str(error).strip()}\n")
            return self._status, -1
        return self._status, code

    def stop(self, now: bool = False) -> None:
        self._actor.stop.remote(now)


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
    """Connect; yields what launches a cell there, and how many cells its cores hold. Raises UserError."""
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
