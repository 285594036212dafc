"""Open a local folder of images as a split."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from convzoo.data.cards import read_card
from convzoo.data.classes import (
    check_class_names,
    check_mixed_labels,
    labels_of_splits,
    log_once,
    unlabelled_splits,
)
from convzoo.data.folder_layout import WANTED, Layout, Member, check_links, layout_by_position
from convzoo.data.folder_listing import Listing
from convzoo.data.folder_metadata import layout_by_metadata
from convzoo.data.split import FolderSplit, check_split, fingerprint

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


@dataclass(frozen=True)
class FolderSource:
    """A folder of images.

    Attributes:
        path: the folder, as it was asked for.
        listing: of the folder.
        label_column: as for `folder_layout`.
    """

    path: str
    listing: Listing
    label_column: str = ""

    @cached_property
    def layout(self) -> Layout:
        """Its images by split."""
        return folder_layout(self.listing, self.label_column)

    def split_names(self) -> list[str]:
        """List its splits, in the usual order."""
        return list(self.layout)

    def open_split(self, name: str) -> FolderSplit:
        """Open a split.

        Raises:
            ValueError: if the split is not in it, or as `folder_layout`.
        """
        listed = listed_images(self.path, self.layout, name)
        root = str(self.listing.root)
        by_rows = bool(self.listing.metadata)
        return folder_split(listed, root=root, card=read_card(root), by_rows=by_rows)


@dataclass(frozen=True, kw_only=True)
class ListedImages:
    """The images of a split.

    Attributes:
        path: the dataset, as it was asked for.
        name: of the split.
        members: its images.
        labels: class number of each.
        label_names: name of each class.
    """

    path: str
    name: str
    members: Sequence[Member]
    labels: np.ndarray
    label_names: tuple[str, ...]

    def fingerprint(self, *, by_rows: bool) -> str:
        """Return what changes when an image, its name or its class does.

        Args:
            by_rows: whether the classes are not those of the folders.
        """
        members = self.members
        names = ["/".join(member.file.parts[-2:]) for member in members]
        facts: list[object] = [names, [member.file.size for member in members]]
        if by_rows:
            facts.append([member.label for member in members])
        return fingerprint(*facts)


def listed_images(path: str, layout: Layout, name: str, *, wanted: str = WANTED) -> ListedImages:
    """Number the classes of a dataset, and the images of a split by them.

    Args:
        path: the dataset, as it was asked for.
        layout: all its images.
        name: of the split.
        wanted: what a message says of how images must be given.

    Raises:
        ValueError: if the split is not in it, an image has no class, or the classes cannot be used.
    """
    check_split(name, layout, path)
    members = layout[name]
    given = {
        split: {member.label for member in each if member.label is not None}
        for split, each in layout.items()
    }
    if name in unlabelled_splits(given):
        members = [Member(member.file, None) for member in members]
    _check_labelled(members, name, path=path, wanted=wanted)
    labels = labels_of_splits(given)
    names = tuple(str(label) for label in labels)
    check_class_names(names, path)
    check_mixed_labels(names, path)
    if len(names) < 2:
        raise ValueError(
            f"images of {path} must be of at least 2 classes, as {wanted}; got one class, "
            f"{names[0]!r}, with {len(members)} images such as {members[0].file.path}"
        )
    number: dict[object, int] = {label: index for index, label in enumerate(labels)}
    return ListedImages(
        path=path,
        name=name,
        members=members,
        labels=np.array([number[member.label] for member in members]),
        label_names=names,
    )


def folder_split(
    listed: ListedImages, *, root: str, card: dict[str, Any], by_rows: bool
) -> FolderSplit:
    """Make a split of local image files.

    Args:
        listed: its images.
        root: folder that their paths are relative to.
        card: front matter of the dataset's README.
        by_rows: as for `ListedImages.fingerprint`.
    """
    members = listed.members
    sizes = [member.file.size for member in members]
    starts = range(0, len(members), FOLDER_GROUP)
    return FolderSplit(
        path=listed.path,
        name=listed.name,
        files=tuple(os.path.join(root, member.file.path) for member in members),
        label_names=listed.label_names,
        groups=tuple((start, 0) for start in starts),
        group_rows=tuple(len(members[start : start + FOLDER_GROUP]) for start in starts),
        group_bytes=tuple(sum(sizes[start : start + FOLDER_GROUP]) for start in starts),
        fingerprint=listed.fingerprint(by_rows=by_rows),
        card=card,
        labels=listed.labels,
        root=root,
    )


class UnlabelledSplitError(ValueError):
    """Says that images of a split have no class."""


def _check_labelled(members: Sequence[Member], name: str, *, path: str, wanted: str) -> None:
    without = [member.file.path for member in members if member.label is None]
    if without:
        raise UnlabelledSplitError(
            f"images of split {name!r} of {path} must {'lie as' if wanted is WANTED else 'be'} "
            f"{wanted}; got {len(without)} without a class, such as {without[0]}. "
            f"{'Move them into folders of' if wanted is WANTED else 'Give them'} their classes, or "
            f"use another split"
        )
