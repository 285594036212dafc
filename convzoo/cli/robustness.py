"""`convzoo robustness`: accuracy of a model under the corruptions of ImageNet-C."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from convzoo.cli import options
from convzoo.cli.evaluate import is_main_process

logger = logging.getLogger(__name__)
EXAMPLES = """
convzoo robustness user/cnn-prelu-imagenet --data ILSVRC/imagenet-1k --split validation
convzoo robustness MODEL --data FOLDER --limit 1000
convzoo robustness MODEL --data FOLDER --corruptions fog snow --severities 1 3 5
convzoo robustness MODEL --show --figures
"""


def robustness(  # noqa: PLR0913  the options of a command are its parameters
    model: options.AnyModel,
    *,
    data: Annotated[
        str,
        typer.Option(
            metavar="DATASET",
            help="Folder or Hub dataset id.",
            show_default=False,
            rich_help_panel=options.DATASET,
        ),
    ] = "",
    split: Annotated[
        str,
        typer.Option(metavar="NAME", help="Split to evaluate on.", rich_help_panel=options.DATASET),
    ] = "test",
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
    corruptions: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME...", help="Only these corruptions; all 15 by default."),
    ] = None,
    severities: Annotated[
        list[str] | None,
        typer.Option(metavar="N...", help="Only these severities; 1 to 5 by default."),
    ] = None,
    exif_rotation: options.ExifRotation = False,
    unreadable: options.Unreadable = "stop",
    batch_size: Annotated[int, options.at_least(1, "Images per step.")] = 64,
    num_workers: Annotated[int, options.at_least(0, "Decoding processes.")] = 2,
    trust_remote_code: options.TrustRemoteCode = False,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write the result here; by default robustness_results.json in the model folder.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    show: Annotated[
        bool,
        typer.Option(
            "--show",
            help="Measure nothing; print what is recorded, each corruption and severity.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    figures: Annotated[
        bool,
        typer.Option(
            "--figures",
            help="Draw accuracy over severity, a panel for each corruption, beside the result: "
            "robustness_results.png.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure accuracy under the corruptions of ImageNet-C, computed from their definitions.

    Each of 15 corruptions in five severities is a pass over all images. The result is recorded in
    robustness_results.json after each of them; the same command goes on where it was interrupted.
    """
    options.start(quiet)
    if show:
        _show(model, output, figures=figures, as_json=as_json)
        return
    if not data:
        raise ValueError("--data must name the images to corrupt; --show prints what is recorded")
    from convzoo.allocator import keep_freed_memory
    from convzoo.data.opening import DatasetReference
    from convzoo.environment import command_line
    from convzoo.evaluation.chosen_images import Choice
    from convzoo.evaluation.classifiers import load_classifier
    from convzoo.evaluation.label_maps import read_label_map
    from convzoo.evaluation.protocols import EvaluationProtocol
    from convzoo.evaluation.results import results_folder
    from convzoo.evaluation.robustness import (
        Conditions,
        measure_robustness,
        robustness_sentence,
    )

    conditions = Conditions(
        corruptions=corruptions or (), severities=[_severity(text) for text in severities or ()]
    )
    conditions.pairs()  # a typing error stops here, not after the model was loaded
    options.hide_bars_of_transformers()
    keep_freed_memory()
    result = measure_robustness(
        load_classifier(model, trust_remote_code=trust_remote_code),
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
            exif_rotation=exif_rotation,
            unreadable=unreadable,
            batch_size=batch_size,
            num_workers=num_workers,
        ),
        choice=Choice(
            classes=None if classes == [""] else classes or (),
            limit=limit,
            match_by=match_classes,
            label_map=read_label_map(Path(label_map)) if label_map else None,
            restricted=restrict_logits,
        ),
        conditions=conditions,
        output=Path(output) if output else None,
    )
    if not is_main_process():
        return
    if not output and not results_folder(model):
        logger.info("not written to a file; for a model of the Hub --output FILE does that")
    elif figures:
        _draw(_path(model, output))
    if as_json:
        options.print_json(result)
    else:
        print(robustness_sentence(model, data, result))


def _show(model: str, output: str | None, *, figures: bool, as_json: bool) -> None:
    """Print the results that are recorded of a model."""
    from convzoo.comparison.verdicts import table_text
    from convzoo.evaluation.robustness import robustness_sentence
    from convzoo.evaluation.robustness_results import read_robustness, robustness_table

    path = _path(model, output)
    results = [each for each in read_robustness(path) if each["conditions"]]
    if not results:
        raise FileNotFoundError(
            f"{path} must have a result to show; it has none. Measure: `convzoo robustness {model} "
            f"--data DATASET`"
        )
    if figures:
        _draw(path)
    if as_json:
        options.print_json(results)
        return
    for number, result in enumerate(results):
        print("\n" * bool(number) + robustness_sentence(model, result["dataset"]["name"], result))
        if not result["complete"]:
            print("not complete: the same command as before goes on with it")
        print(table_text(*robustness_table(result)))


def _path(model: str, output: str | None) -> Path:
    """The file of the results."""
    from convzoo.evaluation.results import results_folder
    from convzoo.evaluation.robustness_results import FILE

    return Path(output) if output else (results_folder(model) or Path(model)) / FILE


def _draw(path: Path) -> None:
    """Draw what a file has, and say where."""
    from convzoo.evaluation.robustness_results import read_robustness
    from convzoo.report.robustness_curves import save_robustness_curves

    drawn = save_robustness_curves(
        [each for each in read_robustness(path) if each["conditions"]], path
    )
    logger.info("drawn: %s", ", ".join(map(str, drawn)))


def _severity(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"--severities must be whole numbers from 1 to 5; got {text!r}")
    return int(text)
