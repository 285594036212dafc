"""Choose rows of a split: of some classes, a drawn share, the first ones or evenly spaced ones.

The result is a `Split` like any other: training orders it, evaluation counts it, and result files
say that it is a part.
"""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Collection
from typing import Any

import numpy as np

from convzoo.data.split import Split


def subset(
    split: Split,
    classes: Collection[str] = (),
    *,
    fraction: float = 1.0,
    limit: int = 0,
    seed: int = 0,
    spaced: bool = False,
    renumber: bool = True,
) -> Split:
    """Choose rows of a split; the choice is a function of the data and these arguments alone.

    Classes are chosen first, then the share is drawn, then the limit is applied. The rows keep
    their order. Classes or a share need the label column of the whole split, and nothing else of
    it. A row group of which rows are chosen is still read whole from its file; held in memory and
    cached are the chosen rows only.

    Args:
        split: to choose from.
        classes: names of the classes to keep; all if empty.
        fraction: share of the rows to draw, in (0, 1]: exactly round(fraction * rows), and of each
            class fraction * its rows, rounded down or up. A larger share drawn with the same seed
            has all rows of a smaller one but at most one of each class.
        limit: rows at most; all if 0.
        seed: of the drawing.
        spaced: whether the limit takes rows at equal distances; else it takes the first ones.
        renumber: whether the kept classes are numbered anew from 0, in their old order; else
            labels and label_names stay as they are.

    Returns:
        The split itself if all rows are chosen.

    Raises:
        ValueError: if a class is unknown, a number is out of range or no row is left, and as
            `Split.read_labels`.
        OSError: as `Split.read_labels`.
    """
    if not 0 < fraction <= 1 or limit < 0:
        raise ValueError(
            f"fraction must lie in (0, 1] and limit be at least 0; got {fraction} and {limit}"
        )
    names, class_numbers = split.label_names, split.class_numbers
    taken: list[dict[str, Any]] = []
    kept = _find_classes(split, classes)
    rows = np.arange(split.num_rows)
    if len(kept) < len(names) or fraction < 1:
        labels = split.read_labels()
    if len(kept) < len(names):
        rows = np.flatnonzero(np.isin(labels, kept))
        taken.append({"classes": [names[number] for number in kept]})
        if renumber:
            new = np.full(len(names) + 1, -1)  # the last is found at -1, the classes left out
            new[kept] = np.arange(len(kept))
            class_numbers = new[:-1] if class_numbers is None else new[class_numbers]
            names = tuple(names[number] for number in kept)
    if fraction < 1:
        rng = np.random.default_rng([seed, *b"subset"])
        rows = rows[_draw(labels[rows], fraction, rng=rng)]
        taken.append({"fraction": fraction, "seed": seed})
    if 0 < limit < len(rows):
        rows = rows[np.arange(limit) * len(rows) // limit] if spaced else rows[:limit]
        taken.append({"limit": limit, "spaced": spaced})
    if not taken:
        return split
    if not len(rows):
        raise ValueError(
            f"a subset must have at least one of the {split.num_rows} images of {split.path} "
            f"[{split.name}]; none is left by {taken}"
        )
    split = dataclasses.replace(split, label_names=names, class_numbers=class_numbers)
    return choose_and_record(split, rows, taken=taken)


def choose_and_record(split: Split, rows: np.ndarray, *, taken: list[dict[str, Any]]) -> Split:
    """Choose rows of a split; its fingerprint and what result files say of it tell of that.

    Args:
        split: to choose from.
        rows: numbers of rows of this split, ascending.
        taken: what is to be said, an entry for each choice.
    """
    facts = json.dumps([split.fingerprint, split.label_names]).encode()
    facts += rows.astype("<i8").tobytes()
    before = split.subset or {"of": split.num_rows, "taken": []}
    return split.choose(
        rows,
        fingerprint=f"sha256:{hashlib.sha256(facts).hexdigest()}",
        subset={"of": before["of"], "taken": [*before["taken"], *taken]},
    )


def _find_classes(split: Split, wanted: Collection[str]) -> list[int]:
    """Find the numbers of the classes with these names, ascending; of all for no names."""
    names = split.label_names
    for name in wanted:
        if name not in names:
            near = [known for known in names if name.lower() in known.lower()]
            near = (near or difflib.get_close_matches(name, names))[:3]
            known = "did you mean" if near else "they are"
            raise ValueError(
                f"classes must be among the {len(names)} of {split.path}; got {name!r}; {known} "
                f"{', '.join(near or names)}"
            )
    return [number for number, name in enumerate(names) if not wanted or name in wanted]


def _draw(labels: np.ndarray, fraction: float, *, rng: np.random.Generator) -> np.ndarray:
    """Draw places of round(fraction * n) labels, ascending; of each class its share, rounded."""
    counts = np.bincount(labels)
    shares = fraction * counts
    wanted = np.floor(shares).astype(np.int64)
    # The classes with the largest remainders get one more, in random order where they are equal.
    order = rng.permutation(len(counts))
    order = order[np.argsort((wanted - shares)[order], kind="stable")]
    wanted[order[: round(fraction * len(labels)) - wanted.sum()]] += 1
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    place_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[place_in_class < np.repeat(wanted, counts)])
