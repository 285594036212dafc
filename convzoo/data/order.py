"""The global data order: which row of which row group is sample number P of a training run.

Training never holds a position in a file, only a number: sample P = step * global_batch + slot.
This module maps that number to a row, as a pure function of (row groups, seed, global batch,
memory). Processes and workers take slices of the slots of a step; they never change the order.
Hence every sample comes exactly once per epoch at any world size, and resuming is starting at
another number.

How one epoch (N rows) is ordered:
1. The row groups are permuted and laid end to end; they stay whole because they are what can be
   read without waste.
2. That sequence is cut into `num_lanes` lanes of equal length (they differ by one row at most).
3. Within a lane, rows are shuffled over windows of `window_groups` consecutive row groups.
4. Lanes are interleaved: sample p of the epoch is entry p // num_lanes of lane p % num_lanes.

So each batch mixes num_lanes * window_groups row groups from anywhere in the data, a reader that
serves a share of the lanes opens only their row groups, and memory is bounded by the row groups in
open windows. The order of epoch e + 1 follows that of e without a gap: the step that crosses the
boundary takes the rest of one epoch and the start of the next, so nothing is dropped or padded.

The first epoch of data that does not fit into the memory starts with one lane and doubles their
number every RAMP_STEPS steps: training begins after the first row groups have come, and not only
when those of all lanes have. New lanes come between the old ones, so that a reader keeps what it
has open. The lanes of this epoch have other lengths, so that they still end together.

With a `ClassBalance` a row is in an epoch several times or not at all. An epoch still has N
entries, and what is said above of rows holds for entries: a row group has as many in an epoch as
its rows come there, and the entries of a row lie side by side before they are shuffled.

A billion rows in ten million row groups are within reach: what is kept of an epoch is 12 bytes a
row group, and windows are computed from it one by one. Half an epoch ahead a thread lays the next
one out, so that its first step does not wait.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from convzoo.data.class_balance import ClassBalance
from convzoo.data.share import Share

MAX_LANES = 64  # more lanes than readers gain nothing; see `read_amplification`
RAMP_STEPS = 4  # steps with 1, 2, 4, ... lanes at the start of a run on large data
THREAD_ROWS = 2**20  # an epoch is laid out in a thread where it has so many row groups or entries

Piece = tuple[int, int, int]  # row group, first entry, number of entries


@dataclass(frozen=True, kw_only=True)
class Window:
    """Holds the rows of one lane that are shuffled together.

    Attributes:
        key: (epoch, lane, number of the window in its lane); unique in a run.
        pieces: (row group, first entry, number of entries) in reading order.
        rows: row in its row group of each entry of each piece.
        order: permutation of the entries of all pieces, laid end to end.
        start: entries of the lane before this window.
    """

    key: tuple[int, int, int]
    pieces: tuple[Piece, ...]
    rows: tuple[Sequence[int], ...]
    order: np.ndarray
    start: int

    def piece(self, entry: int) -> tuple[int, int]:
        """Find the number of the piece that an entry lies in, and the entry in that piece."""
        for number, (_, _, count) in enumerate(self.pieces):
            if entry < count:
                return number, entry
            entry -= count
        raise AssertionError("entry lies outside its window")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Holds the row groups of one epoch, laid end to end.

    Attributes:
        groups: row groups in the epoch's order, without those that have no entries.
        bounds: entries before each of them, and all entries at the end, int64.
    """

    groups: np.ndarray
    bounds: np.ndarray

    def at(self, *entries: int) -> list[int]:
        """Find which row groups, numbered in the epoch's order, hold these entries."""
        places: list[int] = (np.searchsorted(self.bounds, entries, side="right") - 1).tolist()
        return places


class _Layouts:
    """Keeps the layouts of the epochs in use: this one and the next."""

    def __init__(self, lay_out: Callable[[int], Layout]):
        self._lay_out = lay_out
        self._futures: dict[int, Future[Layout]] = {}

    def get(self, epoch: int) -> Layout:
        if epoch not in self._futures:
            self._keep({epoch - 1, epoch + 1})
            self._futures[epoch] = Future()
            self._futures[epoch].set_result(self._lay_out(epoch))
        return self._futures[epoch].result()

    def prepare(self, epoch: int) -> None:
        """Lay an epoch out in a thread, unless it is already."""
        if epoch not in self._futures:
            self._keep({epoch - 1})
            pool = ThreadPoolExecutor(1)
            self._futures[epoch] = pool.submit(self._lay_out, epoch)
            pool.shutdown(wait=False)  # the thread ends with its work

    def _keep(self, epochs: set[int]) -> None:
        self._futures = {e: future for e, future in self._futures.items() if e in epochs}


class DataOrder:
    """Maps the number of each sample of a run to its row.

    Args:
        group_rows: number of rows of each row group.
        group_bytes: bytes of each row group that stay in memory while it is open.
        global_batch_size: samples per step over all processes.
        memory_bytes: what one process that reads every lane may hold.
        seed: of the shuffling.
        balance: how often each row comes in an epoch; once if None.

    Raises:
        ValueError: if there are no rows, or fewer rows than one global batch.
    """

    def __init__(
        self,
        group_rows: Sequence[int],
        group_bytes: Sequence[int],
        *,
        global_batch_size: int,
        memory_bytes: int,
        seed: int,
        balance: ClassBalance | None = None,
    ):
        self.balance = balance
        rows = np.asarray(group_rows)
        self.group_rows: np.ndarray = rows.astype(
            np.int32 if rows.max(initial=0) < 2**31 else np.int64
        )
        self.num_rows = int(self.group_rows.sum())
        self.global_batch_size = global_batch_size
        self.seed = seed
        if self.num_rows < global_batch_size:
            raise ValueError(
                f"train.global_batch_size must not exceed the {self.num_rows} training images; "
                f"got {global_batch_size}"
            )
        sizes = np.asarray(group_bytes)
        open_groups = _groups_that_fit(sizes, 0.8 * memory_bytes)  # a fifth is for reading ahead
        bound = min(MAX_LANES, open_groups, len(self.group_rows))
        self.num_lanes = 1
        while 2 * self.num_lanes <= bound and global_batch_size % (2 * self.num_lanes) == 0:
            self.num_lanes *= 2
        self.window_groups = max(1, open_groups // self.num_lanes)
        self._ramp = [2**k for k in range(self.num_lanes.bit_length() - 1)]
        if sizes.sum() <= memory_bytes or self._ramp_steps * global_batch_size > self.num_rows:
            self._ramp = []
        self._begin()

    def _begin(self) -> None:
        self._window = lru_cache(maxsize=4 * self.num_lanes)(self._build_window)
        self._starts = lru_cache(maxsize=2)(self._lane_starts)
        self._layouts = _Layouts(self._lay_out)
        self._recent: dict[int, Window] = {}  # of each lane, the window that was asked for last

    def __getstate__(self) -> dict[str, Any]:  # workers may be spawned; caches are not pickled
        caches = ("_window", "_starts", "_layouts", "_recent")
        return {name: value for name, value in vars(self).items() if name not in caches}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def positions(self, step: int, share: Share) -> np.ndarray:
        """Return the sample numbers of a share of a step's global batch.

        The batch is laid out lane by lane and cut into runs that differ by one sample at most, so
        a share touches as few lanes as it can; the shares of a step, in order, always give the same
        sequence, whatever their number is.
        """
        batch, lanes = self.global_batch_size, self._lanes_at(step)
        slots = share.of(batch)
        slot = np.arange(slots.start, slots.stop)
        per_lane = batch // lanes
        return np.asarray(step * batch + (slot % per_lane) * lanes + slot // per_lane)

    def locate(self, position: int) -> tuple[Window, int]:
        """Find the window that holds sample `position`, and the row's entry in its pieces."""
        epoch, sample = divmod(int(position), self.num_rows)
        lane, entry = self._lane_entry(epoch, sample)
        window = self._recent.get(lane)
        if (
            window is None
            or window.key[0] != epoch
            or not window.start <= entry < window.start + len(window.order)
        ):
            window = self._window(epoch, lane, self._window_number(epoch, lane, entry))
            self._recent[lane] = window
            if sample >= self.num_rows // 2 and self._takes_long:
                self._layouts.prepare(epoch + 1)
        return window, int(window.order[entry - window.start])

    def row(self, position: int) -> tuple[int, int]:
        """Find (row group, row in it) of sample `position`."""
        window, entry = self.locate(position)
        number, entry = window.piece(entry)
        return window.pieces[number][0], int(window.rows[number][entry])

    def read_amplification(self, num_readers: int) -> float:
        """Bound the openings per row group and epoch, for row groups of equal size.

        Lanes that are cut by a row group's end add at most one group each; a lane that two readers
        share is read twice. While the lanes of a run's first steps are few, all readers share them.
        """
        shared = min(self.num_lanes, num_readers - 1) if self.num_lanes % num_readers else 0
        if num_readers > self.num_lanes:
            shared = num_readers - 1
        cut = (self.num_lanes - 1) / len(self.group_rows)
        return (1 + shared / self.num_lanes) * (1 + cut)

    @property
    def _ramp_steps(self) -> int:
        return RAMP_STEPS * len(self._ramp)

    def _lanes_at(self, step: int) -> int:
        return self._ramp[step // RAMP_STEPS] if step < self._ramp_steps else self.num_lanes

    def _lane_entry(self, epoch: int, sample: int) -> tuple[int, int]:
        """Find the lane of a sample of an epoch, and how many of its entries come before it."""
        if epoch > 0 or not self._ramp:
            return sample % self.num_lanes, sample // self.num_lanes
        step, slot = divmod(sample, self.global_batch_size)
        if step >= self._ramp_steps:
            after = sample - self._ramp_steps * self.global_batch_size
            lane = after % self.num_lanes
            return lane, self._entries_in_ramp(lane, self._ramp_steps) + after // self.num_lanes
        lanes = self._lanes_at(step)
        lane = slot % lanes * (self.num_lanes // lanes)
        return lane, self._entries_in_ramp(lane, step) + slot // lanes

    def _entries_in_ramp(self, lane: int, steps: int) -> int:
        """Count the entries of a lane in the first steps of a run."""
        entries = 0
        for number, lanes in enumerate(self._ramp):
            count = min(max(steps - number * RAMP_STEPS, 0), RAMP_STEPS)
            if lane % (self.num_lanes // lanes) == 0:
                entries += count * (self.global_batch_size // lanes)
        return entries

    def _lane_starts(self, first_epoch: bool) -> list[int]:
        """Compute where each lane begins in the laid-out row groups, and where the last ends."""
        rows, ramp = self.num_rows, np.zeros(self.num_lanes, dtype=np.int64)
        if first_epoch and self._ramp:
            rows -= self._ramp_steps * self.global_batch_size
            ramp += [self._entries_in_ramp(n, self._ramp_steps) for n in range(self.num_lanes)]
        length, longer = divmod(rows, self.num_lanes)
        lengths = ramp + length + (np.arange(self.num_lanes) < longer)
        return [0, *np.cumsum(lengths).tolist()]

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])

    @property
    def _takes_long(self) -> bool:
        work = self.num_rows if self.balance else len(self.group_rows)
        return work >= THREAD_ROWS

    def _lay_out(self, epoch: int) -> Layout:
        entries = self.balance.group_entries(epoch) if self.balance else self.group_rows
        groups = self._rng(epoch).permutation(len(entries)).astype(np.uint32)
        entries = entries[groups]
        if not entries.all():
            groups, entries = groups[entries > 0], entries[entries > 0]
        bounds = np.zeros(len(groups) + 1, np.int64)
        np.cumsum(entries, out=bounds[1:])
        return Layout(groups=groups, bounds=bounds)

    def _lane_groups(self, epoch: int, lane: int) -> tuple[range, int]:
        """Find the row groups of a lane in the epoch's order, and how many its first window has."""
        start, stop = self._starts(epoch == 0)[lane : lane + 2]
        first, last = self._layouts.get(epoch).at(start, stop - 1)
        # The first window is shorter in low lanes, so that lanes do not all change windows at once.
        return range(first, last + 1), max(1, self.window_groups * (lane + 1) // self.num_lanes)

    def _window_number(self, epoch: int, lane: int, entry: int) -> int:
        groups, first = self._lane_groups(epoch, lane)
        (at,) = self._layouts.get(epoch).at(self._starts(epoch == 0)[lane] + entry)
        return max(0, (at - groups.start - first) // self.window_groups + 1)

    def _build_window(self, epoch: int, lane: int, number: int) -> Window:
        layout, (start, stop) = self._layouts.get(epoch), self._starts(epoch == 0)[lane : lane + 2]
        groups, first = self._lane_groups(epoch, lane)
        end = first + number * self.window_groups
        chosen = groups[end - self.window_groups if number else 0 : end]
        bounds = layout.bounds[chosen.start : chosen.stop + 1]
        cuts = np.clip(bounds, start, stop)
        firsts, counts = (cuts - bounds)[:-1].tolist(), np.diff(cuts).tolist()
        numbers = layout.groups[chosen.start : chosen.stop].tolist()
        pieces = tuple(zip(numbers, firsts, counts, strict=True))
        return Window(
            key=(epoch, lane, number),
            pieces=pieces,
            rows=tuple(self._rows(epoch, piece) for piece in pieces),
            order=self._rng(epoch, lane, number).permutation(sum(counts)),
            start=int(cuts[0]) - start,
        )

    def _rows(self, epoch: int, piece: Piece) -> Sequence[int]:
        group, first, count = piece
        if not self.balance:
            return range(first, first + count)
        rows: list[int] = self.balance.rows(epoch, group)[first : first + count].tolist()
        return rows


def _groups_that_fit(group_bytes: np.ndarray, room: float) -> int:
    """Count how many row groups fit into so many bytes whichever they are; 1 at least."""
    largest = max(1, int(group_bytes.max()))
    count = max(1, int(room / largest))
    # A few large ones among many: what counts is the sum of as many of the largest.
    looked_at = count
    while True:
        looked_at = min(2 * looked_at, len(group_bytes))
        top = np.partition(group_bytes, len(group_bytes) - looked_at)[-looked_at:]
        fitting = int(np.searchsorted(np.cumsum(np.sort(top)[::-1]), room, "right"))
        if fitting < looked_at or looked_at == len(group_bytes):
            return max(count, fitting)
