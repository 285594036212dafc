"""Labels of images from metadata files, as `datasets` reads them beside a folder of images.

metadata.csv, metadata.jsonl or metadata.parquet has a row for each image: `file_name`, relative to
the folder of the metadata file, and `label`.
"""

import csv
import json
import posixpath
import re
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from convzoo.data.folder_layout import Layout, Member, check_synonyms, in_order, split_of
from convzoo.data.folder_listing import File, Listing

INTEGER = re.compile(r"-?(0|[1-9]\d*)")
Row = dict[str, Any]


def layout_by_metadata(listing: Listing, label_column: str = "") -> Layout:
    """Sort images into splits by their first folder, and into classes by the metadata files.

    A split of which they say nothing has its classes as folders.

    Args:
        listing: has metadata files.
        label_column: column of labels; "label" if "".

    Raises:
        ValueError: if a row, a label or an image cannot be used.
    """
    labels = _read_labels(listing, label_column or "label")
    tops = sorted({image.parts[0] if len(image.parts) > 1 else "" for image in listing.images})
    has_splits = all(split_of(top) for top in tops)
    if has_splits:
        check_synonyms(listing, tops)
    elif any(split_of(top) for top in tops):
        outside = next(top for top in tops if not split_of(top)) or "."
        raise ValueError(
            f"images of {listing.root} must all lie in folders of splits, or none; got folders "
            f"{', '.join(top for top in tops if split_of(top))} and images in {outside}. Move them"
        )
    layout: Layout = {}
    for image in listing.images:
        split = (split_of(image.parts[0]) or "") if has_splits else "train"
        layout.setdefault(split, []).append(Member(image, labels.get(image.path)))
    for split, members in layout.items():
        if any(member.label is not None for member in members):
            listing.leave_out(
                "images in no row of a metadata file",
                (member.file.path for member in members if member.label is None),
            )
            layout[split] = [member for member in members if member.label is not None]
        elif has_splits and all(len(member.file.parts) == 3 for member in members):
            layout[split] = [Member(member.file, member.file.parts[1]) for member in members]
    return in_order(layout)


def _read_labels(listing: Listing, column: str) -> dict[str, str | int | bool]:
    """Read the label of each image by its path."""
    known = {image.path for image in listing.images}
    labels: dict[str, str | int | bool] = {}
    for file in listing.metadata:
        folder = posixpath.dirname(file.path)
        for number, row in enumerate(_rows(listing, file), start=1):
            where = f"row {number} of {listing.root / file.path}"
            if "file_name" not in row or column not in row:
                raise ValueError(
                    f"{listing.root / file.path} must have the columns file_name and {column}; it "
                    f"has {', '.join(map(str, row)) or 'none'}. Add what is missing, choose the "
                    f"label's with data.label_column (--label-column), or remove the file"
                )
            path = posixpath.normpath(posixpath.join(folder, str(row["file_name"])))
            if path not in known:
                raise ValueError(
                    f"file_name must be an image, relative to the metadata file's folder; got "
                    f"{row['file_name']!r} in {where}, and no image {path} in {listing.root}"
                )
            if path in labels:
                raise ValueError(
                    f"each image must have one row in the metadata files of {listing.root}; got "
                    f"{path} again in {where}. Remove one of the rows"
                )
            labels[path] = _label(row[column], where, column=column)
    return labels


def _label(value: Any, where: str, *, column: str) -> str | int | bool:
    if not isinstance(value, str | int | bool) or value == "":
        raise ValueError(
            f"{column} must be one text, whole number or true/false for each image; got {value!r} "
            f"in {where}"
        )
    return value


def _rows(listing: Listing, file: File) -> Iterator[Row]:
    path = listing.root / file.path
    try:
        if file.name.endswith(".parquet"):
            yield from pq.read_table(path).to_pylist()
            return
        text = path.read_text(encoding="utf-8-sig")
        if file.name.endswith(".jsonl"):
            for line in filter(str.strip, text.split("\n")):
                row = json.loads(line)
                yield row if isinstance(row, dict) else {}
        else:
            yield from _with_integers(list(csv.DictReader(text.splitlines(keepends=True))))
    except ValueError as error:  # pyarrow's errors are some, too
        raise ValueError(f"{path} must be readable as {path.suffix[1:]}; {error}") from error


def _with_integers(rows: list[Row]) -> list[Row]:
    """Turn the columns of a CSV that hold nothing but whole numbers into numbers."""
    for column in [name for name in (rows[0] if rows else ()) if name != "file_name"]:
        values = [row[column] for row in rows]
        if all(isinstance(value, str) and INTEGER.fullmatch(value) for value in values):
            for row in rows:
                row[column] = int(row[column])
    return rows
