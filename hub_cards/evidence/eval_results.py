"""Read eval_results.json, and refuse results whose parts contradict each other."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

from hub_cards.evidence.reading import read_json, require
from hub_cards.files import Record

NEEDED = {
    "task": str,
    "dataset.name": str,
    "dataset.split": str,
    "dataset.num_samples": int,
    "metrics.top1_accuracy": float,
    "model.sha256": str,
    "model.num_parameters": int,
}
PREDICTIONS_FILE = re.compile(r"predictions/[^/\\]+\.parquet")
REMEDY = "Evaluate the model again."
ROUNDING = 1e-4  # of an interval's ends; a card shows them with two decimals of a percent
Z_95 = NormalDist().inv_cdf(0.975)


def read_eval_results(folder: Path) -> tuple[Record, ...]:
    """Read the results of a model folder; () where there are none.

    Raises:
        ValueError: if one lacks something, or its parts do not agree.
    """
    path = folder / "eval_results.json"
    results = (read_json(folder, path.name) or {"results": []}).get("results")
    if not isinstance(results, list):
        raise ValueError(f"results in {path} must be a list")
    for number, result in enumerate(results):
        check_eval_result(result, f"results[{number}] in {path}")
    return tuple(results)


def check_eval_result(result: Record, where: str) -> None:
    """Check one result.

    Raises:
        ValueError: if it lacks something, or its parts do not agree.
    """
    for dotted, kind in NEEDED.items():
        require(result, dotted, kind, where=where, remedy=REMEDY)
    if result["dataset"]["num_samples"] < 1:
        raise ValueError(f"dataset.num_samples of {where} must be at least 1")
    file = (result.get("predictions") or {}).get("file", "predictions/none.parquet")
    if not (isinstance(file, str) and PREDICTIONS_FILE.fullmatch(file)):
        raise ValueError(
            f"predictions.file of {where} must be predictions/NAME.parquet; got {file!r}. {REMEDY}"
        )
    for name, value in result["metrics"].items():
        if name.endswith("_accuracy") and value is not None:
            require(result["metrics"], name, float, where=where, remedy=REMEDY)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} of {where} must be a fraction in [0, 1]; got {value}")
    try:
        wrong = next(_contradictions(result), None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"the breakdown of {where} must be as `convzoo evaluate` writes it; {error!r}. {REMEDY}"
        ) from error
    if wrong:
        raise ValueError(f"{wrong} of {where} must agree with its metrics. Evaluate it again.")


def _contradictions(result: Record) -> Iterator[str]:
    """Parts of a result that do not agree with its number of images and its accuracy."""
    metrics, images = result["metrics"], result["dataset"]["num_samples"]
    for name, interval in (result.get("intervals_95") or {}).items():
        ends = wilson_interval(metrics[name], images)
        # Not exactly: in floating point the upper end for 100 % may be 0.9999999999999999.
        if any(abs(a - b) > ROUNDING for a, b in zip(interval, ends, strict=True)):
            yield f"intervals_95.{name}"
    found = result.get("calibration") or {}
    for name in ("expected_calibration_error", "mean_confidence") if found else ():
        if not 0 <= found[name] <= 1:
            yield name
    hits = round(metrics["top1_accuracy"] * images)
    unreadable = result.get("unreadable") or {"num_images": 0, "images": []}
    if not len(unreadable["images"]) <= unreadable["num_images"] < images:
        yield "unreadable"
    bins = found["bins"] if found else None
    counted = {
        "classes": (result.get("classes"), images),
        "calibration.bins": (bins, images - unreadable["num_images"]),
    }
    for name, (parts, total) in counted.items():
        if parts:
            sums = [sum(part[key] for part in parts) for key in ("num_samples", "num_correct")]
            if sums != [total, hits] or not all(part["num_samples"] > 0 for part in parts):
                yield name
    yield from _contradictions_of_classes(result, images)


def _contradictions_of_classes(result: Record, images: int) -> Iterator[str]:
    for row in result.get("classes") or ():
        accuracy = row["num_correct"] / row["num_samples"]
        if not (row["name"] and math.isclose(row["top1_accuracy"], accuracy, abs_tol=1e-6)):
            yield "classes"
    rows = result.get("classes") or ()
    errors = {row["name"]: row["num_samples"] - row["num_correct"] for row in rows}
    sizes = {row["name"]: row["num_samples"] for row in rows}
    confused: Counter[str] = Counter()
    distinct = len(sizes) == len(rows) > 0  # each class has a name of its own
    for pair in result.get("confusions") or ():
        name, count, share = pair["name"], pair["count"], pair["share"]
        confused[name] += count
        possible = name and pair["predicted"] and 0 < share <= 1 and 0 < count <= images
        if possible and distinct:
            possible = confused[name] <= errors.get(name, 0) and math.isclose(
                share, count / sizes[name], abs_tol=1e-6
            )
        if not possible:
            yield "confusions"


def wilson_interval(fraction: float, num_samples: int) -> tuple[float, float]:
    """Give Wilson's 95 % interval of a proportion, which `convzoo evaluate` records.

    Args:
        fraction: measured proportion, in [0, 1].
        num_samples: independent samples behind it, at least 1.

    Returns:
        Lower and upper end, in [0, 1].

    Source: Wilson, Journal of the American Statistical Association 22 (1927).
    """
    spread = Z_95**2 / num_samples
    centre = (fraction + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (fraction * (1 - fraction) + spread / 4)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)
