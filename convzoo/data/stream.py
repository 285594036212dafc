"""Make batches on each process from a split and an order.

A training process is cut further into workers; (process, worker) number v of all readers takes part
v of every global batch, so the batches are the same whatever the number of processes and workers.
Each reader opens only the windows that its part needs, reads the next ones in a thread before they
are needed, and keeps images encoded until their turn.
"""

import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from convzoo.data.order import DataOrder, Window
from convzoo.data.share import Share
from convzoo.data.split import Split
from convzoo.images.decoding import DARK_IMAGES, UnreadableImageError, open_for_cropping
from convzoo.images.erasing import Box
from convzoo.images.train_transform import TrainTransform, sample_rng
from convzoo.signals import outlive_signals

logger = logging.getLogger(__name__)
READ_AHEAD_STEPS = 2  # a window is read this many steps before its first use
Located = tuple[Window, int]  # a window and an entry in its pieces
Batch = dict[str, Any]  # see TrainStream


class TrainStream(IterableDataset[Batch]):
    """Yields the augmented samples of one process, from any step on.

    With repeated augmentation the order is that of the images, and sample number P is a view of
    image P // repeats: all views are in the same batch.

    Iterating yields, per step and worker, `pixels` uint8 (n, size, size, C), `labels` int64 (n,),
    `positions` int64 (n,), the sample numbers, `erasing`, the boxes to erase in each, and
    `unreadable`, (name, reason) of each image that another one had to replace; a name does not say
    where the dataset lies.

    Args:
        split: the training split.
        order: the global order over it.
        transform: pixels and random generator to an augmented crop.
        share: which process of how many.
        steps: the steps to take, 0-based.
        exif_rotation: whether to turn images as their EXIF data says.
    """

    def __init__(
        self,
        split: Split,
        order: DataOrder,
        *,
        transform: TrainTransform,
        share: Share,
        steps: range,
        exif_rotation: bool = False,
    ):
        self.split = split
        self.order = order
        self.transform = transform
        self.share = share
        self.steps = steps
        self.exif_rotation = exif_rotation

    def __iter__(self) -> Iterator[Batch]:
        share = worker_share(self.share)
        with ThreadPoolExecutor(1) as pool:
            windows = _OpenWindows(self.split, pool)
            # Sample numbers, their windows and entries, of the steps read ahead.
            upcoming: deque[tuple[np.ndarray, list[Located]]] = deque()
            asked = self.steps.start
            for step in self.steps:
                ahead = READ_AHEAD_STEPS if step > self.steps.start else 1  # first things first
                while asked < min(step + ahead, self.steps.stop):
                    positions = self.order.positions(asked, share)
                    located = [self.order.locate(position) for position in positions.tolist()]
                    windows.open(located)
                    upcoming.append((positions, located))
                    asked += 1
                positions, located = upcoming.popleft()
                yield self._batch(
                    positions, located, size=self.transform.size_at(step), windows=windows
                )
                if upcoming:  # empty after the first step only
                    windows.keep({window.key for _, located in upcoming for window, _ in located})

    def _batch(
        self, positions: np.ndarray, located: list[Located], *, size: int, windows: "_OpenWindows"
    ) -> Batch:
        views = self.transform.augmentation.repeats
        positions = (positions[:, None] * views + np.arange(views)).ravel()
        pixels = np.empty((len(positions), size, size, self.transform.num_channels), np.uint8)
        labels: list[int] = []
        erasing: list[list[Box]] = []
        unreadable: list[tuple[str, str]] = []
        for number, (crop, position) in enumerate(zip(pixels, positions.tolist(), strict=True)):
            place = located[number // views]
            crop[:], label, boxes = self._sample(
                position, place, size=size, windows=windows, unreadable=unreadable
            )
            labels.append(label)
            erasing.append(boxes)
            if (number + 1) % views == 0:
                windows.release(place)
        return {
            "pixels": torch.from_numpy(pixels),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "positions": torch.from_numpy(positions),
            "erasing": erasing,
            "unreadable": unreadable,
        }

    def _sample(
        self,
        position: int,
        located: Located,
        *,
        size: int,
        windows: "_OpenWindows",
        unreadable: list[tuple[str, str]],
    ) -> tuple[np.ndarray, int, list[Box]]:
        """Make crop, label and erasing boxes of an entry; of the next one if it is unreadable.

        The next one is of the same window, which is the same for any number of readers.
        """
        window, entry = located
        where = ""
        for offset in range(len(window.order)):
            data, label, place = windows.row(window, (entry + offset) % len(window.order))
            DARK_IMAGES.look(data, partial(self.split.where, *place))
            rng = sample_rng(self.order.seed, position)
            try:
                image = open_for_cropping(
                    data, self.transform.num_channels, exif_rotation=self.exif_rotation
                )
                crop = self.transform(image, rng, size=size)  # where the pixels may be decoded
            except UnreadableImageError as error:
                where = self.split.where(*place)
                unreadable.append((self.split.relative(where), str(error)))
            else:
                return crop, label, self.transform.erasing_boxes(rng, size)
        raise ValueError(f"{where}: none of the {len(window.order)} images around can be read")


class _OpenWindows:
    """Reads the row groups of the windows in use in a thread, and keeps each row until its use."""

    def __init__(self, split: Split, pool: ThreadPoolExecutor):
        self.split = split
        self.pool = pool
        # Window key -> future rows of each piece.
        self.pieces: dict[tuple[int, int, int], list[Future[list[tuple[bytes, int] | None]]]] = {}

    def open(self, located: list[Located]) -> None:
        for window, _ in located:
            if window.key not in self.pieces:
                self.pieces[window.key] = [
                    self.pool.submit(self._read, piece[0], rows)
                    for piece, rows in zip(window.pieces, window.rows, strict=True)
                ]

    def keep(self, keys: set[tuple[int, int, int]]) -> None:
        self.pieces = {key: pieces for key, pieces in self.pieces.items() if key in keys}

    def row(self, window: Window, entry: int) -> tuple[bytes, int, tuple[int, int]]:
        """Return encoded bytes, label and (row group, row) of one entry of a window."""
        number, entry = window.piece(entry)
        group, rows = window.pieces[number][0], window.rows[number]
        row = self.pieces[window.key][number].result()[entry]
        if row is None:  # it was used, and is to replace an unreadable one, too
            row = self._read(group, rows)[entry]
            assert row, "just read"
        return *row, (group, rows[entry])

    def release(self, located: Located) -> None:
        """Forget the bytes of an entry."""
        window, entry = located
        number, entry = window.piece(entry)
        self.pieces[window.key][number].result()[entry] = None

    def _read(self, group: int, rows: Sequence[int]) -> list[tuple[bytes, int] | None]:
        """Read rows of a row group; one that is asked for several times is held once."""
        table = self.split.read_group(group)
        # Copies: a view of one row would hold the memory of all.
        copies = {row: (bytes(table[row][0]), table[row][1]) for row in rows}
        return [copies[row] for row in rows]


def worker_share(share: Share) -> Share:
    """Return the share of this DataLoader worker, where this process is one, of a process's."""
    worker = get_worker_info()
    if worker is None:
        return share
    torch.set_num_threads(1)  # the processes are the parallelism
    # Arrow's own allocator holds 20 MB more in each worker, at the same speed.
    pa.set_memory_pool(pa.system_memory_pool())
    return share.part(worker.id, worker.num_workers)


def train_batches(
    stream: TrainStream, num_workers: int, *, pin: bool = False
) -> Generator[Batch, None, None]:
    """Yield one process's batch per step.

    Args:
        stream: the samples of this process.
        num_workers: decoding processes; 0 decodes in this one.
        pin: put the tensors into pinned memory, from where a GPU copies while the CPU goes on.
    """
    loader = DataLoader(
        stream,
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=outlive_signals,
    )
    parts: list[Batch] = []
    for part in loader:
        parts.append(part)
        if len(parts) == max(1, num_workers):
            batch: Batch = {}
            for key in ("pixels", "labels", "positions"):
                batch[key] = _joined([part[key] for part in parts], pin=pin)
            for key in ("erasing", "unreadable"):
                batch[key] = [entry for part in parts for entry in part[key]]
            yield batch
            parts = []


def _joined(parts: list[torch.Tensor], *, pin: bool) -> torch.Tensor:
    """Join parts of a batch; straight in pinned memory, where a second copy would follow."""
    if not pin:
        return torch.cat(parts)
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    return torch.cat(parts, out=parts[0].new_empty(shape, pin_memory=True))


def eval_rows(
    split: Split, rows: range | None = None
) -> Iterator[tuple[int, memoryview | bytes, int]]:
    """Yield (index, encoded bytes, label) of a range of the rows of a split; of all for None."""
    for piece in split.pieces(range(split.num_rows) if rows is None else rows):
        group = split.read_group(piece.group)
        for row in range(piece.start, piece.stop):
            yield piece.first + row, *group[row]
