"""Take a run folder for one training: lock it, mend it, refuse another recipe in it."""

import atexit
import logging
from contextlib import suppress
from pathlib import Path

from accelerate import Accelerator

from convzoo.files import lock_folder
from convzoo.recipe.files import load_recipe, recipe_differences
from convzoo.recipe.settings import Recipe
from convzoo.training import checkpointing
from convzoo.training.metrics_log import read_metrics

logger = logging.getLogger("train")


def claim_folder(recipe: Recipe, accelerator: Accelerator) -> bool:
    """Take the run folder for this training; returns False if there is a finished model in it.

    Raises:
        OSError: if the folder cannot be made.
        ValueError: if another process or another recipe has it, or it lies among the images.
    """
    folder = recipe.folder
    refuse_a_run_among_the_images(recipe)
    if accelerator.is_main_process:
        make_and_lock(folder)
        checkpointing.recover(folder / "checkpoints")
    accelerator.wait_for_everyone()  # what is in the folder stays as it is now
    check_run_folder(folder, recipe)
    if (folder / "model" / "train_results.json").is_file():
        logger.info("%s is finished; set run.name for another run, or delete it", folder)
        return False
    return True


def refuse_a_run_among_the_images(recipe: Recipe) -> None:
    """Raise ValueError if the run would be written into the folder of the images."""
    images, run = Path(recipe.data.path), recipe.folder.resolve()
    if images.is_dir() and run.is_relative_to(images.resolve()):
        raise ValueError(
            f"the folder of the run must not lie among the images of {images}: the next training "
            f"would take its files for images or classes; got {recipe.folder}. Give another "
            f"--output or run.output_dir, or another run.name. A run that was begun there goes on "
            f"when its folder is moved out and run.output_dir is the folder that it is moved to"
        )


def make_and_lock(folder: Path, patience_seconds: float = 15.0) -> int | None:
    """Make the run folder and lock it until this process ends; it is removed if it stays empty.

    A killed process lets go at once, its data workers a few seconds later: hence the patience.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"run.output_dir must be a folder that can be written; {folder} cannot be made "
            f"({error.strerror}). Set run.output_dir to another one"
        ) from error
    atexit.register(_remove_empty, created)
    refusal = ValueError(
        f"{folder} must be used by one training at a time; another process has it. Wait for it, or "
        f"stop it"
    )
    return lock_folder(folder, refusal, patience_seconds=patience_seconds)


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # one that is not empty
        for folder in folders:
            folder.rmdir()


def check_run_folder(folder: Path, recipe: Recipe) -> None:
    """Refuse to mix two recipes, or to start over, in one run folder."""
    began = [*folder.glob("model"), *sorted(folder.glob("checkpoints/step_*"), reverse=True)]
    if not (began or read_metrics(folder / "metrics.jsonl")):
        return  # nothing that another recipe could spoil
    if recipe.run.resume == "never":
        raise ValueError(
            f"run.resume='never' needs an empty run folder; {folder} has a run. Delete it, or set "
            f"run.name"
        )
    # Each has its own, where that of the run was deleted or the checkpoints were copied.
    found = (part / "recipe.toml" for part in (folder, *began))
    saved = next((path for path in found if path.is_file()), None)
    if saved is None:
        return
    differences = recipe_differences(load_recipe(saved), recipe)
    if differences:
        raise ValueError(
            f"{folder} was made with another recipe ({'; '.join(differences)}). Set run.name for a "
            f"new run, which finetune.pretrained={began[0] if began else 'MODEL'} can start from "
            f"these weights; or delete the folder"
        )
