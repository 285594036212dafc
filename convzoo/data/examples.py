"""Save a few images of a split as files."""

import re
from pathlib import Path

import numpy as np

from convzoo.data.split import Split
from convzoo.images.decoding import open_rgb


def save_examples(source: Split, count: int, folder: Path, exif_rotation: bool = False) -> None:
    """Save images, evenly spaced over a split, as PNG files named by row and class.

    Args:
        source: the split.
        count: how many.
        folder: is made, and must not exist.
        exif_rotation: whether to turn images as their EXIF data says; PNG files keep no EXIF.
    """
    folder.mkdir(parents=True)
    ends = np.cumsum(source.group_rows)
    for index in sorted({source.num_rows * i // count for i in range(count)}):
        group = int(np.searchsorted(ends, index, side="right"))
        data, label = source.read_group(group)[index - int(ends[group])]  # counted from its end
        name = re.sub(r"\W+", "_", source.label_names[label]).strip("_").lower()
        open_rgb(data, exif_rotation=exif_rotation).save(folder / f"{index:05d}_{name}.png")
