"""Read what training runs have come to, from their folders, without loading a model."""

import json
import statistics
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convzoo.files import is_locked, read_json
from convzoo.training.metrics_log import read_metrics

DEPTH = 3  # folders between the given one and a run, such as those of sweeps
# Settings that name a run: they differ and say nothing.
NAMES = {"run.name", "run.output_dir"}


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What is known of a run; None for what its files do not say.

    Attributes:
        folder: of the run.
        name: path of the folder below the one that was given.
        state: finished, running, stopped, diverged, not begun or damaged.
        note: what a reader should know besides, or "".
        top1_accuracy: of the last evaluation, as a fraction.
        best_top1_accuracy: of the best evaluation.
        best_epoch: epochs that were done then.
        eval_loss: of the last evaluation.
        train_loss: last line of the log.
        epochs: that are done.
        planned_epochs: of the recipe.
        images_per_second: while training.
        seconds: of training.
        settings: values of the recipe by section.key.
    """

    folder: Path
    name: str
    state: str
    note: str = ""
    top1_accuracy: float | None = None
    best_top1_accuracy: float | None = None
    best_epoch: float | None = None
    eval_loss: float | None = None
    train_loss: float | None = None
    epochs: float | None = None
    planned_epochs: float | None = None
    images_per_second: float | None = None
    seconds: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def find_runs(folders: Iterable[str | Path]) -> tuple[list[RunFacts], list[str]]:
    """Read all runs in folders: a folder is a run, or has runs below it.

    Args:
        folders: at least one.

    Returns:
        The runs by path, and the paths of folders that neither are runs nor have any.

    Raises:
        ValueError: if a folder does not exist.
    """
    runs, foreign = [], []
    for given in map(Path, folders):
        if not given.is_dir():
            raise ValueError(f"runs are in a folder; {given} is none. Give another one")
        if is_run(given):
            runs.append(read_run(given, given.name or str(given)))
            continue
        found, others = _below(given, DEPTH)
        runs += [read_run(path, path.relative_to(given).as_posix()) for path in found]
        foreign += list(map(str, others or ([] if found else [given])))
    return runs, foreign


def is_run(folder: Path) -> bool:
    """Tell whether a training wrote into a folder; a model folder holds a recipe, too."""
    traces = ("recipe.toml", "metrics.jsonl", "checkpoints", "model")
    return not (folder / "config.json").exists() and any((folder / n).exists() for n in traces)


def _below(folder: Path, depth: int) -> tuple[list[Path], list[Path]]:
    """Runs below a folder, and the folders in it that have none."""
    runs, foreign = [], []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        if is_run(path):
            runs.append(path)
            continue
        found = _below(path, depth - 1)[0] if depth > 1 else []
        runs += found
        foreign += [] if found or path.name in ("recipes", "logs") else [path]
    return runs, foreign


def is_finished(folder: Path) -> bool:
    """Tell whether the training of a run came to its end."""
    return (folder / "model" / "train_results.json").is_file()


def read_run(folder: Path, name: str) -> RunFacts:
    """Read one run; what is damaged is told in its note."""
    notes: list[str] = []
    settings = _read_settings(folder / "recipe.toml", notes)
    results = _read_results(folder / "model" / "train_results.json", notes)
    lines = read_metrics(folder / "metrics.jsonl")
    trained = [line for line in lines if "loss" in line]
    evaluated = [line for line in lines if line.get("eval_top1_accuracy") is not None]
    best = max(evaluated, key=lambda line: line["eval_top1_accuracy"], default={})
    last = evaluated[-1] if evaluated else {}
    speeds = [line["images_per_second"] for line in trained if line.get("images_per_second")]
    state = _state(folder, lines, notes)
    if results.get("stopped_early"):
        notes.append("ended early")
    return RunFacts(
        folder=folder,
        name=name,
        state=state,
        note="; ".join(notes),
        top1_accuracy=last.get("eval_top1_accuracy"),
        best_top1_accuracy=best.get("eval_top1_accuracy"),
        best_epoch=best.get("epoch"),
        eval_loss=last.get("eval_loss"),
        train_loss=trained[-1]["loss"] if trained else None,
        epochs=lines[-1].get("epoch") if lines else None,
        planned_epochs=settings.get("train.epochs"),
        images_per_second=results.get("images_per_second")
        or (statistics.median(speeds) if speeds else None),
        seconds=lines[-1].get("elapsed_seconds") if lines else None,
        settings=settings,
    )


def differing_settings(runs: Iterable[RunFacts]) -> list[str]:
    """Return the settings whose values are not the same in all runs, in the order of a recipe."""
    with_recipe = [run.settings for run in runs if run.settings]
    keys = dict.fromkeys(key for settings in with_recipe for key in settings)
    return [
        key
        for key in keys
        if key not in NAMES and len({json.dumps(each.get(key)) for each in with_recipe}) > 1
    ]


def _state(folder: Path, lines: list[dict[str, Any]], notes: list[str]) -> str:
    if is_finished(folder):
        return "damaged" if notes else "finished"
    if is_locked(folder):
        return "running"
    if notes:
        return "damaged"
    try:
        nonfinite = read_json(folder / "nonfinite_batch.json")["step"]
    except (OSError, ValueError, LookupError, TypeError):
        nonfinite = None
    if isinstance(nonfinite, int) and nonfinite >= (lines[-1]["step"] if lines else 0):
        notes.append(f"the loss was not finite in step {nonfinite}")
        return "diverged"
    began = lines or any((folder / "checkpoints").glob("step_*"))
    return "stopped" if began else "not begun"


def _read_settings(path: Path, notes: list[str]) -> dict[str, Any]:
    """Read the values of a resolved recipe, as they stand: older ones may have other keys."""
    if not path.is_file():
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return {
            f"{section}.{key}": value
            for section, table in tables.items()
            for key, value in table.items()
        }
    except (ValueError, AttributeError, OSError) as error:  # TOML and Unicode errors are the first
        notes.append(f"recipe.toml cannot be read: {error}")
        return {}


def _read_results(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        results = read_json(path)
    except (ValueError, OSError) as error:
        notes.append(f"model/train_results.json cannot be read: {error}")
        return {}
    return results if isinstance(results, dict) else {}
