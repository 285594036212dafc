"""`hub-cards index`: make tables of several models."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from hub_cards.cli.command import Command
from hub_cards.cli.options import Json, Quiet
from hub_cards.cli.terminal import Terminal


def _index(
    *,
    models: Annotated[
        list[str],
        Argument(
            metavar="MODEL...",
            help="a model folder, a folder of convzoo export, a Hub id (USER/NAME or "
            "USER/NAME@REVISION), a result of convzoo evaluate --output, or a TOML file with "
            "[[results]] that are quoted or from a benchmark",
        ),
    ],
    readme: Annotated[
        str | None,
        Option(
            "--readme",
            metavar="FILE",
            help="put the tables between the lines <!-- zoo table: begin --> and <!-- zoo table: "
            "end --> of this file",
        ),
    ] = None,
    org_card: Annotated[
        str | None,
        Option("--org-card", metavar="FILE", help="write the README.md of the Space USER/README"),
    ] = None,
    plot: Annotated[
        str | None, Option("--plot", metavar="FILE", help="draw accuracy against size")
    ] = None,
    check: Annotated[
        bool, Option("--check", help="write no text; exit 1 if one is out of date")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Make tables of several models from their result files; printed, or put into files.

    There is one table for each dataset, split and protocol.
    """
    from dataclasses import asdict

    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # lazy

    from hub_cards.index.org_card import write_org_card
    from hub_cards.index.rows import read_rows
    from hub_cards.index.tables import make_tables, render_tables, write_readme

    if check and not (readme or org_card):
        raise ValueError("--check needs a file to compare: --readme FILE or --org-card FILE")
    terminal = Terminal(json=json, quiet=quiet)
    disable_progress_bars()
    tables = make_tables(read_rows(models))
    states: dict[str, str] = {}
    for path, write in ((readme, write_readme), (org_card, write_org_card)):
        if path:
            current = write(path, tables, check=check)
            states[path] = "up to date" if current else "out of date" if check else "written"
    if plot:
        from hub_cards.index.plot import write_plot

        write_plot(plot, tables)
        states[plot] = "written"
    for path, state in states.items():
        terminal.say(f"{path}: {state}")
    if not states:
        terminal.say(render_tables(tables, Path.cwd()))
    shown = [{"title": title, "rows": [asdict(row) for row in rows]} for title, rows in tables]
    terminal.answer({"files": states, "tables": shown})
    return int("out of date" in states.values())


index = Command(
    _index,
    name="index",
    epilog="Exit status: 0 done; 1 an input or file is unusable or, with --check, out of date.",
    example="hub-cards index hub_cards/quoted_results.toml benchmarks/zoo.toml --readme README.md",
)
