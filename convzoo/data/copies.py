"""Find the images of a split that are there twice: with the same bytes, or looking alike."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from convzoo.data.remote import READERS
from convzoo.data.split import FolderSplit, Split
from convzoo.images.likeness import similar_pairs, tiny_image

logger = logging.getLogger(__name__)
MOST_BYTES_COMPARED = 4 * 2**30  # of parquet files, which must be read whole to be compared
MOST_LOOKED_AT = 20_000  # images of a split that are compared by their looks; 1 ms for a photograph
PROBE = 4096  # bytes from the middle of a file, where images of one camera differ


@dataclass(frozen=True)
class Copies:
    """Which rows of a split are copies.

    Attributes:
        same: rows of the same bytes, of each image that is there several times.
        alike: pairs of rows that look alike and have other bytes; None where nobody looked.
    """

    same: list[list[int]]
    alike: list[list[int]] | None

    def numbers(self, num_rows: int) -> np.ndarray:
        """Number the different images: the first row with the same bytes, for each row."""
        numbers = np.arange(num_rows)
        for rows in self.same:
            numbers[rows] = rows[0]
        return numbers


def find_copies(split: Split) -> Copies:
    """Find copies in a local split of which not too much must be read.

    Files are compared where their sizes are equal, and a piece of them is. Images in parquet files
    are compared by their encoded bytes up to MOST_BYTES_COMPARED; those of the Hub, which would
    have to be downloaded for it, count as different.

    Raises:
        OSError: as `Split.read_group`.
    """
    if split.is_remote or (
        not isinstance(split, FolderSplit) and sum(split.group_bytes) > MOST_BYTES_COMPARED
    ):
        logger.info("images of %s are not compared: copies may be on both sides", split.path)
        return Copies([], None)
    looks = split.num_rows <= MOST_LOOKED_AT
    if not looks:
        logger.info(
            "%d images are too many to compare their looks at the start of a training; "
            "`convzoo inspect` names those that look alike",
            split.num_rows,
        )
    with ThreadPoolExecutor(READERS) as pool:
        if isinstance(split, FolderSplit):
            same = _same_files(split.paths(), pool)
            tiny = pool.map(_tiny_file, split.paths() if looks else [])
        else:
            parts = list(
                pool.map(lambda n: _look_at_group(split, n, looks=looks), range(len(split.groups)))
            )
            same = _together(digest for digests, _ in parts for digest in digests)
            tiny = (image for _, images in parts for image in images)
        return Copies(same, _alike(list(tiny), same) if looks else None)


def fingerprint_of_files(split: Split) -> str:
    """Hash names, sizes and times of change of a local split's files, and which rows it has."""
    facts: list[object] = [split.fingerprint]
    for file in split.files:
        status = os.stat(file)
        facts.append((file, status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _alike(tiny: list[np.ndarray | None], same: list[list[int]]) -> list[list[int]]:
    """Find pairs that look alike, of images whose bytes differ."""
    again = {row for rows in same for row in rows[1:]}
    kept = [row for row, image in enumerate(tiny) if image is not None and row not in again]
    images = [image for row in kept if (image := tiny[row]) is not None]
    pairs = similar_pairs(np.array(images)) if images else []
    return [[kept[first], kept[second]] for first, second in pairs]


def _together(keys: Iterable[Hashable]) -> list[list[int]]:
    """List the rows of each key that several have."""
    rows: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return [members for members in rows.values() if len(members) > 1]


def _same_files(paths: list[str], pool: ThreadPoolExecutor) -> list[list[int]]:
    """List the rows of files of the same bytes; only those that may be the same are read."""
    keys: list[Hashable] = list(pool.map(lambda path: os.stat(path).st_size, paths))
    for look in (_probe, _digest):
        count = Counter(keys)
        doubtful = [row for row, key in enumerate(keys) if count[key] > 1]
        found = pool.map(look, [paths[row] for row in doubtful])
        for row, part in zip(doubtful, found, strict=True):
            keys[row] = (keys[row], part)
    return _together(keys)


def _probe(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, (os.fstat(file.fileno()).st_size - PROBE) // 2))
        return hashlib.sha256(file.read(PROBE)).digest()


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _tiny_file(path: str) -> np.ndarray | None:
    with open(path, "rb") as file:
        return tiny_image(file.read())


def _look_at_group(
    split: Split, number: int, *, looks: bool
) -> tuple[list[bytes], list[np.ndarray | None]]:
    """Hash the images of a row group, and shrink them where their looks are wanted."""
    rows = split.read_group(number)
    data = [rows[row][0] for row in range(len(rows))]
    digests = [hashlib.sha256(each).digest() for each in data]
    return digests, [tiny_image(each) for each in data] if looks else []
