"""`convzoo inspect`: what is in a dataset, in a model, or in the batches of a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from convzoo.cli import options

EXAMPLES = """
convzoo inspect data/fashion-mnist --gpus 8 --output inspection
convzoo inspect runs/quickstart/model
convzoo inspect recipes/quickstart.toml --batches --output batches
convzoo inspect user/cnn-prelu-imagenet --image cat.jpg --output activations --json report.json
"""
FEEDING, MODEL = "Feeding GPUs (datasets)", "Models"


def inspect(  # noqa: PLR0913  the options of a command are its parameters
    what: Annotated[
        str,
        typer.Argument(metavar="WHAT", help="Dataset or model: folder or Hub id; or a recipe."),
    ],
    overrides: options.Overrides = None,
    *,
    batches: Annotated[
        bool,
        options.flag(
            "--batches",
            "Draw the first training images of a recipe as the model sees them: augmented, "
            "mixed, with their labels. --limit says how many; 64 by default.",
            panel="Recipes",
        ),
    ] = False,
    image: Annotated[
        str | None,
        options.text("FILE", "Image whose activations are drawn.", panel=MODEL),
    ] = None,
    splits: options.Splits = None,
    limit: Annotated[
        int,
        options.at_least(
            0,
            "At most N images of each split; 0 for all.",
            show_default=False,
            panel=options.DATASET,
        ),
    ] = 0,
    dataset: options.DatasetOptions,
    gpus: Annotated[int, options.at_least(1, "Number of GPUs to feed.", panel=FEEDING)] = 1,
    images_per_second_per_gpu: Annotated[
        float, typer.Option(metavar="R", help="What one GPU trains.", rich_help_panel=FEEDING)
    ] = 2500,
    crop: Annotated[
        int,
        options.at_least(
            0,
            "Side of training crops, in pixels; 0 for 224.",
            show_default=False,
            panel=FEEDING,
        ),
    ] = 0,
    num_workers: Annotated[
        int, options.at_least(0, "Decoding processes.", panel=options.DATASET)
    ] = 2,
    output: Annotated[
        str,
        options.text("FOLDER", "Folder for figures (PNG).", panel=options.OUTPUT),
    ] = "",
    json: Annotated[
        str | None,
        options.text(
            "[FILE]",
            "Write all numbers to a JSON file; without FILE, or with -, print them instead of "
            "the text.",
            panel=options.OUTPUT,
        ),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Say what is in a dataset, or in a model.

    Of a dataset: counts, sizes, damage, and whether this machine feeds the GPUs with it. Of a
    model: layers, multiply-adds, slopes, scales, and the activations of an image. Of a recipe: its
    training batches as a figure.
    """
    options.start(quiet)
    if batches or overrides or what.endswith(".toml"):
        _inspect_recipe(what, overrides or [], limit=limit, output=output, json=json)
        return
    with options.importing():
        from convzoo.inspection.model import inspect_model, is_model
        from convzoo.inspection.model_report import model_report_text

    if is_model(what):
        options.hide_bars_of_transformers()
        of_model = inspect_model(what, image, output=output, revision=dataset.revision)
        _tell(of_model, model_report_text(of_model), json=json)
        return
    with options.importing():
        from convzoo.environment import command_line
        from convzoo.inspection.dataset import Demand, inspect_dataset
        from convzoo.inspection.dataset_report import dataset_report_text

    report = inspect_dataset(
        dataset.reference(what),
        command=command_line("python -m convzoo"),
        splits=tuple(splits or ()),
        limit=limit,
        demand=Demand(
            num_gpus=gpus, images_per_second_per_gpu=images_per_second_per_gpu, crop=crop
        ),
        output=output,
        num_workers=num_workers,
    )
    _tell(report, dataset_report_text(report), json=json)


def _inspect_recipe(
    path: str, overrides: list[str], *, limit: int, output: str, json: str | None
) -> None:
    from convzoo.inspection.batches import draw_batches
    from convzoo.recipe.files import load_recipe

    if not path.endswith(".toml"):
        raise ValueError(f"--batches and section.key=value need a recipe, a .toml file; got {path}")
    report = draw_batches(load_recipe(path, overrides), Path(output or "."), limit=limit)
    images: Any = report["images"]
    text = f"{len(images)} images of {images[-1]['step'] + 1} batch(es), drawn: {report['figure']}"
    _tell(report, text, json=json)


def _tell(report: Mapping[str, Any], text: str, *, json: str | None) -> None:
    """Print the report as text, or as JSON if that goes to stdout."""
    from convzoo.files import write_json

    if json in ("", "-"):
        options.print_json(report)
        return
    if json:
        write_json(Path(json), report)
    print(text)
