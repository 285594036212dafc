"""Accuracy of a model folder on a dataset: every image once, evidence in `eval_results.json`.

Each process takes its share of the batches and every prediction carries its row number, so the
counts are exact for any number of processes and any last batch; that each row came once is checked,
not assumed. Images go through the folder's own image processor, which is what a user of the model
gets; ten crops, if asked for, are the corners and the centre of the square that the processor would
resize to, and their mirror images. The predictions are kept in a file, and the numbers of the
result are computed from what that file holds.

    python -m convzoo evaluate runs/quickstart/model --data data/fashion-mnist
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import cast

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from convzoo.data.opening import DatasetReference
from convzoo.environment import describe_environment, now
from convzoo.evaluation.chosen_images import WHOLE_SPLIT, Choice, as_json, open_images
from convzoo.evaluation.class_matching import ChosenClasses
from convzoo.evaluation.classifiers import Classifier, load_classifier, prepare_classifier
from convzoo.evaluation.fast_decoding import check_fast_decoding
from convzoo.evaluation.finished_sizes import FinishedSizes
from convzoo.evaluation.predicting import Kept
from convzoo.evaluation.predicting_to_file import Finished, Task, predict_to_file
from convzoo.evaluation.prediction_table import PredictionFacts
from convzoo.evaluation.protocols import EvaluationProtocol, protocol_facts
from convzoo.evaluation.real_labels import RealLabels, plan_real
from convzoo.evaluation.results import (
    DatasetFacts,
    EvalResult,
    ProtocolFacts,
    is_chosen_among,
    is_validation_share,
    read_results,
    record_result,
)
from convzoo.evaluation.statistics import break_down, compute_metrics, unreadable_facts

logger = logging.getLogger(__name__)

DEFAULT_KEPT = Kept()
OF_WEIGHTS = ("file", "sha256", "num_parameters")  # what a predictions file says of the model


def evaluate_model(
    model: str,
    data: str | DatasetReference,
    *,
    split: str,
    command: str,
    protocols: Sequence[EvaluationProtocol],
    choice: Choice = WHOLE_SPLIT,
    kept: Kept = DEFAULT_KEPT,
    trust_remote_code: bool = False,
) -> list[EvalResult]:
    """Evaluate a model by one protocol after another, and record results and predictions.

    If this is interrupted, it goes on where it stopped, if nothing has changed: what it has
    finished is not measured again.

    Args:
        model: as for `load_classifier`; results of a model without a folder are only returned.
        data: which dataset, as for `open_split`.
        split: which split; of a validation share its own is taken.
        command: what a reader types to repeat this.
        protocols: how the images are shown, such as in several sizes.
        choice: which images of the split.
        kept: what is kept of the predictions, and where those of a model on the Hub.
        trust_remote_code: run the code that a model on the Hub brings along.

    Returns:
        The entries of `eval_results.json`, in the order of the protocols, on every process.

    Raises:
        ValueError: if the folder has results that cannot be read, and as `match_classes`,
            `predict_to_file` and `open_recorded_share`.
    """
    accelerator = Accelerator(mixed_precision="no")  # whatever `accelerate config` says
    results: list[EvalResult] = []
    finished: FinishedSizes | None = None
    for protocol in protocols:
        classifier = load_classifier(model, trust_remote_code=trust_remote_code)
        if classifier.folder:
            read_results(classifier.folder)  # what cannot be added to stops here, not after hours
        classifier = prepare_classifier(classifier, protocol, accelerator.device)
        task = plan_evaluation(
            classifier,
            data,
            split=split,
            command=command,
            protocol=protocol,
            choice=choice,
            kept=kept,
        )
        if len(protocols) > 1:
            finished = finished or FinishedSizes(task.home, _sweep(task, protocols, choice))
        result = _evaluate(task, accelerator, labels=choice.real_labels, finished_sizes=finished)
        results.append(result)
    if finished and accelerator.is_main_process:
        finished.clear()
    return results


def _sweep(
    task: Task, protocols: Sequence[EvaluationProtocol], choice: Choice
) -> dict[str, object]:
    """What a person asked for, all in all."""
    real = choice.real_labels.sha256 if choice.real_labels else None
    kept = [task.kept.top_k, task.kept.logits]
    return {
        "model": "" if task.classifier.folder else task.classifier.name,
        "asked": task.asked,
        "protocols": [asdict(each) for each in protocols],
        "kept": [*kept, real],
    }


def _evaluate(
    task: Task,
    accelerator: Accelerator,
    *,
    labels: RealLabels | None,
    finished_sizes: FinishedSizes | None,
) -> EvalResult:
    """Evaluate, or take what a sweep has finished; tell all processes."""
    told: list[EvalResult | None] = [None]
    if finished_sizes and accelerator.is_main_process:
        told = [finished_sizes.find(task.identity(accelerator))]
        if told[0]:
            logger.info("size %s is done already", task.protocol.crop.size)
            _record_again(task, told[0])
    broadcast_object_list(told)
    if told[0]:
        return told[0]
    real = plan_real(labels, task.source, task.classifier.names) if labels else None
    with predict_to_file(task, accelerator) as finished:
        if finished is not None:
            result = _result(task, finished)
            if real:
                result["real_labels"] = real.measure(finished.table)
            if task.classifier.folder:
                record_result(task.classifier.folder, result)
            if finished_sizes:
                finished_sizes.add(task.identity(accelerator), result)
            told = [result]
        broadcast_object_list(told)
    return cast(EvalResult, told[0])


def _record_again(task: Task, result: EvalResult) -> None:
    """Put a finished result into a file that has lost it; one with a temperature has not."""
    folder = task.classifier.folder
    if folder and result.get("predictions") not in [
        each.get("predictions") for each in read_results(folder)
    ]:
        record_result(folder, result)


def plan_evaluation(
    classifier: Classifier,
    data: str | DatasetReference,
    *,
    split: str,
    command: str,
    protocol: EvaluationProtocol,
    choice: Choice,
    kept: Kept,
) -> Task:
    """Open the images of an evaluation, and put together what it will say of itself.

    Args and errors are those of `evaluate_model`.
    """
    matched, dataset = open_images(classifier, data, split=split, choice=choice)
    source = matched.source
    if matched.answers:
        model = ChosenClasses(classifier.model, matched.answers)
        classifier = replace(classifier, model=model)
    if protocol.fast_decoding:
        check_fast_decoding(source, classifier.processor, protocol)
    if getattr(classifier.processor, "exif_rotation", None) and not protocol.exif_rotation:
        logger.warning(
            "%s learnt from images that were turned as their EXIF data says, and so are those of "
            "its users; here none is turned. `convzoo evaluate --exif-rotation` does it",
            classifier.name,
        )
    return Task(
        classifier=classifier,
        source=source,
        asked=as_json(data, split, choice),
        facts=PredictionFacts(
            names=classifier.names,
            dataset=dataset,
            protocol=protocol_facts(protocol, classifier.processor),
            model={key: value for key, value in classifier.facts.items() if key in OF_WEIGHTS},
        ),
        protocol=protocol,
        kept=kept,
        command=command,
    )


def _result(task: Task, finished: Finished) -> EvalResult:
    """The entry of the results file, from the predictions."""
    table = finished.table
    dataset = dict(task.facts.dataset) | {"fingerprint": table.facts.dataset["fingerprint"]}
    details = break_down(table)
    result: EvalResult = {
        "task": "image-classification",
        "dataset": cast(DatasetFacts, dataset),
        "protocol": cast(ProtocolFacts, task.facts.protocol),
        "metrics": compute_metrics(table),
        "intervals_95": details["intervals_95"],
        "calibration": details["calibration"],
        "classes": details["classes"],
        "confusions": details["confusions"],
        "model": task.classifier.facts,
        "command": task.command,
        "date": now(),
        "duration_seconds": round(finished.seconds, 2),
        "images_per_second": round(len(table) / finished.seconds, 1),
        "environment": describe_environment(),
    }
    if unreadable := unreadable_facts(table):
        result["unreadable"] = unreadable
    if finished.record:
        result["predictions"] = finished.record
    return result


def result_sentence(model: str, data: str, result: EvalResult) -> str:
    """Say a result in one line, for a terminal."""
    dataset, metrics = result["dataset"], result["metrics"]
    images = f"{dataset['num_samples']} images"
    if chosen := dataset.get("subset"):
        images = f"{dataset['num_samples']} of {chosen['of']} images"
        if is_validation_share(dataset):
            images = f"the validation share, {images},"
    images += chosen_among(dataset)
    top5 = metrics.get("top5_accuracy")
    real = result.get("real_labels")
    by_real = f", ReaL {real['top1_accuracy']:.2%}" if real else ""
    bad = result.get("unreadable", {}).get("num_images", 0)
    unread = f"; {bad} unreadable image{'s' * (bad > 1)} counted as wrong" if bad else ""
    return (
        f"{model} on {images} of {data} [{dataset['split']}]{_shown(result['protocol'])}:"
        f" top-1 {metrics['top1_accuracy']:.2%}{'' if top5 is None else f', top-5 {top5:.2%}'},"
        f" loss {metrics['loss']:.4f}{by_real}{unread}"
    )


def chosen_among(dataset: DatasetFacts) -> str:
    """Say among how many classes the model chose; "" where among all of its own."""
    if is_chosen_among(dataset):
        return f" among {dataset['class_matching']['num_model_classes']} classes"
    return ""


def _shown(protocol: ProtocolFacts) -> str:
    """Say what is not as usual in how images were shown."""
    views, crop = protocol["views"], protocol.get("crop", {})
    words = [
        f"size {crop['size']}" if "size" in crop else "",
        f"crop ratio {crop['ratio']:g}" if "ratio" in crop else "",
        crop.get("interpolation", ""),
        {1: "", 10: "ten crops"}.get(views, f"{views} views"),
        protocol.get("dtype", ""),
        "fast decoding" if protocol.get("fast_decoding") else "",
    ]
    return "".join(f", {word}" for word in words if word)
