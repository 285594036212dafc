"""One split of a dataset as a table of row groups, read one at a time and undecoded.

A row group is what can be sought and shared out: a run of rows in a parquet file, or some files of
an image folder. Arithmetic on rows and row groups stands here and nowhere else.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convzoo.data.image_paths import read_images
from convzoo.data.remote import READERS, read_file
from convzoo.data.row_cache import RowCache
from convzoo.data.row_groups import Numbers, Pairs

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

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[memoryview | bytes, int]:
        image = self.images[index].as_buffer()  # None for a null; no copy
        return (memoryview(image).cast("B") if image else b""), int(self.labels[index])


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A run of rows of one row group.

    Attributes:
        group: number of the row group.
        first: number of the row group's first row in the split.
        start: first row of the run, counted in the row group.
        stop: one past the last row of the run, counted in the row group.
    """

    group: int
    first: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a dataset, or some of its rows (see `convzoo.data.subset`).

    Attributes:
        path: the folder or Hub id it was asked for by.
        name: "train", "validation" and so on.
        files: address of each parquet file, in the dataset's order.
        label_names: name of each class, in the order of the class numbers.
        image_column: column of encoded images.
        label_column: column of labels.
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
        label_values: what the label column has for each class of a dataset whose labels are no
            class numbers, in the order of `class_numbers` or of the classes; None where they are.
        images_are_files: whether the image column has paths of local files.
        subset: what result files say of a part of a split, or None.
    """

    path: str
    name: str
    files: tuple[str, ...]
    label_names: tuple[str, ...]
    image_column: str
    label_column: str
    groups: Sequence[tuple[int, int]]
    group_rows: Sequence[int]
    group_bytes: Sequence[int]
    footers: Sequence[pq.FileMetaData] = field(repr=False)
    fingerprint: str
    card: dict[str, Any] = field(repr=False)
    revision: str | None = None
    cache: RowCache | None = None
    chosen: tuple[np.ndarray, ...] | None = field(default=None, repr=False)
    class_numbers: np.ndarray | None = field(default=None, repr=False)
    label_values: tuple[str | int | bool, ...] | None = field(default=None, repr=False)
    images_are_files: bool = False
    subset: dict[str, Any] | None = None

    def __post_init__(self) -> None:  # there may be millions of row groups
        object.__setattr__(self, "groups", Pairs(self.groups))
        object.__setattr__(self, "group_rows", Numbers(self.group_rows))
        object.__setattr__(self, "group_bytes", Numbers(self.group_bytes))

    @cached_property
    def num_rows(self) -> int:
        """Rows of the split."""
        return int(np.sum(self.group_rows, dtype=np.int64))

    @property
    def is_remote(self) -> bool:
        """Whether the files lie on the Hub."""
        return self.files[0].startswith("hf://")

    @cached_property
    def _ends(self) -> np.ndarray:
        """One past the number of each row group's last row."""
        return np.cumsum(self.group_rows, dtype=np.int64)

    def locate(self, index: int) -> tuple[int, int]:
        """Find (row group, row in it) of row `index` of the split."""
        group = int(np.searchsorted(self._ends, index, side="right"))
        return group, int(index - self._ends[group]) + self.group_rows[group]

    def pieces(self, rows: range) -> Iterator[Piece]:
        """Yield the pieces of row groups that make up a range of rows, in order."""
        first = 0
        for group, count in enumerate(self.group_rows):
            start, stop = max(rows.start - first, 0), min(rows.stop - first, count)
            if start < stop:
                yield Piece(group=group, first=first, start=start, stop=stop)
            first += count

    def read_row(self, index: int) -> tuple[memoryview | bytes, int]:
        """Read the encoded image and the label of row `index` of the split.

        Raises:
            ValueError: as `read_group`.
            OSError: as `read_group`.
        """
        group, row = self.locate(index)
        return self.read_group(group)[row]

    def choose(self, rows: np.ndarray, **changes: Any) -> "Split":
        """Return the split that has only these rows.

        Args:
            rows: numbers of rows of this split, ascending.
            changes: other fields that are to differ.
        """
        group = np.searchsorted(self._ends, rows, side="right")
        if self.chosen:
            in_group = np.concatenate(self.chosen)[rows]
        else:
            in_group = rows - (self._ends - self.group_rows)[group]
            in_group = in_group.astype(np.min_scalar_type(in_group.max(initial=0)))
        groups, counts = np.unique(group, return_counts=True)
        pairs = list(zip(groups.tolist(), counts.tolist(), strict=True))
        return dataclasses.replace(
            self,
            groups=[self.groups[number] for number, _ in pairs],
            group_rows=tuple(count for _, count in pairs),
            group_bytes=tuple(
                math.ceil(self.group_bytes[number] * count / self.group_rows[number])
                for number, count in pairs
            ),
            chosen=tuple(np.split(in_group, np.cumsum(counts)[:-1])),
            **changes,
        )

    def read_group(self, number: int) -> Rows:
        """Read the rows of row group `number`.

        Raises:
            ValueError: if a label is not a class of the dataset, or the file is damaged.
            OSError: if the file cannot be read, for good or in spite of several tries.
        """
        file_number, group = self.groups[number]
        columns = [f"{self.image_column}.bytes", self.label_column]
        if self.images_are_files:
            columns.append(f"{self.image_column}.path")

        def read(handle: IO[bytes]) -> pa.Table:
            # Reading ahead and threads pay where the file is far, and cost time where it is near.
            metadata, far = self.footers[file_number], self.is_remote
            parquet = pq.ParquetFile(handle, metadata=metadata, pre_buffer=far)
            table = parquet.read_row_group(group, columns, use_threads=far)
            return table.take(self.chosen[number]) if self.chosen else table

        table = self._fetch(file_number, f"{group} {columns}", read=read)
        images = table.column(self.image_column).combine_chunks()
        labels = self._check_labels(self._numbers(table.column(self.label_column)), number)
        if self.images_are_files:
            return Rows(read_images(images, self.files[file_number]), labels)
        return Rows(images.field("bytes"), labels)

    def read_labels(self) -> np.ndarray:
        """Read the class number of every row, int64; of parquet files only the label column.

        Raises:
            ValueError: if a label is not a class of the dataset, or a file is damaged.
            OSError: if a file cannot be read, for good or in spite of several tries.
        """
        return self._check_labels(self.labels_in_files())

    def labels_in_files(self) -> np.ndarray:
        """Read the label of every row as the files have it, int64, unchecked; -1 for none."""
        by_file = itertools.groupby(range(len(self.groups)), lambda number: self.groups[number][0])
        with ThreadPoolExecutor(READERS) as pool:
            parts = [pool.submit(self._file_labels, file, list(groups)) for file, groups in by_file]
            return np.concatenate([part.result() for part in parts])

    def file_names(self, number: int) -> list[str | None]:
        """Return the file name that each row of row group `number` came with; None for none.

        Raises:
            ValueError: if the file is damaged.
            OSError: if it cannot be read, for good or in spite of several tries.
        """
        file_number, group = self.groups[number]

        def read(handle: IO[bytes]) -> pa.Table:
            parquet = pq.ParquetFile(handle, metadata=self.footers[file_number])
            return parquet.read_row_group(group, [f"{self.image_column}.path"])

        table = read_file(self.files[file_number], read)
        if not table.num_columns:
            return [None] * self.group_rows[number]
        table = table.take(self.chosen[number]) if self.chosen else table
        return [entry and entry["path"] for entry in table[0].to_pylist()]

    def _file_labels(self, file_number: int, numbers: list[int]) -> np.ndarray:
        """Read the labels of some row groups of a file."""
        footer = self.footers[file_number]
        groups = [self.groups[number][1] for number in numbers]

        def read(handle: IO[bytes]) -> pa.Table:
            parquet = pq.ParquetFile(handle, metadata=footer, pre_buffer=True)
            return parquet.read_row_groups(groups, [self.label_column])

        table = self._fetch(file_number, f"labels of {groups}", read=read)
        labels: np.ndarray = self._numbers(table[0])
        if not self.chosen:
            return labels
        starts = np.cumsum([0, *(footer.row_group(group).num_rows for group in groups)])
        rows = [start + self.chosen[n] for start, n in zip(starts[:-1], numbers, strict=True)]
        return np.asarray(labels[np.concatenate(rows)])

    def _fetch(
        self, file_number: int, part: str, *, read: Callable[[IO[bytes]], pa.Table]
    ) -> pa.Table:
        """Read a part of a file, from the cache if it is there."""
        file = self.files[file_number]
        if not self.cache:
            return read_file(file, read)
        return self.cache.get(f"{file} {self.fingerprint} {part}", lambda: read_file(file, read))

    def _numbers(self, column: pa.ChunkedArray) -> np.ndarray:
        """Turn a label column into numbers, -1 for none."""
        return label_numbers(column, self.label_values)

    def _check_labels(self, labels: np.ndarray, number: int = 0) -> np.ndarray:
        """Map labels, from the first row of row group `number` on, to class numbers."""
        count = len(self.label_names if self.class_numbers is None else self.class_numbers)
        outside = np.flatnonzero((labels < 0) | (labels >= count))
        if len(outside):
            if (labels == -1).all() and (self.labels_in_files() == -1).all():
                raise ValueError(self.unlabelled_message())
            index = sum(self.group_rows[:number]) + int(outside[0])
            raise ValueError(
                f"{self.label_column} must lie in [0, {count - 1}]; got {labels[outside[0]]} in "
                f"{self.where_is(index)}"
            )
        return labels if self.class_numbers is None else np.asarray(self.class_numbers[labels])

    def unlabelled_message(self) -> str:
        """Say that no image of the split has a label, as on the Hub in test sets of contests."""
        return (
            f"images of split {self.name!r} of {self.path} must have labels; it is an unlabelled "
            f"split, all its labels are -1 or missing. Choose another one with data.train_split, "
            f"data.eval_split or --split"
        )

    def where_is(self, index: int) -> str:
        """Name row `index` of the split, for messages."""
        return self.where(*self.locate(index))

    def where(self, number: int, row: int) -> str:
        """Name a row of row group `number`, for messages."""
        file_number, group = self.groups[number]
        row = self.chosen[number][row] if self.chosen else row
        return f"row {row} of row group {group} of {self.files[file_number]}"

    def image_name(self, index: int) -> str:
        """Name the image of row `index` by its place in the dataset, wherever the dataset lies."""
        group, row = self.locate(index)
        row = self._first_in_file[group] + (self.chosen[group][row] if self.chosen else row)
        return f"{self.relative(self.files[self.groups[group][0]])}, row {row}"

    def whole_rows(self) -> np.ndarray:
        """Return the row of the whole split, before some were chosen, of every row, int64."""
        of_files = np.cumsum([0, *(footer.num_rows for footer in self.footers)])
        return np.concatenate(
            [
                of_files[file] + first + self._rows_in_group(number)
                for number, ((file, _), first) in enumerate(
                    zip(self.groups, self._first_in_file, strict=True)
                )
            ]
        )

    @cached_property
    def _first_in_file(self) -> list[int]:
        """The first row of each row group, counted in its file."""
        counts = [
            [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
            for footer in self.footers
        ]
        starts = [np.cumsum([0, *rows]).tolist() for rows in counts]
        return [starts[file][group] for file, group in self.groups]

    def _rows_in_group(self, number: int) -> np.ndarray:
        """The rows that count in row group `number`, int64."""
        rows = self.chosen[number] if self.chosen else np.arange(self.group_rows[number])
        return rows.astype(np.int64)

    def relative(self, where: str) -> str:
        """Leave out where the dataset lies in what `where` says: it may be moved."""
        if self.is_remote:
            return re.sub(rf"hf://\S*?{re.escape(self.path)}(@[^/]+)?/", "", where)
        for root in (Path(self.path).absolute(), Path(self.path)):
            short, count = re.subn(rf"(^|(?<= )){re.escape(str(root))}(/| (?=\[))", "", where)
            if count:
                return short
        return where

    def describe(self) -> dict[str, Any]:
        """Describe the split for result files."""
        sources = self.card.get("source_datasets") or []
        return {
            "path": self.path,
            "id": self.path if self.is_remote else None,
            "name": self.card.get("pretty_name") or self.path.rstrip("/").rsplit("/")[-1],
            "source_datasets": [sources] if isinstance(sources, str) else list(sources),
            "config": None,
            "split": self.name,
            "subset": self.subset,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "num_samples": self.num_rows,
        }


def check_split(name: str, splits: Collection[str], path: str) -> None:
    """Raise ValueError if a dataset has no split of this name.

    Args:
        name: of the split.
        splits: those that it has.
        path: the dataset, as it was asked for.
    """
    if name not in splits:
        raise ValueError(
            f"split must be one of {', '.join(splits)} in {path}; got {name!r}. Set "
            f"data.train_split, data.eval_split or --split"
        )


def fingerprint(*facts: object) -> str:
    """Return the sha256 of facts about data, which changes when the data does."""
    digest = hashlib.sha256(b"[")
    for number, fact in enumerate(facts):
        digest.update(b", " if number else b"")
        if isinstance(fact, Numbers | Pairs):  # not as one text of gigabytes
            for piece in fact.json_pieces():
                digest.update(piece.encode())
        else:
            digest.update(json.dumps(fact).encode())
    digest.update(b"]")
    return f"sha256:{digest.hexdigest()}"


def label_numbers(column: pa.ChunkedArray, values: Sequence[str | int | bool] | None) -> np.ndarray:
    """Turn a label column into numbers, -1 for none.

    Args:
        column: of class numbers, or of values.
        values: the value of each class number; None for a column of class numbers.
    """
    if values is not None:
        column = pc.index_in(column, pa.array(values, column.type))
    return np.asarray(column.cast(pa.int64()).fill_null(-1).to_numpy())


@dataclass(frozen=True, kw_only=True)
class ListedSplit(Split):
    """A split whose rows were all listed when it was opened, each with its class.

    A row group is a run of the list; its first number in `groups` is that of its first row there.

    Attributes:
        labels: class number of each row of the list; -1 for none.
    """

    image_column: str = ""
    label_column: str = ""
    footers: Sequence[pq.FileMetaData] = field(default=(), repr=False)
    labels: np.ndarray = field(repr=False)

    def labels_in_files(self) -> np.ndarray:
        """Return the number of the class of every row."""
        return np.asarray(self.labels[self.listed_rows()])

    def listed_rows(self) -> np.ndarray:
        """Return the number in the list of every row."""
        return np.concatenate([self.rows_of(number) for number in range(len(self.groups))])

    def image_name(self, index: int) -> str:
        """Name the image of row `index` by its place in the dataset, wherever the dataset lies."""
        return self.relative(self.where_is(index))

    def whole_rows(self) -> np.ndarray:
        """Return the row of the whole split, before some were chosen, of every row, int64."""
        return self.listed_rows()

    def rows_of(self, number: int) -> np.ndarray:
        """Return the number in the list of each row of row group `number`."""
        rows = self.chosen[number] if self.chosen else np.arange(self.group_rows[number])
        return self.groups[number][0] + rows.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class FolderSplit(ListedSplit):
    """One split of local image files; a row group is 64 files.

    Attributes:
        root: folder that the paths of a list, or of a folder of images, are relative to.
    """

    root: str = ""

    def read_group(self, number: int) -> Rows:
        """Read the files of row group `number`.

        Raises:
            OSError: if a file cannot be read.
        """
        rows = self.rows_of(number)
        images = [Path(self.files[file]).read_bytes() for file in rows]
        return Rows(pa.array(images, pa.large_binary()), self._check_labels(self.labels[rows]))

    def paths(self) -> list[str]:
        """Return the path of the file of every row."""
        return [self.files[file] for file in self.listed_rows()]

    def file_names(self, number: int) -> list[str | None]:
        """Return the path of the file of each row of row group `number`."""
        return [self.files[file] for file in self.rows_of(number)]

    def where(self, number: int, row: int) -> str:
        """Name a row of row group `number`, for messages."""
        return self.files[int(self.rows_of(number)[row])]

    def relative(self, where: str) -> str:
        """Leave out where the dataset lies in what `where` says."""
        return where.removeprefix(os.path.join(self.root, ""))
