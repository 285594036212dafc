"""The file `eval_results.json` of a model folder: its schema, and how it is read and written.

It has one entry per dataset, split and protocol. Whatever convzoo reads of an entry or writes into
one is named here. Cards have a reader of their own, because hub_cards imports nothing of convzoo;
tests/test_results.py holds the two together. Entries are checked when they are read and when they
are written; keys that are not named here stay as they are.
"""

import json
import logging
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, cast

from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from convzoo.files import SCHEMA_VERSION, read_json, write_text
from convzoo.layers import NetworkFacts

if TYPE_CHECKING:
    from pydantic import TypeAdapter

logger = logging.getLogger(__name__)
FILE = "eval_results.json"
LINE = 110  # columns: a class or a bin fits
MOST_WITHOUT_TOP5 = 5  # classes of a model whose top-5 accuracy is 1 whatever it has learnt

NETWORK_FILES = (".onnx", ".pt2")  # of networks that are a file
MOST_LISTED = 100  # images that could not be read; the predictions file has all of them
PREDICTIONS_FILE = re.compile(r"predictions/[^/\\]+\.parquet")

Interpolation = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
MatchBy = Literal["name", "number"]


class SubsetFacts(TypedDict):
    """How the images were chosen, where they are not the whole split.

    Attributes:
        of: images of the whole split.
        taken: what `repeat_choices` of convzoo/data/validation_share.py takes, an entry for each
            choice.
    """

    of: int
    taken: list[dict[str, Any]]


class ClassMatching(TypedDict):
    """How labels of the data became class numbers of the model.

    Attributes:
        by: "name", "number" where the names were not compared, or "file".
        num_model_classes: among how many the model chose.
        num_data_classes: how many of them the data has.
        restricted: True where it chose among those of the data only, else absent.
        file: name of the file that says which classes are the same.
        sha256: of that file.
        map: class of the data -> classes of the model, whose probabilities are added up, by name;
            by number where several of them have this name.
    """

    by: Literal["name", "number", "file"]
    num_model_classes: int
    num_data_classes: int
    restricted: NotRequired[bool]
    file: NotRequired[str]
    sha256: NotRequired[str]
    map: NotRequired[dict[str, list[str | int]]]


class DatasetFacts(TypedDict):
    """The images: where they come from, which they are, and a hash of their contents.

    Attributes:
        class_matching: absent where data and model name the same classes in the same order.
    """

    path: NotRequired[str]
    id: NotRequired[str | None]
    name: str
    source_datasets: NotRequired[list[str]]
    config: NotRequired[str | None]
    split: str
    subset: NotRequired[SubsetFacts | None]
    revision: NotRequired[str | None]
    fingerprint: str
    num_samples: int
    class_matching: NotRequired[ClassMatching]


class CropFacts(TypedDict, total=False):
    """What was changed of the processor's crop on purpose; absent is as the model has it.

    Attributes:
        size: side of the square that the model saw, pixels.
        ratio: of that side to the shorter side of the resized image.
        interpolation: of the resizing.
    """

    size: int
    ratio: float
    interpolation: Interpolation


class ProtocolFacts(TypedDict):
    """How each image was shown to the model.

    Attributes:
        views: crops of an image; what is `averaged` over them is named where they are several.
        image_processor: settings of the processor, with what `crop` changed.
        crop: absent where nothing was changed.
        crops_of: what ten crops were cut from, where that is not the central square.
        flip: True where mirror images were views, too, and ten crops do not have them, else absent.
        scales: factors of the processor's `size`, where they are not 1.
        dtype: of the computation, where it is not float32.
        channels_last, compiled: True where the model computed so, else absent.
        exif_rotation: True where images were turned as their EXIF data says, else absent.
        fused: True where batch norms were folded, so that logits differ by rounding, else absent.
        fast_decoding: True where images were decoded and resized as training does, else absent.
    """

    views: int
    image_processor: dict[str, Any]
    averaged: NotRequired[str]
    crop: NotRequired[CropFacts]
    crops_of: NotRequired[Literal["image"]]
    flip: NotRequired[bool]
    scales: NotRequired[list[float]]
    dtype: NotRequired[Literal["bfloat16", "float16"]]
    channels_last: NotRequired[bool]
    compiled: NotRequired[bool]
    exif_rotation: NotRequired[bool]
    fused: NotRequired[bool]
    fast_decoding: NotRequired[bool]


class Metrics(TypedDict):
    """Fractions in [0, 1], and the mean cross entropy.

    Attributes:
        top5_accuracy: None for a model of at most MOST_WITHOUT_TOP5 classes.
    """

    top1_accuracy: float
    top5_accuracy: NotRequired[float | None]
    loss: NotRequired[float]


class CalibrationBin(TypedDict):
    """The images whose top-1 probability lies in (low, high]."""

    low: float
    high: float
    num_samples: int
    num_correct: int
    mean_confidence: float


class FittingData(TypedDict):
    """The images that a temperature was fitted on.

    Attributes:
        folds: present where they are those of the result: each was measured with a temperature that
            was fitted without it and the rest of its part, one of so many.
    """

    split: str
    fingerprint: str
    num_samples: int
    folds: NotRequired[int]


class Temperature(TypedDict):
    """What logits are divided by for calibrated confidences: Guo et al., arXiv:1706.04599.

    Attributes:
        value: above 0; more than 1 makes a model less confident.
        fitted_on: the images that it was fitted on; none of them is an image of the result, unless
            they have `folds`.
        nll_before: mean cross entropy of the result's images as the model is, in nats.
        nll_after: the same with this temperature.
        ece_before, ece_after: their expected calibration error.
    """

    value: float
    fitted_on: FittingData
    nll_before: float
    nll_after: float
    ece_before: NotRequired[float]
    ece_after: NotRequired[float]


class Calibration(TypedDict):
    """How far probabilities can be read as chances of being right.

    Attributes:
        temperature: absent until one was fitted; readers apply none then.
    """

    expected_calibration_error: float
    mean_confidence: float
    definition: str
    bins: list[CalibrationBin]
    temperature: NotRequired[Temperature]


# "class" is a key of the file and a keyword of Python: hence the other notation.
ClassAccuracy = TypedDict(
    "ClassAccuracy",
    {"class": int, "name": str, "num_samples": int, "num_correct": int, "top1_accuracy": float},
)


class Confusion(TypedDict):
    """The images of class `name` that were taken for `predicted`; `share` is that of the class."""

    name: str
    predicted: str
    count: int
    share: float


class Breakdown(TypedDict):
    """The metrics in detail, see `convzoo.evaluation.statistics`."""

    intervals_95: dict[str, list[float]]
    calibration: Calibration
    classes: list[ClassAccuracy]
    confusions: list[Confusion]


class ModelFacts(NetworkFacts):
    """The weights that were measured, and the network as the published preprocessing uses it.

    Attributes:
        file: that holds the weights.
        num_parameters: of an exported network see `convzoo.evaluation.exported_costs.Costs`.
        name: Hub id of a model on the Hub.
        commit: of that model.
        format: absent for models of Transformers and of this zoo.
        exported_from: SHA-256 of the weights that an exported network was made of.
    """

    file: NotRequired[str]
    sha256: str
    num_parameters: int
    name: NotRequired[str]
    commit: NotRequired[str]
    format: NotRequired[Literal["onnx", "torch-export", "timm"]]
    exported_from: NotRequired[str]


class PredictionsRecord(TypedDict):
    """The file with the predictions of every image, from which all numbers can be computed again.

    Attributes:
        file: path from the folder of the result on, `predictions/NAME.parquet`.
        sha256: hash of the file.
        num_rows: images.
        top_k: classes that are kept of each image.
        logits: whether the scores of all classes are, too.
    """

    file: str
    sha256: str
    num_rows: int
    top_k: int
    logits: bool


class UnreadableImage(TypedDict):
    """An image that could not be read: its row in the whole split, its name, and the reason."""

    row: int
    image: str
    error: str


class UnreadableFacts(TypedDict):
    """The images that could not be read; absent where there are none.

    Attributes:
        num_images: how many.
        counted_as: they are misses for accuracies and classes, and no part of loss and calibration.
        images: the first MOST_LISTED of them.
    """

    num_images: int
    counted_as: Literal["wrong"]
    images: list[UnreadableImage]


class RealLabelFacts(TypedDict):
    """Accuracy by several right classes of each image, see `convzoo.evaluation.real_labels`.

    Attributes:
        file: that has them.
        sha256: of that file.
        num_samples: images that have a right class there.
        num_correct: of these, whose first answer is one of them.
        top1_accuracy, interval_95: their share, and Wilson's interval of it.
    """

    file: str
    sha256: str
    num_samples: int
    num_correct: int
    top1_accuracy: float
    interval_95: list[float]


class EvalResult(TypedDict):
    """One entry of the file; what is not required may be absent in entries of other origin."""

    task: str
    dataset: DatasetFacts
    protocol: ProtocolFacts
    metrics: Metrics
    intervals_95: NotRequired[dict[str, list[float]]]
    calibration: NotRequired[Calibration]
    classes: NotRequired[list[ClassAccuracy]]
    confusions: NotRequired[list[Confusion]]
    real_labels: NotRequired[RealLabelFacts]
    unreadable: NotRequired[UnreadableFacts]
    predictions: NotRequired[PredictionsRecord]
    model: ModelFacts
    command: NotRequired[str]
    date: NotRequired[str]
    duration_seconds: NotRequired[float]
    images_per_second: NotRequired[float]
    environment: NotRequired[dict[str, Any]]


def check_result(result: object, where: str) -> EvalResult:
    """Check that an entry has the parts that it must have, all of the right type.

    Args:
        result: what the file holds, or is to hold.
        where: what messages call it.

    Returns:
        The entry itself.

    Raises:
        ValueError: if a part is missing or of another type.
    """
    from pydantic import ValidationError

    try:
        _adapter().validate_python(result, strict=True)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ValueError(
            f"{where} must be as `convzoo evaluate` writes it; "
            f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
        ) from error
    checked = cast(EvalResult, result)
    if "predictions" in checked and not PREDICTIONS_FILE.fullmatch(checked["predictions"]["file"]):
        raise ValueError(
            f"predictions.file of {where} must be predictions/NAME.parquet; got "
            f"{checked['predictions']['file']!r}"
        )
    return checked


@cache
def _adapter() -> "TypeAdapter[EvalResult]":
    from pydantic import TypeAdapter

    return TypeAdapter(EvalResult)


def results_folder(name: str) -> Path | None:
    """Return the folder that keeps the results of a model; None for a model on the Hub.

    A network in a file has the folder of the file to itself where export.json there describes it;
    any other one has FILE.results beside it, so that it drops nobody's results.

    Args:
        name: a model folder, a file of a network, or a Hub id.
    """
    path = Path(name)
    if path.is_dir():
        return path
    if not path.is_file() or path.suffix not in NETWORK_FILES:
        return None
    try:
        described = read_json(path.parent / "export.json")["file"]
    except (OSError, ValueError, KeyError, TypeError):
        described = None
    return path.parent if described == path.name else path.with_name(f"{path.name}.results")


def read_results(model_folder: Path) -> list[EvalResult]:
    """Read the results of a model folder; [] where it has none.

    Raises:
        ValueError: if the file is not as `record_result` writes it.
    """
    path = model_folder / FILE
    if not path.is_file():
        return []
    remedy = "Move the file away, and evaluate again"
    try:
        content = read_json(path)
        version, results = content.get("schema_version", SCHEMA_VERSION), list(content["results"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must be as `convzoo evaluate` writes it; {error!r}. {remedy}"
        ) from error
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"schema_version of {path} must be {SCHEMA_VERSION}; got {version!r}. {remedy}"
        )
    try:
        return [check_result(each, f"results[{n}] of {path}") for n, each in enumerate(results)]
    except ValueError as error:
        raise ValueError(f"{error}. {remedy}") from error


def read_written_result(path: Path) -> EvalResult:
    """Read a result that `convzoo evaluate --output` wrote, as of a model on the Hub.

    Raises:
        ValueError: if the file is something else, or has the results of several sizes.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} must be JSON; {error}") from error
    if isinstance(content, list) and len(content) == 1:
        (content,) = content
    if isinstance(content, list):
        raise ValueError(
            f"{path} must have one result; it has {len(content)}, of several sizes. Evaluate one"
        )
    return check_result(content, str(path))


def record_result(model_folder: Path, result: EvalResult) -> None:
    """Put a result into the file of a model folder, replacing one of the same data and protocol.

    Results of other weights than those of the new one are dropped: they would not be true any more.
    Predictions files of what is replaced or dropped are removed. Accuracy by reassessed labels that
    only the old result has is kept where all answers are the same.

    Raises:
        OSError: if the file cannot be written.
        ValueError: as `read_results`, or if the result itself lacks something.
    """
    check_result(result, "the result")
    before = read_results(model_folder)
    asked = what_was_measured(result["dataset"], result["protocol"])
    kept = []
    for old in before:
        if old["model"]["sha256"] != result["model"]["sha256"]:
            continue
        if what_was_measured(old["dataset"], old["protocol"]) != asked:
            kept.append(old)
        else:
            result = _with_real_labels(result, old)
    content = {"schema_version": SCHEMA_VERSION, "results": [*kept, result]}
    model_folder.mkdir(exist_ok=True)  # FILE.results
    write_text(model_folder / FILE, readable_json(content) + "\n")
    for file in _predictions_files(before) - _predictions_files([*kept, result]):
        (model_folder / file).unlink(missing_ok=True)


def _with_real_labels(result: EvalResult, old: EvalResult) -> EvalResult:
    """A result with the accuracy by reassessed labels of the one that it replaces."""
    if "real_labels" not in old or "real_labels" in result:
        return result
    counted = ("metrics", "classes", "confusions", "unreadable")  # the loss tells single answers
    if "loss" in old["metrics"] and all(old.get(key) == result.get(key) for key in counted):
        return {**result, "real_labels": old["real_labels"]}
    logger.warning(
        "the accuracy by reassessed labels of %s [%s], %.2f%%, is dropped: it was measured with "
        "other predictions. Evaluate with --real-labels again",
        old["dataset"]["name"],
        old["dataset"]["split"],
        100 * old["real_labels"]["top1_accuracy"],
    )
    return result


def _predictions_files(results: Sequence[EvalResult]) -> set[str]:
    return {each["predictions"]["file"] for each in results if "predictions" in each}


def is_plain(protocol: ProtocolFacts) -> bool:
    """Tell whether logits are those of everyday use: one view, the model's own crop, float32."""
    changed = ("crop", "crops_of", "flip", "scales", "dtype")
    return protocol["views"] == 1 and not any(protocol.get(key) for key in changed)


def is_validation_share(dataset: DatasetFacts) -> bool:
    """Tell whether images are those that the training of a model left out for validation."""
    subset = dataset.get("subset")
    return any(step.get("part") == "validation" for step in (subset["taken"] if subset else ()))


def is_chosen_among(dataset: DatasetFacts) -> bool:
    """Tell whether the model chose among other classes than its own: some, or sums of some."""
    matching = dataset.get("class_matching", {})
    return bool(matching.get("restricted")) or "map" in matching


def readable_json(value: object, indent: int = 0) -> str:
    """Return JSON with a list or table on one line where it fits there; a class is a line, not six.

    Args:
        value: what `json.dumps` takes.
        indent: columns before the text.
    """
    text = json.dumps(value)
    if not isinstance(value, dict | list) or indent + len(text) < LINE:
        return text
    deeper = indent + 2
    if isinstance(value, dict):
        opening, closing = "{}"
        parts = [f"{json.dumps(key)}: {readable_json(value[key], deeper)}" for key in value]
    else:
        opening, closing = "[]"
        parts = [readable_json(item, deeper) for item in value]
    inside = ",\n".join(" " * deeper + part for part in parts)
    return f"{opening}\n{inside}\n{' ' * indent}{closing}"


def what_was_measured(
    dataset: DatasetFacts, protocol: ProtocolFacts
) -> tuple[str, str, ProtocolFacts, bool, object]:
    """What two results of a model must have in common for one to replace the other."""
    matching: dict[str, Any] = {**dataset.get("class_matching", {})}
    chosen = matching.get("restricted", False), matching.get("map")
    return dataset["fingerprint"], dataset["split"], protocol, *chosen
