"""Reassessed labels (ReaL) of the validation images of ImageNet: several right answers, or none.

Source: Beyer, Henaff, Kolesnikov, Zhai and van den Oord, "Are we done with ImageNet?",
arXiv:2006.07159. Their file, real.json of github.com/google-research/reassessed-imagenet, has a
list of class numbers for each of the 50,000 images, in the order of the file names. An image with
an empty list is left out; an answer is right if it is in the list.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convzoo.data.split import Split
from convzoo.evaluation.prediction_table import PredictionTable
from convzoo.evaluation.results import RealLabelFacts
from convzoo.evaluation.statistics import wilson_interval
from convzoo.imagenet_classes import imagenet_names, imagenet_numbers
from convzoo.labels import have_no_names

NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


@dataclass(frozen=True, kw_only=True)
class RealLabels:
    """The lists of a file.

    Attributes:
        file: its name.
        sha256: of its contents.
        lists: right classes of each image, in the order of the file names.
    """

    file: str
    sha256: str
    lists: Sequence[Sequence[int]]


def read_real_labels(path: Path) -> RealLabels:
    """Read a file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no list of lists of class numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--real-labels must be a file; there is no {path}")
    content, count = path.read_bytes(), len(imagenet_names())
    try:
        lists = json.loads(content)
        good = bool(lists) and all(
            isinstance(number, int) and 0 <= number < count for each in lists for number in each
        )
    except (ValueError, TypeError):
        good = False
    if not good:
        raise ValueError(
            f"{path} must be real.json of google-research/reassessed-imagenet: a list of lists of "
            f"class numbers, 0 to {count - 1}, for each validation image of ImageNet"
        )
    return RealLabels(file=path.name, sha256=hashlib.sha256(content).hexdigest(), lists=lists)


@dataclass(frozen=True, kw_only=True)
class RealTask:
    """What is compared with predictions.

    Attributes:
        labels: the file.
        images: place of each image of the split in the file.
        numbers: ImageNet's number of each class of the model.
    """

    labels: RealLabels
    images: np.ndarray
    numbers: np.ndarray

    def measure(self, table: PredictionTable) -> RealLabelFacts:
        """Count the images whose first answer is in their list."""
        hits = total = 0
        answers = table.top_classes[:, 0].tolist()
        for place, answer in zip(self.images.tolist(), answers, strict=True):
            right = self.labels.lists[place]
            total += bool(right)
            hits += answer >= 0 and int(self.numbers[answer]) in right
        if not total:
            raise ValueError(f"none of the {len(answers)} images has a label in {self.labels.file}")
        return {
            "file": self.labels.file,
            "sha256": self.labels.sha256,
            "num_samples": total,
            "num_correct": hits,
            "top1_accuracy": hits / total,
            "interval_95": list(wilson_interval(hits, total)),
        }


def plan_real(labels: RealLabels, source: Split, names: Sequence[str]) -> RealTask:
    """Find the images of a split and the classes of a model in a file, before anything is measured.

    Args:
        labels: the file.
        source: the split.
        names: name of each class of the model.

    Raises:
        ValueError: if the model has other classes than ImageNet-1k, or an image no file name as
            ILSVRC2012_val_00000001.JPEG.
    """
    return _plan(labels, _file_names(source), names)


def plan_real_of(labels: RealLabels, table: PredictionTable) -> RealTask:
    """Find the images of predictions in a file by the names that are recorded of them.

    Raises:
        ValueError: as `plan_real`; so of images in parquet files, where they have row numbers.
    """
    return _plan(labels, table.image.tolist(), table.facts.names)


def recorded_real_labels(recorded: RealLabelFacts, path: str) -> RealLabels:
    """Read the file that a result was counted with.

    Args:
        recorded: what the result says of it.
        path: where it lies now; "" if nobody said so.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is another one, or none was named.
    """
    wanted = f"{recorded['file']} of SHA-256 {recorded['sha256']}"
    if not path:
        raise ValueError(f"to count it again, --real-labels must name {wanted}")
    labels = read_real_labels(Path(path))
    if labels.sha256 != recorded["sha256"]:
        raise ValueError(f"--real-labels must name {wanted}; {path} has {labels.sha256}")
    return labels


def _plan(labels: RealLabels, file_names: Sequence[str], names: Sequence[str]) -> RealTask:
    if have_no_names(names):
        numbers = [*range(len(names))]
    else:
        try:
            numbers = imagenet_numbers(names)
        except ValueError as error:
            raise ValueError(f"--real-labels are for models of ImageNet-1k; {error}") from error
    if len(names) != len(imagenet_names()):
        raise ValueError(
            f"--real-labels are for models of the {len(imagenet_names())} classes of ImageNet; "
            f"this one has {len(names)}"
        )
    places = []
    for name in file_names:
        found = NUMBER.search(name)
        if not found or not 1 <= int(found[1]) <= len(labels.lists):
            raise ValueError(
                f"--real-labels need images that are called ILSVRC2012_val_00000001.JPEG to "
                f"_{len(labels.lists):08d}, by which the file orders them; got {name!r}"
            )
        places.append(int(found[1]) - 1)
    return RealTask(labels=labels, images=np.array(places), numbers=np.array(numbers))


def _file_names(source: Split) -> list[str]:
    """The names that images came with: of files, and of rows of parquet files."""
    names = [source.image_name(row) for row in range(source.num_rows)]
    if all(map(NUMBER.search, names)):
        return names
    came_with = [name for group in range(len(source.groups)) for name in source.file_names(group)]
    return [name or here for name, here in zip(came_with, names, strict=True)]
