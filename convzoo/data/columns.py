"""Which columns of parquet files hold the images and the labels, and what the labels mean."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import IO, TYPE_CHECKING

import pyarrow.parquet as pq

from convzoo.data.classes import Label, labels_of_splits, log_once
from convzoo.data.remote import READERS, read_file
from convzoo.data.row_groups import FileFacts

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The files of a dataset, as `datasets` sorts them.

    Attributes:
        path: the folder or Hub id it was asked for by.
        files: addresses of the files of each split.
        features: columns and their types as the dataset's card says, or None.
        commit: of a Hub dataset.
        root: address of the folder that has its README.
    """

    path: str
    files: Mapping[str, Sequence[str]]
    features: "datasets.Features | None"
    commit: str
    root: str


@dataclass(frozen=True)
class Columns:
    """The columns that were asked for; "" where there is no choice.

    Attributes:
        image: of images.
        label: of labels.
    """

    image: str = ""
    label: str = ""


@dataclass(frozen=True)
class Labels:
    """The label column of a split.

    Attributes:
        column: its name.
        names: name of each class.
        values: what the column has for each class; None where it has class numbers.
    """

    column: str
    names: tuple[str, ...]
    values: tuple[Label, ...] | None = None


def find_image_column(features: "datasets.Features", *, wanted: str, path: str) -> str:
    """Return the column of images.

    Args:
        features: columns of the dataset and their types.
        wanted: name of the column; the only one of images if "".
        path: what messages call the dataset.

    Raises:
        ValueError: if there is none, or more than one to choose from.
    """
    import datasets

    return _find_column(features, wanted, kind=datasets.Image, setting="image_column", path=path)


def find_labels(
    path: str,
    features: "datasets.Features",
    *,
    wanted: str,
    files: Mapping[str, FileFacts],
    values: Callable[[str], Mapping[str, Collection[Label]]],
) -> Labels:
    """Find the column of labels, and the names of the classes.

    Class numbers have names. Without them a column of texts, whole numbers or booleans is read,
    whose different values, sorted, are the classes.

    Args:
        path: what messages call the dataset.
        features: columns of the dataset and their types.
        wanted: name of the column; the only one of class numbers, or the one called "label", if "".
        files: parquet files of the split and what their footers say; {} for files of other kinds.
        values: reads the different values of a column in each split.

    Raises:
        ValueError: if there is none, more than one to choose from, or if files of the split number
            the classes differently.
    """
    import datasets

    known = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    column = wanted or ("label" if "label" in features and not known else "")
    if column in features and column not in known:
        _check_plain(path, column, feature=features[column])
        found = tuple(labels_of_splits(values(column)))
        log_once(
            f"{path}: column {column!r} has no class names; its {len(found)} values, sorted, are "
            f"the classes"
        )
        return Labels(column, tuple(map(str, found)), found)
    column = _find_column(
        features, wanted, kind=datasets.ClassLabel, setting="label_column", path=path
    )
    _check_class_order(column, files)
    return Labels(column, tuple(features[column].names))


def check_image_columns(files: Mapping[str, FileFacts], image_column: str) -> None:
    """Refuse files whose images are no column of encoded images.

    Raises:
        ValueError: if there are some.
    """
    for file, facts in files.items():
        if f"{image_column}.bytes" not in facts.columns:
            raise ValueError(
                f"{file} must hold its images as {image_column}.bytes, as Dataset.to_parquet "
                f"writes them; it has {', '.join(facts.columns)}. Rewrite it: "
                f"datasets.load_dataset(...)[split].to_parquet(FILE)"
            )


def _find_column(
    features: "datasets.Features", wanted: str, *, kind: type, setting: str, path: str
) -> str:
    known = [name for name, feature in features.items() if isinstance(feature, kind)]
    if wanted in known:
        return wanted
    if not wanted and len(known) == 1:
        return str(known[0])
    option = f"data.{setting} (--{setting.replace('_', '-')})"
    if not wanted and known:
        raise ValueError(
            f"{path} must have exactly one column of type {kind.__name__}; got {', '.join(known)}. "
            f"Choose one with {option}"
        )
    message = f"{path} must have a column of type {kind.__name__}; got none among {list(features)}"
    if wanted:
        message = (
            f"{option} must name a column of type {kind.__name__} of {path}, one of "
            f"{', '.join(known) or 'none'}; got {wanted!r}"
        )
    if not known or wanted in features:
        names = "names=[...]" if kind.__name__ == "ClassLabel" else ""
        column = wanted or setting.removesuffix("_column")
        message += (
            f". A column of another type must be cast, as ds.cast_column({column!r}, "
            f"datasets.{kind.__name__}({names}))"
        )
    raise ValueError(message)


def _check_plain(path: str, column: str, *, feature: object) -> None:
    """Refuse a column that holds neither texts nor whole numbers nor booleans."""
    kind = getattr(feature, "dtype", "") or type(feature).__name__
    if not re.fullmatch(r"u?int\d+|bool|(large_)?string", str(kind)):
        advice = f"cast it: ds.cast_column({column!r}, datasets.ClassLabel(names=[...]))"
        if not hasattr(feature, "dtype") or str(kind) in ("list", "dict"):
            advice = (
                f"choose or make a column with one label, as ds.map(lambda row: "
                f"{{'label': row[{column!r}][0]}}); several labels an image cannot be trained on"
            )
        raise ValueError(
            f"the label column {column!r} of {path} must hold class numbers, texts, whole "
            f"numbers or booleans, one for each image; got {kind}. Choose another one with "
            f"data.label_column (--label-column), or {advice}"
        )


def different_values(tables: Tables, column: str) -> dict[str, set[Label]]:
    """Read the different values of a column of parquet files in each split."""
    files = [file for files in tables.files.values() for file in files]

    def read(handle: IO[bytes]) -> set[Label]:
        return set(pq.read_table(handle, columns=[column])[0].unique().drop_null().to_pylist())

    with ThreadPoolExecutor(READERS) as pool:
        found = dict(zip(files, pool.map(lambda file: read_file(file, read), files), strict=True))
    return {
        split: {label for file in files for label in found[file]}
        for split, files in tables.files.items()
    }


def _check_class_order(column: str, files: Mapping[str, FileFacts]) -> None:
    """Refuse files of a split that number the classes differently."""
    seen: dict[bytes, tuple[str, list[str]]] = {}  # most files have the same metadata
    for file, facts in files.items():
        if facts.features in seen:
            continue
        names = _class_names(facts.features, column)
        for other, other_names in seen.values():
            if names and other_names and names != other_names:
                place = next(
                    number
                    for number, pair in enumerate(zip_longest(names, other_names))
                    if pair[0] != pair[1]
                )
                raise ValueError(
                    f"the parquet files of a split must number the classes alike; class {place} is "
                    f"{_name_of(other_names, place)} in {other} and {_name_of(names, place)} in "
                    f"{file}. Write them anew from one dataset whose column {column!r} was cast "
                    f"to one datasets.ClassLabel(names=[...])"
                )
        seen[facts.features] = (file, names)


def _name_of(names: list[str], number: int) -> str:
    return repr(names[number]) if number < len(names) else "none"


def _class_names(written: bytes, column: str) -> list[str]:
    """Return the class names in the metadata that `datasets` writes into a parquet file."""
    try:
        names = json.loads(written)["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError):
        return []
    return names if isinstance(names, list) else [names[key] for key in sorted(names, key=int)]
