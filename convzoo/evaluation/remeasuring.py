"""Measure again what the results of a model folder claim: the process behind `hub_cards verify`.

It knows nothing of cards. The request, the fields of `Request` as JSON, comes on standard input;
the answer goes to the file that is the only argument. Data is taken for that of a result if its
contents have the recorded fingerprint, whatever its name.

    python -P -m convzoo.evaluation.remeasuring ANSWER < REQUEST
"""

import copy
import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.utils.logging import disable_progress_bar
from typing_extensions import TypedDict

from convzoo.allocator import keep_freed_memory
from convzoo.data.opening import DatasetReference, open_split
from convzoo.data.split import Split
from convzoo.data.stream import eval_rows
from convzoo.data.validation_share import repeat_choices
from convzoo.environment import describe_environment
from convzoo.errors import user_message
from convzoo.evaluation.class_matching import ChosenClasses, Matched, match_classes
from convzoo.evaluation.label_maps import recorded_classes
from convzoo.evaluation.predicting import content_digest, predict_split
from convzoo.evaluation.prediction_table import PredictionFacts, PredictionTable
from convzoo.evaluation.protocols import Computation, recorded_protocol
from convzoo.evaluation.real_labels import plan_real, plan_real_of, recorded_real_labels
from convzoo.evaluation.rederiving import Derived, derive_again
from convzoo.evaluation.results import (
    Calibration,
    ClassAccuracy,
    Confusion,
    DatasetFacts,
    EvalResult,
    MatchBy,
    check_result,
)
from convzoo.evaluation.statistics import break_down
from convzoo.evaluation.strict_loading import Loading, load_strictly
from convzoo.files import write_json
from convzoo.labels import class_names

OTHER = "their fingerprint is not the recorded one"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be measured again, and on which data.

    Attributes:
        folder: the model folder.
        results: entries of `eval_results.json`; whether they are complete is seen here.
        data: folders and Hub dataset ids to look for the images of the results in.
        split: the split to look in; the recorded one if "".
        image_column: column of images; the only image column if "".
        label_column: column of class numbers; the only class column if "".
        root: folder that the paths in lists of images are relative to; that of the list if "".
        sample: images to draw at random, without replacement, for each result; all if 0.
        seed: of the drawing.
        real_labels: file of reassessed labels, for the results that were counted by it, too.
        trust_remote_code: run the classes of the folder's own code instead of this package's.
        batch_size: images per step.
        num_workers: decoding processes.
    """

    folder: str
    results: Sequence[object]
    data: Sequence[str]
    split: str = ""
    image_column: str = ""
    label_column: str = ""
    root: str = ""
    sample: int = 0
    seed: int | None = 0
    real_labels: str = ""
    trust_remote_code: bool = False
    batch_size: int = 64
    num_workers: int = 2


class RealAgain(TypedDict, total=False):
    """The accuracy by reassessed labels, counted again, or only the `reason` why it was not.

    Attributes:
        predictions: file that the answers are from; "" where the model gave them again.
        num_samples: images that have labels.
        num_correct: answers that are among them.
    """

    reason: str
    predictions: str
    num_samples: int
    num_correct: int


class Answer(TypedDict, total=False):
    """A result, measured again, or only the `reason` why it was not.

    Attributes:
        identified: how the images were found, see `FoundData`.
        num_images: all images of the result.
        seen: how many of them were measured.
        top1_accuracy, top5_accuracy: how many of these were hits.
        loss, loss_deviation: mean and standard deviation of their cross entropy.
        label_names: what the data calls its classes.
        preprocessing: settings of the image processor that the result was measured with and the
            published one does not have: name -> [measured with, published].
        classes, confusions, calibration: as in the result.
        derived: what the predictions file says, where there is one; with or without a reason.
        real: the accuracy by reassessed labels, if the result has one; with or without a reason.
    """

    reason: str
    data: str
    split: str
    identified: str
    num_images: int
    seen: int
    top1_accuracy: int
    top5_accuracy: int
    loss: float
    loss_deviation: float
    label_names: list[str]
    preprocessing: dict[str, list[Any]]
    classes: list[ClassAccuracy]
    confusions: list[Confusion]
    calibration: Calibration
    derived: Derived
    real: RealAgain


class Answers(TypedDict):
    """The answer to a request."""

    environment: dict[str, Any]
    loaded: Loading
    results: list[Answer]


@dataclass(frozen=True)
class FoundData:
    """The images of a result.

    Attributes:
        source: the images.
        identified: "fingerprint", or "commit" of a dataset on the Hub: then not all of them need
            be read.
        answers: what the model chooses among, see `Matched`.
    """

    source: Split
    identified: str
    answers: Mapping[int, tuple[int, ...]] | None = None


def reevaluate(request: Request) -> Answers:
    """Load a model strictly and repeat its measurements, as far as their data is there."""
    environment = describe_environment()
    loaded, model, processor = load_strictly(
        Path(request.folder), trust_remote_code=request.trust_remote_code
    )
    answers: list[Answer] = []
    accelerator = Accelerator(mixed_precision="no")
    if model is not None:
        model.to(accelerator.device)
    reason = "the model could not be loaded"
    if loaded.get("needs_code"):
        reason = "the code that prepares the images may not run"
    for number, entry in enumerate(request.results):
        answer: Answer = {"reason": reason}
        derived, real = None, None
        try:
            result = check_result(entry, f"results[{number}]")
            derived = derive_again(Path(request.folder), result)
            real = _count_real(result, request, kept=derived[1] if derived else None)
            if model is not None and processor is not None:
                answer = _repeat(
                    model,
                    processor,
                    result=result,
                    accelerator=accelerator,
                    request=request,
                    derived=derived,
                )
        except Exception as error:  # the result and the code may be anybody's
            answer = {"reason": f"{type(error).__name__}: {user_message(error)}"}
        if derived:
            answer["derived"] = derived[0]
        if real and ("real" not in answer or "reason" not in real):
            answer["real"] = real
        answers.append(answer)
    return {"environment": environment, "loaded": loaded, "results": answers}


def _repeat(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    *,
    result: EvalResult,
    accelerator: Accelerator,
    request: Request,
    derived: tuple[Derived, PredictionTable | None] | None,
) -> Answer:
    """Measure a result again if its images are found, and compare it with its predictions."""
    found = find_data(result, request, names=class_names(model.config))
    if isinstance(found, str):
        return {"reason": found}
    answer, predictions, drawn = _measure(
        model, processor, result=result, found=found, accelerator=accelerator, request=request
    )
    if real := _count_real(result, request, measured=(predictions, drawn)):
        answer["real"] = real
    if derived and (kept := derived[1]) is not None:
        answers = dict(zip(kept.row.tolist(), kept.top_classes[:, 0].tolist(), strict=True))
        again = zip(predictions.row.tolist(), predictions.top_classes[:, 0].tolist(), strict=True)
        derived[0]["same_answers"] = sum(answers.get(row) == first for row, first in again)
    return answer


def _count_real(
    result: EvalResult,
    request: Request,
    *,
    kept: PredictionTable | None = None,
    measured: tuple[PredictionTable, Split] | None = None,
) -> RealAgain | None:
    """Count by reassessed labels again what a result has of them.

    Args:
        result: an entry of `eval_results.json`.
        request: has their file.
        kept: the predictions of the result.
        measured: those of a repeated measurement, and their images; instead of `kept`.

    Returns:
        None where the result has no such accuracy.
    """
    if not (recorded := result.get("real_labels")):
        return None
    try:
        labels = recorded_real_labels(recorded, request.real_labels)
        if measured:
            table, source = measured
            facts = plan_real(labels, source, table.facts.names).measure(table)
        elif kept:
            facts = plan_real_of(labels, kept).measure(kept)
        else:
            raise ValueError("neither predictions nor images are here")
    except (OSError, ValueError) as error:
        return {"reason": user_message(error)}
    return {
        "predictions": result["predictions"]["file"] if kept else "",
        "num_samples": facts["num_samples"],
        "num_correct": facts["num_correct"],
    }


def find_data(result: EvalResult, request: Request, *, names: Sequence[str]) -> FoundData | str:
    """Find the images that a result was measured on among the data of a request.

    Args:
        result: an entry of `eval_results.json`.
        request: where to look.
        names: name of each class of the model.

    Returns:
        The images, or why they were not found.
    """
    recorded, reasons = result["dataset"], []
    split = request.split or recorded["split"]
    for path in request.data:
        on_hub = path == recorded.get("id")
        where = f"{path} [{split}]"
        given = DatasetReference(
            path,
            image_column=request.image_column,
            label_column=request.label_column,
            root=request.root,
        )
        try:
            source = open_split(given.as_recorded(recorded), split)
            matched = _match_again(source, names, recorded)
            source = matched.source
        except (OSError, ValueError) as error:
            reasons.append(f"{where}: {error}")
            continue
        if len(source.label_names) != len(names):
            reasons.append(f"{where} has {len(source.label_names)} classes, the model {len(names)}")
        elif source.num_rows != recorded["num_samples"]:
            reasons.append(
                f"{where} has other images: {source.num_rows:,}, not {recorded['num_samples']:,}"
            )
        elif on_hub and source.revision == recorded.get("revision"):
            return FoundData(source, "commit", matched.answers)
        elif content_fingerprint(source) == recorded["fingerprint"]:
            return FoundData(source, "fingerprint", matched.answers)
        else:
            reasons.append(f"{where} has other images: {OTHER}")
    return "; ".join(reasons) or "no data was given for it"


def _match_again(source: Split, names: Sequence[str], recorded: DatasetFacts) -> Matched:
    """Choose the images of a result again, and give them the class numbers of the model."""
    matching: dict[str, Any] = {**recorded.get("class_matching", {})}
    same, restricted = recorded_classes(matching, names), matching.get("restricted", False)
    # A model of some classes only knows their new numbers.
    renumber = bool(same) or restricted or len(names) != len(source.label_names)
    if chosen := recorded.get("subset"):
        source = repeat_choices(source, chosen["taken"], renumber=renumber)
    if not matching:
        return Matched(source=source, facts=None)
    by: MatchBy = "number" if matching["by"] == "number" else "name"
    return match_classes(
        source,
        names,
        by=by,
        same=same and same.of(source.label_names),
        restricted=restricted,
    )


def content_fingerprint(source: Split) -> str:
    """Compute the fingerprint that an evaluation records, over encoded images and labels."""
    digests = hashlib.sha256()
    bar = tqdm(total=source.num_rows, desc="fingerprint", unit=" images", leave=False)
    with bar:
        for _, data, label in eval_rows(source):
            digests.update(content_digest(data, label))
            bar.update()
    return f"sha256:{digests.hexdigest()}"


def draw(source: Split, count: int, *, seed: int | None) -> Split:
    """Draw `count` images at random without replacement; all if there are no more."""
    if count >= source.num_rows:
        return source
    rows = np.random.default_rng(seed).choice(source.num_rows, count, replace=False)
    return source.choose(np.sort(rows))


def _measure(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    *,
    result: EvalResult,
    found: FoundData,
    accelerator: Accelerator,
    request: Request,
) -> tuple[Answer, PredictionTable, Split]:
    recorded, source, identified = result["protocol"], found.source, found.identified
    protocol = recorded_protocol(
        recorded,
        unreadable="wrong" if "unreadable" in result else "stop",
        batch_size=request.batch_size,
        num_workers=request.num_workers,
    )
    drawn = draw(source, request.sample, seed=request.seed) if request.sample else source
    processor = protocol.crop.apply(processor)  # another one on purpose
    others = _other_settings(processor, recorded["image_processor"])
    if others:
        measured_with = {key: value for key, (value, _) in others.items()}
        processor = type(processor)(**processor.to_dict() | measured_with)
    prepared = _prepared(model, protocol.computation)
    predictions = predict_split(
        ChosenClasses(prepared, found.answers) if found.answers else prepared,
        processor,
        source=drawn,
        accelerator=accelerator,
        protocol=protocol,
    )
    assert predictions is not None  # nobody stops it
    if drawn is source:
        if predictions.fingerprint() != result["dataset"]["fingerprint"]:
            raise ValueError(f"{source.path} has other images: {OTHER}")
        identified = "fingerprint"
    names = tuple(class_names(model.config))
    facts = PredictionFacts(names=names, dataset={**result["dataset"]})
    predictions = replace(predictions, facts=facts)
    details, losses = break_down(predictions), predictions.loss[predictions.readable]
    answer: Answer = {
        "data": source.path,
        "split": source.name,
        "identified": identified,
        "num_images": source.num_rows,
        "seen": drawn.num_rows,
        "top1_accuracy": int(predictions.hits().sum()),
        "top5_accuracy": int(predictions.hits(5).sum()),
        "loss": float(losses.mean(dtype=np.float64)),
        "loss_deviation": float(losses.std(dtype=np.float64, ddof=min(1, len(losses) - 1))),
        "label_names": list(source.label_names),
        "preprocessing": others,
        "classes": details["classes"],
        "confusions": details["confusions"],
        "calibration": details["calibration"],
    }
    return answer, predictions, drawn


def _prepared(model: PreTrainedModel, computation: Computation) -> torch.nn.Module:
    """The model as it computed; other results have it as it is."""
    if computation == Computation():
        return model
    return computation.apply(copy.deepcopy(model))


def _other_settings(
    processor: BaseImageProcessor, recorded: dict[str, Any]
) -> dict[str, list[Any]]:
    """Find recorded settings that the published processor does not have: [recorded, published]."""
    published = json.loads(json.dumps(processor.to_dict(), default=str))  # lists, no tuples
    return {
        key: [value, published[key]]
        for key, value in recorded.items()
        if key in published and key != "auto_map" and published[key] != value
    }


def main() -> None:
    """Answer one request."""
    disable_progress_bar()
    keep_freed_memory()
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)
    try:
        write_json(Path(sys.argv[1]), reevaluate(Request(**json.load(sys.stdin))))
    except KeyboardInterrupt:  # comes to both processes; the other one speaks
        sys.exit(130)


if __name__ == "__main__":
    main()
