"""The 1000 classes of ImageNet-1k: their numbers, WordNet ids and names, each of which is unique.

`imagenet_classes.tsv` has the list, and says where it is from. A name is the first word of a
class's WordNet entry, as most lists have it; where two classes share that, whatever its case, the
whole entry; and where they share that, too, it and the WordNet id: "tench", "maillot, tank suit",
"crane (n02012849)".
"""

import difflib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("imagenet_classes.tsv")
# What other lists call those of two classes of the same name: the dataset on the Hub (crane2),
# torchvision, and earlier conversions of this package (those with a number).
OTHER_NAMES = {
    "crane2": "n03126707",
    "crane (2)": "n03126707",
    "crane bird": "n02012849",
    "maillot (2)": "n03710721",
    "maillot tank suit": "n03710721",
}


@dataclass(frozen=True)
class ImageNetClass:
    """A class of ImageNet-1k.

    Attributes:
        number: index into the logits of published models, 0 to 999.
        wordnet_id: as "n01440764".
        entry: words of the WordNet entry, as "tench, Tinca tinca".
        name: see the text at the head of this file.
    """

    number: int
    wordnet_id: str
    entry: str
    name: str


@cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """Return all classes, by number."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    first_words = Counter(_key(entry.split(",")[0]) for _, entry in rows)
    entries = Counter(_key(entry) for _, entry in rows)
    classes = []
    for number, (wordnet_id, entry) in enumerate(rows):
        name = entry.split(",")[0]
        if first_words[_key(name)] > 1:
            name = entry if entries[_key(entry)] == 1 else f"{entry} ({wordnet_id})"
        classes.append(ImageNetClass(number, wordnet_id, entry, name))
    return tuple(classes)


def imagenet_names() -> list[str]:
    """Return the names of all classes, by number."""
    return [each.name for each in imagenet_classes()]


def imagenet_numbers(texts: Sequence[str]) -> list[int]:
    """Find the numbers of classes that are called by WordNet id, name, entry or a word of it.

    Case, underscores and spaces make no difference where they decide nothing. A word of several
    classes means the one that no other text of the list names: in a list with "crane2", "crane" is
    the bird.

    Args:
        texts: as "n01440764", "tench" or "Tinca tinca".

    Raises:
        ValueError: if a text is none of them, or may mean several classes.
    """
    found = [_candidates(text) for text in texts]
    taken = {next(iter(numbers)) for numbers in found if len(numbers) == 1}
    numbers = []
    for text, candidates in zip(texts, found, strict=True):
        left = candidates if len(candidates) == 1 else candidates - taken
        if len(left) == 1:
            numbers.append(next(iter(left)))
            continue
        classes = imagenet_classes()
        if candidates:
            ids = ", ".join(
                f"{classes[n].wordnet_id} ({classes[n].entry})" for n in sorted(candidates)
            )
            raise ValueError(
                f"classes of ImageNet must be named so that one is meant; got {text!r}, which may "
                f"be {ids}. Give the WordNet id."
            )
        near = difflib.get_close_matches(_key(text), _numbers_by_key(), n=3)
        raise ValueError(
            f"classes of ImageNet must be WordNet ids, as n01440764, or their names, as 'tench'; "
            f"got {text!r}{'; near to ' + ', '.join(map(repr, near)) if near else ''}"
        )
    return numbers


def _key(text: str) -> str:
    return " ".join(text.replace("_", " ").lower().split())


def _candidates(text: str) -> frozenset[int]:
    """Find the classes of an exact name; without one, those of a word in any case."""
    exact = frozenset(each.number for each in imagenet_classes() if text in (each.name, each.entry))
    return exact if len(exact) == 1 else _numbers_by_key().get(_key(text), frozenset())


@cache
def _numbers_by_key() -> dict[str, frozenset[int]]:
    """Find the classes that a text may mean, by what it is without case and underscores."""
    numbers: dict[str, set[int]] = defaultdict(set)
    number_of = {}
    for each in imagenet_classes():
        number_of[each.wordnet_id] = each.number
        for text in (each.wordnet_id, each.name, each.entry, *each.entry.split(",")):
            numbers[_key(text)].add(each.number)
    for text, wordnet_id in OTHER_NAMES.items():
        numbers[_key(text)] = {number_of[wordnet_id]}
    return {key: frozenset(found) for key, found in numbers.items()}
