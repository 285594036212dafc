"""One split of a dataset as a table of row groups, read one at a time and undecoded.

A row group is what can be sought and shared out: a run of rows in a parquet file, or some files of
an image folder.
"""

import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from convzoo.data.remote import READERS, read_file
from convzoo.data.row_cache import RowCache

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """Undecoded rows of one row group.

    Attributes:
        images: encoded bytes of each image (pyarrow binary array).
        labels: class numbers, int64.
    """

    images: pa.Array
    labels: np.ndarray

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index].as_buffer()  # None for a null; no copy
        return (memoryview(image).cast("B") if image else b""), int(self.labels[index])


@dataclass(frozen=True)
class Split:
    """One split of a dataset, or some of its rows (see `convzoo.data.subset`).

    Attributes:
        path: the folder or Hub id it was asked for by.
        split: its name.
        files: address of each parquet file, in the dataset's order.
        label_names: name of each class, in the order of the class numbers.
        image_column: column of encoded images.
        label_column: column of class numbers.
        groups: (file number, row group in that file) of every row group.
        group_rows: rows of each row group.
        group_bytes: bytes of the image column of each row group; a share of them by rows where
            not all rows are chosen.
        footers: parquet metadata of each file, so that a file's end is read once.
        fingerprint: sha256 over file names and row-group sizes, and what was chosen; changes when
            the data does.
        card: front matter of the dataset's README, or {}.
        revision: commit of a Hub dataset, or None.
        cache: keeps row groups on the local disk, or None.
        chosen: numbers of the rows that count in each row group, ascending; None for all.
        class_numbers: class number of each number in the files; None where they are the same.
        subset: what result files say of a part of a split, or None.
    """

    path: str
    split: str
    files: tuple[str, ...]
    label_names: tuple[str, ...]
    image_column: str
    label_column: str
    groups: tuple[tuple[int, int], ...]
    group_rows: tuple[int, ...]
    group_bytes: tuple[int, ...]
    footers: tuple[pq.FileMetaData, ...] = field(repr=False)
    fingerprint: str
    card: dict = field(repr=False)
    revision: str | None = None
    cache: RowCache | None = None
    chosen: tuple[np.ndarray, ...] | None = field(default=None, repr=False)
    class_numbers: np.ndarray | None = field(default=None, repr=False)
    subset: dict | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the split."""
        return sum(self.group_rows)

    @property
    def is_remote(self) -> bool:
        """Whether the files lie on the Hub."""
        return self.files[0].startswith("hf://")

    def read_group(self, number: int) -> Rows:
        """Read the rows of row group `number`.

        Raises:
            ValueError: if a label is not a class of the dataset, or the file is damaged.
            OSError: if the file cannot be read, for good or in spite of several tries.
        """
        file_number, group = self.groups[number]
        columns = [f"{self.image_column}.bytes", self.label_column]

        def read(handle):
            # Reading ahead and threads pay where the file is far, and cost time where it is near.
            metadata, far = self.footers[file_number], self.is_remote
            parquet = pq.ParquetFile(handle, metadata=metadata, pre_buffer=far)
            table = parquet.read_row_group(group, columns, use_threads=far)
            return table.take(self.chosen[number]) if self.chosen else table

        table = self._fetch(file_number, f"{group} {columns}", read)
        images = table.column(self.image_column).combine_chunks().field("bytes")
        labels = _to_numpy(table.column(self.label_column))
        return Rows(images, self._check_labels(labels, number))

    def read_labels(self) -> np.ndarray:
        """Class number of every row, int64; of parquet files only the label column is read.

        Raises:
            ValueError: if a label is not a class of the dataset, or a file is damaged.
            OSError: if a file cannot be read, for good or in spite of several tries.
        """
        return self._check_labels(self.labels_in_files())

    def labels_in_files(self) -> np.ndarray:
        """What the files have as label of every row, int64, checked by nobody; -1 for none."""
        by_file = itertools.groupby(range(len(self.groups)), lambda number: self.groups[number][0])

        def read_file(file_number, numbers):
            footer = self.footers[file_number]
            groups = [self.groups[number][1] for number in numbers]

            def read(handle):
                parquet = pq.ParquetFile(handle, metadata=footer, pre_buffer=True)
                return parquet.read_row_groups(groups, [self.label_column])

            labels = _to_numpy(self._fetch(file_number, f"labels of {groups}", read)[0])
            if not self.chosen:
                return labels
            starts = np.cumsum([0, *(footer.row_group(group).num_rows for group in groups)])
            rows = [start + self.chosen[n] for start, n in zip(starts[:-1], numbers, strict=True)]
            return labels[np.concatenate(rows)]

        with ThreadPoolExecutor(READERS) as pool:
            parts = [pool.submit(read_file, file, list(numbers)) for file, numbers in by_file]
            return np.concatenate([part.result() for part in parts])

    def locate(self, index: int) -> tuple[int, int]:
        """(row group, row in it) of row `index` of the split."""
        ends = np.cumsum(self.group_rows)
        number = int(np.searchsorted(ends, index, side="right"))
        return number, int(index - ends[number] + self.group_rows[number])

    def where(self, number: int, row: int) -> str:
        """What messages call a row of row group `number`."""
        file_number, group = self.groups[number]
        row = self.chosen[number][row] if self.chosen else row
        return f"row {row} of row group {group} of {self.files[file_number]}"

    def describe(self) -> dict:
        """What result files say of this split."""
        sources = self.card.get("source_datasets") or []
        return {
            "path": self.path,
            "id": self.path if self.is_remote else None,
            "name": self.card.get("pretty_name") or self.path.rstrip("/").rsplit("/")[-1],
            "source_datasets": [sources] if isinstance(sources, str) else list(sources),
            "config": None,
            "split": self.split,
            "subset": self.subset,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "num_samples": self.num_rows,
        }

    def _fetch(self, file_number, part, read):
        """A part of a file, from the cache if it is there."""
        file = self.files[file_number]
        if not self.cache:
            return read_file(file, read)
        return self.cache.get(f"{file} {self.fingerprint} {part}", lambda: read_file(file, read))

    def _check_labels(self, labels, number=0):
        """Class numbers of the labels of rows, from the first one of row group `number` on."""
        count = len(self.label_names if self.class_numbers is None else self.class_numbers)
        outside = np.flatnonzero((labels < 0) | (labels >= count))
        if len(outside):
            place = self.locate(sum(self.group_rows[:number]) + int(outside[0]))
            raise ValueError(
                f"{self.label_column} must lie in [0, {count - 1}]; got {labels[outside[0]]} in "
                f"{self.where(*place)}"
            )
        return labels if self.class_numbers is None else self.class_numbers[labels]


@dataclass(frozen=True)
class FolderSplit(Split):
    """One split of a local folder of images, train/CLASS/NAME.jpg; a row group is 64 files.

    Attributes:
        labels: class number of each file.
    """

    labels: np.ndarray = field(repr=False, kw_only=True)

    def read_group(self, number: int) -> Rows:
        """Read the files of row group `number`.

        Raises:
            OSError: if a file cannot be read.
        """
        numbers = self._file_numbers(number)
        images = [Path(self.files[file]).read_bytes() for file in numbers]
        return Rows(pa.array(images, pa.large_binary()), self._check_labels(self.labels[numbers]))

    def labels_in_files(self) -> np.ndarray:
        """Number of the folder of every image."""
        numbers = [self._file_numbers(number) for number in range(len(self.groups))]
        return self.labels[np.concatenate(numbers)]

    def where(self, number: int, row: int) -> str:
        """What messages call a row of row group `number`."""
        return self.files[self._file_numbers(number)[row]]

    def _file_numbers(self, number):
        rows = self.chosen[number] if self.chosen else np.arange(self.group_rows[number])
        return self.groups[number][0] + rows.astype(np.int64)


def _to_numpy(column):
    return column.cast(pa.int64()).fill_null(-1).to_numpy()
