"""`convzoo calibrate`: one temperature that makes a model's probabilities chances."""

from pathlib import Path
from typing import Annotated

import typer

from convzoo.cli import options

EXAMPLES = """
convzoo calibrate runs/pets/model --data pets --validation-share --cross-fit
convzoo calibrate MODEL --data DATASET --fit-split validation --split test
convzoo calibrate MODEL --fit-split validation
"""


def calibrate(  # noqa: PLR0913  the options of a command are its parameters
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder.")],
    *,
    data: Annotated[
        str,
        options.text(
            "DATASET",
            "Folder or Hub dataset id, evaluated first; without it, results that are recorded "
            "with --logits are taken.",
            panel=options.DATASET,
        ),
    ] = "",
    fit_split: Annotated[
        str,
        options.text("NAME", "Split to fit the temperature on.", panel=options.DATASET),
    ] = "",
    validation_share: Annotated[
        bool,
        options.flag(
            "--validation-share",
            "Fit on the images that the model's training kept for validation.",
            panel=options.DATASET,
        ),
    ] = False,
    split: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Split whose result gets the temperature, and on which it is measured.",
            rich_help_panel=options.DATASET,
        ),
    ] = "test",
    cross_fit: Annotated[
        bool,
        options.flag(
            "--cross-fit",
            "Measure on the images to fit on, where there are no others: each with a "
            "temperature that was fitted on nine tenths without it.",
            panel=options.DATASET,
        ),
    ] = False,
    dataset: options.DatasetOptions,
    batch_size: options.BatchSize = 64,
    num_workers: options.NumWorkers = 2,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Fit the temperature that makes the probabilities of a model chances of being right.

    It is fitted on some images, measured on others, and recorded in the result of these in
    eval_results.json, where `convzoo predict --calibrated`, the demo and cards find it.
    """
    options.start(quiet)
    if bool(fit_split) == validation_share:
        raise typer.BadParameter(
            "the images to fit on must be named by either --fit-split NAME or --validation-share"
        )
    if cross_fit and split != "test":
        raise typer.BadParameter("--cross-fit measures on the images to fit on: give no --split")
    with options.importing():
        from convzoo.calibration.calibrating import (
            CalibrateOptions,
            calibrate_model,
            calibrated_sentence,
        )
        from convzoo.environment import command_line
        from convzoo.evaluation.protocols import EvaluationProtocol
        from convzoo.evaluation.results import FILE

    options.hide_bars_of_transformers()
    result = calibrate_model(
        model,
        CalibrateOptions(
            fit_split=fit_split,
            split=split,
            cross_fit=cross_fit,
            data=dataset.reference(data) if data else None,
            protocol=EvaluationProtocol(batch_size=batch_size, num_workers=num_workers),
            command=command_line("python -m convzoo"),
        ),
    )
    if as_json:
        options.print_json(result["calibration"]["temperature"])
    else:
        print(calibrated_sentence(model, result))
        print(f"recorded in {Path(model) / FILE}")
