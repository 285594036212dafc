"""Match the classes of a dataset with those of a model, by their names."""

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput

from convzoo.data.split import Split
from convzoo.evaluation.label_maps import SameClasses, record_classes
from convzoo.evaluation.results import ClassMatching, MatchBy
from convzoo.imagenet_classes import imagenet_names, imagenet_numbers
from convzoo.labels import have_no_names

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Matched:
    """A split whose labels are the model's.

    Attributes:
        source: the split; its labels and label_names are the model's.
        facts: what result files say of it; None where the names were the same in the same order.
        answers: the classes that the model chooses among: of each the number that it goes by, the
            label of images of this class, and those whose probabilities are added up. None where
            the model chooses among all of its classes, each by itself.
    """

    source: Split
    facts: ClassMatching | None
    answers: Mapping[int, tuple[int, ...]] | None = None


def match_classes(
    source: Split,
    names: Sequence[str],
    *,
    by: MatchBy = "name",
    same: SameClasses | None = None,
    restricted: bool = False,
) -> Matched:
    """Give the images of a split the class numbers of a model.

    A model whose classes are called LABEL_0, LABEL_1, ... has no names to compare: its classes are
    matched by number. Those of ImageNet-1k are found by WordNet id or any word of their entries, if
    a list calls them otherwise. Data whose classes are called 0, 1, ... means the numbers of the
    model's: as names, these are sorted 0, 1, 10, 100. Where one is missing, they may be counted
    otherwise, from 1 for instance, and mean it only if `by` is "number". Data may have some of the
    model's classes only: the model still chooses among all of them, unless it is restricted.

    Args:
        source: the split.
        names: name of each class of the model.
        by: "number" trusts the numbers although the names differ, or some are missing.
        same: what a file says of it, for these classes of the data and no others.
        restricted: let the model choose among the classes of the data only.

    Raises:
        ValueError: if a class of the data is none of the model's, a name is there twice and would
            have to be matched, the numbers of classes differ where numbers are compared, or
            there is nothing to restrict to.
    """
    theirs = source.label_names
    if theirs == tuple(names) and not same:
        if restricted:
            raise ValueError(ALL_CLASSES.format(len(names)))
        return Matched(source=source, facts=None)
    numbers: np.ndarray | None = None
    if not same:
        if _called_by_numbers(theirs, names, by=by):
            numbers, by = _numbers_that_are_names(source, names, by=by), "number"
        elif have_no_names(names):
            by = "number"
    facts: ClassMatching = {
        "by": "file" if same else by,
        "num_model_classes": len(names),
        "num_data_classes": len(theirs),
    }
    answers = None
    if same:
        numbers = np.array([same.classes[name][0] for name in theirs])
        answers = {members[0]: members for members in same.classes.values()}
        facts |= {
            "file": same.file,
            "sha256": same.sha256,
            "map": record_classes(same, names),
        }
    else:
        if numbers is None:
            numbers = _numbers(source, names, by=by)
        if restricted:
            answers = {n: (n,) for n in _all_numbers(numbers, len(names))}
    if answers is not None:
        answers = _chosen_among(answers, len(names), restricted=restricted)
        facts["num_model_classes"] = len(answers)
        if restricted:
            facts["restricted"] = True
    if numbers is not None:
        before = source.class_numbers
        # Classes that were left out before have the number -1, which finds the last entry.
        numbers = numbers if before is None else np.append(numbers, -1)[before]
        source = dataclasses.replace(source, class_numbers=numbers)
    source = dataclasses.replace(source, label_names=tuple(names))
    return Matched(source=source, facts=facts, answers=answers)


ALL_CLASSES = (
    "--restrict-logits needs data with a part of the model's classes; the data has all {}. Leave "
    "the option away, or name classes with --classes"
)


def _all_numbers(numbers: np.ndarray | None, count: int) -> list[int]:
    return [*range(count)] if numbers is None else sorted(numbers.tolist())


def _chosen_among(
    answers: Mapping[int, tuple[int, ...]], count: int, *, restricted: bool
) -> dict[int, tuple[int, ...]]:
    """Add the classes of a model that stand for themselves, unless it is restricted."""
    used = {member for members in answers.values() for member in members}
    if restricted and len(answers) == count:
        raise ValueError(ALL_CLASSES.format(count))
    others = {} if restricted else {n: (n,) for n in range(count) if n not in used}
    return dict(sorted({**others, **answers}.items()))


class ChosenClasses(nn.Module):
    """A classifier that chooses among some answers: logits of all other classes are -inf.

    Args:
        model: gives an output with `logits`, (N, C).
        answers: see `Matched`.
    """

    def __init__(self, model: nn.Module, answers: Mapping[int, tuple[int, ...]]):
        super().__init__()
        self.model = model
        self.alone = [number for number, members in answers.items() if len(members) == 1]
        self.several = {n: list(members) for n, members in answers.items() if len(members) > 1}
        if any(answers[number] != (number,) for number in self.alone):
            raise ValueError("a class that is an answer by itself must go by its own number")

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Compute the logits of a batch, (N, C); of several classes the log of their sum."""
        logits = self.model(pixel_values).logits.float()
        chosen = torch.full_like(logits, -torch.inf)
        chosen[:, self.alone] = logits[:, self.alone]
        for number, members in self.several.items():
            chosen[:, number] = logits[:, members].logsumexp(-1)
        return ImageClassifierOutput(logits=chosen)


def match_by_all_numbers(theirs: Sequence[str], names: Sequence[str]) -> bool:
    """Tell whether classes of data are called 0, 1, ... without a gap, and mean these numbers.

    Args:
        theirs: name of each class of the whole data: of some of its classes it cannot be told.
        names: name of each class of the model.
    """
    called = _called_by_numbers(theirs, names, by="name")
    return called and sorted(map(int, theirs)) == [*range(len(theirs))]


def _called_by_numbers(theirs: Sequence[str], names: Sequence[str], *, by: MatchBy) -> bool:
    """Whether names of classes are numbers, and not names that the model has, too."""
    shared = set(theirs) & set(names)
    known = len(shared) == len(set(theirs)) if by == "number" else bool(shared)
    return bool(theirs) and not known and all(re.fullmatch(r"\d+", name) for name in theirs)


def _numbers_that_are_names(source: Split, names: Sequence[str], *, by: MatchBy) -> np.ndarray:
    """The numbers that the classes of the data are called by."""
    numbers = [*map(int, source.label_names)]
    twice = [number for number, times in Counter(numbers).items() if times > 1]
    if twice or max(numbers) >= len(names):
        got = f"{twice[0]} twice" if twice else str(max(numbers))
        raise ValueError(
            f"classes of {source.path} are called by numbers, which must be those of the model's, "
            f"0 to {len(names) - 1}, each once; got {got}. Say with --label-map FILE which class "
            f"each of them is"
        )
    missing = set(range(max(numbers))) - set(numbers)
    if by != "number" and missing:
        raise ValueError(
            f"classes of {source.path} are called by numbers, of which {min(missing)} is missing: "
            f"they may count otherwise than the model, whose first class, 0, is {names[0]!r}. If "
            f"they are its numbers, say --match-classes number; else --label-map FILE says which "
            f"is which"
        )
    logger.info("class folders of %s are taken as the numbers of the model's classes", source.path)
    return np.array(numbers)


def _numbers(source: Split, names: Sequence[str], *, by: MatchBy) -> np.ndarray | None:
    """The model's number of each class of the data; None where they are the same."""
    theirs = source.label_names
    if by == "name":
        return _numbers_by_name(source, names)
    if len(theirs) != len(names):
        raise ValueError(
            f"model and data must have equally many classes to be compared by number; the model "
            f"has {len(names)}, {source.path} has {len(theirs)}. {_advice(theirs, names)}"
        )
    return None


def _numbers_by_name(source: Split, names: Sequence[str]) -> np.ndarray:
    """The model's number of each class of the data."""
    theirs = source.label_names
    if unknown := [name for name in theirs if name not in names]:
        if (of_imagenet := _numbers_in_imagenet(theirs, names)) is not None:
            return of_imagenet
        raise ValueError(
            f"model and data must name their classes alike; {len(unknown)} of the {len(theirs)} "
            f"classes of {source.path} are none of the model's, as {unknown[0]!r}; the model has "
            f"{', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}. "
            f"{_advice(theirs, names)}"
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


def _advice(theirs: Sequence[str], names: Sequence[str]) -> str:
    if set(names) < set(theirs):
        return "--classes evaluates a model of some classes on its part of the data"
    if len(theirs) == len(names):
        return (
            "If the classes are the same in the same order, --match-classes number compares them "
            "by number; else --label-map FILE says which is which"
        )
    return "--label-map FILE says which class of the model each class of the data is"
