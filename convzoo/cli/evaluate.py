"""`convzoo evaluate`: accuracy of a model on a dataset, every image once."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from convzoo.cli import options
from convzoo.cli import protocol_options as shown

logger = logging.getLogger(__name__)
EXAMPLES = """
convzoo evaluate runs/quickstart/model --data data/fashion-mnist
convzoo evaluate user/cnn-prelu-imagenet --data ILSVRC/imagenet-1k --split validation
convzoo evaluate runs/pets/model --data pets --validation-share
convzoo evaluate MODEL --data FOLDER --size 160,192,224 --crop-ratio 0.95 --dtype bfloat16
convzoo evaluate MODEL --data FOLDER --classes tench goldfish --limit 500 --json
"""


def evaluate(  # noqa: PLR0913  the options of a command are its parameters
    model: options.AnyModel,
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
    classes: options.Classes = None,
    limit: options.Limit = 0,
    match_classes: options.MatchClasses = "name",
    label_map: options.LabelMap = "",
    restrict_logits: options.RestrictLogits = False,
    real_labels: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="real.json of reassessed ImageNet: count answers that are in its lists, too.",
            show_default=False,
            rich_help_panel=options.DATASET,
        ),
    ] = "",
    size: shown.Size = None,
    crop_ratio: shown.CropRatio = None,
    interpolation: shown.Interpolation = None,
    crops: shown.Crops = "1",
    crops_of: shown.CropsOf = "square",
    flip: shown.Flip = False,
    scales: shown.Scales = None,
    averaged: shown.Averaged = "probabilities",
    dtype: shown.Dtype = "float32",
    channels_last: shown.ChannelsLast = False,
    compile: shown.Compile = False,
    fast: shown.Fast = False,
    fast_decoding: shown.FastDecoding = False,
    exif_rotation: options.ExifRotation = False,
    unreadable: options.Unreadable = "stop",
    batch_size: Annotated[int, options.at_least(1, "Images per step.")] = 64,
    num_workers: Annotated[int, options.at_least(0, "Decoding processes.")] = 2,
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
    same command, also one of several sizes.
    """
    options.start(quiet)
    from convzoo.allocator import keep_freed_memory
    from convzoo.data.opening import DatasetReference
    from convzoo.environment import command_line
    from convzoo.evaluation.chosen_images import Choice
    from convzoo.evaluation.crop_settings import CropSettings
    from convzoo.evaluation.evaluating import evaluate_sizes
    from convzoo.evaluation.label_maps import read_label_map
    from convzoo.evaluation.predicting import Kept
    from convzoo.evaluation.protocols import Computation, EvaluationProtocol
    from convzoo.evaluation.real_labels import read_real_labels

    options.hide_bars_of_transformers()
    keep_freed_memory()
    protocols = [
        EvaluationProtocol(
            crop=CropSettings(size=side, ratio=crop_ratio, interpolation=interpolation),
            crops=int(crops),
            crops_of=crops_of,
            flip=flip,
            scales=tuple(scales or (1.0,)),
            averaged=averaged,
            computation=Computation(
                fused=fast, dtype=dtype, channels_last=channels_last, compiled=compile
            ),
            exif_rotation=exif_rotation,
            fast_decoding=fast_decoding,
            unreadable=unreadable,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        for side in (map(int, size) if size else [None])
    ]
    results = evaluate_sizes(
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
        protocols=protocols,
        choice=Choice(
            classes=None if classes == [""] else classes or (),
            limit=limit,
            validation_share=validation_share,
            match_by=match_classes,
            label_map=read_label_map(Path(label_map)) if label_map else None,
            restricted=restrict_logits,
            real_labels=read_real_labels(Path(real_labels)) if real_labels else None,
        ),
        kept=Kept(
            top_k=top, logits=logits, folder=Path(output).absolute().parent if output else None
        ),
        trust_remote_code=trust_remote_code,
    )
    if is_main_process():
        _tell(results, model=model, data=data, output=output, as_json=as_json)


def _tell(
    results: Sequence[Any], *, model: str, data: str, output: str | None, as_json: bool
) -> None:
    """Write and print the results; one by itself, of several sizes a list."""
    from convzoo.evaluation.evaluating import result_sentence
    from convzoo.evaluation.results import results_folder
    from convzoo.files import write_json

    told = results[0] if len(results) == 1 else list(results)
    if output:
        write_json(Path(output), told)
    logger.info("result: %s", where_it_is_kept(model, output))
    for result in results:
        if record := result.get("predictions"):
            home = results_folder(model) or Path(output or "").parent
            logger.info("predictions: %s", home / record["file"])
    if as_json:
        options.print_json(told)
        return
    for result in results:
        print(result_sentence(model, data, result))


def where_it_is_kept(model: str, output: str | None) -> str:
    """Say where a result was written. A model on the Hub has no folder that could keep it."""
    from convzoo.evaluation.results import FILE, results_folder

    folder = results_folder(model)
    files = [str(folder / FILE)] if folder else []
    files += [output] if output else []
    kept = " and ".join(files)
    return kept or "not written to a file; for a model of the Hub --output FILE does that"


def is_main_process() -> bool:
    """Tell whether this process prints; called once, at the end of a command."""
    from accelerate import PartialState

    state = PartialState()
    state.destroy_process_group()  # a process that ends with its group open may abort
    return bool(state.is_main_process)
