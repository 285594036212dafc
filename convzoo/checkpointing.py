"""Model folders and checkpoints that are either whole or not there.

A checkpoint is a complete, loadable model folder plus `training_state.pt`. Everything is written
to a folder aside, synced to disk, listed with its sha256 in `manifest.json`, and only then
renamed, so a crash at any moment leaves the older checkpoints as they were. A checkpoint that
does not agree with its manifest is skipped, and said so.
"""

import json
import logging
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from convzoo.environment import file_sha256

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "training_state.pt"


def write_folder(folder: Path, fill, manifest: bool = False) -> None:
    """Create or replace `folder` in one step.

    Args:
        folder: where the result will be.
        fill: called with the path of an empty folder aside, which it fills.
        manifest: also write a manifest of sizes and hashes.

    Raises:
        OSError: if the disk is full or not writable; `folder` is then as it was before.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        fill(aside)
        if manifest:
            files = sorted(path for path in aside.rglob("*") if path.is_file())
            hashes = {str(path.relative_to(aside)): file_sha256(path) for path in files}
            (aside / MANIFEST).write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")
        for path in [*aside.rglob("*"), aside]:
            _sync(path)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise OSError(f"{folder} could not be written, nothing there changed; {error}") from error


def save_model(folder: Path, model: PreTrainedModel, processor, recipe_toml: str) -> None:
    """Write what every model folder has: weights, configuration, code, processor, recipe."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "recipe.toml").write_text(recipe_toml, encoding="utf-8")


def save_checkpoint(folder: Path, step: int, keep: int, fill, state: dict) -> Path:
    """Write `folder/step_<step>` and delete all but the `keep` newest checkpoints.

    Args:
        folder: the run's checkpoints.
        step: optimizer steps that were done.
        keep: how many checkpoints stay.
        fill: called with a folder to write the model into.
        state: tensors and plain values for `load_checkpoint`.

    Returns:
        The new checkpoint.
    """

    def fill_all(aside):
        fill(aside)
        torch.save(state | {"step": step}, aside / STATE)

    checkpoint = folder / f"step_{step:08d}"
    write_folder(checkpoint, fill_all, manifest=True)
    for old in _checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return checkpoint


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that agrees with its manifest, or None."""
    for checkpoint in reversed(_checkpoints(folder)):
        problem = _problem(checkpoint)
        if not problem:
            return checkpoint
        logger.warning("checkpoint %s is skipped: %s", checkpoint, problem)
    return None


def load_state(checkpoint: Path) -> dict:
    """The `state` of `save_checkpoint`, with `step`."""
    return torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)


def _checkpoints(folder):
    return sorted(folder.glob("step_" + "[0-9]" * 8))


def _problem(checkpoint):
    try:
        hashes = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        for name, sha256 in hashes.items():
            if file_sha256(checkpoint / name) != sha256:
                return f"{name} was changed or cut off after it was written"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
