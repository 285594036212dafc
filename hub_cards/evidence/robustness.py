"""Read robustness_results.json, and refuse results whose parts contradict each other."""

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from hub_cards.evidence.eval_results import ROUNDING, wilson_interval
from hub_cards.evidence.reading import read_json, require
from hub_cards.files import Record

FILE = "robustness_results.json"
NEEDED = {
    "dataset.name": str,
    "dataset.split": str,
    "dataset.num_samples": int,
    "definition": str,
    "complete": bool,
    "clean.top1_accuracy": float,
    "clean.num_correct": int,
    "conditions": list,
    "summary.corruptions": list,
    "summary.without": list,
    "model.sha256": str,
    "model.num_parameters": int,
}
REMEDY = "Measure again with `convzoo robustness`."


def read_robustness_results(folder: Path) -> tuple[Record, ...]:
    """Read the results of a model folder that are complete; () where there are none.

    Raises:
        ValueError: if one lacks something, or its parts do not agree.
    """
    path = folder / FILE
    results = (read_json(folder, FILE) or {"results": []}).get("results")
    if not isinstance(results, list):
        raise ValueError(f"results in {path} must be a list. {REMEDY}")
    for number, result in enumerate(results):
        where = f"results[{number}] in {path}"
        for dotted, kind in NEEDED.items():
            require(result, dotted, kind, where=where, remedy=REMEDY)
        try:
            wrong = next(_contradictions(result), None)
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(f"{where} must be whole; {error!r}. {REMEDY}") from error
        if wrong:
            raise ValueError(f"{wrong} of {where} must agree with its other parts. {REMEDY}")
    return tuple(result for result in results if result["complete"] and result["conditions"])


def _contradictions(result: Record) -> Iterator[str]:
    """Parts that do not agree with the numbers of hits."""
    images, conditions = result["dataset"]["num_samples"], result["conditions"]
    for name, hits in (("clean", result["clean"]), *(("conditions", each) for each in conditions)):
        accuracy = hits["num_correct"] / images
        ends = zip(hits["interval_95"], wilson_interval(accuracy, images), strict=True)
        if not (
            0 <= accuracy <= 1
            and math.isclose(hits["top1_accuracy"], accuracy, abs_tol=1e-6)
            and all(abs(a - b) < ROUNDING for a, b in ends)
        ):
            yield name
    pairs = [(each["corruption"], each["severity"]) for each in conditions]
    if len({*pairs}) < len(pairs):
        yield "conditions"
    rows, without = result["summary"]["corruptions"], result["summary"]["without"]
    for row in rows:
        errors = [
            1 - c["top1_accuracy"] for c in conditions if c["corruption"] == row["corruption"]
        ]
        if len(errors) != 5 or not math.isclose(row["error"], mean(errors), abs_tol=1e-6):
            yield "summary.corruptions"
    for whole, part in (("mce", "ce"), ("relative_mce", "relative_ce")):
        if whole in result["summary"]:
            parts = [row[part] for row in rows if row["corruption"] not in without]
            if not math.isclose(result["summary"][whole], mean(parts), abs_tol=1e-6):
                yield f"summary.{whole}"
