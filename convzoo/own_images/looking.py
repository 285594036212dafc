"""Look at a dataset before it is trained on: classes, counts, sizes, and what would go wrong."""

import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from convzoo.data.opening import DatasetReference, find_source
from convzoo.inspection.survey import Survey, find_duplicates

logger = logging.getLogger(__name__)
MOST_READ = 5_000  # images of a split; of a larger one so many are read, evenly spread
MOST_NAMED = 5  # unreadable or doubtful images in a message


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is in a dataset, as far as it decides over a recipe.

    Attributes:
        path: folder or Hub id, as it was asked for.
        classes: number of training images of each class, in the order of the class numbers.
        num_validation: images of the split "validation"; 0 where there is none.
        has_test: whether there is a split "test", which is left alone.
        sides: smallest, median and largest shorter side of the training images, pixels.
        rotated: whether images are to be turned as their EXIF data says.
    """

    path: str
    classes: Mapping[str, int]
    num_validation: int
    has_test: bool
    sides: tuple[int, int, int]
    rotated: bool

    @property
    def num_images(self) -> int:
        """Images of the training split."""
        return sum(self.classes.values())


def look(dataset: str | DatasetReference) -> Findings:
    """Read the images of a dataset and refuse what would stop its training later.

    Args:
        dataset: has a split "train", and perhaps "validation".

    Raises:
        FileNotFoundError: if there is no such dataset.
        ValueError: if images cannot be read, and as `open_split`.
    """
    path, source = DatasetReference.of(dataset).path, find_source(dataset)
    names = source.split_names()
    surveys: dict[str, Survey] = {}
    for name in ("train", "validation"):
        if name == "train" or name in names:
            split = source.open_split(name)
            surveys[name] = Survey(split, limit=0 if split.num_rows <= MOST_READ else MOST_READ)
            _refuse_what_is_unreadable(surveys[name], path)
    _warn_of_copies(surveys)
    train, reports = surveys["train"], {name: each.describe() for name, each in surveys.items()}
    labels = reports["train"]["labels"]
    sides = np.quantile(train.sizes["short"], [0, 0.5, 1]).round().astype(int).tolist()
    return Findings(
        path=path,
        classes=dict(zip(labels["names"], labels["counts"], strict=True)),
        num_validation=reports["validation"]["num_rows"] if "validation" in reports else 0,
        has_test="test" in names,
        sides=(sides[0], sides[1], sides[2]),
        rotated=any(report["rotated_by_exif"] for report in reports.values()),
    )


def _refuse_what_is_unreadable(survey: Survey, path: str) -> None:
    """Raise ValueError for images that evaluation would stop at, and training replace."""
    if survey.strange_labels:
        raise ValueError(
            f"labels of {path} must be class numbers; got {', '.join(survey.strange_labels)}. "
            f"`convzoo inspect {shlex.quote(path)}` says more"
        )
    if bad := survey.unreadable:
        named = "; ".join(f"{image['where']} ({image['reason']})" for image in bad[:MOST_NAMED])
        more = f"; and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
        raise ValueError(
            f"images of {path} must be readable; {len(bad)} of {survey.source.num_rows} cannot be: "
            f"{named}{more}. Move them elsewhere, and start again; `convzoo inspect "
            f"{shlex.quote(path)}` names all"
        )


def _warn_of_copies(surveys: dict[str, Survey]) -> None:
    """Name images that are there twice: across splits or classes they spoil the measurement."""
    found = find_duplicates(surveys)
    if count := found["across_splits"]:
        what = "occur in training and in validation: the accuracy is too good"
    elif count := found["other_label"]:
        what = "occur in two classes: at least one label is wrong"
    elif count := found["within_splits"]:
        what = "occur more than once; all copies go to one side of a share"
    else:
        return
    across = bool(found["across_splits"])
    pairs = [
        " = ".join(each["where"] for each in pair)
        for pair in found["examples"]
        if across == (pair[0]["split"] != pair[1]["split"])
    ]
    logger.warning("%d image(s) %s: %s", count, what, "; ".join(pairs[:MOST_NAMED]))
