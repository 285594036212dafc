"""Let an option take several values after one flag, as `--data A B`, and paths begin with ~."""

import os
import re
from collections.abc import Sequence

SEVERAL = {"verify": ("--data",)}  # command: options


def spread_values(arguments: Sequence[str]) -> list[str]:
    """Repeat an option before each of its values, which is how typer wants several of them."""
    options = SEVERAL.get(next((one for one in arguments if not one.startswith("-")), ""), ())
    spread: list[str] = []
    current, seen = "", False  # the option whose values come, and whether one has come
    arguments = [_with_home(argument) for argument in arguments]
    for number, argument in enumerate(arguments):
        if argument == "--":
            return [*spread, *arguments[number:]]
        if argument in options:
            current, seen = argument, False
            spread.append(argument)
        elif argument.startswith("-") and argument != "-":
            current = ""
            spread.append(argument)
        elif current and seen:
            spread += [current, argument]
        else:
            seen = True
            spread.append(argument)
    return spread


def _with_home(argument: str) -> str:
    """Put the home folder in the place of the ~ of a path: no shell does it behind --option=."""
    home = os.path.expanduser("~")
    return re.sub(r"^((?:--[\w-]+=)?)~(?=/|$)", lambda match: match[1] + home, argument)
