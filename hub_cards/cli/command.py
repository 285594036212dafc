"""Describe a command: the function that runs it, its help, and its example."""

from collections.abc import Callable
from dataclasses import dataclass

import typer

from hub_cards.cli.overview import SUMMARIES


@dataclass(frozen=True)
class Command:
    """One of the commands in `overview.SUMMARIES`.

    Attributes:
        run: the function; its parameters are the options, and its docstring is the help.
        name: what to call it by.
        epilog: what stands at the end of its help, its exit statuses.
        example: a command line.
    """

    run: Callable[..., int]
    name: str
    epilog: str
    example: str

    def add_to(self, app: typer.Typer) -> None:
        """Make it a command of an application."""
        app.command(
            self.name,
            short_help=SUMMARIES[self.name],
            epilog=f"{self.epilog}\n\n\b\nExample:\n  {self.example}",
        )(self.run)
