"""Save a few images of a split as files."""

import re
from pathlib import Path

from convzoo.data.split import Split
from convzoo.images.decoding import open_rgb


def save_examples(split: Split, folder: Path, *, count: int, exif_rotation: bool = False) -> None:
    """Save images, evenly spaced over a split, as PNG files named by row and class.

    Args:
        split: where they are from.
        folder: is made, and must not exist.
        count: how many.
        exif_rotation: whether to turn images as their EXIF data says; PNG files keep no EXIF.
    """
    folder.mkdir(parents=True)
    for index in sorted({split.num_rows * i // count for i in range(count)}):
        data, label = split.read_row(index)
        name = re.sub(r"\W+", "_", split.label_names[label]).strip("_").lower()
        open_rgb(data, exif_rotation=exif_rotation).save(folder / f"{index:05d}_{name}.png")
