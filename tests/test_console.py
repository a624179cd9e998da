"""Text is printed as it is given, whatever it looks like, in lines, cells, titles and captions."""

from __future__ import annotations

import ast
import io
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mast_runtime.console import new_console
from mast_runtime.measure.tables import new_table
from mast_runtime.shell import answer
from mast_runtime.streams import pasted

ROOT = Path(__file__).resolve().parent.parent
COMMAND = re.compile(r"\bmast (train|export|eval|play|bench|inspect|serve|sweep|report|runs)( --?[\w-]+)* $")
NAMES = ("exp [sparse] 1", "runs[/old]", "[bold]x[/bold]", "[/]", ":smile:", "a\\[b]", "[red", "x[0]=1.5")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_printed_as_it_is(name):
    console = new_console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    console.print(name)
    console.print(f"note: {name}", style="yellow")
    assert console.file.getvalue() == f"{name}\nnote: {name}\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_table_prints_names_as_they_are(name):
    console = new_console(file=io.StringIO(), width=200)
    table = new_table(f"title {name}", f"caption {name}", (f"head {name}",), ())
    table.add_row(f"cell {name}")
    console.print(table)
    text = console.file.getvalue()
    assert all(f"{part} {name}" in text for part in ("title", "caption", "head", "cell")), text


def test_an_answer_is_text_or_json(capsys, monkeypatch):
    monkeypatch.setattr("mast_runtime.shell.console", new_console(soft_wrap=True))
    answer(False, {"a": 1}, "one [b]", lambda: print("two"))
    answer(True, {"a": 1}, "one", lambda: print("two"))
    assert capsys.readouterr().out == 'one [b]\ntwo\n{"a": 1}\n'


def test_there_is_one_way_to_make_a_console():
    packages = [path for name in ("mast_runtime", "mast_export", "mast_train") for path in (ROOT / name).rglob("*.py")]
    made = {
        str(path.relative_to(ROOT))
        for path in [ROOT / "cli.py", ROOT / "examples" / "demo.py", *packages]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console"
    }
    assert made == {"mast_runtime/console.py"}


def test_commands_in_hints_can_be_pasted():
    """No f-string puts a value of its own after the words of a command: `pasted` quotes it."""
    assert pasted("mast", "export", Path("runs/exp [sparse] 1")) == "mast export 'runs/exp [sparse] 1'"
    files = [path for name in ("mast_runtime", "mast_export", "mast_train") for path in (ROOT / name).rglob("*.py")]
    bare = []
    for path in [ROOT / "cli.py", *files]:
        for text in [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.JoinedStr)]:
            for before, value in pairwise(text.values):
                words = before.value if isinstance(before, ast.Constant) else ""
                if isinstance(value, ast.FormattedValue) and COMMAND.search(str(words)):
                    bare.append(f"{path.name}:{value.lineno}")
    assert not bare, "use mast_runtime.streams.pasted"
    assert COMMAND.search("next: mast export ") and not COMMAND.search("mast train; see ")


@given(st.lists(st.text(min_size=1), min_size=1))
def test_a_pasted_command_is_read_as_it_was(words):
    assert shlex.split(pasted(*words)) == words


def test_what_an_encoding_cannot_say_is_escaped():
    code = (
        "import os\nfrom mast_runtime.streams import kept_stdout, stdout\n"
        "with kept_stdout():\n    print('caf\\u00e9 \\udcff', file=stdout()), print('x'), os.write(1, b'y')\n"
        "print('after')"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr.split()) == ("caf\\xe9 \\udcff\nafter\n", ["x", "y"])
