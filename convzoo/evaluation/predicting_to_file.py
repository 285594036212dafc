"""Predict a whole split into a predictions file; an interrupted evaluation is taken up."""

import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from convzoo.data.split import Split
from convzoo.environment import describe_environment
from convzoo.evaluation.classifiers import Classifier
from convzoo.evaluation.predicting import ADVICE, Kept, count_batches, predict_batches
from convzoo.evaluation.prediction_file import FOLDER, read_predictions, write_prediction_parts
from convzoo.evaluation.prediction_table import PredictionFacts, PredictionTable
from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.evaluation.results import PredictionsRecord
from convzoo.evaluation.unfinished import SUFFIX, Parts, PartWriter, others, take_up
from convzoo.files import file_sha256, json_sha256, remove_folder

logger = logging.getLogger(__name__)
PREDICTIONS = "predictions.parquet"  # in the folder of the parts, until it has its name
# What changes no number, or is compared elsewhere.
NO_PART_OF_NAME = ("batch_size", "num_workers", "unreadable", "folder")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Which predictions are to be made.

    Attributes:
        classifier: of which model.
        source: of which images.
        asked: what a person asked for: data, split and choice of images, as JSON has them.
        facts: what the file says of itself; the fingerprint of the images is not known yet.
        protocol: how the images are shown.
        kept: what is kept of the scores, and where.
        command: what a person types to repeat this.
    """

    classifier: Classifier
    source: Split
    asked: dict[str, Any]
    facts: PredictionFacts
    protocol: EvaluationProtocol
    kept: Kept
    command: str

    @property
    def home(self) -> Path | None:
        """The folder that keeps result and predictions, if there is one."""
        return self.classifier.folder or self.kept.folder

    @property
    def stem(self) -> str:
        """The readable part of the name of the file: dataset and split."""
        words = f"{Path(self.source.path).name} {self.source.name}"
        return re.sub(r"\W+", "-", words.lower()).strip("-")[:60] or "data"

    def parts_folder(self, home: Path) -> Path:
        """Where an evaluation that asks for this has its parts: the same command finds them."""
        settings = asdict(self.protocol) | asdict(self.kept)
        asked = {key: value for key, value in settings.items() if key not in NO_PART_OF_NAME}
        model = "" if self.classifier.folder else self.classifier.name
        digest = json_sha256([model, self.asked, asked])
        return home / FOLDER / f".{self.stem}-{digest[:8]}{SUFFIX}"

    def identity(self, accelerator: Accelerator) -> dict[str, Any]:
        """Everything that the predictions depend on: parts of another one are not taken up."""
        environment = describe_environment()
        return {
            "model": self.classifier.facts["sha256"],
            "data": [self.source.path, self.source.name, self.source.fingerprint],
            "classes": list(self.facts.names),
            "class matching": self.facts.dataset.get("class_matching"),
            "protocol": dict(self.facts.protocol),
            "batch size": self.protocol.batch_size,
            "choice of what is kept": [self.kept.top_k, self.kept.logits],
            "device": [str(accelerator.device.type), environment["accelerator"]],
            "version of a library": environment["versions"],
        }


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Predictions of a whole split.

    Attributes:
        table: the predictions, without logits.
        record: what the result says of their file; None where no folder keeps it.
        seconds: how long they took, with what was done before an interruption.
    """

    table: PredictionTable
    record: PredictionsRecord | None
    seconds: float


@contextmanager
def predict_to_file(task: Task, accelerator: Accelerator) -> Iterator[Finished | None]:
    """Predict a split on all processes together; the parts are removed at the end of the block.

    Yields:
        The predictions on the first process, None on the others.

    Raises:
        ValueError: as `predict_batches`; if probabilities are not finite or no image can be read;
            or if another process makes the same evaluation.
        RuntimeError: if a row was missed.
        OSError: if a file cannot be written.
    """
    start = _begin(task, accelerator)
    try:
        started = time.perf_counter()
        _predict(task, accelerator, start)
        accelerator.wait_for_everyone()
        seconds = time.perf_counter() - started + start.seconds
        yield _finish(task, start.folder, seconds) if accelerator.is_main_process else None
    except BaseException:
        if accelerator.is_main_process:
            _leave(start.folder, home=task.home)
        raise
    else:
        if accelerator.is_main_process:
            remove_folder(start.folder)
    finally:
        if start.lock is not None:
            os.close(start.lock)


@dataclass(frozen=True, kw_only=True)
class _Start:
    """Where an evaluation begins or goes on.

    Attributes:
        folder: where the parts lie.
        batches: numbers of the batches that are missing.
        seconds: how long those took that are there.
        lock: on the folder, of the first process.
    """

    folder: Path
    batches: list[int]
    seconds: float = 0.0
    lock: int | None = None


def _begin(task: Task, accelerator: Accelerator) -> _Start:
    """Decide on the first process where to begin, and tell the others."""
    told: list[Any] = [None]
    start = None
    if accelerator.is_main_process:
        start = _take_up(task, accelerator)
        told = [replace(start, lock=None)]
    broadcast_object_list(told)
    return start or cast(_Start, told[0])


def _take_up(task: Task, accelerator: Accelerator) -> _Start:
    numbers = range(count_batches(task.source, task.protocol.batch_size))
    if task.home is None:
        return _Start(folder=Path(tempfile.mkdtemp(prefix="convzoo-")), batches=[*numbers])
    folder = task.parts_folder(task.home)
    lock = take_up(folder, task.identity(accelerator), command=task.command)
    _tell_of_others(task, folder)
    parts = _parts(task, folder)
    if parts.batches:
        if task.protocol.unreadable == "stop":
            _check_readable(parts)
        logger.info(
            "going on with an interrupted evaluation: %s of %s images are done",
            f"{parts.num_rows:,}",
            f"{task.source.num_rows:,}",
        )
    return _Start(
        folder=folder,
        batches=[number for number in numbers if number not in parts.batches],
        seconds=parts.seconds,
        lock=lock,
    )


def _check_readable(parts: Parts) -> None:
    """Stop at an image that was counted as wrong before, if now it is to stop."""
    for table in parts.tables():
        for image, error in zip(table.image, table.error, strict=True):
            if error is not None:
                raise ValueError(f"{image}: {error}. {ADVICE}")


def _predict(task: Task, accelerator: Accelerator, start: _Start) -> None:
    """Write this process's share of the missing batches as parts."""
    names = task.facts.names
    writer = PartWriter(
        start.folder, num_classes=len(names), process_index=accelerator.process_index
    )
    predictions = predict_batches(
        task.classifier.model,
        task.classifier.processor,
        source=task.source,
        accelerator=accelerator,
        protocol=task.protocol,
        kept=task.kept,
        batches=start.batches,
    )
    try:
        for table in predictions:
            if bad := int((~np.isfinite(table.loss[table.readable])).sum()):
                raise ValueError(
                    f"probabilities of {task.classifier.name} must be finite; those of {bad} of "
                    f"{len(table)} images are not, {table.image[0]} and the next ones. Its "
                    f"weights may be ruined: `convzoo inspect {task.classifier.name}`"
                )
            writer.add(table)
    finally:
        writer.flush()


def _finish(task: Task, folder: Path, seconds: float) -> Finished:
    """Join the parts to the file, and give it its name."""
    parts, path, record = _parts(task, folder), folder / PREDICTIONS, None
    if parts.num_rows != task.source.num_rows:
        raise RuntimeError(
            f"every row of split {task.source.name} must be evaluated once; got {parts.num_rows} "
            f"predictions for {task.source.num_rows} rows. Do all processes see {folder}?"
        )
    facts = replace(task.facts, dataset=_dataset_facts(task, parts))
    write_prediction_parts(path, facts, parts.tables())
    if task.home is not None:
        sha256 = file_sha256(path)
        name = f"{FOLDER}/{task.stem}-{sha256[:10]}.parquet"
        path = path.replace(task.home / name)
        record = PredictionsRecord(
            file=name,
            sha256=sha256,
            num_rows=task.source.num_rows,
            top_k=min(task.kept.top_k, len(facts.names)),
            logits=task.kept.logits,
        )
    table = read_predictions(path, logits=False)
    return Finished(table=table, record=record, seconds=seconds)


def _dataset_facts(task: Task, parts: Parts) -> dict[str, Any]:
    """What the file says of the images: with the fingerprint of those that were read."""
    content, readable = hashlib.sha256(), False
    for table in parts.tables():
        readable = readable or bool(table.readable.any())
        table.add_to_fingerprint(content)
    if not readable:
        raise ValueError(
            f"at least one of the {task.source.num_rows} images of {task.source.path} must be "
            f"readable; none is. The last, {table.image[-1]}: {table.error[-1]}"
        )
    facts = dict(task.facts.dataset) | {"fingerprint": f"sha256:{content.hexdigest()}"}
    if Path(str(facts.get("path"))).is_absolute():
        del facts["path"]  # where data lies on this machine is nobody's business
    return facts


def _parts(task: Task, folder: Path) -> Parts:
    return Parts(folder, source=task.source, batch_size=task.protocol.batch_size)


def _tell_of_others(task: Task, folder: Path) -> None:
    """Name other unfinished evaluations of the folder; those of other weights are removed."""
    sha256 = task.classifier.facts["sha256"]
    for other, settings in others(folder).items():
        if task.classifier.folder and settings.get("identity", {}).get("model") != sha256:
            logger.info("%s is of other weights, and is removed", other)
            shutil.rmtree(other, ignore_errors=True)
        elif task.classifier.folder:
            logger.info(
                "%s is another unfinished evaluation; this goes on with it: %s",
                other,
                settings.get("command"),
            )


def _leave(folder: Path, home: Path | None) -> None:
    """Keep parts of an evaluation that was interrupted, where it has a folder."""
    if home is None or not list(folder.glob("part-*.arrow")):
        shutil.rmtree(folder, ignore_errors=True)
        return
    logger.warning("what was done is kept in %s; the same command goes on with it", folder)
