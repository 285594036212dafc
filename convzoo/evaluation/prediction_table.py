"""What a model said of every image: a row for each, as arrays that are checked against each other.

Every metric can be computed from it again without the model: accuracies from `rank`, the loss from
`loss`, calibration from `top_probabilities`, Brier's score from these and `squared_probabilities`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

NO_NUMBER = -1  # in columns of whole numbers, where an image could not be read


@dataclass(frozen=True, kw_only=True)
class PredictionFacts:
    """What predictions are of.

    Attributes:
        names: name of each class of the model, in the order of its logits.
        dataset: as in the result, see `DatasetFacts`.
        protocol: as in the result, see `ProtocolFacts`.
        model: as in the result, see `ModelFacts`.
    """

    names: tuple[str, ...]
    dataset: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PredictionTable:
    """What a model said of each image, in the order of the split; N images, C classes, k kept.

    Of an image that could not be read, `rank` and `top_classes` are NO_NUMBER, and `loss`,
    probabilities and logits are NaN; `error` has the reason.

    Attributes:
        facts: what the predictions are of.
        row: row of the whole split, before a subset was taken, int64 (N,), rising.
        image: where the image lies in the dataset, str (N,).
        digest: sha256 of the encoded image, uint8 (N, 32).
        label: true class, int32 (N,).
        rank: how many classes the model put before the true one, int32 (N,); 0 is a top-1 hit.
            Of classes with equal scores the one with the lower number comes first.
        loss: cross entropy, natural logarithm, float32 (N,).
        top_classes: the k likeliest classes, falling, int32 (N, k).
        top_probabilities: their probabilities, float32 (N, k).
        squared_probabilities: sum of the squared probabilities of all classes, float32 (N,).
        logits: float32 (N, C), or None if they were not kept; of several views the logarithms of
            the probabilities that the protocol gives. Their softmax gives the probabilities.
        error: why the image could not be read, str, or None (N,).
    """

    facts: PredictionFacts
    row: np.ndarray
    image: np.ndarray
    digest: np.ndarray
    label: np.ndarray
    rank: np.ndarray
    loss: np.ndarray
    top_classes: np.ndarray
    top_probabilities: np.ndarray
    squared_probabilities: np.ndarray
    logits: np.ndarray | None = None
    error: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    @property
    def top_k(self) -> int:
        """How many classes are kept of each image."""
        return int(self.top_classes.shape[1])

    @property
    def readable(self) -> np.ndarray:
        """Whether each image could be read, bool (N,)."""
        return np.array([reason is None for reason in self.error], bool)

    def hits(self, k: int = 1) -> np.ndarray:
        """Whether the true class is among the first k, bool (N,); never for an unreadable image."""
        return (self.rank >= 0) & (self.rank < k)

    def summary(self) -> dict[str, float]:
        """Return top-1 and top-5 accuracy (fractions), and the mean loss of what could be read."""
        losses = self.loss[self.readable]
        return {
            "top1_accuracy": float(self.hits().mean()),
            "top5_accuracy": float(self.hits(5).mean()),
            "loss": float(losses.mean(dtype=np.float64)) if len(losses) else float("nan"),
        }

    def fingerprint(self) -> str:
        """Return the fingerprint of the dataset: sha256 over encoded images and labels."""
        content = hashlib.sha256()
        self.add_to_fingerprint(content)
        return f"sha256:{content.hexdigest()}"

    def add_to_fingerprint(self, content: "hashlib._Hash") -> None:
        """Add these images to the hash of the ones before."""
        for digest, label in zip(self.digest, self.label.tolist(), strict=True):
            content.update(digest.tobytes() + label.to_bytes(4, "little"))

    def take(self, rows: np.ndarray) -> "PredictionTable":
        """Return the table of some rows, by their places or a mask."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        taken: dict[str, Any] = {
            name: None if each is None else each[rows] for name, each in columns.items()
        }
        return PredictionTable(facts=self.facts, **taken)


COLUMNS = tuple(each.name for each in fields(PredictionTable) if each.name != "facts")


def join_tables(tables: Sequence[PredictionTable]) -> PredictionTable:
    """Join tables with the same columns, at least one, in this order; facts are the first's."""
    kept = [name for name in COLUMNS if getattr(tables[0], name) is not None]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(table, name) for table in tables]) for name in kept
    }
    return replace(tables[0], **columns)


def empty_columns(num_images: int, num_classes: int, *, top_k: int, logits: bool) -> dict[str, Any]:
    """Make the columns that a model fills, as they are of images that could not be read."""
    kept = min(top_k, num_classes)
    return {
        "rank": np.full(num_images, NO_NUMBER, np.int32),
        "loss": np.full(num_images, np.nan, np.float32),
        "top_classes": np.full((num_images, kept), NO_NUMBER, np.int32),
        "top_probabilities": np.full((num_images, kept), np.nan, np.float32),
        "squared_probabilities": np.full(num_images, np.nan, np.float32),
        "logits": np.full((num_images, num_classes), np.nan, np.float32) if logits else None,
    }


def check_table(
    table: PredictionTable, facts: PredictionFacts, *, where: str, after: int = -1
) -> None:
    """Check that the columns of a table agree with each other.

    Args:
        table: the columns.
        facts: of the whole file.
        where: what messages call it.
        after: the row before the first of these.

    Raises:
        ValueError: naming the first column that is wrong, and its rule.
    """
    for column, (rule, holds) in _rules(table, facts, after=after).items():
        if not holds:
            raise ValueError(f"column {column} of {where} must {rule}. Evaluate the model again")


def _rules(
    table: PredictionTable, facts: PredictionFacts, *, after: int
) -> dict[str, tuple[str, bool]]:
    """Column -> (its rule, whether it holds)."""
    read, count = table.readable, len(facts.names)
    rank, tops, probabilities = table.rank[read], table.top_classes[read], table.top_probabilities
    probabilities = probabilities[read]
    inside = rank < table.top_k
    placed = np.take_along_axis(tops, np.where(inside, rank, 0)[:, None], axis=1)[:, 0]
    squares, losses = table.squared_probabilities[read], table.loss[read]
    classes = f"class numbers of the model, 0 to {count - 1}"
    return {
        "row": ("rise, from 0", bool(len(table) and (np.diff(table.row, prepend=after) > 0).all())),
        "label": (f"have {classes}", _within(table.label, 0, count - 1)),
        "rank": ("be the number of classes before the true one", _within(rank, 0, count - 1)),
        "loss": ("be finite and at least 0", _within(losses, 0, float(np.finfo(np.float32).max))),
        "top_classes": (
            f"have different {classes}, with the true class at its rank if that is among them",
            bool(
                _within(tops, 0, count - 1)
                and (np.diff(np.sort(tops, axis=1), axis=1) > 0).all()
                and ((placed == table.label[read]) == inside)[inside].all()
                and not (tops == table.label[read][:, None])[~inside].any()
            ),
        ),
        "top_probabilities": (
            "fall, within [0, 1]",
            bool(_within(probabilities, 0, 1.0001) and (np.diff(probabilities) <= 1e-6).all()),
        ),
        "squared_probabilities": ("lie in [0, 1]", _within(squares, 0, 1.0001)),
        "error": (
            "be null where the image could be read, and only there",
            bool((table.rank[~read] == NO_NUMBER).all()),
        ),
    }


def _within(values: np.ndarray, low: float, high: float) -> bool:
    return bool(((values >= low) & (values <= high)).all())
