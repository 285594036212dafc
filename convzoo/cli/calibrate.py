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
        typer.Option(
            metavar="DATASET",
            help="Folder or Hub dataset id, evaluated first; without it, results that are recorded "
            "with --logits are taken.",
            show_default=False,
            rich_help_panel=options.DATASET,
        ),
    ] = "",
    fit_split: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Split to fit the temperature on.",
            show_default=False,
            rich_help_panel=options.DATASET,
        ),
    ] = "",
    validation_share: Annotated[
        bool,
        typer.Option(
            "--validation-share",
            help="Fit on the images that the model's training kept for validation.",
            rich_help_panel=options.DATASET,
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
        typer.Option(
            "--cross-fit",
            help="Measure on the images to fit on, where there are no others: each with a "
            "temperature that was fitted on nine tenths without it.",
            rich_help_panel=options.DATASET,
        ),
    ] = False,
    name: options.Name = "",
    revision: options.Revision = "",
    image_column: options.ImageColumn = "",
    label_column: options.LabelColumn = "",
    root: options.Root = "",
    batch_size: Annotated[int, options.at_least(1, "Images per step.")] = 64,
    num_workers: Annotated[int, options.at_least(0, "Decoding processes.")] = 2,
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
    from convzoo.calibration.calibrating import (
        CalibrateOptions,
        calibrate_model,
        calibrated_sentence,
    )
    from convzoo.data.opening import DatasetReference
    from convzoo.environment import command_line
    from convzoo.evaluation.protocols import EvaluationProtocol
    from convzoo.evaluation.results import FILE

    options.hide_bars_of_transformers()
    reference = DatasetReference(
        path=data,
        name=name,
        revision=revision,
        image_column=image_column,
        label_column=label_column,
        root=root,
    )
    result = calibrate_model(
        model,
        CalibrateOptions(
            fit_split=fit_split,
            split=split,
            cross_fit=cross_fit,
            data=reference if data else None,
            protocol=EvaluationProtocol(batch_size=batch_size, num_workers=num_workers),
            command=command_line("python -m convzoo"),
        ),
    )
    if as_json:
        options.print_json(result["calibration"]["temperature"])
    else:
        print(calibrated_sentence(model, result))
        print(f"recorded in {Path(model) / FILE}")
