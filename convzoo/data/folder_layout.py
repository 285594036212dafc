"""Where the images of a folder lie: SPLIT/CLASS/FILE or CLASS/FILE, decided by position alone.

A class may have any name, that of a split too. What could be read in two ways is refused.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from convzoo.data.folder_listing import File, Listing

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
WANTED = "SPLIT/CLASS/FILE (train/cat/1.jpg), or CLASS/FILE (cat/1.jpg) for one training split"


class Member(NamedTuple):
    """An image of a split and the name of its class; None for an image without one."""

    file: File
    label: str | int | bool | None


Layout = dict[str, list[Member]]


def split_of(folder: str) -> str | None:
    """Return the split that a folder's name stands for, in any case."""
    return _SPLIT_OF.get(folder.lower())


def layout_by_position(listing: Listing) -> Layout:
    """Sort images into splits and classes by the folders they lie in.

    Raises:
        ValueError: if the layout is mixed, deeper, or without classes.
    """
    images = listing.images
    tops = sorted({image.parts[0] for image in images})
    if all(len(image.parts) == 2 for image in images) and not all(map(split_of, tops)):
        return {"train": [Member(image, image.parts[0]) for image in images]}
    for image in images:
        depth = len(image.parts)
        if depth not in (2, 3) or not split_of(image.parts[0]):
            _refuse(listing)
    check_synonyms(listing, tops)
    layout: Layout = {}
    for image in images:
        label = image.parts[1] if len(image.parts) == 3 else None
        layout.setdefault(split_of(image.parts[0]) or "", []).append(Member(image, label))
    if all(member.label is None for members in layout.values() for member in members):
        _refuse(listing)
    return in_order(layout)


def in_order(layout: Layout) -> Layout:
    """Sort the splits as everybody names them: train, validation, test."""
    return {split: layout[split] for split in SPLIT_NAMES if split in layout}


def check_synonyms(listing: Listing, tops: Iterable[str]) -> None:
    """Refuse two folders of one split.

    Raises:
        ValueError: if there are some.
    """
    names: dict[str, str] = {}
    for top in tops:
        split = split_of(top) or top
        if split in names:
            raise ValueError(
                f"{listing.root} must have one folder for each split; got {names[split]} and {top} "
                f"for split {split!r}. Merge them, or rename one"
            )
        names[split] = top


def check_links(listing: Listing) -> None:
    """Refuse images that are there twice, or not at all.

    Raises:
        ValueError: if there are some.
    """
    advice = "Remove one of them"
    if listing.links_twice:
        first, second = listing.links_twice[0]
        raise ValueError(
            f"{listing.root} must hold each image once; {first} and {second} are the same folder. "
            f"{advice}"
        )
    seen: dict[tuple[int, int], str] = {}
    for image in listing.images:
        if image.identity[1] and image.identity in seen:  # some file systems do not number files
            raise ValueError(
                f"{listing.root} must hold each image once; {seen[image.identity]} and "
                f"{image.path} are the same file. {advice}"
            )
        seen[image.identity] = image.path
    if listing.dead_links:
        raise ValueError(
            f"links of {listing.root} must lead to files; {listing.dead_links[0]} leads nowhere "
            f"({len(listing.dead_links)} such links). Mend or remove them"
        )


def _refuse(listing: Listing) -> None:
    """Refuse a folder with the layout found and the layout wanted."""
    examples: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for image in listing.images:
        parts = image.parts
        split = bool(split_of(parts[0])) and len(parts) > 1
        folders = ["SPLIT"] * split + ["FOLDER"] * (len(parts) - 1 - split)
        shape = "/".join([*folders, "FILE"])
        counts[shape] += 1
        examples.setdefault(shape, image.path)
    found = "; ".join(
        f"{count} as {shape}, such as {examples[shape]}" for shape, count in counts.most_common()
    )
    tops = {image.parts[0] for image in listing.images if len(image.parts) > 1}
    advice = "Move or remove what lies elsewhere"
    if len(tops) == 1 and not split_of(next(iter(tops))) and set(counts) != {"FOLDER/FILE"}:
        advice = f"Perhaps {listing.address(next(iter(tops)))} is the folder to give"
    elif any(shape.count("FOLDER") > 1 for shape in counts):
        advice = "Move the files of deeper folders up into the folder of their class"
    elif set(counts) <= {"FILE", "SPLIT/FILE"}:
        advice = "Make one folder for each class, or a metadata.csv with file_name and label"
    raise ValueError(f"images of {listing.root} must lie as {WANTED}; got {found}. {advice}")
