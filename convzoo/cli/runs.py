"""`convzoo runs`: training runs side by side."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from convzoo.cli import options

logger = logging.getLogger(__name__)
EXAMPLES = """
convzoo runs
convzoo runs runs/pets runs/pets2 --plot curves.png
convzoo runs runs/quickstart-sweep --sort optimizer.learning_rate
"""


def runs(
    folders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER",
            help="Run folders, or folders with runs below them; runs by default.",
            show_default=False,
        ),
    ] = None,
    *,
    sort: Annotated[
        str,
        typer.Option(
            metavar="KEY",
            help="best, top1, loss, train_loss, epochs, images_per_second, name, state, or a "
            "setting such as optimizer.learning_rate.",
        ),
    ] = "best",
    plot: Annotated[
        str | None,
        options.text("FILE", "Draw accuracy and losses into this PNG.", panel=options.OUTPUT),
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare training runs: accuracy, loss, speed, and which settings differ.

    A run is finished, running, stopped, diverged, not begun or damaged. `best` and `top-1` are the
    accuracies of the best and of the last evaluation.
    """
    options.start(quiet)
    from convzoo.experiments.reading_runs import find_runs
    from convzoo.experiments.run_table import plot_runs, runs_as_json, runs_as_text, sort_runs

    found, foreign = find_runs(folders or ["runs"])
    if foreign:
        logger.info("no runs: %s", ", ".join(foreign))
    if not found:
        raise ValueError(f"there must be a run in {', '.join(folders or ['runs'])}; there is none")
    ordered = sort_runs(found, sort)
    if plot:
        plot_runs(ordered, Path(plot))
        logger.info("curves: %s", plot)
    if as_json:
        options.print_json(runs_as_json(ordered))
    else:
        print(runs_as_text(ordered))
