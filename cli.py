"""The `mast` command line: what its commands are. Nothing heavy is imported before one runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mast_export.formats import FORMATS
from mast_export.importing.cli import import_
from mast_runtime import shell
from mast_runtime.selftest.command import selftest
from mast_runtime.shell import BackendOption, JsonOption, PolicyArgument, RunsOption, answer, console
from mast_train.commands.line import doctor, eval_, maps, play, report, runs, train
from mast_train.commands.smac_app import smac_app
from mast_train.sweeps.command import sweep

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def options(version: shell.VersionOption = False) -> None:
    """Ultra-sparse multi-agent Q-learning: train, export, run, measure and serve."""


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


def bench(
    policy: PolicyArgument = None,
    backend: Annotated[list[str] | None, typer.Option(help="Only this engine; may be repeated (default: all).")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 7,
    full: Annotated[bool, typer.Option("--full", help="Also every weight dtype and block shape.")] = False,
    runs: RunsOption = shell.RUNS,
    json_: JsonOption = False,
) -> None:
    """Measure a policy: latency, FLOPs, size, memory, start-up.

    Sparse beside dense, on every engine that is installed.
    """
    from mast_runtime.measure import bench as measuring

    bundle, others = shell.load_policy(policy, runs), {}
    if full:
        from mast_export.variants import variants

        others = variants(bundle)
    result = measuring.bench(bundle, backend, rounds=rounds, variants=others)
    answer(json_, result.as_dict(), lambda: measuring.print_bench(console, result))


def inspect(
    policy: PolicyArgument = None,
    png: Annotated[Path | None, typer.Option(help="Draw the masks to this file.")] = None,
    runs: RunsOption = shell.RUNS,
    json_: JsonOption = False,
) -> None:
    """Show what a policy kept.

    Sparsity by layer and agent, connections per input and output, and the masks as a picture.
    """
    from mast_runtime.measure.card import print_description
    from mast_runtime.measure.inspect import describe

    bundle = shell.load_policy(policy, runs)
    description = describe(bundle)
    answer(json_, description.as_dict(), lambda: print_description(console, description))
    if png is not None:
        from mast_runtime.measure.pictures import masks_png

        masks_png(bundle, png)
        typer.echo(f"masks drawn to {png}", err=True)


def serve(
    policy: shell.ServedArgument = None,
    agent: Annotated[int | None, typer.Option(help="Serve this agent only.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    backend: BackendOption = "auto",
    idle_limit: Annotated[float, typer.Option(help="Seconds after which an idle sequence is forgotten.")] = 60.0,
    max_sequences: Annotated[int, typer.Option(min=1, help="Sequences kept at once.")] = 1024,
    request_log: Annotated[str | None, typer.Option(help="File for a line of JSON per request; -: stderr.")] = None,
    deadline: Annotated[float, typer.Option(help="Seconds after which an answer is late, and counted.")] = float("inf"),
    config: shell.ConfigOption = None,
    runs: RunsOption = shell.RUNS,
) -> None:
    """Serve a policy over HTTP by the Open Inference Protocol V2; SIGHUP loads it again."""
    from mast_runtime.serve import serve as start

    start(shell.load_policy(policy, runs), host, port, agent, backend, idle_limit, max_sequences, request_log, deadline)


COMMANDS: tuple[Callable[..., None], ...] = (
    train, runs, eval_, play, maps, export, import_, bench, inspect, selftest, serve, doctor, sweep, report,
)  # fmt: skip
"""In the order of `mast --help`. A user's mistake ends in one line and exit code 2, never in a traceback."""

for _function in COMMANDS:
    _name = _function.__name__.rstrip("_")
    _settings = {"auto_envvar_prefix": "MAST_SERVE"} if _function is serve else {}
    app.command(name=_name, context_settings=_settings)(shell.guarded(_function, _name, user_errors))

app.add_typer(smac_app(user_errors), name="smac")


def main() -> None:
    """Entry point of the `mast` script."""
    shell.run_app(app)


if __name__ == "__main__":
    main()
