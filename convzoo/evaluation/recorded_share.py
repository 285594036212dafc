"""Find the validation share of a trained model again: the images that its training left out."""

from pathlib import Path
from typing import Any

from convzoo.data.opening import DatasetReference, open_split
from convzoo.data.split import Split
from convzoo.data.validation_share import repeat_choices
from convzoo.files import read_json
from convzoo.model_names import file_of_model
from convzoo.training import checkpointing

TRAIN_RESULTS = "train_results.json"


def open_recorded_share(model: str, data: str | DatasetReference) -> Split:
    """Open the validation share that a model's training recorded.

    Args:
        model: a model folder, a checkpoint of a run or a Hub id.
        data: the dataset that it was trained on, wherever that lies now.

    Raises:
        ValueError: if no share is recorded, or the data is not that of the training.
        OSError: if the data cannot be read.
    """
    recorded = _read_record(model)
    path = DatasetReference.of(data).path
    taken = (recorded.get("subset") or {}).get("taken", [])
    if not any("eval_fraction" in step for step in taken):
        split = recorded.get("split")
        advice = f"Use --split {split}" if split else "Choose the images with --split"
        raise ValueError(
            f"--validation-share needs a model that was trained with data.eval_fraction; {model} "
            f"records none. {advice}"
        )
    share = repeat_choices(open_split(data, recorded["split"]), taken, renumber=True)
    if share.fingerprint != recorded["fingerprint"]:
        raise ValueError(
            f"--data must be the images that {model} was trained on, as they were then: only they "
            f"have its validation share; {path} has changed or is another dataset. Restore it, or "
            f"choose images with --split"
        )
    return share


def _read_record(model: str) -> dict[str, Any]:
    """Read what the training wrote of its validation images; {} where it wrote nothing."""
    folder = Path(model)
    if (folder / checkpointing.STATE).is_file():
        return dict(checkpointing.load_state(folder).get("validation") or {})
    if not (found := file_of_model(model, TRAIN_RESULTS)):
        return {}
    return dict(read_json(found).get("validation") or {})
