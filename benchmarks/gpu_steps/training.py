"""Trains with train_accelerate.py, as a user would, and reads what the run wrote."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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
        last evaluation, where there is one.

    Raises:
        RuntimeError: if it fails; subprocess.TimeoutExpired if it takes too long.
    """
    command = [sys.executable, *LAUNCH, f"recipes/{recipe}.toml", f"run.output_dir={folder}"]
    start = time.monotonic()
    done = subprocess.run(
        [*command, *overrides], cwd=ROOT, capture_output=True, text=True, timeout=seconds
    )
    wall = time.monotonic() - start
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}: {done.stderr[-800:]}")
    lines = read_metrics(folder / recipe / "metrics.jsonl")
    results = json.loads((folder / recipe / "model" / "train_results.json").read_text())
    steady = [line for line in lines if "loss" in line][1:]
    evaluations = [line for line in lines if "eval_top1_accuracy" in line]
    found = {
        "recipe": recipe,
        "overrides": [each for each in overrides if not each.startswith("data.path=")],
        "seconds": round(wall, 1),
        "training_seconds": results["duration_seconds"],
        "final_train_loss": results["final_train_loss"],
        "optimizer_steps": results["optimizer_steps"],
    }
    for key in ("images_per_second", "data_wait_fraction", "memory_gb"):
        if values := [line[key] for line in steady]:
            found[key] = round(statistics.median(values), 5)
    if evaluations:
        found["top1_accuracy"] = evaluations[-1]["eval_top1_accuracy"]
        found["evaluation_loss"] = evaluations[-1]["eval_loss"]
    return found
