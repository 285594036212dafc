"""Where pictures come from: a Hub dataset or a folder, as a table of row groups.

`datasets` decides which files make up a split and what their columns mean; the rows are read with
pyarrow, one row group at a time and undecoded, because that is what can be sought and shared out.
"""

import hashlib
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.utils import httpx

from convzoo.row_cache import RowCache

logger = logging.getLogger(__name__)

RETRY_SECONDS = (1, 4, 16, 60, 120)  # after the client's own tries, about 24 s; then give up
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
FOLDER_GROUP = 64  # files of an image folder that are read together
FOOTER_BYTES = 16 * 1024  # of 100 row groups with two columns; a longer footer is read in full


@dataclass(frozen=True)
class Rows:
    """Undecoded rows of one row group.

    Attributes:
        images: encoded bytes of each picture (pyarrow binary array).
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
class Source:
    """One split of a dataset.

    Attributes:
        path: the folder or Hub id it was asked for by.
        split: its name.
        files: address of each parquet file, in the dataset's order.
        label_names: name of each class, in the order of the class numbers.
        image_column: column of encoded pictures.
        label_column: column of class numbers.
        groups: (file number, row group in that file) of every row group.
        group_rows: rows of each row group.
        group_bytes: bytes of the picture column of each row group.
        footers: parquet metadata of each file, so that a file's end is read once.
        fingerprint: sha256 over file names and row-group sizes; changes when the data does.
        card: front matter of the dataset's README, or {}.
        revision: commit of a Hub dataset, or None.
        cache: keeps row groups on the local disk, or None.
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
            parquet = pq.ParquetFile(handle, metadata=self.footers[file_number], pre_buffer=True)
            return parquet.read_row_group(group, columns)

        def fetch():
            return _read(self.files[file_number], read)

        key = f"{self.files[file_number]} {self.fingerprint} {group} {columns}"
        table = self.cache.get(key, fetch) if self.cache else fetch()
        images = table.column(self.image_column).combine_chunks().field("bytes")
        labels = table.column(self.label_column).to_numpy()
        outside = np.flatnonzero((labels < 0) | (labels >= len(self.label_names)))
        if len(outside):
            row = int(outside[0])
            raise ValueError(
                f"{self.label_column} must lie in [0, {len(self.label_names) - 1}]; got "
                f"{labels[row]} in {self.where(number, row)}"
            )
        return Rows(images, labels)

    def where(self, number: int, row: int) -> str:
        """What messages call a row of row group `number`."""
        file_number, group = self.groups[number]
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
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "num_samples": self.num_rows,
        }


@dataclass(frozen=True)
class FolderSource(Source):
    """One split of a local folder of pictures, train/CLASS/NAME.jpg; a row group is 64 files.

    Attributes:
        labels: class number of each file.
    """

    labels: np.ndarray = field(repr=False, kw_only=True)

    def read_group(self, number: int) -> Rows:
        """Read the files of row group `number`.

        Raises:
            OSError: if a file cannot be read.
        """
        first = self.groups[number][0]
        numbers = slice(first, first + self.group_rows[number])
        images = [Path(file).read_bytes() for file in self.files[numbers]]
        return Rows(pa.array(images, pa.large_binary()), self.labels[numbers])

    def where(self, number: int, row: int) -> str:
        """What messages call a row of row group `number`."""
        return self.files[self.groups[number][0] + row]


def open_source(
    path: str,
    split: str,
    name: str = "",
    revision: str = "",
    image_column: str = "",
    label_column: str = "",
) -> Source:
    """Find the files, columns, class names and row groups of a split.

    Args:
        path: a folder of parquet files, a Hub dataset id, or a folder of pictures in one folder
            for each class.
        split: name of the split.
        name: configuration of a dataset that has several.
        revision: commit, tag or branch of a Hub dataset.
        image_column: column of pictures; the only image column if "".
        label_column: column of class numbers; the only class column if "".

    Raises:
        FileNotFoundError: if there is no such dataset or no data in it.
        ValueError: if the split or a column is not in it, or a file is no parquet file.
    """
    import datasets
    import yaml

    try:
        builder = datasets.load_dataset_builder(path, name or None, revision=revision or None)
    except (FileNotFoundError, ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        if isinstance(error, ConnectionError) or "LocalEntryNotFoundError" in str(error):
            raise ConnectionError(
                f"the Hub could not be reached for the dataset {path!r}; try again, or give a "
                f"folder. ({error})"
            ) from error
        raise FileNotFoundError(
            f"data.path must be a folder with parquet files or a Hub dataset id that this account "
            f"may read; got {path!r}. For a gated dataset accept its terms on its Hub page, then "
            f"run `hf auth login`. ({error})"
        ) from error
    except RuntimeError as error:  # a dataset that is a script
        raise ValueError(
            f"{path} must be data, not a script: convert it to parquet; {error}"
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(f"README.md of {path} must start with valid YAML; {error}") from error
    by_split = {str(key): list(files) for key, files in (builder.config.data_files or {}).items()}
    if split not in by_split:
        raise ValueError(f"split must be one of {', '.join(by_split)} in {path}; got {split!r}")
    files = tuple(by_split[split])
    card = _read_card(builder, path)
    if Path(files[0]).suffix.lower() in IMAGE_SUFFIXES:
        return _folder_source(path, split, by_split, card)
    if not all(file.endswith(".parquet") for file in files):
        raise ValueError(
            f"{path} must hold parquet files, or pictures in one local folder for each class; got "
            f"{files[0]}"
        )
    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(_read_footer, files))

    features = builder.info.features or datasets.Features.from_arrow_schema(
        footers[0].schema.to_arrow_schema()
    )
    image_column = _find_column(features, image_column, datasets.Image, "image_column", path)
    label_column = _find_column(features, label_column, datasets.ClassLabel, "label_column", path)
    groups, rows, sizes = [], [], []
    for number, footer in enumerate(footers):
        for group in range(footer.num_row_groups):
            meta = footer.row_group(group)
            columns = (meta.column(i) for i in range(meta.num_columns))
            groups.append((number, group))
            rows.append(meta.num_rows)
            sizes.append(
                sum(
                    column.total_uncompressed_size
                    for column in columns
                    if column.path_in_schema.split(".")[0] == image_column
                )
            )
    if not sum(rows):
        raise FileNotFoundError(f"split {split!r} of {path} must hold images; it has none")
    names = [file.rsplit("/", 1)[-1] for file in files]
    hub_commit = builder.hash if files[0].startswith("hf://") else None
    return Source(
        path=path,
        split=split,
        files=files,
        label_names=tuple(features[label_column].names),
        image_column=image_column,
        label_column=label_column,
        groups=tuple(groups),
        group_rows=tuple(rows),
        group_bytes=tuple(sizes),
        footers=tuple(footers),
        fingerprint=_fingerprint(names, groups, rows, sizes),
        card=card,
        revision=hub_commit,
    )


def _folder_source(path, split, by_split, card):
    if "://" in by_split[split][0]:
        raise ValueError(
            f"pictures as single files must lie in a local folder; {path} has them on the Hub. "
            f"Turn them into parquet with `python -m convzoo preprocess`"
        )
    pictures = {
        name: sorted(file for file in files if Path(file).suffix.lower() in IMAGE_SUFFIXES)
        for name, files in by_split.items()
    }
    files = tuple(pictures[split])
    names = sorted({Path(file).parent.name for each in pictures.values() for file in each})
    number = {name: index for index, name in enumerate(names)}
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(os.path.getsize, files))
    starts = range(0, len(files), FOLDER_GROUP)
    short = [str(Path(file).relative_to(Path(file).parents[1])) for file in files]
    return FolderSource(
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
        fingerprint=_fingerprint(short, sizes),
        card=card,
        labels=np.array([number[Path(file).parent.name] for file in files]),
    )


def _fingerprint(*facts):
    return "sha256:" + hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _read_footer(file):
    def read(handle):
        handle.seek(-min(FOOTER_BYTES, handle.size), 2)
        tail = handle.read()
        if int.from_bytes(tail[-8:-4], "little") + 8 > len(tail):
            return pq.read_metadata(handle)
        return pq.read_metadata(pa.BufferReader(tail))

    return _read(file, read)


def _read(file, read):
    """The result of read(open file); a failure that may pass is tried again, with patience."""
    # Not fsspec.open: it would read 5 MiB ahead of every range of a file on the Hub.
    filesystem, path = fsspec.core.url_to_fs(file)
    for delay in (*RETRY_SECONDS, None):
        try:
            with filesystem.open(path, "rb", cache_type="none") as handle:
                return read(handle)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file} must be a readable parquet file; {error}") from error
        except (OSError, httpx.HTTPError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            passing = status == 429 or (status or 0) >= 500
            passing |= isinstance(error, ConnectionError | TimeoutError | httpx.TransportError)
            reason = f"HTTP status {status}" if status else f"{type(error).__name__}: {error}"
            if not passing or delay is None:
                raise OSError(f"{file} could not be read; {reason}") from error
            logger.warning("%s: %s; trying again in %s s", file, reason, delay)
            time.sleep(delay)


def _find_column(features, wanted, kind, setting, path):
    known = [name for name, feature in features.items() if isinstance(feature, kind)]
    if wanted:
        if wanted not in known:
            raise ValueError(
                f"data.{setting} must name a column of type {kind.__name__} of {path}, one of "
                f"{', '.join(known) or 'none'}; got {wanted!r}"
            )
        return wanted
    if len(known) != 1:
        raise ValueError(
            f"{path} must have exactly one column of type {kind.__name__}; got "
            f"{', '.join(known) or f'none among {list(features)}'}. Set data.{setting}"
        )
    return known[0]


def _read_card(builder, path):
    """Front matter of the dataset's README."""
    import yaml

    readme = f"{builder.base_path or path}/README.md"
    try:
        with fsspec.open(readme, "r", encoding="utf-8") as handle:
            text = handle.read()
    except FileNotFoundError:
        return {}
    parts = text.split("---\n", 2)
    try:
        return (yaml.safe_load(parts[1]) or {}) if len(parts) == 3 and not parts[0] else {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"{readme} must start with valid YAML between --- lines; {error}"
        ) from error
