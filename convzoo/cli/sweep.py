"""`convzoo sweep`: trainings of one recipe with several settings."""

import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convzoo.cli import options

if TYPE_CHECKING:
    from convzoo.experiments.sweeping import Sweep

logger = logging.getLogger(__name__)
EXAMPLES = """
convzoo sweep recipes/quickstart.toml optimizer.learning_rate=0.3,0.1,0.03
convzoo sweep runs/pets.toml train.epochs=5,10 augmentation.horizontal_flip=0.0,0.5
convzoo sweep RECIPE optimizer.learning_rate=log:1e-3..1 train.ema_decay=0.0,0.99 --random 12
"""


def sweep(  # noqa: PLR0913  the options of a command are its parameters
    recipe: options.RecipeFile,
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="SECTION.KEY=A,B,C",
            help="Settings and their values, or with --random ranges: log:1e-4..1e-1, "
            "uniform:0..1, int:1..8. One value is for all runs.",
        ),
    ],
    *,
    random: Annotated[
        int, options.at_least(0, "Draw N runs; 0 for the grid of all.", show_default=False)
    ] = 0,
    seed: Annotated[int, options.at_least(0, "Of the draws of --random.")] = 0,
    parallel: Annotated[
        int, options.at_least(1, "Runs at a time; each has GPUs of its own, if there are some.")
    ] = 1,
    processes: Annotated[
        int, options.at_least(1, "Training processes of a run, one for each GPU.")
    ] = 1,
    output: Annotated[
        str,
        options.text(
            "FOLDER",
            "Folder of the sweep; by default the recipe's run folder with -sweep.",
            panel=options.OUTPUT,
        ),
    ] = "",
    only_recipes: Annotated[
        bool, options.flag("--only-recipes", "Write the recipes and stop before the training.")
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Train a recipe with several settings, and compare the runs.

    A grid of all combinations, or runs drawn at random. The same command goes on with a sweep that
    was stopped: finished runs are skipped, others resume. A run that fails is named, the others go
    on, and the exit status is 1.
    """
    options.start(quiet)
    from convzoo.environment import command_line
    from convzoo.experiments.sweep_settings import draw, grid, parse_tried, plan_runs
    from convzoo.experiments.sweeping import Sweep, plan_lanes
    from convzoo.files import locked_folder
    from convzoo.recipe.files import load_recipe

    tried = parse_tried(settings)
    base = load_recipe(recipe).folder
    folder = Path(output) if output else base.with_name(f"{base.name}-sweep")
    combinations = draw(tried, random, seed) if random else grid(tried)
    runs = plan_runs(recipe, combinations, folder=folder)
    lanes = plan_lanes(parallel, processes, to_files=quiet)
    folder.mkdir(parents=True, exist_ok=True)
    refusal = ValueError(f"{folder} must be used by one sweep at a time; another process has it")
    about = {
        "command": command_line("python -m convzoo"),
        "recipe": recipe,
        "tried": dict(word.split("=", 1) for word in settings),
        "random": {"runs": random, "seed": seed} if random else None,
    }
    with locked_folder(folder, refusal):
        plan = Sweep(folder=folder, runs=runs, about=about)
        plan.prepare()
        logger.info("%d runs in %s; their recipes are in %s", len(runs), folder, folder / "recipes")
        if random and len(runs) < random:
            logger.warning("there are %d different runs only, not %d", len(runs), random)
        if only_recipes:
            return 0
        plan.train(lanes)
    return _tell_outcome(plan, as_json)


def _tell_outcome(plan: "Sweep", as_json: bool) -> int:
    from convzoo.experiments.reading_runs import read_run
    from convzoo.experiments.run_table import runs_as_json, runs_as_text, sort_runs

    folders = [run.recipe.folder for run in plan.runs]
    read = [read_run(folder, folder.name) for folder in folders if folder.is_dir()]
    ordered = sort_runs(read, "best")
    if as_json:
        options.print_json(runs_as_json(ordered))
    elif ordered:
        print(runs_as_text(ordered))
    failed = [name for name, status in plan.status.items() if status == "failed"]
    if failed:
        logger.error("%d of %d runs failed: %s", len(failed), len(plan.runs), ", ".join(failed))
    if plan.signal:
        name = signal.Signals(plan.signal).name
        logger.warning("stopped by %s; the same command goes on", name)
        return 128 + plan.signal
    left = [name for name, status in plan.status.items() if status != "finished"]
    return 1 if left else 0
