"""A disk that fills while a policy is exported: an OSError, what was there stays, nothing is left over."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from networks import random_bundle
from test_c_export import record

from mast_export.formats import FORMATS, find_format
from mast_export.formats.base import Request
from mast_export.observed import Seen, with_inputs


@contextmanager
def room_for(size_bytes: int) -> Iterator[None]:
    """No file may become larger: writing more fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("agent", [None, 0])
@pytest.mark.parametrize("name", FORMATS)
def test_an_export_that_does_not_fit_changes_nothing(name, agent, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr("mast_export.c.build.shutil.which", lambda _: None)
    bundle = random_bundle(3, hidden=32)
    trace = record(bundle, 30)
    bundle = with_inputs(bundle, Seen.of(trace.obs))
    path = tmp_path / find_format(name).file_name(agent, "f32")
    request = Request(bundle, trace, path, agent)
    find_format(name).write(request)
    before = contents(tmp_path)
    assert before and max(map(len, before.values())) > 2_000
    with room_for(2_000), pytest.raises(OSError, match="too large") as error:
        find_format(name).write(request)
    trial = name == "mast"  # tried in the system's temporary folder first
    assert Path(error.value.filename).name == "trial.mast" if trial else error.value.filename == str(path)
    assert contents(tmp_path) == before
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    with room_for(2_000), pytest.raises(OSError, match="too large"):
        find_format(name).write(Request(bundle, trace, fresh / path.name, agent))
    assert list(fresh.iterdir()) == []
