"""Build the application of typer, run a command line with it, and turn errors into one line."""

from collections.abc import Sequence
from typing import Annotated

import typer

from hub_cards.cli.collection import collection
from hub_cards.cli.index import index
from hub_cards.cli.metric import metric
from hub_cards.cli.overview import DESCRIPTION, EXAMPLE, OPTIONS
from hub_cards.cli.push import push
from hub_cards.cli.render import render
from hub_cards.cli.several_values import spread_values
from hub_cards.cli.space import space
from hub_cards.cli.terminal import print_error
from hub_cards.cli.verify import verify

INTERRUPTED = 130  # what typer makes of Ctrl-C; older ones raise Abort
# Typer brings its own click, or an installed one: what both raise for a wrong command line.
CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]

# Nothing of rich: it takes longer to load than all the rest, and hides what an error says.
app = typer.Typer(
    help=DESCRIPTION,
    epilog=f"\b\n{EXAMPLE.replace('    ', '  ')}",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (render, push, space, metric, index, collection, verify):
    command.add_to(app)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"hub-cards {version('convzoo')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help=OPTIONS["--version"]
        ),
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Run one command line, and return its exit status."""
    try:
        status: int | None = typer.main.get_command(app).main(
            spread_values(arguments), prog_name="hub-cards", standalone_mode=False
        )
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        return status or 0
    except CommandLineError as error:
        print_error(f"{error.format_message()} See hub-cards --help.")  # type: ignore[attr-defined]  # of click
        return 2
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except ModuleNotFoundError as error:
        print_error(f"{error}. Install what cards need: pip install -e '.[cards]'")
    except (OSError, ValueError) as error:
        print_error(error)
    return 1
