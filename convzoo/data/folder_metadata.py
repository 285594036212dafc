"""Labels of images from metadata files, as `datasets` reads them beside a folder of images.

metadata.csv, metadata.jsonl or metadata.parquet has a row for each image: `file_name`, relative to
the folder of the metadata file, and `label`.
"""

import posixpath
from typing import Any

from convzoo.data.folder_layout import Layout, Member, check_synonyms, in_order, split_of
from convzoo.data.folder_listing import Listing
from convzoo.data.remote import read_file
from convzoo.data.row_files import read_rows


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
        address = listing.address(file.path)
        data = listing.contents.get(file.path)
        if data is None:
            data = read_file(address, lambda handle: handle.read())
        rows = read_rows(data, address)
        if not rows.num_rows:
            continue
        if not {"file_name", column} <= rows.columns.keys():
            raise ValueError(
                f"{address} must have the columns file_name and {column}; it has "
                f"{', '.join(rows.columns) or 'none'}. Add what is missing, choose the label's "
                f"with data.label_column (--label-column), or remove the file"
            )
        folder = posixpath.dirname(file.path)
        pairs = zip(rows.columns["file_name"], rows.values(column), strict=True)
        for number, (name, value) in enumerate(pairs, start=1):
            where = f"row {number} of {address}"
            path = posixpath.normpath(posixpath.join(folder, str(name)))
            if path not in known:
                raise ValueError(
                    f"file_name must be an image, relative to the metadata file's folder; got "
                    f"{name!r} in {where}, and no image {path} in {listing.root}"
                )
            if path in labels:
                raise ValueError(
                    f"each image must have one row in the metadata files of {listing.root}; got "
                    f"{path} again in {where}. Remove one of the rows"
                )
            labels[path] = check_label(value, where, column=column)
    return labels


def check_label(value: Any, where: str, *, column: str) -> str | int | bool:
    """Return the label of a row.

    Raises:
        ValueError: if it is no text, whole number or truth value.
    """
    if not isinstance(value, str | int | bool) or value == "":
        raise ValueError(
            f"{column} must be one text, whole number or true/false for each image; got {value!r} "
            f"in {where}"
        )
    return value
