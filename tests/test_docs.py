"""Documentation in step with the code: commands parse, options exist, links resolve, settings named are settings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

import cli
from mast_train.algorithms import ALGORITHMS
from mast_train.engines.choice import KERNELS
from mast_train.settings.config import Config, flatten
from mast_train.settings.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
FIRST = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md")
PAGES = sorted([*FIRST, *(ROOT / "docs").glob("*.md")])
COMMANDS = typer.main.get_command(cli.app).commands


def typed_commands(text: str) -> list[list[str]]:
    """Every `mast ...` at the start of a line of a code block or alone in back quotes."""
    blocks = "\n".join(re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.S))
    lines = re.findall(r"^\$? ?(mast .+)$", blocks, re.M) + re.findall(r"`(mast [^`]+)`", text)
    return [shlex.split(line.split("  #")[0]) for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page):
    for _, name, *arguments in typed_commands(page.read_text()):
        if name.startswith("-"):
            continue
        assert name in COMMANDS, f"{page.name}: mast {name}"
        command = COMMANDS[name]
        if hasattr(command, "commands"):
            assert arguments[0] in command.commands, f"{page.name}: mast {name} {arguments[0]}"
            command = command.commands[arguments[0]]
        options = {option for parameter in command.params for option in parameter.opts}
        used = {argument.split("=")[0] for argument in arguments if argument.startswith("-")}
        assert used <= options, f"{page.name}: mast {name} has no {used - options}"


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    headings = [re.sub(r"[`*]", "", heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: no heading for {target}"


def test_headings_become_anchors(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# RES: operator\n\n```sh\n# not one\n```\n\n## How to read `mast bench`\n\n### What is 12x\n")
    assert anchors(page) == {"res-operator", "how-to-read-mast-bench", "what-is-12x"}


def test_every_command_has_its_place():
    text = (ROOT / "docs" / "commands.md").read_text()
    assert all(f"mast {name}" in text for name in COMMANDS)


def test_every_algorithm_and_kernel_is_in_the_methods():
    text = (ROOT / "docs" / "methods.md").read_text()
    first = ", ".join(re.findall(r"^\| ([a-z2, -]+) \|", text, re.M)).split(", ")
    assert {*ALGORITHMS, *KERNELS, *METHODS} <= set(first)


def test_settings_named_in_the_methods_exist():
    keys = set(flatten(Config()))
    sections = {key.split(".")[0] for key in keys if "." in key}
    named = re.findall(r"`([a-z_]+\.[a-z_.]+)`", (ROOT / "docs" / "methods.md").read_text())
    named = [name for name in named if name.split(".")[0] in sections and not name.endswith(".py")]
    assert named and set(named) <= keys, set(named) - keys


def test_no_trace_of_where_this_was_made():
    """Documents speak of the product alone."""
    for page in PAGES:
        assert not re.search(r"/(work|tmp|root)/|https?://(localhost:\d+/simple|pypi\.org)", page.read_text()), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_left_to_fill_in(page):
    assert not re.search(r"\b[A-Z]+_(TEXT|TABLE|MINUTES|SUMMARY|TODO)\b|@[0-9A-Z]{2}\b", page.read_text())
