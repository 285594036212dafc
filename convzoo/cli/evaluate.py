"""`convzoo evaluate`: accuracy of a model on a dataset, every image once."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from convzoo.cli import options
from convzoo.cli.protocol_options import ProtocolOptions

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
    split: options.Split = "test",
    validation_share: Annotated[
        bool,
        options.flag(
            "--validation-share",
            "Evaluate on the images that the model's training kept for validation, whatever "
            "--split says.",
            panel=options.DATASET,
        ),
    ] = False,
    dataset: options.DatasetOptions,
    chosen: options.ChoiceOptions,
    real_labels: Annotated[
        str,
        options.text(
            "FILE",
            "real.json of reassessed ImageNet: count answers that are in its lists, too.",
            panel=options.DATASET,
        ),
    ] = "",
    shown: ProtocolOptions,
    reading: options.ReadingOptions,
    trust_remote_code: options.TrustRemoteCode = False,
    top: Annotated[
        int,
        options.at_least(1, "Likeliest classes to keep of each image.", panel=options.OUTPUT),
    ] = 10,
    logits: Annotated[
        bool,
        options.flag(
            "--logits", "Keep the scores of all classes of each image, too.", panel=options.OUTPUT
        ),
    ] = False,
    output: Annotated[
        str | None,
        options.text(
            "FILE",
            "Also write the result here; of a Hub model the predictions, too, beside it.",
            panel=options.OUTPUT,
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
    with options.importing():
        from convzoo.allocator import keep_freed_memory
        from convzoo.environment import command_line
        from convzoo.evaluation.evaluating import evaluate_model
        from convzoo.evaluation.predicting import Kept
        from convzoo.evaluation.real_labels import read_real_labels

    options.hide_bars_of_transformers()
    keep_freed_memory()
    results = evaluate_model(
        model,
        dataset.reference(data),
        split=split,
        command=command_line("python -m convzoo"),
        protocols=shown.protocols(reading),
        choice=chosen.choice(
            validation_share=validation_share,
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
