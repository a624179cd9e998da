"""The house: imports make no cycle and follow the arrows, running knows nothing of measuring, files are short."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHECKED = ("mast_runtime", "mast_export", "mast_train", "cli")
"""Packages and modules at the root that this contract holds for."""
OURS = ("mast_runtime", "mast_export", "mast_train", "cli")
MAX_LINES = 330
CODE = (".py", ".c", ".h", ".def", ".css", ".js")
Graph = Mapping[str, set[str]]


def files_of(name: str) -> list[Path]:
    """The source files of a package, or of a module at the root."""
    folder = ROOT / name
    found = [path for path in folder.rglob("*") if path.suffix in CODE and path.is_file()]
    return sorted(found) if folder.is_dir() else [ROOT / f"{name}.py"]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(names: Iterable[str]) -> dict[str, Path]:
    return {module_name(path): path for name in names for path in files_of(name) if path.suffix == ".py"}


def imported(source: str, package: str, known: Iterable[str]) -> set[str]:
    """The known modules that a module of `package` imports, anywhere in it: in functions and under TYPE_CHECKING too.

    `from a import b` imports a.b where that is a module, else a.
    """
    found, known = set(), set(known)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= (names & known) | ({base} if names - known else set())
    return found & known


def import_graph(names: Iterable[str]) -> dict[str, set[str]]:
    paths = modules(names)
    return {
        name: imported(
            path.read_text(), name if path.name == "__init__.py" else name.rpartition(".")[0], paths
        ) - {name}
        for name, path in paths.items()
    }  # fmt: skip


def cycles(graph: Graph) -> list[list[str]]:
    """Sets of two or more modules that reach one another."""
    reach = {name: reachable(graph, name) for name in graph}
    groups = {frozenset({name, *(other for other in reach[name] if name in reach[other])}) for name in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def reachable(graph: Graph, start: str) -> set[str]:
    found, left = set(), [start]
    while left:
        new = graph[left.pop()] - found
        found |= new
        left += new
    return found


def test_no_import_cycle():
    assert cycles(import_graph(CHECKED)) == []


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("mast_runtime", {"mast_runtime"}), ("mast_export", {"mast_runtime", "mast_export", "mast_train"})],
)
def test_arrows_between_packages(package, allowed):
    graph = import_graph(OURS)
    used = {other.partition(".")[0] for name in modules([package]) for other in graph[name]}
    assert used <= allowed


PURE = {f"mast_train.learning.{name}" for name in ("flops", "losses", "targets")}
TABLES = {"mast_train.envs", "mast_train.algorithms", "mast_train.engines.choice", "mast_train.sparse.allocation"}
"""What settings know of the rest: tables that import none of what they name."""
ARROWS = {
    "settings": "",
    "sparse": "",
    "envs": "settings",
    "networks": "settings envs sparse",
    "experience": "settings envs networks",
    "engines": "settings envs sparse networks experience",
    "algorithms": "settings envs networks experience engines",
    "learning": "settings envs sparse networks experience engines algorithms",
    "runs": "settings envs networks experience learning",
    "report": "settings runs",
    "commands": "settings envs networks experience engines learning runs report",
    "sweeps": "settings envs runs report commands",
}
"""Room of mast_train -> the rooms that it may import, beside PURE; settings may import TABLES."""


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("room", ARROWS)
def test_arrows_between_rooms(room):
    graph, allowed = import_graph(["mast_train"]), {room, *ARROWS[room].split()}
    also = TABLES if room == "settings" else PURE
    wrong = {
        (name, other)
        for name, imports in graph.items() if room_of(name) == room
        for other in imports - also if room_of(other) not in allowed | {""}
    }  # fmt: skip
    assert not wrong


def test_every_room_has_its_arrows():
    assert {room_of(name) for name in import_graph(["mast_train"])} - {""} == ARROWS.keys()


def test_one_file_of_the_export_knows_training():
    graph = import_graph(OURS)
    users = {name for name in modules(["mast_export"]) if any(x.startswith("mast_train") for x in graph[name])}
    assert users == {"mast_export.extract"}


def test_what_a_robot_runs_does_not_measure():
    graph = import_graph(["mast_runtime"])
    people = ("mast_runtime.measure", "mast_runtime.commands")  # the command line's
    running = [name for name in graph if not name.startswith(people)]
    assert not {name for name in running if any(x.startswith(people) for x in graph[name])}


@pytest.mark.parametrize("name", CHECKED)
def test_files_are_short(name):
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files_of(name)}
    assert lengths and {path: n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_the_finder_of_cycles_finds_them():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"f"}, "f": {"e"}, "g": set()}
    assert cycles(graph) == [["a", "b", "c"], ["e", "f"]]


def test_the_reader_of_imports_reads_all_of_them():
    source = """
from typing import TYPE_CHECKING
import os, p.one
from . import two
from ..q import three, name
if TYPE_CHECKING:
    from p.four import Thing
def f():
    from p import five
"""
    known = ("p", "p.one", "p.two", "p.four", "p.five", "q", "q.three", "os.path")
    assert imported(source, "p", ("p", "p.one", "p.two", "p.four", "p.five")) == {"p.one", "p.two", "p.four", "p.five"}
    assert imported("from ..q import three, name", "p.inner", ("p.q", "p.q.three")) == {"p.q", "p.q.three"}
    assert imported("from p import two, VERSION", "r", known) == {"p", "p.two"}
