"""Tars of images as WebDataset writes them, of a folder or the Hub.

`dir/key.jpg` is an image; `dir/key.cls`, or `label` or `class` in `dir/key.json`, is its class: a
number, or a name. Names of numbers come from a file of the dataset that lists them, or its card.
"""

import dataclasses
import hashlib
import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convzoo.data.cards import read_card
from convzoo.data.classes import (
    Label,
    check_class_names,
    check_mixed_labels,
    first_names,
    log_once,
    sorted_labels,
)
from convzoo.data.columns import Columns, Tables
from convzoo.data.folder_metadata import check_label
from convzoo.data.member_split import MemberSplit, Places
from convzoo.data.remote import patiently, read_file
from convzoo.data.row_files import INTEGER
from convzoo.data.split import check_split, fingerprint
from convzoo.data.tar_index import index_tars

LABEL_KEYS = ("label", "class", "cls")  # of a .json
NAME_FILES = ("classnames.txt", "class_names.txt", "classes.txt", "labels.txt")
INFO_FILES = ("_info.json", "info.json", "dataset_info.json")
NAME_KEYS = ("class_names", "classnames", "label_names", "classes", "names")  # of an info file


@dataclass(frozen=True)
class TarSource:
    """A dataset of tars.

    Attributes:
        tables: its files.
        columns: `image`, the suffix of the images, and `label`, that of the label or its key in the
            `.json`, where there are several.
    """

    tables: Tables
    columns: Columns

    def split_names(self) -> list[str]:
        """List its splits, in its own order."""
        return list(self.tables.files)

    def open_split(self, name: str) -> MemberSplit:
        """Open a split.

        Raises:
            FileNotFoundError: if the split has no images.
            ValueError: if the split is not in it, a tar is none, or labels cannot be used.
            OSError: if a file cannot be read, for good or in spite of several tries.
        """
        path = self.tables.path
        check_split(name, self.tables.files, path)
        shards = self._shards(name)
        found = pa.concat_tables(shards)
        if not found.num_rows:
            raise FileNotFoundError(f"split {name!r} of {path} must hold images; it has none")
        label_names, values = self._classes(name)
        numbers = self._label_numbers(name, values)
        places = Places(
            names=found["name"].combine_chunks(),
            files=np.repeat(np.arange(len(shards)), [shard.num_rows for shard in shards]),
            offsets=found["offset"].to_numpy(),
            lengths=found["length"].to_numpy(),
        )
        starts, counts, sizes = places.row_groups()
        files = tuple(self.tables.files[name])
        facts = (
            [posixpath.basename(file) for file in files],
            [shard.num_rows for shard in shards],
            _hash(places.offsets, places.lengths, numbers),
            label_names,
        )
        return MemberSplit(
            path=path,
            name=name,
            files=files,
            label_names=label_names,
            groups=tuple((start, 0) for start in starts),
            group_rows=counts,
            group_bytes=sizes,
            fingerprint=fingerprint(*facts),
            card=read_card(self.tables.root),
            revision=self.tables.commit if files[0].startswith("hf://") else None,
            labels=numbers,
            places=places,
        )

    def _shards(self, split: str) -> list[pa.Table]:
        """Find the images of each tar of a split, one for each key."""
        return [_choose_images(*pair, wanted=self.columns.image) for pair in self._indexes(split)]

    def _indexes(self, split: str) -> list[tuple[str, pa.Table]]:
        files = self.tables.files[split]
        if split not in self._read:
            self._read[split] = index_tars(files, f"{self.tables.path} [{split}]")
        return list(zip(files, self._read[split], strict=True))

    @cached_property
    def _read(self) -> dict[str, list[pa.Table]]:
        return {}

    def _raw_labels(self, split: str) -> pa.Array:
        """Return the label of each image as JSON, `3` or `"cat"`; null for none."""
        wanted = self.columns.label
        table = pa.concat_tables(self._shards(split))
        labels = _labels_of_cls(table["cls"].combine_chunks())
        if wanted and wanted != "cls":
            labels = pa.nulls(table.num_rows, pa.string())
        if wanted == "cls" or not labels.null_count:
            return labels
        keys = (wanted.removeprefix("json."),) if wanted else LABEL_KEYS
        rows = zip(table["json"].to_pylist(), table["name"].to_pylist(), strict=True)
        of_json = pa.array([_label_of_json(*row, keys) if row[0] else None for row in rows])
        return pc.coalesce(labels, of_json.cast(pa.string()))

    def _classes(self, split: str) -> tuple[tuple[str, ...], list[str]]:
        """Return the name of each class, and its label as JSON."""
        path = self.tables.path
        listed = self._listed_names
        splits = [split] if listed else self.split_names()
        texts = {
            text
            for each in splits
            for text in self._raw_labels(each).unique().drop_null().to_pylist()
        }
        labels: list[Label] = sorted_labels(json.loads(text) for text in texts)
        if not labels and not listed:
            raise ValueError(self._unlabelled_message())
        are_numbers = all(isinstance(label, int) for label in labels)
        if listed:
            names = listed
        elif are_numbers:
            names = tuple(map(str, range(int(labels[-1]) + 1)))
            log_once(
                f"{path}: its classes have no names, neither in {' or '.join(NAME_FILES)} nor in "
                f"its card; they are called 0 to {names[-1]}"
            )
        else:
            names = tuple(map(str, labels))
        check_class_names(names, path)
        check_mixed_labels(names, path)
        if len(names) < 2:
            raise ValueError(
                f"images of {path} must be of at least 2 classes; got one class, {names[0]!r}"
            )
        return names, [str(n) if are_numbers else json.dumps(name) for n, name in enumerate(names)]

    def _label_numbers(self, split: str, values: Sequence[str]) -> np.ndarray:
        """Return the class number of each image; -1 for all where none has a label."""
        raw = self._raw_labels(split)
        numbers = np.asarray(pc.index_in(raw, pa.array(values)).fill_null(-1), dtype=np.int64)
        wrong = np.flatnonzero(numbers < 0)
        if not len(wrong) or raw.null_count == len(raw):
            return numbers
        row = int(wrong[0])
        names = pa.concat_arrays([shard["name"].combine_chunks() for shard in self._shards(split)])
        if raw[row].is_valid:
            raise ValueError(
                f"labels of {self.tables.path} must be among its {len(values)} classes, "
                f"{first_names(values)}; {names[row]} has {raw[row]}. Mend the label, or the list "
                f"of the classes"
            )
        raise ValueError(
            f"images of split {split!r} of {self.tables.path} must all have a label; {len(wrong)} "
            f"of {len(raw)} have none, such as {names[row]}. A label is a member of the same name "
            f"that ends with .cls, or a .json with one of the keys {', '.join(LABEL_KEYS)}"
        )

    @cached_property
    def _listed_names(self) -> tuple[str, ...]:
        """Names of the classes as the dataset lists them; () where it does not."""
        import datasets

        for name in (*NAME_FILES, *INFO_FILES):
            read = _lines if name in NAME_FILES else _names_of_info
            if names := read(self._read_text(name)):
                log_once(f"{self.tables.path}: the names of its {len(names)} classes are in {name}")
                return names
        kinds = (self.tables.features or {}).values()
        of_card = [kind for kind in kinds if isinstance(kind, datasets.ClassLabel)]
        return tuple(of_card[0].names) if len(of_card) == 1 else ()

    def _read_text(self, name: str) -> str:
        """Read a small file beside the tars; "" where there is none."""
        if name not in self._small_files:
            return ""
        file = f"{self.tables.root}/{name}"
        data: bytes = read_file(file, lambda handle: handle.read())
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} must be text in UTF-8; {error}") from error

    @cached_property
    def _small_files(self) -> set[str]:
        filesystem, root = fsspec.core.url_to_fs(self.tables.root)
        found = patiently(self.tables.root, lambda: filesystem.ls(root, detail=False))
        return {posixpath.basename(file) for file in found}

    def _unlabelled_message(self) -> str:
        others: dict[str, int] = {}
        for split in self.split_names():
            for _, table in self._indexes(split):
                others |= _facts(table)["others"]
        found = f"; other members end with {', '.join(sorted(others))}" if others else ""
        return (
            f"images of {self.tables.path} must have labels; none has. A label is a member of the "
            f"same name that ends with .cls, or a .json with one of the keys "
            f"{', '.join(LABEL_KEYS)} or the one of data.label_column (--label-column){found}. "
            f"Where the folders in the tar are the classes, unpack it: `tar -xf FILE`"
        )


def only_tars(tables: Tables) -> Tables:
    """Return the tars of a dataset, without the other files.

    Raises:
        ValueError: if it has parquet files, too.
    """
    files = [file for files in tables.files.values() for file in files]
    if table := next((file for file in files if file.endswith(".parquet")), None):
        tar = next(file for file in files if file.endswith(".tar"))
        raise ValueError(
            f"{tables.path} must hold parquet files or tars, not both; got {table} and {tar}. "
            f"Choose a configuration with data.name (--name), or move one kind elsewhere"
        )
    splits = {
        split: [file for file in files if file.endswith(".tar")]
        for split, files in tables.files.items()
    }
    if others := [posixpath.basename(file) for file in files if not file.endswith(".tar")]:
        log_once(
            f"{tables.path}: left out {len(others)} files that are no tars: {first_names(others)}"
        )
    return dataclasses.replace(
        tables, files={split: each for split, each in splits.items() if each}
    )


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


def _names_of_info(text: str) -> tuple[str, ...]:
    """Return the names of the classes in a JSON file about a dataset; () where it has none."""
    try:
        info = json.loads(text) if text else {}
    except ValueError:
        return ()
    for key in NAME_KEYS if isinstance(info, dict) else ():
        names = info.get(key)
        if isinstance(names, dict) and all(map(INTEGER.fullmatch, names)):
            names = [names[key] for key in sorted(names, key=int)]
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()


def _hash(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(array.astype("<i8").tobytes() for array in arrays)).hexdigest()


def _facts(table: pa.Table) -> dict[str, Any]:
    return dict(json.loads(table.schema.metadata[b"convzoo"]))


def _choose_images(file: str, table: pa.Table, *, wanted: str) -> pa.Table:
    """Return one image for each key of a tar."""
    facts = _facts(table)
    if without := facts["without_image"]:
        log_once(f"{file}: left out {without} keys without an image, such as {facts['example']}")
    found = sorted(table["suffix"].unique().to_pylist())
    if wanted:
        table = table.filter(pc.equal(table["suffix"], wanted.lower().lstrip(".")))
        if found and not table.num_rows:
            raise ValueError(
                f"data.image_column (--image-column) must be a suffix of the images of {file}, one "
                f"of {', '.join(found)}; got {wanted!r}"
            )
    elif table.num_rows != facts["num_keys"]:
        raise ValueError(
            f"a key of a tar must have one image; {file} has {table.num_rows} for "
            f"{facts['num_keys']} keys, that end with {', '.join(found)}. Choose them by their "
            f"suffix with data.image_column (--image-column)"
        )
    return table


def _labels_of_cls(column: pa.StringArray) -> pa.Array:
    """Turn the texts of .cls members into JSON; -1 and nothing into null."""
    encoded = column.dictionary_encode()
    labels = []
    for text in encoded.dictionary.to_pylist():
        text = text.strip()
        is_number = INTEGER.fullmatch(text)
        labels.append(None if text in ("", "-1") else text if is_number else json.dumps(text))
    return pa.array(labels, pa.string()).take(encoded.indices)


def _label_of_json(text: str, name: str, keys: Sequence[str]) -> str | None:
    """Find the label in a .json member."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the .json of {name} must be JSON; {error}") from error
    if not isinstance(content, dict):
        return None
    label = next((content[key] for key in keys if content.get(key) is not None), None)
    if label is None or label == -1:
        return None
    return json.dumps(check_label(label, f"the .json of {name}", column=" or ".join(keys)))
