"""Match the classes of a dataset with those of a model, by their names."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedConfig

from convzoo.data.split import Split
from convzoo.evaluation.results import ClassMatching, MatchBy
from convzoo.imagenet_classes import imagenet_names, imagenet_numbers


def class_names(config: PreTrainedConfig) -> list[str]:
    """Return the names of a model's classes, in the order of its logits."""
    names = {int(number): name for number, name in (config.id2label or {}).items()}
    return [names[number] for number in sorted(names)]


def match_classes(
    source: Split, names: Sequence[str], *, by: MatchBy = "name"
) -> tuple[Split, ClassMatching | None]:
    """Give the images of a split the class numbers of a model.

    A model whose classes are called LABEL_0, LABEL_1, ... has no names to compare: its classes are
    matched by number. Those of ImageNet-1k are found by WordNet id or any word of their entries, if
    a list calls them otherwise. Data may have some of the model's classes only: the model still
    chooses among all of them.

    Args:
        source: the split.
        names: name of each class of the model.
        by: "number" trusts the numbers although the names differ.

    Returns:
        The split, whose labels and label_names are the model's, and what result files say of it:
        None where the names were the same in the same order.

    Raises:
        ValueError: if a class of the data is none of the model's, a name is there twice and would
            have to be matched, or the numbers of classes differ where numbers are compared.
    """
    theirs = source.label_names
    if theirs == tuple(names):
        return source, None
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        by = "number"
    matching: ClassMatching = {
        "by": by,
        "num_model_classes": len(names),
        "num_data_classes": len(theirs),
    }
    if by == "name":
        numbers = _numbers_by_name(source, names)
        before = source.class_numbers
        # Classes that were left out before have the number -1, which finds the last entry.
        numbers = numbers if before is None else np.append(numbers, -1)[before]
        source = dataclasses.replace(source, class_numbers=numbers)
    elif len(theirs) != len(names):
        raise ValueError(_sizes_differ(source, names))
    return dataclasses.replace(source, label_names=tuple(names)), matching


def _numbers_by_name(source: Split, names: Sequence[str]) -> np.ndarray:
    """The model's number of each class of the data."""
    theirs = source.label_names
    if unknown := [name for name in theirs if name not in names]:
        if (of_imagenet := _numbers_in_imagenet(theirs, names)) is not None:
            return of_imagenet
        if len(theirs) != len(names):
            raise ValueError(_sizes_differ(source, names))
        raise ValueError(
            f"model and data must name their classes alike; {len(unknown)} of the {len(theirs)} "
            f"classes of {source.path} are none of the model's, as {unknown[0]!r}; the model has "
            f"{', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}. If the classes "
            f"are the same in the same order, --match-classes number compares them by number"
        )
    if len(set(theirs)) < len(theirs) or len(set(names)) < len(names):
        raise ValueError(
            f"class names must differ from each other to be matched; model or {source.path} has "
            f"one of them twice, and the order is not the same. If it is, but for spelling, "
            f"--match-classes number compares them by number"
        )
    return np.array([names.index(name) for name in theirs])


def _numbers_in_imagenet(theirs: Sequence[str], names: Sequence[str]) -> np.ndarray | None:
    """The same of a model that has all classes of ImageNet-1k, and data that call them otherwise.

    None where one of the two has other classes, or a name that may mean several.
    """
    try:
        places = {number: place for place, number in enumerate(imagenet_numbers(names))}
        numbers = imagenet_numbers(theirs)
    except ValueError:
        return None
    if len(places) < len(imagenet_names()) or len(set(numbers)) < len(numbers):
        return None
    return np.array([places[number] for number in numbers])


def _sizes_differ(source: Split, names: Sequence[str]) -> str:
    return (
        f"model and data must have the same classes; the model has {len(names)}, {source.path} has "
        f"{len(source.label_names)}. --classes evaluates a model of some classes on its part of "
        f"the data"
    )
