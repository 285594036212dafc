"""Open a local folder of images as a split."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from convzoo.data.classes import (
    check_class_names,
    check_mixed_labels,
    log_once,
    sorted_labels,
)
from convzoo.data.folder_layout import WANTED, Layout, Member, check_links, layout_by_position
from convzoo.data.folder_listing import Listing
from convzoo.data.folder_metadata import layout_by_metadata
from convzoo.data.split import FolderSplit

FOLDER_GROUP = 64  # files of an image folder that are read together


def folder_layout(listing: Listing, label_column: str = "") -> Layout:
    """Sort the images of a folder into splits and classes.

    Args:
        listing: of the folder.
        label_column: column of the labels in metadata files; "label" if "".

    Raises:
        ValueError: if it can be read in several ways, or in none.
    """
    check_links(listing)
    layout = (
        layout_by_metadata(listing, label_column)
        if listing.metadata
        else layout_by_position(listing)
    )
    if left_out := listing.describe_left_out():
        log_once(f"{listing.root}: left out {left_out}")
    return layout


def open_folder(
    path: str,
    name: str,
    *,
    listing: Listing,
    card: dict[str, Any],
    label_column: str = "",
) -> FolderSplit:
    """Open a split of a folder of images.

    Args:
        path: the folder, as it was asked for.
        name: of the split.
        listing: of the folder.
        card: front matter of its README.
        label_column: as for `folder_layout`.

    Raises:
        ValueError: if the split is not in it, or as `folder_layout`.
    """
    layout = folder_layout(listing, label_column)
    if name not in layout:
        raise ValueError(
            f"split must be one of {', '.join(layout)} in {path}; got {name!r}. Set "
            f"data.train_split, data.eval_split or --split"
        )
    members = layout[name]
    _check_labelled(members, name, path=path)
    labels = sorted_labels(
        member.label for each in layout.values() for member in each if member.label is not None
    )
    names = tuple(str(label) for label in labels)
    check_class_names(names, path)
    check_mixed_labels(names, path)
    if len(names) < 2:
        raise ValueError(
            f"images of {path} must be of at least 2 classes, as {WANTED}; got one class, "
            f"{names[0]!r}, with {len(members)} images such as {members[0].file.path}"
        )
    number: dict[object, int] = {label: index for index, label in enumerate(labels)}
    sizes = [member.file.size for member in members]
    starts = range(0, len(members), FOLDER_GROUP)
    facts: list[object] = [["/".join(member.file.parts[-2:]) for member in members], sizes]
    if listing.metadata:
        facts.append([member.label for member in members])
    return FolderSplit(
        path=path,
        name=name,
        files=tuple(str(listing.root / member.file.path) for member in members),
        label_names=names,
        image_column="",
        label_column="",
        groups=tuple((start, 0) for start in starts),
        group_rows=tuple(len(members[start : start + FOLDER_GROUP]) for start in starts),
        group_bytes=tuple(sum(sizes[start : start + FOLDER_GROUP]) for start in starts),
        footers=(),
        fingerprint=fingerprint(*facts),
        card=card,
        labels=np.array([number[member.label] for member in members]),
    )


class UnlabelledSplitError(ValueError):
    """Says that images of a split have no class."""


def _check_labelled(members: Sequence[Member], name: str, *, path: str) -> None:
    without = [member.file.path for member in members if member.label is None]
    if without:
        raise UnlabelledSplitError(
            f"images of split {name!r} of {path} must lie as {WANTED}; got {len(without)} without "
            f"a class, such as {without[0]}. Move them into folders of their classes, or use "
            f"another split"
        )


def fingerprint(*facts: object) -> str:
    """Return the sha256 of facts about data, which changes when the data does."""
    return "sha256:" + hashlib.sha256(json.dumps(facts).encode()).hexdigest()
