"""Write and read the metrics log of a run: one JSON object a line."""

import json
import math
from pathlib import Path
from typing import Any

from convzoo.files import write_text


class MetricsLog:
    """Append-only JSON lines.

    Args:
        path: the file; lines after step `keep_until` are dropped first, so that a resumed run
            does not log a step twice.
        keep_until: last step whose lines stay.
        evaluates_again: whether the evaluation of that step comes again: a run that was killed
            between an evaluation and its checkpoint has logged it already.
        enabled: False on all processes but one.
    """

    def __init__(
        self, path: Path, keep_until: int, *, evaluates_again: bool = False, enabled: bool = True
    ):
        self.path = path
        self.enabled = enabled
        if enabled:
            kept = [line for line in read_metrics(path) if line["step"] <= keep_until]
            if evaluates_again:
                kept = [e for e in kept if e["step"] < keep_until or "eval_loss" not in e]
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, **values: Any) -> None:
        """Append one line; floats are rounded to 6 significant digits, null if not finite."""
        if not self.enabled:
            return
        try:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(_rounded(values)) + "\n")
        except OSError as error:
            raise OSError(f"{self.path} could not be written; {error}") from error


def set_evaluations_aside(path: Path) -> None:
    """Call the evaluations of a log "former": they are of other images than those to come."""
    lines = [
        {f"former_{key}" if key.startswith("eval_") else key: value for key, value in line.items()}
        for line in read_metrics(path)
    ]
    if any(key.startswith("former_") for line in lines for key in line):
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read all whole lines of a metrics log, [] if there is none.

    What is no object with the number of a step is left out: half a line of a killed run, or what a
    damaged disk or an editor made of one.
    """
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def memory_gb() -> float:
    """Measure memory, GB: the peak of this process's GPU tensors, or without GPU what it holds."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import psutil  # comes with accelerate

    return float(psutil.Process().memory_info().rss) / 1e9
