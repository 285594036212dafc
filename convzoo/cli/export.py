"""`convzoo export`: a model as a file that runs without this package."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from convzoo.cli import options

EXAMPLES = """
convzoo export runs/quickstart/model exported
convzoo export USER/NAME exported --format int8-onnx --data ILSVRC/imagenet-1k --split validation
convzoo export USER/NAME exported --format torch-export --images photos/
"""
CHECK = "Check"


def export(  # noqa: PLR0913  the options of a command are its parameters
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub id.")],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder to create.")],
    *,
    form: Annotated[
        Literal["torch-export", "onnx", "int8-onnx"],
        typer.Option("--format", help="What to write."),
    ] = "onnx",
    images: Annotated[
        list[str] | None,
        options.text(
            "IMAGE...",
            "Files, folders or patterns to check on; by default examples/ of the model, or "
            "the package's photographs.",
            panel=CHECK,
        ),
    ] = None,
    data: Annotated[
        str,
        options.text(
            "DATASET", "Folder or Hub dataset id to check on instead.", panel=options.DATASET
        ),
    ] = "",
    split: options.SplitOfData = "test",
    dataset: options.DatasetOptions,
    limit: Annotated[
        int,
        options.at_least(0, "At most N images, evenly spaced; 0 for all.", panel=CHECK),
    ] = 128,
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="T",
            help="Largest difference of logits, relative to the largest; int8-onnx excepted.",
            rich_help_panel=CHECK,
        ),
    ] = 1e-4,
    least_agreement: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Share of decisions that int8-onnx must leave the same.",
            rich_help_panel=CHECK,
        ),
    ] = 0.9,
    base_model: Annotated[
        str,
        options.text(
            "USER/NAME", "Hub id that the card of a local model names.", panel=options.OUTPUT
        ),
    ] = "",
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a model as a file that runs without this package, checked on images.

    The folder has the file, its card, the numbers of its preprocessing, and classify.py, which
    needs numpy, Pillow and onnxruntime (torch for torch-export) only.
    """
    options.start(quiet)
    with options.importing():
        from convzoo.exporting.exporting import (
            CheckImages,
            ExportOptions,
            export_model,
            export_text,
        )

    options.hide_bars_of_transformers()
    facts = export_model(
        model,
        Path(output),
        ExportOptions(
            form=form,
            tolerance=tolerance,
            least_agreement=least_agreement,
            base_model=base_model,
            trust_remote_code=trust_remote_code,
            images=CheckImages(
                words=images or (),
                data=dataset.reference(data) if data else None,
                split=split,
                limit=limit,
            ),
        ),
    )
    if as_json:
        options.print_json(facts | {"output": str(Path(output).resolve())})
    else:
        print(export_text(facts))
        print(f"output    {Path(output).resolve()}")
