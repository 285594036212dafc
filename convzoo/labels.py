"""Names of classes."""

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def class_names(config: "PreTrainedConfig") -> list[str]:
    """Return the names of a model's classes, in the order of its logits."""
    names = {int(number): name for number, name in (config.id2label or {}).items()}
    return [names[number] for number in sorted(names)]


def have_no_names(names: Sequence[str]) -> bool:
    """Tell whether classes are called LABEL_0, LABEL_1, ..., as Transformers does without names."""
    return all(re.fullmatch(r"LABEL_\d+", name) for name in names)


def unique_names(names: Sequence[str]) -> list[str]:
    """Number repeated names ("crane", "crane (2)"), so that label2id has them all."""
    unique: dict[str, None] = {}  # a set that keeps its order
    for name in names:
        candidates = (f"{name} ({count})" for count in itertools.count(2))
        unique[next(c for c in itertools.chain([name], candidates) if c not in unique)] = None
    return list(unique)
