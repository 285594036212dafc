"""How often a row group is opened in an epoch, and how many are open at once: from the plan alone.

    python benchmarks/read_amplification.py

ImageNet's layout: 1,281,167 rows in 294 files, row groups of 100 rows and 11 MB. Nothing is read:
the benchmark asks the order which window each sample lies in and opens and closes windows by the
rule of `convzoo.data.stream`, for many numbers of training processes and of workers in each.
"""

import argparse
from pathlib import Path

import numpy as np

from convzoo.data.order import DataOrder
from convzoo.data.share import Share
from convzoo.data.stream import READ_AHEAD_STEPS
from convzoo.environment import command_line, provenance
from convzoo.files import write_json

FILES, ROWS, GROUP_ROWS, GROUP_BYTES = 294, 1_281_167, 100, 11_000_000
BATCH, MEGABYTES = 1024, (512, 2048)
WORLD_SIZES, WORKERS = (1, 2, 3, 4, 8, 64), (1, 4, 8)


def main() -> None:
    """Count for every number of processes and workers, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="benchmarks/results/read_amplification_202611.json")
    args = parser.parse_args()
    sizes = imagenet_groups()
    plans = []
    for megabytes in MEGABYTES:
        order = DataOrder(
            sizes,
            [GROUP_BYTES] * len(sizes),
            global_batch_size=BATCH,
            memory_bytes=megabytes * 2**20,
            seed=0,
        )
        plan = Plan(order, num_epochs=2)
        rows = [
            {"processes": world_size, "workers": workers, **plan.count(world_size, workers)}
            for world_size in WORLD_SIZES
            for workers in WORKERS
        ]
        plans.append(
            {
                "shuffle_memory_mb": megabytes,
                "num_lanes": order.num_lanes,
                "window_groups": order.window_groups,
                "rows": rows,
            }
        )
        print(plans[-1])
    write_json(
        Path(args.output),
        {
            "what": "openings of a row group, mean of all, in the first and in a later epoch; and "
            "how many megabytes of images a process holds, those read ahead included and those "
            "used already not: median over the steps, and most",
            "layout": {"files": FILES, "rows": ROWS, "row_groups": len(sizes)},
            "row_group_megabytes": GROUP_BYTES / 1e6,
            "global_batch_size": BATCH,
            **provenance(command_line("python benchmarks/read_amplification.py")),
            "plans": plans,
        },
    )


def imagenet_groups() -> list[int]:
    """Rows of each row group; the last group of a file has what is left."""
    sizes = []
    for file in range(FILES):
        rows = ROWS * (file + 1) // FILES - ROWS * file // FILES
        full, rest = divmod(rows, GROUP_ROWS)
        sizes += [GROUP_ROWS] * full + [rest] * (rest > 0)
    return sizes


class Plan:
    """Which window each slot of each step needs.

    Args:
        order: the data order.
        num_epochs: how many are looked at.
    """

    def __init__(self, order: DataOrder, num_epochs: int):
        self.order = order
        self.num_steps = num_epochs * order.num_rows // order.global_batch_size
        numbers = {}  # window key -> number
        self.epochs, self.pieces, self.rows = [], [], []  # of each window
        self.windows = np.empty((self.num_steps, order.global_batch_size), np.int64)
        for step in range(self.num_steps):
            for slot, position in enumerate(order.positions(step, Share()).tolist()):
                window, _ = order.locate(position)
                if window.key not in numbers:
                    numbers[window.key] = len(numbers)
                    self.epochs.append(window.key[0])
                    self.pieces.append(len(window.pieces))
                    self.rows.append(len(window.order))
                self.windows[step, slot] = numbers[window.key]
        self.epochs, self.pieces, self.rows = map(np.array, (self.epochs, self.pieces, self.rows))

    def count(self, world_size: int, workers: int) -> dict:
        """Openings per row group of the first and second epoch, and most bytes in a process."""
        readers, batch, steps = world_size * workers, self.order.global_batch_size, self.num_steps
        reader = np.repeat(
            np.arange(readers),
            np.diff([batch * part // readers for part in range(readers + 1)]),
        )
        # (reader, window, step), sorted: the steps in which a reader needs a window.
        needed = (reader * len(self.pieces) + self.windows) * steps + np.arange(steps)[:, None]
        needed, used = np.unique(needed, return_counts=True)
        pairs, step = np.divmod(needed, steps)
        # A window that is not needed for so many steps is dropped, and opened anew.
        opens = np.ones(len(pairs), bool)
        opens[1:] = (pairs[1:] != pairs[:-1]) | (np.diff(step) >= READ_AHEAD_STEPS)
        closes = np.append(opens[1:], True)
        used_by_all = np.zeros((world_size, steps + 1), np.int64)
        np.add.at(used_by_all, (pairs // len(self.pieces) // workers, step + 1), used)
        used = np.add.reduceat(used, np.flatnonzero(opens))  # in all steps of an opening
        reader, window = np.divmod(pairs[opens], len(self.pieces))
        pieces, rows = self.pieces[window], self.rows[window]
        per_epoch = [
            pieces[self.epochs[window] == epoch].sum() / len(self.order.group_rows)
            for epoch in (0, 1)
        ]
        changes = np.zeros((world_size, steps + 1), np.int64)
        process = reader // workers
        np.add.at(changes, (process, np.maximum(step[opens] - READ_AHEAD_STEPS + 1, 0)), rows)
        np.add.at(changes, (process, step[closes] + 1), used - rows)
        held = (changes - used_by_all)[:, :-1].cumsum(axis=1) * (GROUP_BYTES / GROUP_ROWS / 1e6)
        return {
            "first_epoch": round(float(per_epoch[0]), 3),
            "later_epoch": round(float(per_epoch[1]), 3),
            "bound": round(self.order.read_amplification(readers), 3),
            "megabytes_held_median": round(float(np.median(held.max(axis=0)))),
            "megabytes_held_most": round(float(held.max())),
        }


if __name__ == "__main__":
    main()
