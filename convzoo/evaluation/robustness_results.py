"""The file `robustness_results.json` of a model folder: accuracies under corruptions.

Like eval_results.json it has an entry per dataset, split and protocol, checked when it is read and
when it is written. hub_cards has a reader of its own.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from convzoo.evaluation.results import (
    DatasetFacts,
    ModelFacts,
    ProtocolFacts,
    UnreadableFacts,
    readable_json,
    what_was_measured,
)
from convzoo.files import SCHEMA_VERSION, read_json, write_text

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FILE = "robustness_results.json"
DEFINITION = (
    "ImageNet-C, arXiv:1903.12261, computed on the crop and saved as JPEG of quality 85; the "
    "overlay of frost is noise, not the authors' photographs"
)
WITHOUT = ("frost",)  # of the mean corruption error: it is not the authors'

# Top-1 errors of AlexNet, means over the five severities, in percent. Source: Hendrycks and
# Dietterich, arXiv:1903.12261, whose corruption errors are divided by them.
ALEXNET_CLEAN_ERROR = 43.5
ALEXNET_ERRORS = {
    "gaussian_noise": 88.6,
    "shot_noise": 89.4,
    "impulse_noise": 92.3,
    "defocus_blur": 82.0,
    "glass_blur": 82.6,
    "motion_blur": 78.6,
    "zoom_blur": 79.8,
    "snow": 86.7,
    "frost": 82.7,
    "fog": 81.9,
    "brightness": 56.5,
    "contrast": 85.3,
    "elastic_transform": 64.6,
    "pixelate": 71.8,
    "jpeg_compression": 60.7,
}


class Hits(TypedDict):
    """Images that were classified rightly, and Wilson's 95 % interval of their share."""

    num_correct: int
    top1_accuracy: float
    interval_95: list[float]


class ConditionHits(Hits):
    """The same under one corruption; its severity is 1 to 5."""

    corruption: str
    severity: int


class CorruptionError(TypedDict):
    """A corruption as a whole: means over the five severities.

    Attributes:
        error: top-1 error, a fraction in [0, 1].
        ce: that error divided by AlexNet's; absent where the two cannot be compared.
        relative_ce: the same of what the corruption adds to the error of clean images.
    """

    corruption: str
    error: float
    ce: NotRequired[float]
    relative_ce: NotRequired[float]


class RobustnessSummary(TypedDict):
    """Means over corruptions with all five severities.

    Attributes:
        corruptions: these.
        mce: mean of their `ce`, 1 for AlexNet; only where all but those of `without` are there.
        relative_mce: mean of their `relative_ce`.
        without: corruptions that both means leave out, because they differ from the authors'.
    """

    corruptions: list[CorruptionError]
    mce: NotRequired[float]
    relative_mce: NotRequired[float]
    without: list[str]


class RobustnessResult(TypedDict):
    """One entry of the file.

    Attributes:
        definition: of the corruptions.
        complete: False while conditions that were asked for are missing.
        identity: hash of everything that the numbers depend on; an interrupted measurement goes on
            where it is the same.
    """

    task: Literal["corruption-robustness"]
    dataset: DatasetFacts
    protocol: ProtocolFacts
    definition: str
    complete: bool
    clean: Hits
    conditions: list[ConditionHits]
    summary: RobustnessSummary
    unreadable: NotRequired[UnreadableFacts]
    model: ModelFacts
    identity: str
    command: str
    date: str
    duration_seconds: float
    environment: dict[str, Any]


def summarize(
    clean: Hits, conditions: Sequence[ConditionHits], *, comparable: bool
) -> RobustnessSummary:
    """Average over severities and corruptions.

    Args:
        clean: of the images as they are.
        conditions: of any corruptions and severities; those that lack a severity are left out.
        comparable: whether AlexNet's errors are of the same classes and crops.
    """
    rows: list[CorruptionError] = []
    for name, published in ALEXNET_ERRORS.items():
        mine = {each["severity"]: each for each in conditions if each["corruption"] == name}
        if mine.keys() != {1, 2, 3, 4, 5}:
            continue
        error = sum(1 - each["top1_accuracy"] for each in mine.values()) / 5
        row: CorruptionError = {"corruption": name, "error": error}
        if comparable:
            added = error - (1 - clean["top1_accuracy"])
            row["ce"] = error / (published / 100)
            row["relative_ce"] = added / ((published - ALEXNET_CLEAN_ERROR) / 100)
        rows.append(row)
    summary: RobustnessSummary = {"corruptions": rows, "without": []}
    averaged = [row for row in rows if row["corruption"] not in WITHOUT]
    if comparable and len(averaged) == len(ALEXNET_ERRORS) - len(WITHOUT):
        summary["mce"] = sum(row["ce"] for row in averaged) / len(averaged)
        summary["relative_mce"] = sum(row["relative_ce"] for row in averaged) / len(averaged)
        summary["without"] = list(WITHOUT)
    return summary


def read_robustness(path: Path) -> list[RobustnessResult]:
    """Read a file of results; [] where there is none.

    Raises:
        ValueError: if the file is not as `record_robustness` writes it.
    """
    from pydantic import ValidationError

    if not path.is_file():
        return []
    try:
        content = read_json(path)
        if (version := content["schema_version"]) != SCHEMA_VERSION:
            raise ValueError(f"schema_version must be {SCHEMA_VERSION}; got {version!r}")
        results = _adapter().validate_python(content["results"], strict=True)
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        text = str(error)
        if isinstance(error, ValidationError):
            wrong = error.errors()[0]
            text = f"results.{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
        raise ValueError(
            f"{path} must be as `convzoo robustness` writes it; {text}. Move the file away, and "
            f"measure again"
        ) from error
    return results


def record_robustness(path: Path, result: RobustnessResult) -> None:
    """Put a result into a file, in the place of one of the same images and protocol.

    Results of other weights are dropped: they would not be true any more.

    Raises:
        OSError: if the file cannot be written.
        ValueError: as `read_robustness`.
    """
    _adapter().validate_python([result], strict=True)
    asked = what_was_measured(result["dataset"], result["protocol"])
    kept = [
        old
        for old in read_robustness(path)
        if old["model"]["sha256"] == result["model"]["sha256"]
        and what_was_measured(old["dataset"], old["protocol"]) != asked
    ]
    content = {"schema_version": SCHEMA_VERSION, "results": [*kept, result]}
    write_text(path, readable_json(content) + "\n")


def robustness_table(result: RobustnessResult) -> list[list[str]]:
    """The accuracy under each corruption and severity, and their means: rows of cells."""
    severities = sorted({each["severity"] for each in result["conditions"]})
    errors = {each["corruption"]: each.get("ce") for each in result["summary"]["corruptions"]}
    with_ce = any(error is not None for error in errors.values())
    clean = [f"{result['clean']['top1_accuracy']:.2%}"]
    header = ["corruption", *map(str, severities), "mean", *(["of AlexNet's error"] * with_ce)]
    rows = [header, ["as they are", *(clean * len(severities)), *clean, *(["-"] * with_ce)]]
    for name in dict.fromkeys(each["corruption"] for each in result["conditions"]):
        found = {
            each["severity"]: each["top1_accuracy"]
            for each in result["conditions"]
            if each["corruption"] == name
        }
        row = [f"{found[n]:.2%}" if n in found else "-" for n in severities]
        row.append(f"{sum(found.values()) / len(found):.2%}")
        if with_ce:
            error = errors.get(name)
            row.append("-" if error is None else f"{error:.1%}")
        rows.append([name.replace("_", " "), *row])
    return rows


@cache
def _adapter() -> "TypeAdapter[list[RobustnessResult]]":
    from pydantic import TypeAdapter

    return TypeAdapter(list[RobustnessResult])
