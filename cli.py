"""The `mast` command line: what its commands are. Nothing heavy is imported before one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from mast_export.formats import FORMATS
from mast_export.importing.cli import import_
from mast_runtime import shell
from mast_runtime.commands import bench, inspect, new_app, serve
from mast_runtime.selftest.command import selftest
from mast_runtime.shell import JsonOption, RunsOption, answer, typer
from mast_train.commands.line import doctor, eval_, maps, play, report, runs, train
from mast_train.commands.smac_app import smac_app
from mast_train.sweeps.command import sweep


def user_errors() -> tuple[type[Exception], ...]:
    """What is the user's to mend."""
    from mast_export.errors import ExportError
    from mast_runtime.errors import RuntimeFault
    from mast_train.settings.errors import UserError

    return UserError, RuntimeFault, ExportError


def export(
    run: Annotated[str | None, typer.Argument(help="A run (default: the newest).")] = None,
    format_: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = "mast",
    agent: Annotated[int | None, typer.Option(help="One agent only.")] = None,
    dtype: Annotated[str, typer.Option(help="Weights where the format has a choice: f32, f16 or i8.")] = "f32",
    target: Annotated[str | None, typer.Option(help="Also build the C test for, say, aarch64-linux-musl.")] = None,
    policy_version: shell.PolicyVersionOption = "",
    names: shell.NamesOption = None,
    prefix: Annotated[str, typer.Option(help="What the names in C begin with, say left_arm (default: policy).")] = "",
    rate_limit: shell.RateLimitOption = None,
    ranges: Annotated[bool, typer.Option("--ranges", help="C that can count inputs out of range.")] = False,
    no_compact: Annotated[bool, typer.Option("--no-compact", help="Keep units that cannot change an action.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to (default: into the run).")] = None,
    at: Annotated[str, typer.Option(help="Which evaluation's networks: last, best or a step.")] = "last",
    runs: RunsOption = shell.RUNS,
    json_: JsonOption = False,
) -> None:
    """Turn a run into files that need no torch.

    Each is verified against the trained network.
    """
    from mast_export.export import export_run
    from mast_train.runs.folders import find_run, find_snapshot

    folder = find_run(run, runs)
    snapshot = find_snapshot(folder, at)
    files = export_run(
        folder,
        snapshot,
        format_,
        agent,
        output,
        dtype,
        not no_compact,
        target,
        policy_version,
        names,
        prefix,
        rate_limit,
        ranges,
    )
    head = f"{folder}, step {int(snapshot.stem.removeprefix('step-')):,}"
    answer(json_, [file.as_dict() for file in files], head, *(line for file in files for line in file.lines()))


COMMANDS = (train, runs, eval_, play, maps, export, import_, bench, inspect, selftest, serve, doctor, sweep, report)
"""In the order of `mast --help`."""
app = new_app(COMMANDS, "Ultra-sparse multi-agent Q-learning: train, export, run, measure and serve.", user_errors)
app.add_typer(smac_app(user_errors), name="smac")


def main() -> None:
    """Entry point of the `mast` script."""
    shell.run_app(app)


if __name__ == "__main__":
    main()
