"""What documents quote from the code itself: its rooms, excerpts, tables; run by cog like figures.py."""

from __future__ import annotations

import ast
from pathlib import Path

from figures import table
from test_house import import_graph, modules

from mast_train.envs.vmas_wins import SOLVED

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "settings": "settings as data, the table of methods and recipes, the values allowed, errors of a user's making",
    "envs": "environments behind one protocol, their table, their drawing",
    "sparse": "masks, allocation over layers, drop and grow, the schedule of evolution",
    "networks": "agents, mixers, how a run's networks and masks are built",
    "experience": "episodes, playing them, the replay",
    "algorithms": "one file each, and their table",
    "engines": "where networks run: torch, the C passes, CUDA graphs, fused CUDA kernels; the table of kernels",
    "learning": "a learner's state, the gradient step, targets, losses, FLOPs",
    "runs": "a run's state, checkpoints and folder; the loop over runs",
    "report": "run folders to one page; reads files only",
    "sweeps": "a file of comparisons to runs, locally or on Ray",
    "commands": "what `mast` and `mast_train.api` do with a run",
}
"""Of mast_train, from what knows least to what knows most."""


def rooms() -> str:
    """What every room of mast_train holds, and which others it imports."""
    graph, used = import_graph(["mast_train", "mast_export", "mast_runtime"]), {room: set() for room in ROOMS}
    for name in modules(["mast_train"]):
        if (room := _room(name)) in used:
            used[room] |= {_room(other) for other in graph[name]} - {room}
    rows = [[f"`{room}`", text, ", ".join(_in_order(used[room]))] for room, text in ROOMS.items()]
    return table(["room", "holds", "imports"], rows)


def vmas_wins() -> str:
    """The VMAS scenarios whose end is a win, and what that needs."""
    return table(
        ["scenario", "won when", "needs in `env.options`"], [[f"`{n}`", s.task, s.needs] for n, s in SOLVED.items()]
    )


def source(path: str, *names: str) -> str:
    """Functions or classes of a file, or without names the file, as a block of code. names: "f" or "Class.f"."""
    text = (ROOT / path).read_text(encoding="utf-8")
    shown = "\n\n".join(_definition(text, name) for name in names) or text.strip()
    return f"```python\n{shown}\n```"


def _definition(text: str, name: str) -> str:
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        node = next(child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == part)
    assert isinstance(node, ast.FunctionDef | ast.ClassDef) and node.end_lineno is not None
    lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
    return "\n".join(line[node.col_offset :] for line in lines)


def _room(module: str) -> str:
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "mast_train" else package


def _in_order(found: set[str]) -> list[str]:
    order = [*ROOMS, "mast_export", "mast_runtime"]
    return sorted(found & set(order), key=order.index)
