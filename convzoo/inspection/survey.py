"""One pass over the images of a split: what is there, and what is wrong with it."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm
from typing_extensions import TypedDict

from convzoo.data.split import Split
from convzoo.images.likeness import similar_pairs
from convzoo.inspection.examination import Examination, Examined, FoundImage, examine

QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}
MOST_LISTED = 20  # of misnamed files, duplicates and class counts; unreadable ones are all listed
SPEED_SAMPLE = 200  # images that are also augmented and presized
COLUMNS = 10  # of thumbnails


class Misnamed(TypedDict):
    """Images whose file name promises another format."""

    count: int
    examples: list[FoundImage]


class LabelReport(TypedDict):
    """Images of each class.

    Attributes:
        imbalance: those of the largest over those of the smallest class; None if one is empty.
        outside_the_classes: label -> rows, of labels that are no class.
        names: of the classes; they may repeat: ImageNet has two cranes.
    """

    num_classes: int
    min: int
    median: float
    max: int
    imbalance: float | None
    empty_classes: int
    outside_the_classes: dict[str, int]
    names: list[str]
    counts: list[int]


class SplitReport(TypedDict):
    """All numbers about a split."""

    num_rows: int
    num_files: int
    num_row_groups: int
    image_bytes: int
    fingerprint: str
    rows_read: int
    labels: LabelReport
    sizes: dict[str, dict[str, float]]
    modes: dict[str, int]
    formats: dict[str, int]
    rotated_by_exif: int
    misnamed: Misnamed
    unreadable: list[FoundImage]


class Occurrence(TypedDict):
    """One of several equal images."""

    split: str
    row: int
    where: str


class Duplicates(TypedDict):
    """Repeats of an image in its own split and in another one; how many have another label."""

    within_splits: int
    across_splits: int
    other_label: int
    examples: list[list[Occurrence]]


class Likenesses(TypedDict):
    """Pairs of images that look alike; how many are of two splits, and how many of two classes."""

    pairs: int
    across_splits: int
    other_label: int
    examples: list[list[Occurrence]]


class Survey:
    """What one pass over the images of a split found.

    Args:
        source: the split.
        limit: images to read; all if 0.
        num_workers: processes that read and decode; 0 for this one. They change no number.
    """

    def __init__(self, source: Split, *, limit: int = 0, num_workers: int = 0):
        self.source = source
        self.label_counts, self.strange_labels = _count_labels(source)
        self.rows: list[
            tuple[int, int, bytes]
        ] = []  # number, label and content hash of each readable image
        names = ("width", "height", "short", "megapixels", "kilobytes")
        self.sizes: dict[str, list[float]] = {name: [] for name in names}
        self.modes: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.rotated = 0
        self.unreadable: list[FoundImage] = []
        self.misnamed: list[FoundImage] = []
        self.sample: list[bytes] = []  # encoded images for the measurements of speed
        self.thumbnails: dict[int, list[Image.Image]] = {}  # class number -> small images
        self.tiny: list[np.ndarray] = []  # of each readable image, as `rows`
        self.rows_read = 0
        if not self.strange_labels:  # the reader of training refuses such splits
            self._read(limit, num_workers)

    def describe(self) -> SplitReport:
        """Return the numbers."""
        counts = self.label_counts
        return {
            "num_rows": self.source.num_rows,
            "num_files": len(self.source.files),
            "num_row_groups": len(self.source.groups),
            "image_bytes": sum(self.source.group_bytes),
            "fingerprint": self.source.fingerprint,
            "rows_read": self.rows_read,
            "labels": {
                "num_classes": len(counts),
                "min": int(counts.min()),
                "median": float(np.median(counts)),
                "max": int(counts.max()),
                "imbalance": float(counts.max() / counts.min()) if counts.min() else None,
                "empty_classes": int((counts == 0).sum()),
                "outside_the_classes": self.strange_labels,
                "names": list(self.source.label_names),
                "counts": counts.tolist(),
            },
            "sizes": {
                key: dict(zip(QUANTILES, np.quantile(values, [*QUANTILES.values()]), strict=True))
                for key, values in self.sizes.items()
                if values
            },
            "modes": dict(self.modes.most_common()),
            "formats": dict(self.formats.most_common()),
            "rotated_by_exif": self.rotated,
            "misnamed": {"count": len(self.misnamed), "examples": self.misnamed[:MOST_LISTED]},
            "unreadable": self.unreadable,
        }

    def _read(self, limit: int, num_workers: int) -> None:
        chosen = _spread(self.source.group_rows, limit)
        total = sum(count for _, _, count in chosen)
        examination = Examination(
            rows=chosen,
            keep_every=max(1, total // SPEED_SAMPLE),
            thumbnails=thumbnails_per_class(len(self.source.label_names)),
        )
        bar = tqdm(total=total, desc=f"inspect {self.source.name}", unit=" images", leave=False)
        for image in examine(self.source, examination, num_workers=num_workers):
            self._note(image, examination.thumbnails)
            self.rows_read += 1
            bar.update()
        bar.close()

    def _note(self, image: Examined, most_thumbnails: int) -> None:
        """Note all about an image."""
        place, seen = image.place, image.seen
        if isinstance(seen, str):
            self.unreadable.append({**place, "reason": seen})
            return
        for key, value in (
            ("width", seen.width),
            ("height", seen.height),
            ("short", min(seen.width, seen.height)),
            ("megapixels", seen.width * seen.height / 1e6),
            ("kilobytes", image.num_bytes / 1e3),
        ):
            self.sizes[key].append(value)
        self.formats[seen.format] += 1
        self.modes[seen.mode] += 1
        self.rotated += seen.orientation != 1
        suffix = Path(place["name"] or "").suffix.lower()
        if Image.registered_extensions().get(suffix, seen.format) != seen.format:
            self.misnamed.append({**place, "format": seen.format})
        self.tiny.append(seen.tiny)
        self.rows.append((place["row"], image.label, seen.digest))
        if image.data is not None:
            self.sample.append(image.data)
        thumbnails = self.thumbnails.setdefault(image.label, [])
        if seen.thumbnail and len(thumbnails) < most_thumbnails:
            thumbnails.append(seen.thumbnail)


def _count_labels(source: Split) -> tuple[np.ndarray, dict[str, int]]:
    """Rows of each class, and the counts of labels that are no class."""
    labels, num_classes = source.labels_in_files(), len(source.label_names)
    known = (labels >= 0) & (labels < num_classes)
    strange = Counter(map(str, labels[~known].tolist()))
    return np.bincount(labels[known], minlength=num_classes), dict(strange)


def _spread(group_rows: Sequence[int], limit: int) -> list[tuple[int, int, int]]:
    """(row group, its first row, rows to read): all, or at most `limit` rows, spread evenly."""
    firsts = np.cumsum([0, *group_rows]).tolist()
    left = min(limit, firsts[-1]) if limit else firsts[-1]
    wanted = max(math.ceil(left / np.mean(group_rows)), 8)  # a few more seeks for a better spread
    number = len(group_rows) if left == firsts[-1] else min(len(group_rows), wanted)
    chosen = [len(group_rows) * i // number for i in range(number)]
    counts = {}
    for position, group in enumerate(sorted(chosen, key=group_rows.__getitem__)):
        # What a small group lacks is shared by the larger ones.
        counts[group] = min(group_rows[group], math.ceil(left / (number - position)))
        left -= counts[group]
    return [(group, firsts[group], counts[group]) for group in chosen]


def find_duplicates(surveys: dict[str, Survey]) -> Duplicates:
    """Find images whose bytes came before, within a split and across splits.

    Args:
        surveys: what was read of each split.
    """
    seen: dict[bytes, tuple[str, int, int]] = {}
    found: Duplicates = {
        "within_splits": 0,
        "across_splits": 0,
        "other_label": 0,
        "examples": [],
    }
    for split, survey in surveys.items():
        for row, label, digest in survey.rows:
            if digest not in seen:
                seen[digest] = (split, row, label)
                continue
            first_split, first_row, first_label = seen[digest]
            found["within_splits" if first_split == split else "across_splits"] += 1
            found["other_label"] += first_label != label
            if len(found["examples"]) < MOST_LISTED:
                pair = ((first_split, first_row), (split, row))
                found["examples"].append(
                    [
                        {
                            "split": name,
                            "row": number,
                            "where": surveys[name].source.where_is(number),
                        }
                        for name, number in pair
                    ]
                )
    return found


def find_likenesses(surveys: dict[str, Survey]) -> Likenesses:
    """Find pairs of images that look alike, in a split or across splits, and have other bytes.

    Args:
        surveys: what was read of each split.
    """
    images: dict[
        bytes, tuple[str, int, int, np.ndarray]
    ] = {}  # by digest: the first of those with the same bytes
    for split, survey in surveys.items():
        for (row, label, digest), tiny in zip(survey.rows, survey.tiny, strict=True):
            images.setdefault(digest, (split, row, label, tiny))
    known = list(images.values())
    found: Likenesses = {"pairs": 0, "across_splits": 0, "other_label": 0, "examples": []}
    if not known:
        return found
    pairs = similar_pairs(np.array([tiny for *_, tiny in known]))
    found["pairs"] = len(pairs)
    for first, second in ((known[a], known[b]) for a, b in pairs):
        found["across_splits"] += first[0] != second[0]
        found["other_label"] += first[2] != second[2]
        if len(found["examples"]) < MOST_LISTED:
            found["examples"].append(
                [
                    {"split": name, "row": row, "where": surveys[name].source.where_is(row)}
                    for name, row, *_ in (first, second)
                ]
            )
    return found


def thumbnails_per_class(num_classes: int) -> int:
    """Return how many thumbnails a class gets: a row of them if the classes are few."""
    return COLUMNS if num_classes <= 12 else 1
