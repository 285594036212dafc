"""What training starts from: a model folder, made of another project's weights where need be.

Converted weights are kept beside the cache of the Hub, in `convzoo/` of HF_HOME, one folder for
each file of weights; they are converted once.
"""

import os
import re
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import modeling
from convzoo.conversion.converting import convert
from convzoo.conversion.published import find_published
from convzoo.conversion.sources import (
    HUB_ID,
    Source,
    find_source,
    license_of_card,
    read_settings,
)
from convzoo.files import file_sha256, lock_folder, read_json
from convzoo.model_names import file_of_model

CONVERSION = 1  # grows when conversions change, so that older ones are not taken
PATIENCE_SECONDS = 600.0  # while another process converts the same


def listed_place(name: str) -> tuple[str, str]:
    """Return Hub id and commit of a short name of our list; what is none stays as it is.

    A recipe then says where the weights are from, whatever a later list has under that name.
    """
    published = find_published(name) if not Path(name).exists() else None
    return (published.hub_id, published.commit) if published and published.hub_id else (name, "")


def starting_folder(name: str, revision: str = "") -> tuple[str, str | None]:
    """Find what can be loaded as one of our models.

    Args:
        name: folder, Hub id, or short name of `convzoo models`.
        revision: commit, branch or tag on the Hub; that of the list, or the newest, by default.

    Returns:
        A folder or the Hub id of a model of ours, and the commit of weights that were converted.

    Raises:
        OSError: if there is nothing of that name.
        ValueError: if the weights fit none of our families.
    """
    if Path(name).is_dir():
        return name, None
    published = find_published(name)
    if published and published.folder:
        return published.folder, None
    if not published and not re.fullmatch(HUB_ID, name):
        return name, None  # the caller says what it should be
    if not (published and (published.download or published.file)):
        hub_id = published.hub_id if published else name
        if not _is_convertible(read_settings(hub_id, revision)):
            return hub_id, None
    source = find_source(name, revision)
    return str(_converted(source, name, revision)), source.commit or None


def weights_license(place: str, revision: str = "") -> str:
    """Return the licence that the files of a model name; "" where they name none.

    Args:
        place: folder or Hub id, as `starting_folder` finds it.
        revision: commit, branch or tag on the Hub.
    """
    readers: dict[str, Callable[[Path], Any]] = {
        "conversion.json": lambda path: read_json(path)["license"],
        "README.md": license_of_card,
        "recipe.toml": lambda path: tomllib.loads(path.read_text("utf-8"))["run"]["license"],
    }
    for name, read in readers.items():
        # What is damaged, or not to be had now, stops no training.
        with suppress(OSError, ValueError, LookupError, AttributeError, TypeError):
            path = file_of_model(place, name, revision)
            if path and (found := read(path)):
                return str(found)
    return ""


def _is_convertible(settings: dict[str, Any]) -> bool:
    """Tell whether a config.json is that of timm or of transformers' ResNet."""
    ours = [config.model_type for config in modeling.FAMILIES]
    kind = settings.get("model_type")
    return kind == "resnet" or ("architecture" in settings and kind not in ours)


def _converted(source: Source, name: str, revision: str) -> Path:
    """Convert weights unless that was done."""
    from huggingface_hub.constants import HF_HOME

    what = source.hub_id or source.path.name
    key = f"{re.sub(r'[^A-Za-z0-9.]+', '-', what)}-{file_sha256(source.path)[:16]}-v{CONVERSION}"
    root = Path(HF_HOME) / "convzoo"
    root.mkdir(parents=True, exist_ok=True)
    folder = root / key
    refusal = OSError(f"another process has been converting {name} for {PATIENCE_SECONDS:.0f} s")
    lock = root / f"{key}.lock"
    lock.mkdir(exist_ok=True)
    descriptor = lock_folder(lock, refusal, patience_seconds=PATIENCE_SECONDS)
    try:
        if not (folder / "conversion.json").is_file():
            convert(name, folder, revision=revision)
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return folder
