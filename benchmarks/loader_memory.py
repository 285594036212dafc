"""Memory of the training stream over epochs, with and without workers: it should stay flat.

python benchmarks/loader_memory.py --epochs 20
"""

import argparse
from pathlib import Path

import psutil

from convzoo.data.opening import open_split
from convzoo.data.order import DataOrder
from convzoo.data.share import Share
from convzoo.data.stream import TrainStream, train_batches
from convzoo.environment import command_line, provenance
from convzoo.files import write_json
from convzoo.images.train_transform import TrainTransform
from convzoo.recipe.settings import Augmentation, Preprocessing

BATCH = 100
WORKERS = (0, 2, 4)


def main() -> None:
    """Stream some epochs with each number of workers, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="data/fashion-mnist", help="folder or Hub dataset id")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training split")
    parser.add_argument("--output", default="benchmarks/results/loader_memory_202611.json")
    args = parser.parse_args()
    source = open_split(args.data, "train")
    memory = 4 * 2**20  # far less than the data, so that windows open and close all the time
    order = DataOrder(
        source.group_rows, source.group_bytes, global_batch_size=BATCH, memory_bytes=memory, seed=0
    )
    transform = TrainTransform(Augmentation(crop="padded", padding=2), Preprocessing(crop=28))
    steps = source.num_rows // BATCH
    runs = []
    for workers in WORKERS:
        stream = TrainStream(
            source, order, transform=transform, share=Share(), steps=range(steps * args.epochs)
        )
        megabytes = []
        for number, _ in enumerate(train_batches(stream, workers), start=1):
            if number % steps == steps // 2:  # in the middle, when all workers are at work
                megabytes.append(round(used_megabytes(), 1))
        runs.append({"num_workers": workers, "megabytes": megabytes})
        print(runs[-1])
    write_json(
        Path(args.output),
        {
            "what": f"memory of the process and its workers in each epoch of {source.num_rows} "
            "images, MB; pages that they share count once, files do not count",
            **provenance(command_line("python benchmarks/loader_memory.py")),
            "image_megabytes": round(sum(source.group_bytes) / 1e6, 1),
            "shuffle_memory_mb": memory >> 20,
            "runs": runs,
        },
    )


def used_megabytes() -> float:
    """What this process and its children hold besides files, by Linux's count.

    Not the whole proportional set size: of libraries it falls when a stranger loads them, too.
    """
    process = psutil.Process()
    kilobytes = 0
    for member in [process, *process.children(recursive=True)]:
        for line in Path(f"/proc/{member.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                kilobytes += int(line.split()[1])
    return kilobytes / 1024


if __name__ == "__main__":
    main()
