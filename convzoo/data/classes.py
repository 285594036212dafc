"""Names of classes: which ones can be used, and how labels become them."""

import functools
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from convzoo.data.split import Split

logger = logging.getLogger(__name__)
MAX_NAME_BYTES = 200  # a class is also the name of a file
NAMES_SHOWN = 10
NO_LABEL = ("-1", "")
Label = str | int | bool


def sorted_labels(labels: Iterable[Label]) -> list[Label]:
    """Sort the different labels of a dataset; numbers by value, everything else as text."""
    different = set(labels)
    if all(isinstance(label, int) for label in different):
        return sorted(different)
    return sorted(different, key=str)


def unlabelled_splits(labels: Mapping[str, Collection[Label]]) -> set[str]:
    """Find the splits whose images have no labels, as test sets of contests are published.

    All images of such a split have the label -1 or "", which those of no other split have: in
    {-1, 1} and the like -1 is a class.

    Args:
        labels: the different labels of each split.
    """
    alone = {name: next(iter(values)) for name, values in labels.items() if len(values) == 1}
    return {
        name
        for name, value in alone.items()
        if str(value) in NO_LABEL
        and all(value not in labels[other] for other in labels if other not in (name, *alone))
        and len(alone) < len(labels)
    }


def labels_of_splits(labels: Mapping[str, Collection[Label]]) -> list[Label]:
    """Sort the different labels of a dataset, without those that say that a split has none.

    Args:
        labels: the different labels of each split.
    """
    without = unlabelled_splits(labels)
    return sorted_labels(
        value for name, values in labels.items() if name not in without for value in values
    )


def check_class_names(names: Sequence[str], path: str) -> None:
    """Refuse names that files, cards and reports cannot have.

    Raises:
        ValueError: if one is empty, too long, no text, or has a line break.
    """
    for name in names:
        try:
            size = len(name.encode("utf-8"))
        except UnicodeEncodeError:
            size = MAX_NAME_BYTES + 1
        if not name.strip() or len(name.splitlines()) > 1 or size > MAX_NAME_BYTES:
            raise ValueError(
                f"class names of {path} must be text of 1 to {MAX_NAME_BYTES} bytes in one line; "
                f"got {name[:50]!r}. Rename the class"
            )


def check_mixed_labels(names: Sequence[str], path: str) -> None:
    """Refuse names that stand for several classes at once, such as "cat,dog".

    Raises:
        ValueError: if a name has a comma without a space after it, or is made of other names alone.
    """
    for name in names:
        parts = [part.strip() for part in re.split(r"[,;|+&]", name)]
        if len(parts) > 1 and (re.search(r"\w[,;|]\w", name) or set(parts) <= set(names)):
            raise ValueError(
                f"an image of {path} must be of one class; got the class {name!r}. Move its images "
                f"to the class that matters more, or leave them out; if it is one class, rename it"
            )


def first_names(names: Sequence[str]) -> str:
    """List names for a message, not more than a reader wants."""
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def log_classes(split: Split, labels: np.ndarray | None = None) -> None:
    """Log the classes of a training split, and warn of those without images.

    The labels of a dataset on the Hub are not read for that. Nothing is read where nobody listens,
    as in the other processes of a training.

    Args:
        split: of the training.
        labels: what `Split.read_labels` gave, if it was asked already.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    names = split.label_names
    logger.info("%d classes: %s", len(names), first_names(names))
    if split.is_remote:
        return
    if labels is None:  # unchecked: whoever uses them says what is wrong with them
        labels = split.labels_in_files()
        numbers = np.arange(len(names)) if split.class_numbers is None else split.class_numbers
        labels = numbers[labels[(labels >= 0) & (labels < len(numbers))]]
    present = set(np.unique(labels).tolist())
    empty = [name for number, name in enumerate(names) if number not in present]
    if empty:
        logger.warning(
            "%d classes of %s have no image in split %r: %s",
            len(empty),
            split.path,
            split.name,
            first_names(empty),
        )


@functools.cache
def log_once(message: str) -> None:
    """Log a line that each split of a dataset would repeat."""
    logger.info("%s", message)
