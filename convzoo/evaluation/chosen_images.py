"""Which images of a split are evaluated, and which class of the model each of theirs is."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import cast

import numpy as np

from convzoo.data.opening import DatasetReference, open_split
from convzoo.data.split import Split
from convzoo.data.subset import subset
from convzoo.evaluation.class_matching import Matched, match_by_all_numbers, match_classes
from convzoo.evaluation.classifiers import Classifier
from convzoo.evaluation.label_maps import LabelMap, SameClasses, resolve
from convzoo.evaluation.real_labels import RealLabels
from convzoo.evaluation.recorded_share import open_recorded_share
from convzoo.evaluation.results import DatasetFacts, MatchBy


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which images of a split are evaluated, and how their labels are read.

    Attributes:
        classes: only images of these classes; of all if empty, of the model's if None.
        limit: images at most, evenly spaced; all if 0.
        validation_share: only the images that the model's training took out of its split for
            validation.
        match_by: see `match_classes`.
        label_map: says which classes of the model those of the data are.
        restricted: let the model choose among the classes of the data only.
        real_labels: several right classes of each image, which are counted, too.
    """

    classes: Collection[str] | None = ()
    limit: int = 0
    validation_share: bool = False
    match_by: MatchBy = "name"
    label_map: LabelMap | None = None
    restricted: bool = False
    real_labels: RealLabels | None = None

    def __post_init__(self) -> None:
        if self.label_map and self.match_by == "number":
            raise ValueError(
                "classes must be matched by number or by --label-map; got both. Leave one away"
            )
        if self.label_map and self.real_labels:
            raise ValueError(
                "--real-labels count answers that are single classes of ImageNet, and --label-map "
                "makes answers of several; got both. Leave one away"
            )


WHOLE_SPLIT = Choice()


def open_images(
    classifier: Classifier, data: str | DatasetReference, *, split: str, choice: Choice
) -> tuple[Matched, DatasetFacts]:
    """Open the chosen images, with labels that are the model's.

    Args:
        classifier: the model.
        data: which dataset, as for `open_split`.
        split: which split; of a validation share its own is taken.
        choice: which images.

    Returns:
        The images, and what results say of them.

    Raises:
        ValueError: as `open_split`, `open_recorded_share`, `resolve`, `subset` and `match_classes`.
        OSError: if the data cannot be read.
    """
    if choice.validation_share:
        source = open_recorded_share(classifier.name, data)
    else:
        source = open_split(data, split)
    names, theirs = classifier.names, source.label_names
    same = resolve(choice.label_map, theirs, names) if choice.label_map else None
    classes = names if choice.classes is None else choice.classes
    if same or choice.restricted:
        classes = _with_images(source, classes, same=same, restricted=choice.restricted)
    # A model of all classes is asked about some of them; another one knows only these.
    renumber = bool(same) or choice.restricted or len(names) != len(theirs)
    source = subset(source, classes, limit=choice.limit, spaced=True, renumber=renumber)
    matched = match_classes(
        source,
        names,
        by="number" if match_by_all_numbers(theirs, names) else choice.match_by,
        same=same and same.of(source.label_names),
        restricted=choice.restricted,
    )
    facts = source.describe() | {"config": DatasetReference.of(data).name or None}
    if matched.facts:
        facts["class_matching"] = matched.facts
    return matched, cast(DatasetFacts, facts)


def _with_images(
    source: Split, classes: Collection[str], *, same: SameClasses | None, restricted: bool
) -> list[str]:
    """The chosen classes without those that a label map leaves out; restricted, with images."""
    names = source.label_names
    kept = [*classes] or [*names]
    if same:
        kept = [name for name in kept if same.classes.get(name, (0,))]
    if restricted:
        having = {names[number] for number in np.unique(source.read_labels()).tolist()}
        kept = [name for name in kept if name in having or name not in names]
    if not kept:
        raise ValueError(f"a class of {source.path} [{source.name}] at least must be left; none is")
    return kept


def as_json(data: str | DatasetReference, split: str, choice: Choice) -> dict[str, object]:
    """What a person asked to be evaluated, as JSON has it."""
    classes = None if choice.classes is None else sorted(choice.classes)
    chosen = asdict(replace(choice, classes=classes, real_labels=None))
    return {"data": asdict(DatasetReference.of(data)), "split": split, "choice": chosen}
