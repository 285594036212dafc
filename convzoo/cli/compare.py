"""`convzoo compare`: which of several models is better on the same images?"""

from pathlib import Path
from typing import Annotated

import typer

from convzoo.cli import options

EXAMPLES = """
convzoo compare runs/first/model runs/second/model
convzoo compare runs/first/model runs/second/model other.parquet --output comparison
convzoo compare runs/prelu-*/model runs/relu-*/model --seeds
"""


def compare(  # noqa: PLR0913  the options of a command are its parameters
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Model folders that were evaluated, or predictions files."
        ),
    ],
    *,
    result: Annotated[
        str,
        options.text(
            "NAME",
            "Which result: the name of its file in predictions/; by default the newest of "
            "images that all models have.",
        ),
    ] = "",
    common: Annotated[
        bool, options.flag("--common", "Compare on the images that all models have.")
    ] = False,
    seeds: Annotated[
        bool,
        options.flag(
            "--seeds",
            "Also compare recipes: models whose recipes differ in [run] only are trainings of one.",
        ),
    ] = False,
    output: Annotated[
        str,
        options.text(
            "FOLDER",
            "Folder for comparison.json, accuracy.png, and the images that one model alone "
            "gets right.",
            panel=options.OUTPUT,
        ),
    ] = "",
    images: Annotated[
        int,
        options.at_least(0, "Images of each model that alone is right.", panel=options.OUTPUT),
    ] = 24,
    moved: options.MovedDatasetOptions,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Say which model is better on the same images, as far as that can be said.

    Accuracies with paired tests and intervals, how many images would settle it, where the models
    differ, and a verdict that claims no more than the data allow.
    """
    options.start(quiet)
    with options.importing():
        from convzoo.comparison.comparing import CompareOptions, compare_models
        from convzoo.comparison.verdicts import comparison_text

    options.hide_bars_of_transformers()
    report = compare_models(
        models,
        CompareOptions(
            result=result,
            common=common,
            seeds=seeds,
            output=Path(output) if output else None,
            data=moved.reference(),
            images=images,
        ),
    )
    if as_json:
        options.print_json(report)
    else:
        print(comparison_text(report))
        if output:
            print(f"\noutput: {Path(output).resolve()}")
