"""How well batches are mixed when the files are sorted by class, the worst case.

    python benchmarks/shuffle_quality.py

ImageNet's shape: 1,000 classes of 1,281 images, row groups of 100 rows and 11 MB, 45 of them a
file, sorted by class. For each way of shuffling: the mean entropy of the labels of a batch as a
share of what perfect shuffling gives, and the mean number of different classes. `datasets` shuffles
shards and a buffer of rows; its own code runs here, on the labels alone.
"""

import argparse
from pathlib import Path

import datasets
import numpy as np

from convzoo.data.order import DataOrder
from convzoo.data.share import Share
from convzoo.environment import command_line, provenance
from convzoo.files import write_json

CLASSES, PER_CLASS, GROUP_ROWS, GROUP_BYTES, FILE_GROUPS = 1000, 1281, 100, 11_000_000, 45
BATCH, BATCHES = 256, 400


def main() -> None:
    """Measure every way of shuffling and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="benchmarks/results/shuffle_quality_202611.json")
    args = parser.parse_args()
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    perfect = measure(np.random.default_rng(0).permutation(labels)[: BATCH * BATCHES])
    rows = [{"order": "perfect shuffling", **perfect}]
    rows.extend(
        {"order": f"ours, {megabytes} MB", **measure(ours(labels, megabytes))}
        for megabytes in (512, 2048, 8192)
    )
    for size in (1000, 4600, 10_000):
        name = f"datasets, shards and a buffer of {size} rows ({size * 0.11:.0f} MB)"
        rows.append({"order": name, **measure(of_datasets(labels, size))})
    for row in rows:
        row["share_of_perfect"] = round(row["entropy"] / perfect["entropy"], 4)
        print(f"{row['order']:60} {row['share_of_perfect']:.1%}  {row['classes_per_batch']}")
    write_json(
        Path(args.output),
        {
            "what": f"labels in batches of {BATCH} of class-sorted data, {BATCHES} batches",
            **provenance(command_line("python benchmarks/shuffle_quality.py")),
            "rows": rows,
        },
    )


def measure(labels: np.ndarray) -> dict:
    """Mean label entropy (nats) and number of classes of consecutive batches."""
    entropies, counts = [], []
    for batch in labels[: BATCH * BATCHES].reshape(-1, BATCH):
        share = np.bincount(batch, minlength=CLASSES) / BATCH
        share = share[share > 0]
        entropies.append(-(share * np.log(share)).sum())
        counts.append(len(share))
    return {
        "entropy": round(float(np.mean(entropies)), 4),
        "classes_per_batch": round(float(np.mean(counts)), 1),
    }


def ours(labels: np.ndarray, megabytes: int) -> np.ndarray:
    """Labels in our order, in the middle of an epoch."""
    groups = -(-len(labels) // GROUP_ROWS)
    sizes = [GROUP_ROWS] * (groups - 1) + [len(labels) - GROUP_ROWS * (groups - 1)]
    order = DataOrder(
        sizes,
        [GROUP_BYTES] * groups,
        global_batch_size=BATCH,
        memory_bytes=megabytes * 2**20,
        seed=0,
    )
    start = len(labels) // 2 // BATCH
    positions = np.concatenate([order.positions(start + i, Share()) for i in range(BATCHES)])
    rows = (order.row(position) for position in positions.tolist())
    return np.array([labels[group * GROUP_ROWS + row] for group, row in rows])


def of_datasets(labels: np.ndarray, buffer_size: int) -> np.ndarray:
    """Labels as a shuffled stream of `datasets` gives them, from where its buffer is full."""
    per_file = GROUP_ROWS * FILE_GROUPS
    files = [labels[i : i + per_file] for i in range(0, len(labels), per_file)]

    def rows(files):
        for file in files:
            yield from ({"label": int(label)} for label in file)

    stream = datasets.IterableDataset.from_generator(rows, gen_kwargs={"files": files})
    stream = stream.shuffle(seed=0, buffer_size=buffer_size, max_buffer_input_shards=1)
    taken = stream.skip(100_000).take(BATCH * BATCHES)
    return np.array([row["label"] for row in taken])


if __name__ == "__main__":
    main()
