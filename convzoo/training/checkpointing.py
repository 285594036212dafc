"""Write model folders and checkpoints that are either whole or not there, and find the newest.

A checkpoint is a complete, loadable model folder plus `training_state.pt`. Everything is written
to a folder aside, synced to disk, listed with its sha256 in `manifest.json`, and only then
renamed, so a crash at any moment leaves the older checkpoints as they were. A checkpoint that
does not agree with its manifest is skipped, and said so.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

import modeling
from convzoo.files import MANIFEST, file_sha256, read_json, remove_folder, write_folder

logger = logging.getLogger(__name__)
STATE = "training_state.pt"


def save_model(
    folder: Path,
    model: PreTrainedModel,
    *,
    processor: "modeling.ConvZooImageProcessor",
    recipe_toml: str,
) -> None:
    """Write what every model folder has: weights, configuration, code, processor, recipe."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "recipe.toml").write_text(recipe_toml, encoding="utf-8")


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    fill: Callable[[Path], object],
    state: dict[str, Any],
    keep: int,
    keep_step: int | None = None,
) -> Path:
    """Write `folder/step_<step>` and delete all but the `keep` newest up to it.

    Checkpoints of later steps are deleted, too: they are from a run that was not continued.

    Args:
        folder: the run's checkpoints.
        step: optimizer steps that were done.
        fill: called with a folder to write the model into.
        state: tensors and plain values for `load_state`.
        keep: how many checkpoints stay.
        keep_step: a step whose checkpoint stays in any case.

    Returns:
        The new checkpoint.
    """

    def fill_all(aside: Path) -> None:
        fill(aside)
        torch.save(state | {"step": step}, aside / STATE)

    checkpoint = _path(folder, step)
    write_folder(checkpoint, fill_all, manifest=True)
    up_to_this = [path for path in _checkpoints(folder) if path.name <= checkpoint.name]
    kept = {*up_to_this[-keep:], *([_path(folder, keep_step)] if keep_step else [])}
    for path in set(_checkpoints(folder)) - kept:
        remove_folder(path)
    return checkpoint


def recover(folder: Path) -> None:
    """Put a checkpoint back whose replacement was cut off; remove what is half a folder.

    To be called by one process, before any looks for the latest checkpoint.
    """
    for old in folder.glob(".step_*.old"):
        checkpoint = folder / old.name[1:].removesuffix(".old")
        if checkpoint.exists():
            shutil.rmtree(old)
        else:
            old.rename(checkpoint)
    for aside in (*folder.glob(".step_*.partial"), *folder.glob(".step_*.removed")):
        shutil.rmtree(aside)


def latest_checkpoint(folder: Path) -> Path | None:
    """Find the newest checkpoint that agrees with its manifest, or None if there is none at all.

    Raises:
        OSError: if a file of a checkpoint is there and cannot be read.
        ValueError: if there are checkpoints, and none agrees with its manifest.
    """
    problems = []
    for checkpoint in reversed(_checkpoints(folder)):
        problem = _problem(checkpoint)
        if not problem:
            return checkpoint
        logger.warning("checkpoint %s is skipped: %s", checkpoint, problem)
        problems.append(f"{checkpoint.name}: {problem}")
    if problems:
        raise ValueError(
            f"a checkpoint in {folder} must be whole; got {'; '.join(problems)}. Restore one, or "
            f"delete {folder.parent} to start over"
        )
    return None


def has_checkpoint(folder: Path, best: dict[str, Any]) -> bool:
    """Tell whether the checkpoint of an evaluation, {"step": ..., ...} or {}, is there."""
    return bool(best) and _path(folder, best["step"]).is_dir()


def whole_checkpoint(folder: Path, step: int) -> Path:
    """Find the checkpoint of a step.

    Raises:
        ValueError: if it is not there, or does not agree with its manifest.
    """
    checkpoint = _path(folder, step)
    if problem := _problem(checkpoint):
        raise ValueError(
            f"the checkpoint of the best evaluation, {checkpoint}, must be whole; {problem}. "
            f"Restore it, or set run.publish=last"
        )
    return checkpoint


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Load the `state` of `save_checkpoint`, with `step`."""
    content: dict[str, Any] = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    return content


def _path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}"


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_" + "[0-9]" * 8))


def _problem(checkpoint: Path) -> str | None:
    try:
        hashes = read_json(checkpoint / MANIFEST)
        if not isinstance(hashes, dict):
            return f"{MANIFEST} is no table of hashes"
        for name, sha256 in hashes.items():
            if file_sha256(checkpoint / name) != sha256:
                return f"{name} was changed or cut off after it was written"
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return None
