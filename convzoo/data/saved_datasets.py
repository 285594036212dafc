"""Folders of `save_to_disk`, of a Dataset or a DatasetDict: arrow files, mapped into memory.

Old versions of `datasets` kept the order of a shuffled or filtered dataset in a file of its own,
`_indices_data_files`. It is followed: rows come as they were when the dataset was saved.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convzoo.data.cards import read_card
from convzoo.data.classes import Label, check_class_names
from convzoo.data.columns import Columns, find_image_column, find_labels
from convzoo.data.image_paths import EMBED, read_images
from convzoo.data.split import ListedSplit, Rows, check_split, fingerprint, label_numbers
from convzoo.files import read_json

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
GROUP_ROWS = 64  # as of a folder of images
INDICES = "_indices_data_files"
END = b"\xff\xff\xff\xff\0\0\0\0"  # of an arrow stream


def is_saved(folder: Path) -> bool:
    """Return True for a folder that `save_to_disk` wrote."""
    return (folder / SPLITS).is_file() or all((folder / name).is_file() for name in (STATE, INFO))


@dataclass(frozen=True, kw_only=True)
class SavedSplit(ListedSplit):
    """One split of a folder of `save_to_disk`.

    Attributes:
        rows: number in the arrow files of each row, as the dataset was ordered; None for all.
    """

    rows: np.ndarray | None = field(default=None, repr=False)

    def read_group(self, number: int) -> Rows:
        """Read the rows of row group `number`.

        Raises:
            ValueError: if a label is not a class of the dataset, or a file is damaged.
            OSError: if a file cannot be read.
        """
        listed = self.rows_of(number)
        labels = self._check_labels(self.labels[listed], number)
        return Rows(pa.array(self._images(listed, "bytes"), pa.large_binary()), labels)

    def file_names(self, number: int) -> list[str | None]:
        """Return the file name that each row of row group `number` came with; None for none."""
        return self._images(self.rows_of(number), "path")

    def where(self, number: int, row: int) -> str:
        """Name a row of row group `number`, for messages."""
        listed = int(self.rows_of(number)[row])
        in_files = "" if self.rows is None else f", row {self.rows[listed]} of its files"
        return f"row {listed} of {self.path} [{self.name}]{in_files}"

    def _images(self, listed: np.ndarray, part: str) -> list[Any]:
        """Read the encoded bytes, or the paths, of images."""
        rows = listed if self.rows is None else self.rows[listed]
        found: list[Any] = []
        for image in open_batches(self.files).cells(self.image_column, rows):
            if part == "bytes":
                found += read_images(image, self.files[0]).to_pylist()
            else:
                found += image.field(part).to_pylist()
        return found


class Batches:
    """The record batches of arrow files, mapped into memory and read where they are touched.

    Args:
        files: in their order.

    Raises:
        ValueError: if a file is damaged.
    """

    def __init__(self, files: Sequence[str]):
        mapped = (batch for file in files for batch in _map_file(file))
        self.batches = [batch for batch in mapped if batch.num_rows]
        self.ends = np.cumsum([batch.num_rows for batch in self.batches], dtype=np.int64)

    def cells(self, column: str, rows: np.ndarray) -> Iterator[pa.Array]:
        """Yield the cell of a column in each row, as an array of one; nothing is copied."""
        for row in rows.tolist():
            number = int(np.searchsorted(self.ends, row, side="right"))
            batch = self.batches[number]
            yield batch.column(column).slice(row - int(self.ends[number]) + batch.num_rows, 1)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a whole column."""
        return pa.chunked_array([batch.column(name) for batch in self.batches])


@functools.lru_cache(maxsize=8)  # of the splits of a training; nothing is held but addresses
def open_batches(files: tuple[str, ...]) -> Batches:
    """Map arrow files, once in a process."""
    return Batches(files)


@dataclass(frozen=True)
class SavedSource:
    """A folder of `save_to_disk`.

    Attributes:
        path: the folder, as it was asked for.
        folder: where it is.
        columns: which ones were asked for.
    """

    path: str
    folder: Path
    columns: Columns

    @functools.cached_property
    def folders(self) -> dict[str, Path]:
        """The folder of each split."""
        if not (self.folder / SPLITS).is_file():
            split = str(_read_json(self.folder / STATE).get("_split") or "train")
            return {split if re.fullmatch(r"\w+", split) else "train": self.folder}
        return {split: self.folder / split for split in _read_json(self.folder / SPLITS)["splits"]}

    def split_names(self) -> list[str]:
        """List its splits, in its own order."""
        return list(self.folders)

    def open_split(self, name: str) -> SavedSplit:
        """Open a split.

        Raises:
            FileNotFoundError: if the split has no rows, or a file is not there.
            ValueError: if the split or a column is not in it, or a file is damaged.
        """
        import datasets

        check_split(name, self.folders, self.path)
        folder = self.folders[name]
        files, rows = _files(folder)
        features = datasets.Features.from_dict(_read_json(folder / INFO)["features"])
        image_column = find_image_column(features, wanted=self.columns.image, path=self.path)
        labels = find_labels(
            self.path, features, wanted=self.columns.label, files={}, values=self._values
        )
        check_class_names(labels.names, self.path)
        batches = open_batches(files)
        if not len(batches.ends) or (rows is not None and not len(rows)):
            raise FileNotFoundError(f"split {name!r} of {self.path} must hold images; it has none")
        numbers = label_numbers(batches.column(labels.column), labels.values)
        sizes = _sizes(batches, image_column, path=self.path)
        if rows is not None:
            numbers, sizes = numbers[rows], sizes[rows]
        starts = np.arange(0, len(numbers), GROUP_ROWS)
        facts = [Path(file).name for file in files], sizes.tolist(), numbers.tolist(), labels.names
        return SavedSplit(
            path=self.path,
            name=name,
            files=files,
            label_names=labels.names,
            image_column=image_column,
            label_column=labels.column,
            groups=tuple((int(start), 0) for start in starts),
            group_rows=tuple(len(sizes[start : start + GROUP_ROWS]) for start in starts),
            group_bytes=tuple(np.add.reduceat(sizes, starts).tolist()),
            fingerprint=fingerprint(*facts),
            card=read_card(str(self.folder)),
            labels=numbers,
            rows=rows,
        )

    def _values(self, column: str) -> dict[str, set[Label]]:
        """Read the different values of a column in each split."""
        columns = {
            split: open_batches(_files(folder)[0]).column(column)
            for split, folder in self.folders.items()
        }
        return {
            split: set(each.unique().drop_null().to_pylist()) for split, each in columns.items()
        }


def _files(folder: Path) -> tuple[tuple[str, ...], np.ndarray | None]:
    """List the arrow files of a split, and the rows of them that it has; None for all."""
    state = _read_json(folder / STATE)
    for entry in (entries := state["_data_files"]):
        if entry.keys() - {"filename"}:
            raise ValueError(
                f"{folder / STATE} must name whole files; got {entry}. Load it with the version of "
                f"`datasets` that wrote it, and write it anew with to_parquet"
            )
    files = tuple(str(folder / entry["filename"]) for entry in entries)
    order = [str(folder / entry["filename"]) for entry in state.get(INDICES) or []]
    if not order:
        return files, None
    rows = Batches(order).column("indices").to_numpy().astype(np.int64)
    ends = open_batches(files).ends
    if len(rows) and rows.max() >= ends[-1]:
        raise ValueError(
            f"{order[0]} must number rows of {folder}, which has {ends[-1]}; got {rows.max()}. "
            f"Save the dataset again"
        )
    return files, rows


def _map_file(file: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an arrow stream; one that was cut off is refused."""
    try:
        with pa.memory_map(file) as source:
            yield from pa.ipc.open_stream(source)
            source.seek(max(0, source.size() - len(END)))
            if source.read(len(END)) != END:
                raise ValueError(f"its end is missing, after {source.size()} bytes")
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:  # pyarrow's errors are some, too
        raise ValueError(
            f"{file} must be a whole arrow file as save_to_disk writes it; {error}"
        ) from error


def _sizes(batches: Batches, column: str, *, path: str) -> np.ndarray:
    """Return the number of encoded bytes of each image."""
    parts = [batch.column(column).field("bytes") for batch in batches.batches]
    sizes = [pc.fill_null(pc.binary_length(part), 0).to_numpy() for part in parts]
    total = np.concatenate(sizes).astype(np.int64)
    if not total.any():
        raise ValueError(
            f"images of {path} must be there as bytes; none of the {len(total)} is. {EMBED}"
        )
    return total


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"a folder of save_to_disk must have {path}, which is not there. Copy all of it"
        ) from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} must be JSON as save_to_disk writes it; {error}") from error
