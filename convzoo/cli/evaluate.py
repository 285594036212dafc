"""`convzoo evaluate`: accuracy of a model on a dataset, every image once."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from convzoo.cli import options

logger = logging.getLogger(__name__)
EXAMPLES = """
convzoo evaluate runs/quickstart/model --data data/fashion-mnist
convzoo evaluate user/cnn-prelu-imagenet --data ILSVRC/imagenet-1k --split validation
convzoo evaluate runs/pets/model --data pets --validation-share
convzoo evaluate MODEL --data FOLDER --classes tench goldfish --limit 500 --json
"""


def evaluate(  # noqa: PLR0913  the options of a command are its parameters
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or Hub id.")],
    *,
    data: Annotated[
        str,
        typer.Option(
            metavar="DATASET", help="Folder or Hub dataset id.", rich_help_panel=options.DATASET
        ),
    ],
    split: Annotated[
        str,
        typer.Option(metavar="NAME", help="Split to evaluate on.", rich_help_panel=options.DATASET),
    ] = "test",
    validation_share: Annotated[
        bool,
        typer.Option(
            "--validation-share",
            help="Evaluate on the images that the model's training kept for validation, whatever "
            "--split says.",
            rich_help_panel=options.DATASET,
        ),
    ] = False,
    name: options.Name = "",
    revision: options.Revision = "",
    image_column: options.ImageColumn = "",
    label_column: options.LabelColumn = "",
    root: options.Root = "",
    classes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME...]",
            help="Only images of these classes; without names, those of the model.",
            rich_help_panel=options.DATASET,
        ),
    ] = None,
    limit: Annotated[
        int,
        options.at_least(
            0,
            "At most N images, evenly spaced; 0 for all.",
            show_default=False,
            rich_help_panel=options.DATASET,
        ),
    ] = 0,
    match_classes: Annotated[
        Literal["name", "number"],
        typer.Option(
            help="How labels of the data find the model's classes.",
            rich_help_panel=options.DATASET,
        ),
    ] = "name",
    crops: Annotated[Literal["1", "10"], typer.Option(help="Views of an image, averaged.")] = "1",
    exif_rotation: options.ExifRotation = False,
    unreadable: Annotated[
        Literal["stop", "wrong"],
        typer.Option(help="At an image that cannot be read: stop, or count it as wrong."),
    ] = "stop",
    batch_size: Annotated[int, options.at_least(1, "Images per step.")] = 64,
    num_workers: Annotated[int, options.at_least(0, "Decoding processes.")] = 2,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="Fold batch norms; logits differ by rounding (1e-5), which is recorded."
        ),
    ] = False,
    trust_remote_code: options.TrustRemoteCode = False,
    top: Annotated[
        int,
        options.at_least(
            1, "Likeliest classes to keep of each image.", rich_help_panel=options.OUTPUT
        ),
    ] = 10,
    logits: Annotated[
        bool,
        typer.Option(
            "--logits",
            help="Keep the scores of all classes of each image, too.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Also write the result here; of a Hub model the predictions, too, beside it.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure top-1 and top-5 accuracy of a model, every image once.

    The result of a model folder is recorded in its eval_results.json, and what the model said of
    each image in a parquet file in predictions/. An evaluation that was interrupted goes on by the
    same command.
    """
    options.start(quiet)
    from convzoo.allocator import keep_freed_memory
    from convzoo.data.opening import DatasetReference
    from convzoo.environment import command_line
    from convzoo.evaluation.evaluating import Choice, evaluate_folder, result_sentence
    from convzoo.evaluation.predicting import EvaluationProtocol, Kept
    from convzoo.files import write_json

    options.hide_bars_of_transformers()
    keep_freed_memory()
    result = evaluate_folder(
        model,
        DatasetReference(
            path=data,
            name=name,
            revision=revision,
            image_column=image_column,
            label_column=label_column,
            root=root,
        ),
        split=split,
        command=command_line("python -m convzoo"),
        protocol=EvaluationProtocol(
            crops=int(crops),
            exif_rotation=exif_rotation,
            unreadable=unreadable,
            batch_size=batch_size,
            num_workers=num_workers,
            fast=fast,
        ),
        choice=Choice(
            classes=None if classes == [""] else classes or (),
            limit=limit,
            validation_share=validation_share,
            match_by=match_classes,
        ),
        kept=Kept(
            top_k=top, logits=logits, folder=Path(output).absolute().parent if output else None
        ),
        trust_remote_code=trust_remote_code,
    )
    if not is_main_process():
        return
    if output:
        write_json(Path(output), result)
    logger.info("result: %s", where_it_is_kept(model, output))
    if record := result.get("predictions"):
        home = Path(model) if Path(model).is_dir() else Path(output or "").parent
        logger.info("predictions: %s", home / record["file"])
    if as_json:
        options.print_json(result)
    else:
        print(result_sentence(model, data, result))


def where_it_is_kept(model: str, output: str | None) -> str:
    """Say where a result was written. A model on the Hub has no folder that could keep it."""
    from convzoo.evaluation.results import FILE

    files = [str(Path(model) / FILE)] if Path(model).is_dir() else []
    files += [output] if output else []
    kept = " and ".join(files)
    return kept or "not written to a file; for a model of the Hub --output FILE does that"


def is_main_process() -> bool:
    """Tell whether this process prints; called once, at the end of a command."""
    from accelerate import PartialState

    state = PartialState()
    state.destroy_process_group()  # a process that ends with its group open may abort
    return bool(state.is_main_process)
