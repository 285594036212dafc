"""Compute the numbers of a result again from its predictions file, without model and images."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from convzoo.evaluation.prediction_file import read_recorded_predictions
from convzoo.evaluation.prediction_table import PredictionTable
from convzoo.evaluation.results import EvalResult
from convzoo.evaluation.statistics import break_down, compute_metrics, unreadable_facts

ROUNDING = 1e-6  # of numbers that another version of numpy computes


class Derived(TypedDict):
    """What a predictions file says of its result.

    Attributes:
        file: the file, from the model folder on.
        num_rows: images in it.
        problem: why it cannot be used; "" if it can.
        wrong: parts of the result that do not follow from it.
        same_answers: for how many of the images that were measured again the model's first class
            is that of the file; absent where none was.
    """

    file: str
    num_rows: int
    problem: str
    wrong: list[str]
    same_answers: NotRequired[int]


def derive_again(folder: Path, result: EvalResult) -> tuple[Derived, PredictionTable | None] | None:
    """Compute a result again from its predictions.

    Args:
        folder: the model folder.
        result: an entry of its `eval_results.json`.

    Returns:
        What was found, and the predictions if they can be used; None where there are none, as in
        models that were pushed without them.
    """
    record = result.get("predictions")
    if record is None or not (folder / record["file"]).is_file():
        return None
    found = Derived(file=record["file"], num_rows=record["num_rows"], problem="", wrong=[])
    try:
        table = read_recorded_predictions(folder, record, logits=False)
    except (OSError, ValueError) as error:
        return {**found, "problem": str(error)}, None
    found["wrong"] = list(contradictions(result, table))
    return found, table


def contradictions(result: EvalResult, table: PredictionTable) -> Iterator[str]:
    """Name the parts of a result that do not follow from predictions."""
    facts = table.facts
    if table.fingerprint() != result["dataset"]["fingerprint"]:
        yield "dataset.fingerprint"
    if len(table) != result["dataset"]["num_samples"]:
        yield "dataset.num_samples"
    if facts.model.get("sha256") != result["model"]["sha256"]:
        yield "model.sha256"
    if facts.protocol != result["protocol"]:
        yield "protocol"
    computed: dict[str, Any] = {
        "metrics": compute_metrics(table),
        **break_down(table),
        "unreadable": unreadable_facts(table),
    }
    recorded: dict[str, Any] = {**result}
    for part, value in computed.items():
        if part in recorded or (value and part == "unreadable"):
            yield from _apart(part, recorded.get(part), value)


def _apart(name: str, recorded: Any, computed: Any) -> Iterator[str]:
    """Dotted names of what differs."""
    if isinstance(recorded, dict) and isinstance(computed, dict):
        for key in (each for each in recorded if each in computed):
            yield from _apart(f"{name}.{key}", recorded[key], computed[key])
    elif isinstance(recorded, list) and isinstance(computed, list):
        if len(recorded) != len(computed):
            yield name
            return
        for number, (one, other) in enumerate(zip(recorded, computed, strict=True)):
            yield from _apart(f"{name}[{number}]", one, other)
    elif isinstance(recorded, float | int) and isinstance(computed, float | int):
        if not math.isclose(recorded, computed, rel_tol=ROUNDING, abs_tol=ROUNDING):
            yield name
    elif recorded != computed:
        yield name
