"""The commands of `mast` that a robot has, and how commands become a command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

from mast_runtime import shell
from mast_runtime.errors import RuntimeFault
from mast_runtime.imports import EVERYTHING, install_command
from mast_runtime.selftest.command import selftest
from mast_runtime.shell import BackendOption, JsonOption, PolicyArgument, RunsOption, answer, console, typer


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
        others = import_module("mast_export.variants").variants(bundle)
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


def doctor(json_: JsonOption = False) -> None:
    """Say what is installed, what is missing, and what to do."""
    from mast_runtime.measure.doctor import diagnose, print_checks

    checks = diagnose()
    answer(json_, [vars(check) for check in checks], lambda: print_checks(checks, console))


ELSEWHERE = ("train", "runs", "eval", "play", "maps", "export", "import", "sweep", "report", "smac")
"""Commands of mast-marl alone."""
Commands = Sequence[Callable[..., None]]
COMMANDS: Commands = (bench, inspect, selftest, serve, doctor)
"""In the order of `mast --help`."""


def new_app(commands: Commands, about: str, user_errors: Callable[[], tuple[type[Exception], ...]]) -> typer.Typer:
    """A command line of these. A user's mistake ends in one line and exit code 2, never in a traceback.

    about: what --help says of it. user_errors: see shell.guarded.
    """
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)

    def options(version: shell.VersionOption = False) -> None:
        pass

    options.__doc__ = about
    app.callback()(options)
    for function in commands:
        name = function.__name__.rstrip("_")
        settings = {"auto_envvar_prefix": "MAST_SERVE"} if function is serve else {}
        app.command(name=name, context_settings=settings)(shell.guarded(function, name, user_errors))
    return app


def main() -> None:
    """Entry point of the `mast` script of mast-runtime."""
    if sys.argv[1:2] and sys.argv[1] in ELSEWHERE:
        print(f"error: mast {sys.argv[1]} needs {EVERYTHING}; {install_command(everything=True)}", file=sys.stderr)
        sys.exit(2)
    shell.run_app(new_app(COMMANDS, "Run, measure and serve ultra-sparse policies.", lambda: (RuntimeFault,)))
