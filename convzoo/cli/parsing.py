"""How `convzoo` reads its arguments where Typer has no way of its own, and how help looks."""

import dataclasses
import functools
import inspect
import os
import re
from collections.abc import Callable
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand

# The base of all errors of a command line; Typer exports only this one of its classes.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]


class Command(TyperCommand):
    """A command whose help has groups of options and examples as they are typed.

    An option of several values takes them one after another (`--splits train test`), and one whose
    metavar stands in brackets may come without a value (`--json`), which is then "".
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give each value its option, then parse as always."""
        several, optional = set[str](), set[str]()
        for parameter in self.params:
            if parameter.param_type_name == "option" and getattr(parameter, "multiple", False):
                several.update(parameter.opts)
            if (parameter.metavar or "").startswith("["):
                optional.update(parameter.opts)
        args = spread([with_home(word) for word in args], several=several, optional=optional)
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Arguments without Typer's braces, MODEL for {MODEL}."""
        return [re.sub("[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments first, then the options by group, in the order of the signature."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is None:
                continue
            group = getattr(parameter, "rich_help_panel", None) or "Options"
            if parameter.param_type_name == "argument":
                group, record = "Arguments", (str(parameter.metavar), record[1])
            elif parameter.name == "help":
                group = list(groups)[-1]
            groups.setdefault(group, []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples, line by line."""
        with formatter.section("Examples"):
            for line in (self.epilog or "").strip().splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def with_options_of_groups(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command as Typer reads it: each field of a dataclass is an option of its own.

    Args:
        command: its parameters are annotated as Typer wants them, or with a dataclass whose fields
            are.
    """
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind: Any = parameter.annotation
        if not dataclasses.is_dataclass(kind):
            parameters.append(parameter)
            continue
        groups[parameter.name] = kind
        hints = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, parameter.kind, default=field.default, annotation=hints[field.name]
            )
            for field in dataclasses.fields(kind)
        ]

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        for name, kind in groups.items():
            fields = [field.name for field in dataclasses.fields(kind)]
            given[name] = kind(**{field: given.pop(field) for field in fields})
        return command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {}
    return run


def with_home(word: str) -> str:
    """Put the home folder in the place of the ~ of a path, which no shell does behind --option=."""
    home = os.path.expanduser("~")
    return re.sub(r"^((?:--[\w-]+=)?)~(?=/|$)", lambda match: match[1] + home, word)


def spread(args: list[str], *, several: set[str], optional: set[str]) -> list[str]:
    """Write `--splits a b` as `--splits=a --splits=b`, and `--json` as `--json=`.

    Args:
        args: what was typed after the command.
        several: options that take several values.
        optional: options that may come without a value.
    """
    result: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*result, word, *rest]
        if word not in several | optional:
            result.append(word)
            continue
        values: list[str] = []
        while rest and not _is_option(rest[0]) and (word in several or not values):
            values.append(rest.pop(0))
        if not values and word not in optional:
            result.append(word)  # a value is missing, and that will be told
        else:
            result += [f"{word}={value}" for value in values or [""]]
    return result


def whole_number(least: int) -> Callable[[Any], int]:
    """A parser of whole numbers from `least` on."""

    def number(value: Any) -> int:
        text = str(value)
        if not text.removeprefix("-").isdecimal() or int(text) < least:
            raise typer.BadParameter(f"must be a whole number of at least {least}; got {text!r}")
        return int(text)

    return number


def usage_message(error: Any) -> str:
    """One line about a wrong command line that names the option and the help to read."""
    parameter = getattr(error, "param", None)
    message = error.message if parameter and error.message else error.format_message()
    if parameter and error.message:
        name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar
        message = f"{name}: {message.removeprefix('Value error, ')}"
    path = error.ctx.command_path if error.ctx else "convzoo"
    return f"{message.rstrip('.')}; see {path} --help"


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-"
