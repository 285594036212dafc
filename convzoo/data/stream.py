"""From a source and an order to batches on each process.

A training process is cut further into workers; (process, worker) number v of all readers takes part
v of every global batch, so the batches are the same whatever the number of processes and workers.
Each reader opens only the windows that its part needs, reads the next ones in a thread before they
are needed, and keeps images encoded until their turn.
"""

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from convzoo.data.order import DataOrder
from convzoo.data.split import Split
from convzoo.images.decoding import UnreadableImageError, open_for_cropping
from convzoo.images.train_transform import TrainTransform, sample_rng
from convzoo.signals import outlive_signals

logger = logging.getLogger(__name__)
READ_AHEAD_STEPS = 2  # a window is read this many steps before its first use


class TrainStream(IterableDataset):
    """The augmented samples of one process, from any step on.

    With repeated augmentation the order is that of the images, and sample number P is a view of
    image P // repeats: all views are in the same batch.

    Iterating yields, per step and worker, `pixels` uint8 (n, size, size, C), `labels` int64 (n,),
    `positions` int64 (n,), the sample numbers, `erasing`, the boxes to erase in each, and
    `unreadable`, (where, reason) of each image that another one had to replace.

    Args:
        source: the training split.
        order: the global order over it.
        transform: pixels and random generator to an augmented crop.
        process_index: number of this process.
        num_processes: how many there are.
        start_step: first step, 0-based.
        num_steps: one past the last step.
        exif_rotation: whether to turn images as their EXIF data says.
    """

    def __init__(
        self,
        source: Split,
        order: DataOrder,
        transform: TrainTransform,
        process_index: int,
        num_processes: int,
        start_step: int,
        num_steps: int,
        exif_rotation: bool = False,
    ):
        self.source = source
        self.order = order
        self.transform = transform
        self.process_index = process_index
        self.num_processes = num_processes
        self.start_step = start_step
        self.num_steps = num_steps
        self.exif_rotation = exif_rotation

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        workers, worker_id = (worker.num_workers, worker.id) if worker else (1, 0)
        if worker:
            torch.set_num_threads(1)  # the processes are the parallelism
        reader = self.process_index * workers + worker_id
        readers = self.num_processes * workers
        with ThreadPoolExecutor(1) as pool:
            rows = _OpenWindows(self.source, pool)
            upcoming = deque()  # (positions, their windows and entries) of the steps read ahead
            asked = self.start_step
            for step in range(self.start_step, self.num_steps):
                ahead = READ_AHEAD_STEPS if step > self.start_step else 1  # first things first
                while asked < min(step + ahead, self.num_steps):
                    positions = self.order.positions(asked, reader, readers)
                    located = [self.order.locate(position) for position in positions.tolist()]
                    rows.open(located)
                    upcoming.append((positions, located))
                    asked += 1
                yield self._batch(step, *upcoming.popleft(), rows)
                if upcoming:  # empty after the first step only
                    rows.keep({window.key for _, located in upcoming for window, _ in located})

    def _batch(self, step, positions, located, rows):
        size, views = self.transform.size_at(step), self.transform.augmentation.repeats
        positions = (positions[:, None] * views + np.arange(views)).ravel()
        pixels = np.empty((len(positions), size, size, self.transform.num_channels), np.uint8)
        labels, erasing, unreadable = [], [], []
        for number, (crop, position) in enumerate(zip(pixels, positions.tolist(), strict=True)):
            place = located[number // views]
            crop[:], label, boxes = self._sample(position, *place, size, rows, unreadable)
            labels.append(label)
            erasing.append(boxes)
            if (number + 1) % views == 0:
                rows.release(*place)
        return {
            "pixels": torch.from_numpy(pixels),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "positions": torch.from_numpy(positions),
            "erasing": erasing,
            "unreadable": unreadable,
        }

    def _sample(self, position, window, entry, size, rows, unreadable):
        """Crop, label and erasing boxes of an entry; of the next one in its window if unreadable.

        The window is the same for any number of readers, and so is the replacement.
        """
        for offset in range(len(window.order)):
            data, label, place = rows.row(window, (entry + offset) % len(window.order))
            rng = sample_rng(self.order.seed, position)
            try:
                image = open_for_cropping(data, self.transform.num_channels, self.exif_rotation)
                crop = self.transform(image, rng, size)  # where the pixels may be decoded
            except UnreadableImageError as error:
                where = self.source.where(*place)
                unreadable.append((where, str(error)))
            else:
                return crop, label, self.transform.erasing_boxes(rng, size)
        raise ValueError(f"{where}: none of the {len(window.order)} images around can be read")


class _OpenWindows:
    """The row groups of the windows in use, read in a thread; each row until it was used."""

    def __init__(self, source, pool):
        self.source = source
        self.pool = pool
        self.pieces = {}  # window key -> future rows of each piece

    def open(self, located):
        for window, _ in located:
            if window.key not in self.pieces:
                pieces = [self.pool.submit(self._read, *piece) for piece in window.pieces]
                self.pieces[window.key] = pieces

    def keep(self, keys):
        self.pieces = {key: pieces for key, pieces in self.pieces.items() if key in keys}

    def row(self, window, entry):
        """Encoded bytes, label and (row group, row) of one entry of a window."""
        number, entry = _piece(window, entry)
        group, first, count = window.pieces[number]
        rows = self.pieces[window.key][number].result()
        if rows[entry] is None:  # it was used, and is to replace an unreadable one, too
            rows = self._read(group, first, count)
        return *rows[entry], (group, first + entry)

    def release(self, window, entry):
        """Forget the bytes of an entry."""
        number, entry = _piece(window, entry)
        self.pieces[window.key][number].result()[entry] = None

    def _read(self, group, first, count):
        rows = self.source.read_group(group)
        # Copies: a view of one row would hold the memory of all.
        return [(bytes(rows[row][0]), rows[row][1]) for row in range(first, first + count)]


def _piece(window, entry):
    """Number of the piece of a window that an entry lies in, and the entry in that piece."""
    for number, (_, _, count) in enumerate(window.pieces):
        if entry < count:
            return number, entry
        entry -= count
    raise AssertionError("entry lies outside its window")


def train_batches(stream: TrainStream, num_workers: int, pin: bool = False) -> Iterator[dict]:
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
    parts = []
    for part in loader:
        parts.append(part)
        if len(parts) == max(1, num_workers):
            batch = {}
            for key in ("pixels", "labels", "positions"):
                joined = torch.cat([part[key] for part in parts])
                batch[key] = joined.pin_memory() if pin else joined
            for key in ("erasing", "unreadable"):
                batch[key] = [entry for part in parts for entry in part[key]]
            yield batch
            parts = []


def eval_rows(
    source: Split, process_index: int, num_processes: int
) -> Iterator[tuple[int, memoryview, int]]:
    """Yield (index, encoded bytes, label) of this process's share of a split, each row once.

    A process takes a contiguous share of the row groups, cut to equal numbers of rows.
    """
    total = source.num_rows
    start = total * process_index // num_processes
    stop = total * (process_index + 1) // num_processes
    first = 0
    for group, count in enumerate(source.group_rows):
        begin, end = max(start, first), min(stop, first + count)
        if begin < end:
            rows = source.read_group(group)
            for index in range(begin, end):
                yield index, *rows[index - first]
        first += count
