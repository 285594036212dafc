"""Print results and errors: for people, or as JSON; and nothing that commands a terminal."""

import json
import logging
import sys
from dataclasses import dataclass


def visible(text: str) -> str:
    r"""Show what a terminal would obey, or nobody would see, as an escape such as \\x1b."""
    return "".join(
        sign if sign.isprintable() or sign in "\n\t" else ascii(sign)[1:-1] for sign in text
    )


def print_error(message: object) -> None:
    """Print why a command ended."""
    print(f"error: {visible(str(message))}", file=sys.stderr)


@dataclass(frozen=True)
class Terminal:
    """The place where a command prints.

    Attributes:
        json: print one JSON object, the result; what happens meanwhile goes to standard error.
        quiet: print only the result, and warnings.
    """

    json: bool = False
    quiet: bool = False

    def say(self, text: object) -> None:
        """Print a line of the result for people."""
        if not self.json:
            print(visible(str(text)))

    def answer(self, result: object) -> None:
        """Print the result as JSON, if that is asked for."""
        if self.json:
            print(json.dumps(result, indent=2, default=str))

    def show_log(self) -> None:
        """Print what happens meanwhile."""
        handler = logging.StreamHandler(sys.stderr if self.json else sys.stdout)
        handler.setFormatter(_VisibleFormatter("%(message)s"))
        logging.basicConfig(handlers=[handler])
        logging.getLogger("hub_cards").setLevel(logging.WARNING if self.quiet else logging.INFO)


class _VisibleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))
