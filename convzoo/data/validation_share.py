"""Take a share of a split out for validation: stratified, seeded, never trained on.

The share is a function of the data, the fraction and the seed alone, so every process of a training
and a later evaluation find the same one. Images with the same bytes go to one side together.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convzoo.data.classes import first_names
from convzoo.data.copies import Copies, find_copies
from convzoo.data.split import Split
from convzoo.data.subset import choose_and_record, subset

logger = logging.getLogger(__name__)
MOST_NAMED = 5  # pairs of images in a warning


def take_share(
    split: Split, fraction: float, seed: int, *, copies: Copies | None = None
) -> tuple[Split, Split]:
    """Cut a split into the images that are trained on and those that are validated on.

    Of each class `fraction` of its images is taken, rounded, but at least one, and at least one
    stays. Copies of an image are one image here; where copies would exceed the share, fewer images
    are taken. All images of a class of one image stay in training, and so do images that occur in
    several classes: neither could be measured fairly.

    Args:
        split: to cut.
        fraction: of each class, in (0, 1).
        seed: of the drawing.
        copies: what `find_copies` gave; it is asked if None.

    Returns:
        (training, validation): together all rows, each in the split's order.

    Raises:
        ValueError: if nothing can be taken, and as `Split.read_labels`.
        OSError: as `Split.read_labels` and `Split.read_group`.
    """
    labels = split.read_labels()
    copies = copies or find_copies(split)
    taken = _draw(labels, copies.numbers(split.num_rows), fraction=fraction, seed=seed)
    if not len(taken):
        raise ValueError(
            f"data.eval_fraction needs a class with two different images in {split.path} "
            f"[{split.name}]; none of its {split.num_rows} images can be taken"
        )
    _tell(split, labels, taken=taken)
    validated = np.zeros(split.num_rows, bool)
    validated[taken] = True
    _warn_of_likeness(split, copies, validated)
    step = {"eval_fraction": fraction, "seed": seed}
    return (
        choose_and_record(split, np.flatnonzero(~validated), taken=[step | {"part": "training"}]),
        choose_and_record(split, taken, taken=[step | {"part": "validation"}]),
    )


def repeat_choices(split: Split, taken: Sequence[Mapping[str, Any]], *, renumber: bool) -> Split:
    """Choose the rows of a split again that a result file says were chosen.

    Args:
        split: the whole split.
        taken: the "taken" of `Split.subset`.
        renumber: as for `subset`.

    Raises:
        ValueError: as `take_share` and `subset`.
        OSError: as `take_share`.
    """
    for step in taken:
        if "eval_fraction" in step:
            training, validation = take_share(split, step["eval_fraction"], step["seed"])
            split = validation if step["part"] == "validation" else training
        else:
            split = subset(split, renumber=renumber, **step)
    return split


def _draw(labels: np.ndarray, images: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Draw rows, ascending; copies, which have the same number in `images`, only together."""
    rng = np.random.default_rng([seed, *b"validation"])
    _, first, number, copies = np.unique(
        images, return_index=True, return_inverse=True, return_counts=True
    )
    in_order = np.argsort(number, kind="stable")
    ends = np.cumsum(copies)
    label = labels[first]
    # An image in several classes is in none.
    label[number[label[number] != labels]] = -1
    taken: list[int] = []
    for each in np.unique(label[label >= 0]):
        members = rng.permutation(np.flatnonzero(label == each))
        if len(members) < 2:
            continue
        total = int(copies[members].sum())
        wanted = min(max(1, round(fraction * total)), total - 1)
        chosen = _fill(members, copies, wanted=wanted)
        taken += chosen or [min(members, key=lambda member: copies[member])]
    rows = [in_order[ends[member] - copies[member] : ends[member]] for member in taken]
    return np.sort(np.concatenate(rows)) if rows else np.array([], np.int64)


def _fill(members: np.ndarray, copies: np.ndarray, *, wanted: int) -> list[int]:
    """Choose members in their order whose copies together are at most as many as wanted."""
    chosen: list[int] = []
    for member in members.tolist():
        if not wanted:
            break
        if copies[member] <= wanted:
            chosen.append(member)
            wanted -= int(copies[member])
    return chosen


def _tell(split: Split, labels: np.ndarray, *, taken: np.ndarray) -> None:
    logger.info(
        "validation share: %d of %d images of split %r, which are not trained on",
        len(taken),
        split.num_rows,
        split.name,
    )
    without = sorted({*labels.tolist()} - {*labels[taken].tolist()})
    if without:
        logger.warning(
            "%d classes have no two different images and are not validated: %s",
            len(without),
            first_names([split.label_names[number] for number in without]),
        )


def _warn_of_likeness(split: Split, copies: Copies, validated: np.ndarray) -> None:
    """Name pairs of images that look alike, one of them trained on and one validated on."""
    pairs = [(a, b) for a, b in copies.alike or () if validated[a] != validated[b]]
    if pairs:
        named = [f"{split.where_is(a)} and {split.where_is(b)}" for a, b in pairs[:MOST_NAMED]]
        logger.warning(
            "%d pair(s) of images look alike, one in training and one in the validation share: the "
            "accuracy may be too good. Remove one of each pair if they show the same: %s%s",
            len(pairs),
            "; ".join(named),
            "; ..." if len(pairs) > MOST_NAMED else "",
        )
