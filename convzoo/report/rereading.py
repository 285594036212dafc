"""Images of an evaluation, read again from their dataset and checked against their digests."""

import base64
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convzoo.data.opening import DatasetReference, open_split
from convzoo.data.split import FolderSplit, Split
from convzoo.evaluation.prediction_table import PredictionTable

THUMBNAIL = 160  # pixels, the longer side
QUALITY = 85  # of JPEG


def open_recorded_data(
    table: PredictionTable,
    data: DatasetReference | None,
    *,
    results: Iterable[Mapping[str, Any]] = (),
) -> Split:
    """Open the whole split that predictions were made on.

    Args:
        table: the predictions.
        data: where the dataset lies now; None for where it was.
        results: entries of `eval_results.json` of the same images: they say where local data
            lies, and predictions files do not.

    Raises:
        ValueError: if it has no such split, and as `open_split`.
        OSError: if it is not there. The Hub is not asked for what was a local folder.
    """
    recorded = dict(table.facts.dataset)
    if not recorded.get("id") and not recorded.get("path"):
        paths = [path for each in results if (path := each["dataset"].get("path"))]
        recorded["path"] = next(filter(os.path.exists, paths), paths[0] if paths else None)
    path = data.path if data and data.path else str(recorded.get("id") or recorded.get("path"))
    if path == "None":
        raise FileNotFoundError("predictions files do not say where local images lie")
    if path != recorded.get("id") and not (data and data.path) and not Path(path).exists():
        raise FileNotFoundError(f"there is no folder or file {path}, which was evaluated")
    given = replace(data or DatasetReference(""), path=path)
    return open_split(given.as_recorded(recorded), str(recorded["split"]))


def read_images(
    source: Split, table: PredictionTable, places: np.ndarray
) -> Iterator[tuple[int, bytes]]:
    """Yield place and encoded bytes of those images that are still what they were.

    An image is looked for at its row and, in a folder, by its name, should files have come or gone.
    Each row group is read once, and one at a time.

    Args:
        source: the whole split.
        table: the predictions.
        places: of the wanted images in the table, in any order.

    Raises:
        ValueError: as `Split.read_group`.
        OSError: as `Split.read_group`.
    """
    places = np.unique(places)
    rows = table.row[places]
    if isinstance(source, FolderSplit):
        rows = _rows_by_name(source, table, places)
    places, rows = places[rows < source.num_rows], rows[rows < source.num_rows]
    order = np.argsort(rows, kind="stable")
    places, rows = places[order], rows[order]
    rows, first = np.unique(rows, return_index=True)
    places = places[first]
    if not len(rows):
        return
    chosen = source.choose(rows)
    numbers = iter(places.tolist())
    for group in range(len(chosen.groups)):
        content = chosen.read_group(group)
        for row in range(len(content)):
            place, data = next(numbers), bytes(content[row][0])
            if hashlib.sha256(data).digest() == table.digest[place].tobytes():
                yield place, data


def _rows_by_name(source: FolderSplit, table: PredictionTable, places: np.ndarray) -> np.ndarray:
    """The row of each image of a folder by its name; the recorded one for a name that is gone."""
    rows = {source.image_name(row): row for row in range(source.num_rows)}
    recorded = zip(table.image[places].tolist(), table.row[places].tolist(), strict=True)
    return np.array([rows.get(name, row) for name, row in recorded], np.int64)


def data_uri(image: Image.Image) -> str:
    """Return a small copy of an image as a data URI: JPEG, at most THUMBNAIL pixels a side."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
