"""Presizing of images, and of a dataset's row groups over worker processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import simplejpeg
import torch

from convzoo.data.split import Piece, Split
from convzoo.images.allowed_formats import Encoded
from convzoo.images.crops import resize
from convzoo.images.decoding import decode_rgb, is_upright


@dataclass(frozen=True)
class Presize:
    """Turns an encoded image into a smaller JPEG.

    Attributes:
        size: shorter side, pixels; a smaller image keeps its size.
        crop: also cut to at most size x size at the centre, as the evaluation protocols do.
        enlarge: bring smaller images to `size`, too.
        interpolation: "bilinear" or "bicubic", antialiased.
        quality: of the JPEG, 1 to 100.
        subsampling: of the colours: "420" halves their resolution, "444" keeps it.
        exif_rotation: turn images as their EXIF data says.
    """

    size: int = 256
    _: KW_ONLY
    crop: bool = False
    enlarge: bool = False
    interpolation: str = "bilinear"
    quality: int = 90
    subsampling: str = "420"
    exif_rotation: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel; got {self.size}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must lie in [1, 100]; got {self.quality}")
        for name, choices in (
            ("interpolation", ("bilinear", "bicubic")),
            ("subsampling", ("420", "444")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be {' or '.join(choices)}; got {getattr(self, name)!r}"
                )

    def __call__(self, data: Encoded) -> bytes:
        """Decode, resize, crop and encode.

        Args:
            data: a file of one of the allowed formats.

        Returns:
            An RGB JPEG without EXIF data; `data` itself if it is a grey or RGB JPEG whose pixels
            would not change and that has no EXIF rotation, so that no copy has any.

        Raises:
            ValueError: if the image cannot be read.
        """
        original = decode_rgb(data, exif_rotation=self.exif_rotation)
        image = self._resize(original)
        if image.shape == original.shape and _is_plain_jpeg(data) and is_upright(data):
            return bytes(data)
        image = np.ascontiguousarray(image)
        return bytes(simplejpeg.encode_jpeg(image, self.quality, "RGB", self.subsampling))

    def _resize(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        short = min(height, width)
        if short > self.size or (self.enlarge and short < self.size):
            height, width = (side * self.size // short for side in (height, width))
            image = resize(image, (height, width), interpolation=self.interpolation)
        if self.crop:
            new_height, new_width = min(height, self.size), min(width, self.size)
            top, left = round((height - new_height) / 2), round((width - new_width) / 2)
            image = image[top : top + new_height, left : left + new_width]
        return image


def _is_plain_jpeg(data: Encoded) -> bool:
    if bytes(data[:2]) != b"\xff\xd8":
        return False
    return simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "Gray", "RGB")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A converted row; `jpeg` is None and `problem` says why if it is unreadable."""

    number: int
    label: int
    jpeg: bytes | None
    bytes_in: int
    unchanged: bool
    problem: dict[str, Any] | None


def _convert_piece(split: Split, presize: Presize, *, piece: Piece) -> list[Row]:
    rows = split.read_group(piece.group)
    converted = []
    for index in range(piece.start, piece.stop):
        data, label = rows[index]
        jpeg = problem = None
        try:
            jpeg = presize(data)
        except ValueError as error:
            where = split.where(piece.group, index)
            problem = {"row": piece.first + index, "where": where, "reason": str(error)}
        converted.append(
            Row(
                number=piece.first + index,
                label=label,
                jpeg=jpeg,
                bytes_in=len(data),
                unchanged=jpeg == data,
                problem=problem,
            )
        )
    return converted


@contextmanager
def row_converter(
    splits: Sequence[Split], presize: Presize, *, num_workers: int
) -> Iterator[Callable[[int, Iterable[Piece]], Iterator[Row]]]:
    """Start processes, and yield a function (number of a split, pieces of it) -> rows in order.

    Args:
        splits: what is converted.
        presize: what happens to each image.
        num_workers: processes; 1 converts in this one.

    Yields:
        The function.

    Raises:
        OSError: if a worker process was killed.
    """
    if min(num_workers, max(len(split.groups) for split in splits)) == 1:
        yield lambda number, pieces: (
            row for piece in pieces for row in _convert_piece(splits[number], presize, piece=piece)
        )
        return
    # Not fork: torch and pyarrow have threads. The server imports once what the workers need.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (splits, presize))

    def convert(number: int, pieces: Iterable[Piece]) -> Iterator[Row]:
        waiting: deque[Future[list[Row]]] = deque()
        for piece in pieces:
            waiting.append(pool.submit(_convert_in_worker, number, piece))
            if len(waiting) > 2 * num_workers:  # bounds the memory
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    try:
        yield convert
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process was killed, perhaps for want of memory; run the same command again "
            "to continue, with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_work: tuple[Sequence[Split], Presize]  # of a worker process


def _start_worker(splits: Sequence[Split], presize: Presize) -> None:
    global _work  # sent once, not with every piece: the footers of a large dataset are megabytes
    _work = splits, presize
    torch.set_num_threads(1)  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the main process was killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent, "workers have one"
    wait([parent.sentinel])
    os._exit(1)


def _convert_in_worker(number: int, piece: Piece) -> list[Row]:
    splits, presize = _work
    return _convert_piece(splits[number], presize, piece=piece)
