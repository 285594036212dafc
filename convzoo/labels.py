"""Names of classes."""

import itertools
from collections.abc import Sequence


def unique_names(names: Sequence[str]) -> list[str]:
    """Number repeated names ("crane", "crane (2)"), so that label2id has them all."""
    unique: dict[str, None] = {}  # a set that keeps its order
    for name in names:
        candidates = (f"{name} ({count})" for count in itertools.count(2))
        unique[next(c for c in itertools.chain([name], candidates) if c not in unique)] = None
    return list(unique)
