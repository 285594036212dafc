"""Read eval_results.json, and refuse results whose parts contradict each other."""

import math
from collections.abc import Iterator
from pathlib import Path

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
REMEDY = "Evaluate the model again."
# Wilson's formula in floating point ends at 0.9999999999999999 where all images are hits.
ROUNDING = 1e-9


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
        _check(result, f"results[{number}] in {path}")
    return tuple(results)


def _check(result: Record, where: str) -> None:
    for dotted, kind in NEEDED.items():
        require(result, dotted, kind, where=where, remedy=REMEDY)
    if result["dataset"]["num_samples"] < 1:
        raise ValueError(f"dataset.num_samples of {where} must be at least 1")
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
    for name, (low, high) in (result.get("intervals_95") or {}).items():
        inside = low - ROUNDING <= metrics[name] <= high + ROUNDING
        if not (inside and low >= -ROUNDING and high <= 1 + ROUNDING):
            yield f"intervals_95.{name}"
    found = result.get("calibration") or {}
    for name in ("expected_calibration_error", "mean_confidence") if found else ():
        if not 0 <= found[name] <= 1:
            yield name
    hits = round(metrics["top1_accuracy"] * images)
    bins = found["bins"] if found else None
    counted = {"classes": result.get("classes"), "calibration.bins": bins}
    for name, parts in counted.items():
        if parts:
            sums = [sum(part[key] for part in parts) for key in ("num_samples", "num_correct")]
            if sums != [images, hits] or not all(part["num_samples"] > 0 for part in parts):
                yield name
    yield from _contradictions_of_classes(result, images)


def _contradictions_of_classes(result: Record, images: int) -> Iterator[str]:
    for row in result.get("classes") or ():
        accuracy = row["num_correct"] / row["num_samples"]
        if not (row["name"] and math.isclose(row["top1_accuracy"], accuracy, abs_tol=1e-6)):
            yield "classes"
    for pair in result.get("confusions") or ():
        named = pair["name"] and pair["predicted"]
        if not (named and 0 < pair["share"] <= 1 and 0 < pair["count"] <= images):
            yield "confusions"
