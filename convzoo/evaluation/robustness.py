"""Accuracy of a model under the corruptions of ImageNet-C, evidence in `robustness_results.json`.

Each corruption in each severity is an evaluation of its own: every image once, on any number of
processes, taken up where it was interrupted. The file is written after each of them.

    python -m convzoo robustness runs/quickstart/model --data data/fashion-mnist
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers import BaseImageProcessor

from convzoo.data.opening import DatasetReference
from convzoo.environment import describe_environment, now
from convzoo.evaluation.chosen_images import WHOLE_SPLIT, Choice
from convzoo.evaluation.classifiers import Classifier, prepare_classifier
from convzoo.evaluation.corrupting import CorruptingProcessor
from convzoo.evaluation.evaluating import chosen_among, plan_evaluation
from convzoo.evaluation.predicting import Kept
from convzoo.evaluation.predicting_to_file import Finished, Task, predict_to_file
from convzoo.evaluation.prediction_file import FOLDER
from convzoo.evaluation.prediction_table import PredictionTable
from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.evaluation.results import DatasetFacts, ProtocolFacts
from convzoo.evaluation.robustness_results import (
    DEFINITION,
    FILE,
    ConditionHits,
    Hits,
    RobustnessResult,
    read_robustness,
    record_robustness,
    summarize,
)
from convzoo.evaluation.statistics import unreadable_facts, wilson_interval
from convzoo.files import json_sha256
from convzoo.imagenet_classes import imagenet_names, imagenet_numbers
from convzoo.images.corruptions import CORRUPTIONS, SEVERITIES, check_corruption

logger = logging.getLogger(__name__)
Condition = tuple[str, int] | None  # corruption and severity; None for images as they are


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Which corruptions, in which severities; all if none is named."""

    corruptions: Sequence[str] = ()
    severities: Sequence[int] = ()

    def pairs(self) -> list[tuple[str, int]]:
        """Every corruption in every severity, in the order of the benchmark.

        Raises:
            ValueError: if there is no such corruption or severity.
        """
        names, levels = self.corruptions or [*CORRUPTIONS], self.severities or SEVERITIES
        for name in names:
            for level in levels:
                check_corruption(name, level)
        return [
            (name, level) for name in CORRUPTIONS if name in names for level in sorted({*levels})
        ]


ALL_CONDITIONS = Conditions()


def measure_robustness(
    classifier: Classifier,
    data: str | DatasetReference,
    *,
    split: str,
    command: str,
    protocol: EvaluationProtocol,
    choice: Choice = WHOLE_SPLIT,
    conditions: Conditions = ALL_CONDITIONS,
    output: Path | None = None,
) -> RobustnessResult:
    """Evaluate a model on clean and on corrupted images, and record what comes out.

    What an earlier, interrupted or smaller measurement has recorded is not measured again, if
    nothing has changed.

    Args:
        classifier: the model.
        data: which dataset, as for `open_split`.
        split: which split.
        command: what a reader types to repeat this.
        protocol: how the images are shown; of one crop.
        choice: which images of the split.
        conditions: which corruptions.
        output: the file for the result; in the model folder if None, nowhere for a Hub model.

    Returns:
        The entry of the file, on every process.

    Raises:
        ValueError: if the model takes grey images, ten crops are asked for, results cannot be read,
            the images change under way, and as `evaluate_model`.
    """
    pairs = conditions.pairs()
    _check(classifier, protocol)
    accelerator = Accelerator(mixed_precision="no")  # whatever `accelerate config` says
    classifier = prepare_classifier(classifier, protocol, accelerator.device)
    path = output or (classifier.folder / FILE if classifier.folder else None)
    kept = Kept(top_k=1, folder=path.absolute().parent if path else None)
    task = plan_evaluation(
        classifier, data, split=split, command=command, protocol=protocol, choice=choice, kept=kept
    )
    record = _Record(task, path, pairs, comparable=_comparable(task, choice))
    missing = record.begin(accelerator)
    for number, condition in enumerate(missing, start=1):
        if accelerator.is_main_process:
            what = f"{condition[0]}, severity {condition[1]}" if condition else "images as they are"
            logger.info("%d of %d: %s", number, len(missing), what)
        with predict_to_file(_corrupted(task, condition), accelerator) as finished:
            if finished is not None:
                record.add(condition, finished)
    if task.home and accelerator.is_main_process:
        with contextlib.suppress(OSError):  # other evaluations keep their predictions there
            (task.home / FOLDER).rmdir()
    told = [record.result]
    broadcast_object_list(told)
    return cast(RobustnessResult, told[0])


def _check(classifier: Classifier, protocol: EvaluationProtocol) -> None:
    if (views := protocol.num_views) != 1:
        raise ValueError(f"corruptions are defined for one crop of an image; got {views}")
    if getattr(classifier.processor, "num_channels", 3) != 3:
        raise ValueError(
            f"corruptions are defined for RGB images; {classifier.name} takes grey ones"
        )


def _comparable(task: Task, choice: Choice) -> bool:
    """Whether AlexNet's published errors are of the same classes and of crops of the same size."""
    try:
        same = sorted(imagenet_numbers(task.facts.names)) == [*range(len(imagenet_names()))]
    except ValueError:  # names that ImageNet does not have
        same = False
    matching = task.facts.dataset.get("class_matching") or {}
    same = same and matching.get("num_data_classes", len(imagenet_names())) == len(imagenet_names())
    crop = getattr(task.classifier.processor, "crop_size", None) or {}
    chosen = choice.classes != () or choice.restricted or choice.label_map is not None
    return same and not chosen and (crop.get("height"), crop.get("width")) == (224, 224)


def _corrupted(task: Task, condition: Condition) -> Task:
    """The same evaluation of images that are corrupted."""
    asked = task.asked | {"corruption": condition}
    if condition is None:
        return replace(task, asked=asked)
    name, severity = condition
    processor = CorruptingProcessor(
        processor=task.classifier.processor, corruption=name, severity=severity
    )
    return replace(
        task,
        asked=asked,
        classifier=replace(task.classifier, processor=cast(BaseImageProcessor, processor)),
        facts=replace(
            task.facts, protocol={**task.facts.protocol, "corruption": name, "severity": severity}
        ),
    )


class _Record:
    """The result as far as it is measured; only the first process has and writes it."""

    def __init__(
        self, task: Task, path: Path | None, pairs: list[tuple[str, int]], *, comparable: bool
    ):
        self.task = task
        self.path = path
        self.pairs = pairs
        self.comparable = comparable
        self.identity = ""
        self.result: RobustnessResult | None = None

    def begin(self, accelerator: Accelerator) -> list[Condition]:
        """Find what is recorded; return on every process what is missing, None for clean images."""
        missing: list[Any] = [None]
        if accelerator.is_main_process:
            self.identity = json_sha256(self.task.identity(accelerator))
            recorded = read_robustness(self.path) if self.path else []
            self.result = next((x for x in recorded if x["identity"] == self.identity), None)
            missing = [self._missing()]
            if self.result:
                done = len(self.pairs) + 1 - len(missing[0])
                logger.info("%d of %d are recorded in %s", done, len(self.pairs) + 1, self.path)
        broadcast_object_list(missing)
        return cast(list[Condition], missing[0])

    def _missing(self) -> list[Condition]:
        if self.result is None:
            return [None, *self.pairs]
        done = {(each["corruption"], each["severity"]) for each in self.result["conditions"]}
        return [pair for pair in self.pairs if pair not in done]

    def add(self, condition: Condition, finished: Finished) -> None:
        """Put in the hits under one condition, and write the file."""
        table = finished.table
        _remove_predictions(self.task, finished)
        if condition is None:
            self.result = self._new(table)
        result = cast(RobustnessResult, self.result)
        if table.facts.dataset["fingerprint"] != result["dataset"]["fingerprint"]:
            raise ValueError(
                f"images of {self.task.source.path} must stay as they are while they are measured; "
                f"they have changed since the clean ones were. Measure again"
            )
        if condition is not None:
            name, severity = condition
            more: ConditionHits = {"corruption": name, "severity": severity, **_hits(table)}
            order = [*CORRUPTIONS]
            result["conditions"] = sorted(
                [*result["conditions"], more],
                key=lambda each: (order.index(each["corruption"]), each["severity"]),
            )
        result["complete"] = not self._missing()
        result["summary"] = summarize(
            result["clean"], result["conditions"], comparable=self.comparable
        )
        result["command"], result["date"] = self.task.command, now()
        result["duration_seconds"] = round(result["duration_seconds"] + finished.seconds, 2)
        if self.path:
            record_robustness(self.path, result)

    def _new(self, table: PredictionTable) -> RobustnessResult:
        task = self.task
        dataset = dict(task.facts.dataset) | {"fingerprint": table.facts.dataset["fingerprint"]}
        result: RobustnessResult = {
            "task": "corruption-robustness",
            "dataset": cast(DatasetFacts, dataset),
            "protocol": cast(ProtocolFacts, dict(task.facts.protocol)),
            "definition": DEFINITION,
            "complete": False,
            "clean": _hits(table),
            "conditions": [],
            "summary": {"corruptions": [], "without": []},
            "model": task.classifier.facts,
            "identity": self.identity,
            "command": task.command,
            "date": now(),
            "duration_seconds": 0.0,
            "environment": describe_environment(),
        }
        if unreadable := unreadable_facts(table):
            result["unreadable"] = unreadable
        return result


def _hits(table: PredictionTable) -> Hits:
    correct, total = int(table.hits().sum()), len(table)
    return {
        "num_correct": correct,
        "top1_accuracy": correct / total,
        "interval_95": list(wilson_interval(correct, total)),
    }


def _remove_predictions(task: Task, finished: Finished) -> None:
    """Of 76 evaluations only the counts are kept."""
    if finished.record and task.home:
        (task.home / finished.record["file"]).unlink(missing_ok=True)


def robustness_sentence(model: str, data: str, result: RobustnessResult) -> str:
    """Say a result in one line, for a terminal."""
    dataset, summary = result["dataset"], result["summary"]
    accuracies = [each["top1_accuracy"] for each in result["conditions"]]
    mean = sum(accuracies) / len(accuracies)
    mce = ""
    if "mce" in summary:
        mce = (
            f"; mCE {summary['mce']:.1%}, relative mCE {summary['relative_mce']:.1%} "
            f"(without {', '.join(summary['without'])})"
        )
    return (
        f"{model} on {dataset['num_samples']} images{chosen_among(dataset)} of {data} "
        f"[{dataset['split']}]: top-1 "
        f"{result['clean']['top1_accuracy']:.2%} clean, {mean:.2%} on average under "
        f"{len(accuracies)} corruptions and severities{mce}"
    )
