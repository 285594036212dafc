"""Trains with train_accelerate.py, as a user would, and reads what the run wrote."""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from convzoo.training.metrics_log import read_metrics

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = (
    *("-m", "accelerate.commands.launch", "-q", "--num_processes", "1", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "train_accelerate.py"),
)


def train(recipe: str, overrides: list[str], folder: Path, *, seconds: float) -> dict[str, Any]:
    """Train a recipe of recipes/ into a folder.

    Args:
        recipe: name of the file, without .toml.
        overrides: section.key=value.
        folder: gets the run, named after the recipe.
        seconds: after which it is killed.

    Returns:
        Wall time of the whole command, and from the lines of metrics.jsonl after the first one
        (compilation, start of the workers) images per second and share of waiting for data; the
        last evaluation, where there is one. A run that was killed has `out_of_time` and what it
        wrote until then.

    Raises:
        RuntimeError: if it fails.
    """
    command = [sys.executable, *LAUNCH, f"recipes/{recipe}.toml", f"run.output_dir={folder}"]
    start = time.monotonic()
    found: dict[str, Any] = {
        "recipe": recipe,
        "overrides": [each for each in overrides if not each.startswith("data.path=")],
    }
    status, said = run_for([*command, *overrides], seconds)
    found["seconds"] = round(time.monotonic() - start, 1)
    if status:
        raise RuntimeError(f"status {status}: {said[-800:]}")
    results = folder / recipe / "model" / "train_results.json"
    if status is None:
        found["out_of_time"] = True
    else:
        content = json.loads(results.read_text())
        found["training_seconds"] = content["duration_seconds"]
        found |= {key: content[key] for key in ("final_train_loss", "optimizer_steps")}
    metrics = folder / recipe / "metrics.jsonl"
    return found | rates(read_metrics(metrics) if metrics.is_file() else [])


def run_for(command: list[str], seconds: float) -> tuple[int | None, str]:
    """Run a command; returns its status, None if its time was over, and what it wrote last.

    Then it is killed with all that it started: a launcher alone would leave its processes. It
    stays in the group of this step, which is killed by benchmarks/gpu.py.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        try:
            status: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
            process.wait()
        output.seek(0)
        return status, output.read()


def rates(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the lines of a run's metrics."""
    found = {}
    steady = [line for line in lines if "loss" in line][1:]
    evaluations = [line for line in lines if "eval_top1_accuracy" in line]
    for key in ("images_per_second", "data_wait_fraction", "memory_gb"):
        if values := [line[key] for line in steady]:
            found[key] = round(statistics.median(values), 5)
    if evaluations:
        found["top1_accuracy"] = evaluations[-1]["eval_top1_accuracy"]
        found["evaluation_loss"] = evaluations[-1]["eval_loss"]
    return found
