"""Read a file that says which class of a model each class of a dataset is.

JSON has an object, `{"kitty": "tabby", "dog": ["n02099601", "n02099712"], "other": null}`; CSV has
two columns, class of the data and class of the model. Classes are names, WordNet ids of
ImageNet-1k, or numbers. A class of the data with several of the model (a list, or several lines) is
right with any of them: their probabilities are added. One with none (null, or an empty cell) is
left out.
"""

import csv
import difflib
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convzoo.imagenet_classes import imagenet_numbers

HEADER = ("data", "model")  # of a CSV file, if it has one


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """What a file says.

    Attributes:
        file: its name.
        sha256: of its contents.
        classes: class of the data -> classes of the model, as they are written there.
    """

    file: str
    sha256: str
    classes: Mapping[str, tuple[str, ...]]


def read_label_map(path: Path) -> LabelMap:
    """Read a file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is neither such JSON nor such CSV.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--label-map must be a file; there is no {path}")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
        classes = _of_json(text) if path.suffix.lower() == ".json" else _of_csv(text)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} must say which class of the model each class of the data is, as JSON "
            f'{{"CLASS": "CLASS", ...}} or CSV of two columns; {error}'
        ) from error
    return LabelMap(file=path.name, sha256=hashlib.sha256(content).hexdigest(), classes=classes)


def _of_json(text: str) -> dict[str, tuple[str, ...]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]:
            raise ValueError(f"{twice[0]!r} is there twice; give a list of the model's classes")
        return dict(pairs)

    content = json.loads(text, object_pairs_hook=once)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"got {'nothing' if content == {} else type(content).__name__}")
    found = {}
    for name, given in content.items():
        several = given if isinstance(given, list) else [] if given is None else [given]
        if not all(isinstance(each, str | int) and not isinstance(each, bool) for each in several):
            raise ValueError(f"got {given!r} for {name!r}")
        found[name] = tuple(map(str, several))
    return found


def _of_csv(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for row in csv.reader(io.StringIO(text)):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (not found and tuple(cell.lower() for cell in cells) == HEADER):
            continue
        if len(cells) != 2 or not cells[0]:
            raise ValueError(f"got a line of {len(cells)} cells: {', '.join(cells)}")
        found[cells[0]] = found.get(cells[0], ()) + ((cells[1],) if cells[1] else ())
    if not found:
        raise ValueError("it has no line")
    return found


class ClassFinder:
    """Finds the number of a class by its name, WordNet id or number.

    Args:
        names: name of each class.
        whose: "data" or "model", for messages.
    """

    def __init__(self, names: Sequence[str], whose: str):
        self.names = list(names)
        self.whose = whose
        self.places = {name: n for n, name in enumerate(names) if names.count(name) == 1}
        try:
            self.of_imagenet = {number: n for n, number in enumerate(imagenet_numbers(names))}
        except ValueError:
            self.of_imagenet = {}

    def by_name(self, text: str) -> int | None:
        """Return the number of the class with this name or WordNet id; None where there is none."""
        if text in self.places:
            return self.places[text]
        try:
            return self.of_imagenet.get(imagenet_numbers([text])[0])
        except ValueError:
            return None

    def find(self, text: str) -> int:
        """Return the number of a class, by its name or WordNet id or, if none has it, its number.

        Raises:
            ValueError: if there is no such class.
        """
        if (found := self.by_name(text)) is not None:
            return found
        if text.isdecimal() and int(text) < len(self.names):
            return int(text)
        near = difflib.get_close_matches(text, self.names, 3)
        raise ValueError(
            f"the label map must name classes of the {self.whose}, of which there are "
            f"{len(self.names)}; got {text!r}"
            f"{'; near to ' + ', '.join(map(repr, near)) if near else ''}"
        )


@dataclass(frozen=True, kw_only=True)
class SameClasses:
    """Which classes of a model each class of a dataset is, and which file says so.

    Attributes:
        file: its name.
        sha256: of its contents.
        classes: name in the data -> numbers in the model, rising; none for what is left out.
    """

    file: str
    sha256: str
    classes: Mapping[str, tuple[int, ...]]

    def of(self, theirs: Sequence[str]) -> "SameClasses":
        """The same for some classes of the data.

        Raises:
            ValueError: if the file does not say what one of them is.
        """
        if unknown := [name for name in theirs if name not in self.classes]:
            raise ValueError(f"{self.file} must say what class {unknown[0]!r} of the data is")
        return replace(self, classes={name: self.classes[name] for name in theirs})


def resolve(label_map: LabelMap, theirs: Sequence[str], names: Sequence[str]) -> SameClasses:
    """Find the model's classes of each class of the data, in the order of the data's.

    What the file does not name is matched by name.

    Args:
        label_map: the file.
        theirs: name of each class of the data.
        names: name of each class of the model.

    Raises:
        ValueError: if a class is named that is not there, a class of the data is missing, or a
            class of the model stands for two classes of the data that are not the same otherwise.
    """
    data, model = ClassFinder(theirs, "data"), ClassFinder(names, "model")
    found: dict[int, tuple[int, ...]] = {}
    for text, given in label_map.classes.items():
        number = data.find(text)
        if number in found:
            raise ValueError(f"the label map must name each class once; got {text!r} again")
        found[number] = tuple(sorted({model.find(each) for each in given}))
    for number, name in enumerate(theirs):
        if number not in found:
            if (same := model.by_name(name)) is None:
                raise ValueError(
                    f"the label map must say what class {name!r} of the data is: the model has "
                    f"none of that name. Give its class, or none to leave it out"
                )
            found[number] = (same,)
    used = Counter(member for members in {*found.values()} for member in members)
    if twice := [names[member] for member, times in used.items() if times > 1]:
        raise ValueError(
            f"a class of the model must not stand for different classes of the data; {twice[0]!r} "
            f"is part of several lists that are not the same"
        )
    classes = {name: found[number] for number, name in enumerate(theirs)}
    return SameClasses(file=label_map.file, sha256=label_map.sha256, classes=classes)


def record_classes(same: SameClasses, names: Sequence[str]) -> dict[str, list[str | int]]:
    """Say by names which classes of a model those of the data are; by number where two share one.

    Args:
        same: which they are.
        names: name of each class of the model.
    """
    times = Counter(names)
    return {
        name: [names[n] if times[names[n]] == 1 else n for n in found]
        for name, found in same.classes.items()
    }


def recorded_classes(matching: Mapping[str, Any], names: Sequence[str]) -> SameClasses | None:
    """Return what a result recorded of such a file; None where it had none.

    Args:
        matching: `class_matching` of the dataset of a result.
        names: name of each class of the model.

    Raises:
        ValueError: if the model has no class of a recorded name or number, or several.
    """
    if "map" not in matching:
        return None
    places = {name: n for n, name in enumerate(names)}
    times = Counter(names)
    classes = {}
    for name, given in matching["map"].items():
        for each in given:
            if (times[each] if isinstance(each, str) else each in range(len(names))) != 1:
                raise ValueError(
                    f"a recorded label map must name one class of the model; got {each!r}, of "
                    f"which there are {times[each]}. Evaluate again"
                )
        classes[name] = tuple(each if isinstance(each, int) else places[each] for each in given)
    return SameClasses(file=matching["file"], sha256=matching["sha256"], classes=classes)
