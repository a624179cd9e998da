"""What training writes beside itself: snapshots of several runs in the background, numbers for TensorBoard."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

import pytest
from test_together import config

from mast_train.runs import files as files_module
from mast_train.runs.board import Board
from mast_train.runs.files import Files
from mast_train.runs.folders import find_snapshot
from mast_train.runs.loop import Loop
from mast_train.runs.run import Run
from mast_train.settings.errors import UserError


def test_writes_happen_in_order_and_wait_waits_for_them():
    files, go, done = Files(), threading.Event(), []
    files.add(lambda: go.wait() and None)
    for number in range(3):
        files.add(partial(done.append, number))
    assert not done
    go.set()
    files.wait()
    assert done == [0, 1, 2]
    files.close()


def test_what_a_write_raises_is_raised_later_and_once():
    files, go = Files(), threading.Event()

    def fail():
        go.wait()
        raise UserError("the disk is full")

    files.add(fail)
    go.set()
    with pytest.raises(UserError, match="full"):
        files.wait()
    files.wait()
    files.close()


def test_no_more_writes_wait_than_there_may(monkeypatch):
    monkeypatch.setattr(files_module, "WAITING", 2)
    files, go, done = Files(), threading.Event(), []
    files.add(lambda: go.wait() and None)
    threading.Timer(0.2, go.set).start()
    for number in range(4):
        files.add(partial(done.append, number))
    assert go.is_set()
    files.close()
    assert done == [0, 1, 2, 3]


def test_snapshots_of_several_runs_are_there_once_they_are_saved(tmp_path, monkeypatch):
    """And hold what one run's, written at once, hold."""
    written = []
    monkeypatch.setattr(Files, "add", lambda self, write, real=Files.add: (written.append(write), real(self, write)))
    found = []
    for seeds in (1, 2):
        folders = [tmp_path / f"{seeds}-{seed}" for seed in range(seeds)]
        for folder in folders:
            folder.mkdir()
        own = [Run(replace(config(), seed=seed), folder) for seed, folder in enumerate(folders)]
        loop = Loop(own)
        list(loop.events())
        loop.close()
        assert len(written) == (0 if seeds == 1 else 2 * 2 * len(list((folders[0] / "snapshots").iterdir())))
        found.append({path.name for path in (folders[0] / "snapshots").iterdir()})
        assert (folders[-1] / "trace.safetensors").is_file() and find_snapshot(folders[-1])
    assert found[0] == found[1] and len(found[0]) > 2


def test_tensorboard_shows_every_number_and_after_a_resume_none_twice(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    first = Board(tmp_path, None)
    for step in (10, 20, 30):
        first.row("train", step, {"loss": step / 8, "updates": step, "seconds": {"acting": 1.0}, "note": "x"})
    first.close()
    later = Board(tmp_path, 21)
    later.row("train", 25, {"loss": 0.5})
    later.close()
    shown = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert set(shown.Tags()["scalars"]) == {"train/loss", "train/updates"}
    assert [(each.step, each.value) for each in shown.Scalars("train/loss")] == [(10, 1.25), (20, 2.5), (25, 0.5)]
