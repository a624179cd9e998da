"""As much of typer's interface as `mast` uses, on argparse: a robot has the commands without typer and what it needs.

Where typer is installed it reads the same declarations (mast_runtime.shell chooses); a test compares the two.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import NoneType, SimpleNamespace
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints


class UsageError(Exception):
    """What was typed is no command line. ctx: of the command, for its name."""

    ctx: Any = None

    def format_message(self) -> str:
        return str(self)


class BadParameter(UsageError):
    """A value that cannot be."""


class Exit(RuntimeError):
    """Ends the command with this code."""

    def __init__(self, code: int = 0) -> None:
        self.exit_code = code


class Abort(RuntimeError):
    """Ended by the user."""


@dataclass(frozen=True)
class Declared:
    """What Option and Argument say. names: flags, none of an argument."""

    names: tuple[str, ...]
    is_argument: bool
    help: str = ""
    min: float | None = None
    max: float | None = None
    parser: Callable[[str], Any] | None = None
    metavar: str | None = None
    callback: Callable[..., Any] | None = None
    is_eager: bool = False
    envvar: str | None = None


def Option(*names: str, **given: Any) -> Any:
    """An option; without names --NAME, of the parameter's name."""
    return Declared(names, False, **given)


def Argument(**given: Any) -> Any:
    """An argument by its place."""
    return Declared((), True, **given)


class Parameter(NamedTuple):
    """One parameter of a command: its kind is converted to, many: a list of them, default: inspect's empty if none."""

    name: str
    kind: Callable[[str], Any]
    many: bool
    default: Any
    declared: Declared

    @property
    def label(self) -> str:
        """As messages name it."""
        declared = self.declared
        if not declared.is_argument:
            return next((name for name in declared.names if name.startswith("--")), f"--{self.name.replace('_', '-')}")
        if declared.metavar:
            return declared.metavar
        text = self.name.upper() + "..." * self.many
        return text if self.default is inspect.Parameter.empty else f"[{text}]"

    def convert(self, text: Any) -> Any:
        """The value of a text. Raises BadParameter."""
        declared, kind = self.declared, self.declared.parser or self.kind
        try:
            value = _flag(text) if kind is bool else kind(str(text))
        except ValueError:
            words = {int: "integer", float: "float", bool: "boolean"}.get(kind, "value")  # type: ignore[call-overload]
            raise BadParameter(f"Invalid value for '{self.label}': {text!r} is not a valid {words}") from None
        except BadParameter as error:
            raise BadParameter(f"Invalid value for '{self.label}': {error}") from None
        low, high = declared.min, declared.max
        if not ((low is None or value >= low) and (high is None or value <= high)):
            span = f"{low}<=x<={high}" if None not in (low, high) else f"x<={high}" if low is None else f"x>={low}"
            raise BadParameter(f"Invalid value for '{self.label}': {text} is not in the range {span}")
        return value


def _flag(text: Any) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    try:
        return known[str(text).lower()]
    except KeyError:
        raise ValueError(text) from None


def _parameters(function: Callable[..., None]) -> list[Parameter]:
    hints = get_type_hints(function, include_extras=True)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        assert get_origin(hints[name]) is Annotated, f"{function.__name__}: {name} is not declared"
        hint, declared = get_args(hints[name])[:2]
        kinds = [kind for kind in get_args(hint) if kind is not NoneType] if get_origin(hint) is not list else []
        kind = kinds[0] if kinds else hint
        many = get_origin(kind) is list
        found.append(Parameter(name, get_args(kind)[0] if many else kind, many, parameter.default, declared))
    return found


class Parser(argparse.ArgumentParser):
    """Raises where argparse exits."""

    def error(self, message: str) -> Any:
        raise UsageError(message)


@dataclass
class Command:
    """A command of an app: reads its words and calls its function."""

    name: str
    function: Callable[..., None]
    settings: dict[str, Any] = field(default_factory=dict)

    def run(self, path: str, words: Sequence[str]) -> None:
        """Raises UsageError, and what the function raises."""
        parameters = _parameters(self.function)
        context = SimpleNamespace(command=SimpleNamespace(params=parameters), command_path=path, default_map=None)
        try:
            parser = self._parser(path, parameters)
            given, rest = parser.parse_known_intermixed_args(words)
            if rest:
                raise UsageError(
                    f"No such option: {rest[0]}" if rest[0][:1] == "-" else f"Unexpected argument {rest[0]}"
                )
            values = {}
            for one in sorted(parameters, key=lambda one: not one.declared.is_eager):
                values[one.name] = self._value(one, vars(given)[one.name], context)
        except UsageError as error:
            error.ctx = context
            raise
        self.function(**values)

    def _parser(self, path: str, parameters: Sequence[Parameter]) -> Parser:
        parser = Parser(path, description=inspect.getdoc(self.function), allow_abbrev=False, argument_default=None,
                        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        for one in parameters:
            declared, told = one.declared, one.declared.help.replace("%", "%%")
            if declared.is_argument:
                parser.add_argument(one.name, metavar=one.label, nargs="*" if one.many else "?", help=told)
                continue
            names = declared.names or (one.label,)
            if one.kind is bool:
                parser.add_argument(*names, dest=one.name, action="store_true", default=None, help=told)
            else:
                metavar = declared.metavar or getattr(one.kind, "__name__", "value").upper().replace("STR", "TEXT")
                action = "append" if one.many else "store"
                parser.add_argument(*names, dest=one.name, action=action, metavar=metavar, help=told)
        return parser

    def _value(self, one: Parameter, given: Any, context: Any) -> Any:
        """From the words, else the environment, else the file that --config read, else the default."""
        prefix = self.settings.get("auto_envvar_prefix")
        variable = one.declared.envvar or (f"{prefix}_{one.name.upper()}" if prefix else None)
        if given in (None, []) and variable and os.environ.get(variable):
            given = os.environ[variable].split() if one.many else os.environ[variable]
        if given in (None, []):
            given = (context.default_map or {}).get(one.name)
        if given is not None:
            value = [one.convert(text) for text in given] if one.many else one.convert(given)
        elif one.default is inspect.Parameter.empty:
            kind = "argument" if one.declared.is_argument else "option"
            raise UsageError(f"Missing {kind} '{one.label}'")
        else:
            value = one.default
        callback = one.declared.callback
        if callback is None:
            return value
        few = len(inspect.signature(callback).parameters) == 1
        return callback(value) if few else callback(context, value)


class Typer:
    """Commands by name, and groups of them."""

    def __init__(self, **looks: Any) -> None:
        self.registered_commands: list[Command] = []
        self.registered_groups: list[tuple[str, Typer]] = []
        self._options: Callable[..., None] | None = None

    def callback(self) -> Callable[[Any], Any]:
        """Registers the function whose parameters come before the command's name."""

        def register(function: Callable[..., None]) -> Callable[..., None]:
            self._options = function
            return function

        return register

    def command(self, name: str, context_settings: dict[str, Any] | None = None) -> Callable[[Any], Any]:
        """Registers a command."""

        def register(function: Callable[..., None]) -> Callable[..., None]:
            self.registered_commands.append(Command(name, function, context_settings or {}))
            return function

        return register

    def add_typer(self, group: Typer, name: str) -> None:
        """Registers a group."""
        self.registered_groups.append((name, group))

    def main(self, prog_name: str, standalone_mode: bool = False) -> int:
        """Run what the process was started with; the exit code. Raises UsageError and what commands raise."""
        try:
            self._run(prog_name, sys.argv[1:])
        except Exit as ended:
            return ended.exit_code
        except SystemExit as ended:  # argparse showed its help
            return int(ended.code or 0)
        return 0

    def _run(self, path: str, words: Sequence[str]) -> None:
        context = SimpleNamespace(command_path=path)
        before = [word for i, word in enumerate(words) if all(early.startswith("-") for early in words[: i + 1])]
        rest = words[len(before) :]
        if self._options is not None and before and before[0] != "--help":
            Command("", self._options).run(path, before)
        if not rest or before:
            self._show_help(path)
            return
        for command in self.registered_commands:
            if command.name == rest[0]:
                return command.run(f"{path} {rest[0]}", rest[1:])
        for name, group in self.registered_groups:
            if name == rest[0]:
                return group._run(f"{path} {name}", rest[1:])
        error = UsageError(f"No such command '{rest[0]}'")
        error.ctx = context
        raise error

    def _show_help(self, path: str) -> None:
        version = "[--version] " if self._options and inspect.signature(self._options).parameters else ""
        print(f"usage: {path} {version}[--help] COMMAND ...\n\n{inspect.getdoc(self._options)}\n\ncommands:")
        told = [(command.name, inspect.getdoc(command.function)) for command in self.registered_commands]
        told += [(name, inspect.getdoc(group._options)) for name, group in self.registered_groups]
        for name, text in told:
            print(f"  {name:<10}{(text or '').partition(chr(10))[0]}")


def echo(message: str, err: bool = False) -> None:
    """Print a line."""
    print(message, file=sys.stderr if err else sys.stdout)


main = SimpleNamespace(get_command=lambda app: app)
