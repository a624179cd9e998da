"""What the commands of `mast` share: user mistakes end in one line and exit code 2, and answers are text or JSON."""

from __future__ import annotations

import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mast_runtime.backends import BACKENDS
from mast_runtime.console import later_console
from mast_runtime.errors import SlowWarning
from mast_runtime.imports import broken_package, install_command, why
from mast_runtime.streams import kept_stdout, open_streams, stdout
from mast_runtime.version import __version__

if TYPE_CHECKING:
    import typer

    from mast_runtime.bundle import Bundle
else:
    try:
        import typer
    except ModuleNotFoundError:  # as on a robot: nothing but this package is there
        from mast_runtime import light as typer

EXTRAS = {
    "train": ("torch", "jax", "jaxmarl", "six", "tensorboard", "tomli_w", "matplotlib", "PIL", "smac"),
    "vmas": ("vmas", "gym"),
    "mamujoco": ("gymnasium_robotics", "mujoco"),
    "pettingzoo": ("pettingzoo", "gymnasium"),
    "export": ("onnx", "onnxruntime"),
    "serve": ("uvicorn", "prometheus_client"),
    "ray": ("ray",),
    "report": ("rliable", "scipy"),
}
"""Extra of the distribution -> the modules that come with it."""
SMALL = ("numpy", "safetensors", "typer", "rich")
"""What every extra brings, and a robot does without."""
ON_ROBOTS = ("bench", "inspect", "selftest", "serve", "doctor")
RUNS = Path("runs")

RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
PolicyArgument = Annotated[str | None, typer.Argument(help="A .mast file, or a run that has one (default: newest).")]
ServedArgument = Annotated[
    str | None,
    typer.Argument(envvar="MAST_SERVE_POLICY", help="A .mast file, or a run that has one (default: newest)."),
]
BackendOption = Annotated[str, typer.Option(help=f"auto, {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}.")]
TargetArgument = Annotated[str | None, typer.Argument(help="A run or a .mast file (default: the newest run).")]
MapOption = Annotated[str | None, typer.Option("--map", help="Map (default: the one it was trained on).")]
EnvOption = Annotated[str | None, typer.Option(help="Environment (default: the one it was trained in).")]
EnvSetOption = Annotated[list[str] | None, typer.Option("--set", help="An environment setting: env.options.x=1")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", callback=lambda context, path: configured(context, path), is_eager=True,
                 help="TOML file with any of these; a variable such as MAST_SERVE_PORT comes before it."),
]  # fmt: skip
AtOption = Annotated[str, typer.Option(help="Of a run: last, best or a step.")]
PolicyVersionOption = Annotated[str, typer.Option(help="Your name for this policy, say 1.4: shown wherever it runs.")]
NamesOption = Annotated[Path | None, typer.Option(help="File with a line for each input: name, or name and , unit.")]
RateLimitOption = Annotated[
    float | None,
    typer.Option(help="Of continuous actions: the most that one moves in a decision, as a share of its range."),
]
RandomOption = Annotated[bool, typer.Option("--random", help="A team that acts at random, for comparison.")]

console = later_console()
_USAGE_ERROR: Any = typer.BadParameter.__base__


def whole(text: str) -> int:
    """500000, 500_000 or 5e5."""
    try:
        value = float(text)
        if value.is_integer():
            return int(value)
    except ValueError:
        pass
    raise typer.BadParameter(f"{text!r}: expected a whole number, for example 500000 or 5e5")


def configured(context: Any, path: Path | None) -> Path | None:
    """The callback of a --config: the file's keys are defaults of the command's other options, named as they are."""
    if path is None:
        return None
    import tomllib
    from difflib import get_close_matches

    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise typer.BadParameter(f"{path} is not TOML ({error})") from None
    known = {
        parameter.name: parameter for parameter in context.command.params if parameter.name not in ("config", "help")
    }
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it may hold {', '.join(known)}"
            raise typer.BadParameter(f"{path}: unknown key {key}; {hint}")
        if isinstance(value, bool | list | dict):
            raise typer.BadParameter(f"{path}: {key} is {value!r}, expected a number or text")
        context.default_map = (context.default_map or {}) | {name: value}
    return path


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mast {__version__}")
        raise typer.Exit()


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
]


def fail(message: object) -> typer.Exit:
    """Print one line on standard error; the caller raises the returned exit with code 2."""
    print(f"error: {message}", file=sys.stderr)
    return typer.Exit(2)


def answer(as_json: bool, data: Any, *shown: str | Callable[[], None]) -> None:
    """What a command found: `data` as JSON, or the lines, where one is not a function that prints."""
    if as_json:
        print(json.dumps(data), file=stdout())
        return
    for part in shown:
        console.print(part) if isinstance(part, str) else part()


def load_policy(given: str | None, runs: Path) -> Bundle:
    """The policy that a PolicyArgument means. Raises BundleError, FileNotFoundError."""
    from mast_runtime.bundle import find_policy, load

    return load(find_policy(given, runs))


def guarded(
    function: Callable[..., None], name: str, user_errors: Callable[[], Sequence[type[Exception]]]
) -> Callable[..., None]:
    """The command `name`, whose mistakes by the user end in one line; a missing package is named with its extra.

    What code of the user's prints meanwhile goes to standard error.

    user_errors: asked for when the command runs.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with kept_stdout():
                function(*args, **kwargs)
        except tuple(user_errors()) as error:
            raise fail(error) from None
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
            if module == "mast_export":
                raise fail(f"mast {name} needs mast_export for this; {install_command(everything=True)}") from None
            if module in SMALL:
                extra = None if name in ON_ROBOTS else "train"
            elif extra is None:
                raise
            advice = f"pip install {module}" if extra is None else install_command(extra)
            raise fail(f"mast {name} needs {module}; {advice}") from None
        except BrokenPipeError:
            raise typer.Exit(1) from None
        except (typer.Exit, typer.Abort, _USAGE_ERROR):
            raise
        except Exception as error:
            _fail_if_broken(name, error)
            raise

    return run


def _fail_if_broken(name: str, error: Exception) -> None:
    """Raise the exit for an error of the system's, or of a package of ours that cannot be imported."""
    modules = {module: extra for extra, names in EXTRAS.items() for module in names}
    module = broken_package(error, modules)
    if module is not None:
        advice = install_command(modules[module]).replace("pip install", "pip install --upgrade")
        raise fail(f"mast {name} needs {module}, which cannot be imported: {why(error)}; {advice}") from None
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        raise fail(f"{where}{error.strerror or error}") from None


def _format_warning(message: Warning | str, category: type[Warning], *where: Any) -> str:
    """A warning of ours is a line for the user; others name the code that they are about."""
    return f"warning: {message}\n" if category is SlowWarning else _whole_warning(message, category, *where)


_whole_warning = warnings.formatwarning


def run_app(app: typer.Typer) -> None:
    """Run the command that the process was started with, and exit."""
    open_streams()
    warnings.formatwarning = _format_warning
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    # Typer builds every command that is registered, which takes a sixth of the time until `mast serve` answers.
    asked = [command for command in app.registered_commands if command.name == sys.argv[1]]
    if asked:
        app.registered_commands, app.registered_groups = asked, []
    try:
        code = typer.main.get_command(app).main(prog_name="mast", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code)
    except _USAGE_ERROR as error:
        named = [text for text in sys.argv[1:2] if not text.startswith("-")]  # not every error knows its command
        where = error.ctx.command_path if error.ctx else " ".join(["mast", *named])
        print(f"error: {error.format_message().rstrip('.')}; see {where} --help", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except OSError as error:  # of --help and --version: commands report theirs
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or its last flush would fail again
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        print(f"error: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
