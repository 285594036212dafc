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
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from convzoo.data.opening import DatasetReference, open_split
from convzoo.data.split import Split
from convzoo.data.subset import subset
from convzoo.environment import describe_environment, now
from convzoo.evaluation.class_matching import ChosenClasses, Matched, match_classes
from convzoo.evaluation.classifiers import Classifier, load_classifier, prepare_classifier
from convzoo.evaluation.fast_decoding import check_fast_decoding
from convzoo.evaluation.label_maps import LabelMap, SameClasses, resolve
from convzoo.evaluation.predicting import Kept
from convzoo.evaluation.predicting_to_file import Finished, Task, predict_to_file
from convzoo.evaluation.prediction_table import PredictionFacts
from convzoo.evaluation.protocols import EvaluationProtocol, protocol_facts
from convzoo.evaluation.real_labels import RealLabels, plan_real
from convzoo.evaluation.recorded_share import open_recorded_share
from convzoo.evaluation.results import (
    DatasetFacts,
    EvalResult,
    MatchBy,
    ProtocolFacts,
    read_results,
    record_result,
)
from convzoo.evaluation.statistics import break_down, compute_metrics, unreadable_facts

logger = logging.getLogger(__name__)
METRIC = Path(__file__).parent / "metrics" / "topk_accuracy"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which images of a split are evaluated, and how their labels are read.

    Attributes:
        classes: only images of these classes; of all if empty, of the model's if None.
        limit: images at most, evenly spaced; all if 0.
        validation_share: only the images that the model's training took out of its split for
            validation.
        match_by: see `match_classes`.
        label_map: says which classes of the model those of the data are.
        restricted: let the model choose among the classes of the data only.
        real_labels: several right classes of each image, which are counted, too.
    """

    classes: Collection[str] | None = ()
    limit: int = 0
    validation_share: bool = False
    match_by: MatchBy = "name"
    label_map: LabelMap | None = None
    restricted: bool = False
    real_labels: RealLabels | None = None

    def __post_init__(self) -> None:
        if self.label_map and self.match_by == "number":
            raise ValueError(
                "classes must be matched by number or by --label-map; got both. Leave one away"
            )


WHOLE_SPLIT = Choice()
DEFAULT_KEPT = Kept()
OF_WEIGHTS = ("file", "sha256", "num_parameters")  # what a predictions file says of the model


def evaluate_folder(
    model_folder: str,
    data: str | DatasetReference,
    *,
    split: str,
    command: str,
    protocol: EvaluationProtocol,
    choice: Choice = WHOLE_SPLIT,
    kept: Kept = DEFAULT_KEPT,
    trust_remote_code: bool = False,
) -> EvalResult:
    """Evaluate a model, and record the result and its predictions in its folder.

    An evaluation that was interrupted goes on where it stopped, if nothing has changed.

    Args:
        model_folder: a saved model; a Hub id is evaluated too, its result is only returned.
        data: which dataset, as for `open_split`.
        split: which split; of a validation share its own is taken.
        command: what a reader types to repeat this.
        protocol: how the images are shown.
        choice: which images of the split.
        kept: what is kept of the predictions, and where those of a model on the Hub.
        trust_remote_code: run the code that a model on the Hub brings along.

    Returns:
        The entry of `eval_results.json`, on every process.

    Raises:
        ValueError: if the folder has results that cannot be read, and as `match_classes`,
            `predict_to_file` and `open_recorded_share`.
    """
    accelerator = Accelerator(mixed_precision="no")  # whatever `accelerate config` says
    classifier = load_classifier(model_folder, trust_remote_code=trust_remote_code)
    if classifier.folder:
        read_results(classifier.folder)  # what cannot be added to stops here, not after hours
    classifier = prepare_classifier(classifier, protocol, accelerator.device)
    task = plan_evaluation(
        classifier, data, split=split, command=command, protocol=protocol, choice=choice, kept=kept
    )
    labels = choice.real_labels
    real = plan_real(labels, task.source, classifier.names) if labels else None
    with predict_to_file(task, accelerator) as finished:
        told: list[EvalResult | None] = [None]
        if finished is not None:
            result = _result(task, finished)
            if real:
                result["real_labels"] = real.measure(finished.table)
            if classifier.folder:
                record_result(classifier.folder, result)
            told = [result]
        broadcast_object_list(told)
    return cast(EvalResult, told[0])


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

    Args and errors are those of `evaluate_folder`.
    """
    matched, dataset = _open_images(classifier, data, split=split, choice=choice)
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
        asked=_asked(data, split, choice),
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


def _open_images(
    classifier: Classifier, data: str | DatasetReference, *, split: str, choice: Choice
) -> tuple[Matched, DatasetFacts]:
    """Open the chosen images, with labels that are the model's; and what results say of them."""
    if choice.validation_share:
        source = open_recorded_share(classifier.name, data)
    else:
        source = open_split(data, split)
    names, theirs = classifier.names, source.label_names
    same = resolve(choice.label_map, theirs, names) if choice.label_map else None
    classes = names if choice.classes is None else choice.classes
    if same or choice.restricted:
        classes = _with_images(source, classes, same=same, restricted=choice.restricted)
    # A model of all classes is asked about some of them; another one knows only these.
    renumber = bool(same) or choice.restricted or len(names) != len(theirs)
    source = subset(source, classes, limit=choice.limit, spaced=True, renumber=renumber)
    matched = match_classes(
        source,
        names,
        by=choice.match_by,
        same=same and same.of(source.label_names),
        restricted=choice.restricted,
    )
    facts = source.describe() | {"config": DatasetReference.of(data).name or None}
    if matched.facts:
        facts["class_matching"] = matched.facts
    return matched, cast(DatasetFacts, facts)


def _with_images(
    source: Split, classes: Collection[str], *, same: SameClasses | None, restricted: bool
) -> list[str]:
    """The chosen classes without those that a label map leaves out; restricted, with images."""
    names = source.label_names
    kept = [*classes] or [*names]
    if same:
        kept = [name for name in kept if same.classes.get(name, (0,))]
    if restricted:
        having = {names[number] for number in np.unique(source.read_labels()).tolist()}
        kept = [name for name in kept if name in having or name not in names]
    if not kept:
        raise ValueError(f"a class of {source.path} [{source.name}] at least must be left; none is")
    return kept


def _asked(data: str | DatasetReference, split: str, choice: Choice) -> dict[str, object]:
    """What a person asked to be evaluated, as JSON has it."""
    classes = None if choice.classes is None else sorted(choice.classes)
    chosen = asdict(replace(choice, classes=classes, real_labels=None))
    return {"data": asdict(DatasetReference.of(data)), "split": split, "choice": chosen}


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
        if any(step.get("part") == "validation" for step in chosen["taken"]):
            images = f"the validation share, {images},"
    matching = dataset.get("class_matching", {})
    if matching.get("restricted") or "map" in matching:
        images += f" among {matching['num_model_classes']} classes"
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
