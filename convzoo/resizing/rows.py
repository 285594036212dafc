"""Presizing of images, and of a dataset's row groups over worker processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait

import numpy as np
import simplejpeg
import torch

from convzoo.data.split import Split
from convzoo.images.crops import resize
from convzoo.images.decoding import decode_rgb, is_upright


@dataclass(frozen=True)
class Presize:
    """An encoded image to a smaller JPEG.

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
    crop: bool = False
    enlarge: bool = False
    interpolation: str = "bilinear"
    quality: int = 90
    subsampling: str = "420"
    exif_rotation: bool = False

    def __post_init__(self):
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

    def __call__(self, data: bytes) -> bytes:
        """Decode, resize, crop and encode.

        Args:
            data: any file that Pillow reads.

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
        return simplejpeg.encode_jpeg(image, self.quality, "RGB", self.subsampling)

    def _resize(self, image):
        height, width = image.shape[:2]
        short = min(height, width)
        if short > self.size or (self.enlarge and short < self.size):
            height, width = (side * self.size // short for side in (height, width))
            image = resize(image, height, width, self.interpolation)
        if self.crop:
            new_height, new_width = min(height, self.size), min(width, self.size)
            top, left = round((height - new_height) / 2), round((width - new_width) / 2)
            image = image[top : top + new_height, left : left + new_width]
        return image


def _is_plain_jpeg(data):
    if bytes(data[:2]) != b"\xff\xd8":
        return False
    return simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "Gray", "RGB")


@dataclass(frozen=True)
class Row:
    """A converted row; `jpeg` is None and `problem` tells why if it is unreadable."""

    number: int
    label: int
    jpeg: bytes | None
    bytes_in: int
    unchanged: bool
    problem: dict | None


def _convert_group(source, presize, group, first, skip):
    rows = source.read_group(group)
    converted = []
    for index in range(skip, len(rows)):
        data, label = rows[index]
        jpeg = problem = None
        try:
            jpeg = presize(data)
        except ValueError as error:
            where = source.where(group, index)
            problem = {"row": first + index, "where": where, "reason": str(error)}
        converted.append(Row(first + index, label, jpeg, len(data), jpeg == data, problem))
    return converted


@contextmanager
def row_converter(
    sources: Sequence[Split], presize: Presize, num_workers: int
) -> Iterator[Callable[[int, Iterable[tuple[int, int, int]]], Iterator[Row]]]:
    """A function (number of a source, pieces of it) -> rows in order, over processes.

    Args:
        sources: what is converted.
        presize: what happens to each image.
        num_workers: processes; 1 converts in this one.

    Yields:
        The function; a piece is (row group, number of its first row, rows of it to skip).

    Raises:
        OSError: if a worker process was killed.
    """
    if min(num_workers, max(len(source.groups) for source in sources)) == 1:
        yield lambda number, pieces: (
            row for piece in pieces for row in _convert_group(sources[number], presize, *piece)
        )
        return
    # Not fork: torch and pyarrow have threads. The server imports once what the workers need.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (sources, presize))

    def convert(number, pieces):
        waiting = deque()
        for piece in pieces:
            waiting.append(pool.submit(_convert_in_worker, number, *piece))
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


def _start_worker(sources, presize):
    global _work  # sent once, not with every piece: the footers of a large dataset are megabytes
    _work = sources, presize
    torch.set_num_threads(1)  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """A worker whose main process was killed would wait for work for ever."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _convert_in_worker(number, *piece):
    sources, presize = _work
    return _convert_group(sources[number], presize, *piece)
