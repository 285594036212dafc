"""`convzoo robustness`: accuracy of a model under the corruptions of ImageNet-C."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

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
        options.text("DATASET", "Folder or Hub dataset id.", panel=options.DATASET),
    ] = "",
    split: options.Split = "test",
    dataset: options.DatasetOptions,
    chosen: options.ChoiceOptions,
    corruptions: Annotated[
        list[str] | None,
        options.text("NAME...", "Only these corruptions; all 15 by default."),
    ] = None,
    severities: Annotated[
        list[str] | None,
        options.text("N...", "Only these severities; 1 to 5 by default."),
    ] = None,
    reading: options.ReadingOptions,
    trust_remote_code: options.TrustRemoteCode = False,
    output: Annotated[
        str | None,
        options.text(
            "FILE",
            "Write the result here; by default robustness_results.json in the model folder.",
            panel=options.OUTPUT,
        ),
    ] = None,
    show: Annotated[
        bool,
        options.flag(
            "--show",
            "Measure nothing; print what is recorded, each corruption and severity.",
            panel=options.OUTPUT,
        ),
    ] = False,
    figures: Annotated[
        bool,
        options.flag(
            "--figures",
            "Draw accuracy over severity, a panel for each corruption, beside the result: "
            "robustness_results.png.",
            panel=options.OUTPUT,
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
    with options.importing():
        from convzoo.allocator import keep_freed_memory
        from convzoo.environment import command_line
        from convzoo.evaluation.classifiers import load_classifier
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
        dataset.reference(data),
        split=split,
        command=command_line("python -m convzoo"),
        protocol=EvaluationProtocol(**asdict(reading)),
        choice=chosen.choice(),
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
    from convzoo.evaluation.robustness import robustness_sentence
    from convzoo.evaluation.robustness_results import read_robustness, robustness_table
    from convzoo.text_table import text_table

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
        print(text_table(robustness_table(result)))


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
