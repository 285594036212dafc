"""`convzoo lr-range`: which learning rates a recipe can be trained with."""

from pathlib import Path
from typing import Annotated

import typer

from convzoo.cli import options

EXAMPLES = """
convzoo lr-range recipes/quickstart.toml
convzoo lr-range recipes/finetune.toml optimizer.name=adamw --highest 0.1 --steps 200
"""
ROWS = 12  # of the printed table


def lr_range(
    recipe: options.RecipeFile,
    overrides: options.Overrides = None,
    *,
    lowest: Annotated[
        float, typer.Option(metavar="R", help="Learning rate of the first step.")
    ] = 1e-5,
    highest: Annotated[
        float, typer.Option(metavar="R", help="Learning rate of the last step.")
    ] = 10.0,
    steps: Annotated[int, options.at_least(10, "Steps at most; fewer if the loss diverges.")] = 100,
    output: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="Folder for the plot, lr_range_NAME.png.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = ".",
    json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Try growing learning rates on a recipe's first batches, and plot the loss.

    The weights are thrown away, and nothing is written into the run's folder.
    """
    options.start(quiet)
    with options.importing():
        from convzoo.recipe.files import load_recipe
        from convzoo.training.lr_range import RULE, plot_range, rates, run_range, suggest

    if not 0 < lowest < highest:
        raise ValueError(
            f"--lowest must be above 0 and below --highest; got {lowest} and {highest}"
        )
    loaded = load_recipe(recipe, overrides or ())
    points = run_range(loaded, rates(lowest, highest, steps))
    suggestion = suggest(points)
    path = Path(output) / f"lr_range_{loaded.run.name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_range(points, f"{loaded.run.name}: {loaded.optimizer.name}, {len(points)} steps", path)
    if json:
        options.print_json(
            {
                "recipe": loaded.run.name,
                "suggestion": suggestion,
                "rule": RULE,
                "figure": str(path),
                "points": [vars(point) for point in points],
            }
        )
        return
    print(f"{'learning rate':>13} {'loss':>9} {'smoothed':>9}")
    shown = {len(points) * row // ROWS for row in range(ROWS)} | {len(points) - 1}
    for point in (points[number] for number in sorted(shown)):
        print(f"{point.learning_rate:13.3g} {point.loss:9.4f} {point.smoothed_loss:9.4f}")
    if suggestion:
        print(f"suggestion: optimizer.learning_rate={suggestion:.2g}, {RULE}")
    else:
        print(
            "no suggestion: the loss was lowest at an end of the range. Look at the plot, and try "
            "other --lowest and --highest"
        )
    print(f"drawn: {path}")
