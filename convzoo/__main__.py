"""The command line: `python -m convzoo COMMAND`.

Imports wait until a command needs them, so that `--help` answers at once.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from convzoo.errors import user_message


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m convzoo", description="Tools around image classifiers and their data."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    evaluate = commands.add_parser(
        "evaluate",
        help="measure top-1 and top-5 accuracy of a model, every image once",
        description="Evaluate a model; a folder gets the result in its eval_results.json.",
    )
    evaluate.add_argument("model", help="model folder or Hub id")
    evaluate.add_argument("--data", required=True, help="folder or Hub dataset id")
    evaluate.add_argument("--split", default="test", help="which split (default: %(default)s)")
    evaluate.add_argument("--batch-size", type=_at_least(1), default=64, help="images per step")
    evaluate.add_argument("--num-workers", type=_at_least(0), default=2, help="decoding processes")
    evaluate.add_argument("--output", help="also write the result here, as for a Hub model")
    evaluate.add_argument(
        "--crops", type=int, default=1, choices=(1, 10), help="views of an image, averaged"
    )
    evaluate.add_argument(
        "--limit", type=_at_least(0), default=0, help="images, evenly spaced (all)"
    )
    evaluate.add_argument(
        "--classes",
        nargs="*",
        default=(),
        metavar="NAME",
        help="only images of these classes (all); without names: of the model's",
    )
    evaluate.add_argument(
        "--match-classes",
        default="name",
        choices=("name", "number"),
        help="how labels of the data find the model's classes (%(default)s)",
    )
    evaluate.add_argument(
        "--exif-rotation", action="store_true", help="turn images as their EXIF data says"
    )
    _add_columns(evaluate)
    evaluate.set_defaults(run=_evaluate)

    predict = commands.add_parser("predict", help="classify image files")
    predict.add_argument("model", help="model folder or Hub id")
    predict.add_argument("images", nargs="+", help="image files")
    predict.add_argument("--top-k", type=_at_least(1), default=5, help="classes per image")
    predict.set_defaults(run=_predict)

    convert = commands.add_parser(
        "convert",
        help="turn published weights of another format into a model folder",
        description="Recognises the format by its keys and prints what it found.",
    )
    convert.add_argument("source", help="weights file, or folder with one")
    convert.add_argument("output", help="folder to create")
    convert.add_argument("--labels", help="file with class names: one a line, or JSON")
    convert.set_defaults(run=_convert)

    recipe = commands.add_parser("recipe", help="explain recipe keys, or fill in their defaults")
    recipe.add_argument("file", nargs="?", help="recipe to print with all defaults filled in")
    recipe.add_argument("overrides", nargs="*", metavar="section.key=value")
    recipe.set_defaults(run=_recipe)

    preprocess = commands.add_parser(
        "preprocess",
        help="copy a dataset with smaller images, so that training decodes less",
        description="Write a presized copy of a dataset; run it again to continue after a stop.",
    )
    preprocess.add_argument("source", help="folder of parquet files or images, or Hub dataset id")
    preprocess.add_argument("output", help="folder to create")
    preprocess.add_argument(
        "--size", type=_at_least(1), default=256, help="shorter side (%(default)s)"
    )
    preprocess.add_argument("--crop", action="store_true", help="also cut to size x size, centred")
    preprocess.add_argument("--enlarge", action="store_true", help="bring smaller images to size")
    preprocess.add_argument(
        "--interpolation", default="bilinear", choices=("bilinear", "bicubic"), help="antialiased"
    )
    preprocess.add_argument("--quality", type=int, default=90, help="of the JPEGs (%(default)s)")
    preprocess.add_argument(
        "--subsampling", default="420", choices=("420", "444"), help="of the colours (%(default)s)"
    )
    preprocess.add_argument(
        "--exif-rotation", action="store_true", help="turn images as their EXIF data says"
    )
    preprocess.add_argument("--splits", nargs="+", default=(), help="which splits (all)")
    preprocess.add_argument(
        "--shard-megabytes", type=float, default=400, help="largest file (%(default)s)"
    )
    preprocess.add_argument(
        "--workers", type=_at_least(1), default=os.cpu_count(), help="processes"
    )
    preprocess.add_argument(
        "--max-bad-share",
        type=float,
        default=0.001,
        help="share of a split that may be unreadable and left out (%(default)s)",
    )
    _add_columns(preprocess)
    preprocess.set_defaults(run=_preprocess)

    inspect = commands.add_parser(
        "inspect",
        help="what is in a dataset, or in a model",
        description="Of a dataset: counts, sizes, damage, and whether this machine feeds the GPUs "
        "with it. Of a model: layers, multiply-adds, slopes, scales, activations of an image.",
    )
    inspect.add_argument("what", help="dataset or model: folder or Hub id")
    inspect.add_argument("--image", help="of a model: image whose activations are drawn")
    inspect.add_argument("--splits", nargs="+", default=(), help="which splits (all)")
    inspect.add_argument(
        "--limit", type=_at_least(0), default=0, help="images read of each split (all)"
    )
    inspect.add_argument(
        "--gpus", type=_at_least(1), default=1, help="how many to feed (%(default)s)"
    )
    inspect.add_argument(
        "--images-per-second-per-gpu",
        type=float,
        default=2500,
        metavar="R",
        help="what one GPU trains (%(default)s)",
    )
    inspect.add_argument(
        "--crop", type=_at_least(0), default=0, help="side of training crops, pixels (224)"
    )
    inspect.add_argument("--json", metavar="FILE", help="file for all numbers")
    inspect.add_argument("--output", default="", metavar="FOLDER", help="folder for PNG files")
    _add_columns(inspect)
    inspect.set_defaults(run=_inspect)

    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("convzoo").setLevel(logging.INFO)  # HTTP clients log each request at INFO
    # A dataset needs no card, and each of its splits would be told so.
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)
    try:
        args.run(args)
    except ModuleNotFoundError as error:
        print(f"error: {error}. Install it: pip install -e '.[train]'", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {user_message(error)}", file=sys.stderr)
        return 1
    return 0


def _at_least(least):
    """A type of arguments: whole numbers from `least` on."""

    def number(text):
        if not text.removeprefix("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {least}; got {text!r}"
            )
        return int(text)

    return number


def _disable_progress_bars():
    """Loading and writing a few tensors needs none."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def _evaluate(args):
    from convzoo.allocator import keep_freed_memory
    from convzoo.environment import command_line
    from convzoo.evaluation.evaluating import Choice, evaluate_folder, result_sentence
    from convzoo.evaluation.predicting import EvaluationProtocol
    from convzoo.files import write_json

    _disable_progress_bars()
    keep_freed_memory()
    result = evaluate_folder(
        args.model,
        _dataset(args, args.data),
        split=args.split,
        command=command_line("python -m convzoo"),
        protocol=EvaluationProtocol(
            crops=args.crops,
            exif_rotation=args.exif_rotation,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
        ),
        choice=Choice(
            classes=None if args.classes == [] else args.classes,
            limit=args.limit,
        ),
        match_by=args.match_classes,
    )
    from accelerate import PartialState

    state = PartialState()
    state.destroy_process_group()  # a process that ends with its group open may abort
    if not state.is_main_process:
        return
    if args.output:
        write_json(Path(args.output), result)
    print(result_sentence(args.model, args.data, result))


def _predict(args):
    from convzoo.images.decoding import open_rgb

    images = []
    for name in args.images:
        with open(name, "rb") as handle:
            try:
                images.append(open_rgb(handle.read()))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    import modeling  # noqa: F401  registers our families with the Auto classes

    _disable_progress_bars()
    model = AutoModelForImageClassification.from_pretrained(args.model)
    processor = AutoImageProcessor.from_pretrained(args.model)
    classify = pipeline("image-classification", model=model, image_processor=processor)
    for name, image in zip(args.images, images, strict=True):
        print(name)
        for guess in classify(image, top_k=args.top_k):
            print(f"  {guess['score']:6.1%}  {guess['label']}")


def _convert(args):
    from convzoo.conversion.converting import convert

    _disable_progress_bars()
    print(convert(args.source, args.output, args.labels))


def _recipe(args):
    from convzoo.recipe.files import describe_settings, load_recipe, recipe_to_toml

    if args.file:
        print(recipe_to_toml(load_recipe(args.file, args.overrides)), end="")
    else:
        print(describe_settings(), end="")


def _add_columns(command):
    command.add_argument("--name", default="", help="configuration of a dataset with several")
    command.add_argument("--revision", default="", help="commit or tag of a Hub dataset")
    command.add_argument("--image-column", default="", help="column of images")
    command.add_argument("--label-column", default="", help="column of class numbers")


def _dataset(args, path):
    from convzoo.data.opening import DatasetReference

    return DatasetReference(
        path,
        name=args.name,
        revision=args.revision,
        image_column=args.image_column,
        label_column=args.label_column,
    )


def _preprocess(args):
    from convzoo.environment import command_line
    from convzoo.resizing.command import Presize, preprocess, summary

    presize = Presize(
        args.size,
        args.crop,
        args.enlarge,
        args.interpolation,
        args.quality,
        args.subsampling,
        args.exif_rotation,
    )
    report = preprocess(
        _dataset(args, args.source),
        args.output,
        presize,
        command=command_line("python -m convzoo"),
        splits=tuple(args.splits),
        shard_bytes=round(args.shard_megabytes * 1e6),
        num_workers=args.workers,
        max_bad_share=args.max_bad_share,
    )
    print(summary(report))


def _inspect(args):
    from convzoo.environment import command_line
    from convzoo.files import write_json
    from convzoo.inspection.model import inspect_model, is_model
    from convzoo.inspection.model_report import model_report_text

    if is_model(args.what):
        _disable_progress_bars()
        report = inspect_model(args.what, args.image, output=args.output, revision=args.revision)
        if args.json:
            write_json(Path(args.json), report)
        print(model_report_text(report))
        return
    from convzoo.inspection.dataset import Demand, inspect_dataset
    from convzoo.inspection.dataset_report import dataset_report_text

    report = inspect_dataset(
        _dataset(args, args.what),
        command=command_line("python -m convzoo"),
        splits=tuple(args.splits),
        limit=args.limit,
        demand=Demand(
            num_gpus=args.gpus,
            images_per_second_per_gpu=args.images_per_second_per_gpu,
            crop=args.crop,
        ),
        output=args.output,
    )
    if args.json:
        write_json(Path(args.json), report)
    print(dataset_report_text(report))


if __name__ == "__main__":
    sys.exit(main())
