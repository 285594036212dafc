"""Folders of images, one folder for each class, as a split."""

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from convzoo.data.remote import READERS
from convzoo.data.split import FolderSplit

logger = logging.getLogger(__name__)
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
FOLDER_GROUP = 64  # files of an image folder that are read together


def open_folder(path: str, split: str, by_split: dict[str, list[str]], card: dict) -> FolderSplit:
    """A split of a folder of images, from the files of all its splits."""
    if "://" in by_split[split][0]:
        raise ValueError(
            f"images as single files must lie in a local folder; {path} has them on the Hub. "
            f"Download them: `hf download --repo-type dataset {path} --local-dir FOLDER`"
        )
    pictures = {
        name: sorted(file for file in files if Path(file).suffix.lower() in IMAGE_SUFFIXES)
        for name, files in by_split.items()
    }
    files = tuple(pictures[split])
    if len({Path(file).parent for file in files}) == 1:
        logger.warning(
            "all images of split %r of %s lie in one folder, so in one class; "
            "use FOLDER/CLASS/NAME.jpg",
            split,
            path,
        )
    names = sorted({Path(file).parent.name for each in pictures.values() for file in each})
    number = {name: index for index, name in enumerate(names)}
    with ThreadPoolExecutor(READERS) as pool:
        sizes = list(pool.map(os.path.getsize, files))
    starts = range(0, len(files), FOLDER_GROUP)
    short = [str(Path(file).relative_to(Path(file).parents[1])) for file in files]
    return FolderSplit(
        path=path,
        split=split,
        files=files,
        label_names=tuple(names),
        image_column="",
        label_column="",
        groups=tuple((start, 0) for start in starts),
        group_rows=tuple(len(files[start : start + FOLDER_GROUP]) for start in starts),
        group_bytes=tuple(sum(sizes[start : start + FOLDER_GROUP]) for start in starts),
        footers=(),
        fingerprint=fingerprint(short, sizes),
        card=card,
        labels=np.array([number[Path(file).parent.name] for file in files]),
    )


def fingerprint(*facts) -> str:
    """The sha256 of facts about data, which changes when the data does."""
    return "sha256:" + hashlib.sha256(json.dumps(facts).encode()).hexdigest()
