"""Memory of the training stream over epochs: it should stay flat.

python benchmarks/loader_memory.py --data data/fashion-mnist --epochs 8
"""

import argparse
from pathlib import Path

from convzoo.data import TrainStream, train_batches
from convzoo.environment import command_line, describe_environment, now, write_json
from convzoo.order import DataOrder
from convzoo.recipe import Augmentation
from convzoo.sources import open_source
from convzoo.transforms import TrainTransform


def main() -> None:
    """Stream some epochs, note the resident memory after each, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="data/fashion-mnist", help="folder or Hub dataset id")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the training split")
    parser.add_argument("--output", default="benchmarks/results/loader_memory_202611.json")
    args = parser.parse_args()
    source = open_source(args.data, "train")
    memory = 4 * 2**20  # far less than the data, so that windows open and close all the time
    order = DataOrder(source.group_rows, source.group_bytes, 100, memory, seed=0)
    transform = TrainTransform(Augmentation(crop="padded", padding=2), 28, "bilinear")
    steps = source.num_rows // 100
    stream = TrainStream(source, order, transform, 0, 1, 0, steps * args.epochs)
    resident = []
    for number, _ in enumerate(train_batches(stream, num_workers=0), start=1):
        if number % steps == 0:
            resident.append(round(resident_megabytes(), 1))
            print(f"epoch {len(resident)}: {resident[-1]} MB")
    write_json(
        Path(args.output),
        {
            "what": f"resident memory after each epoch of {source.num_rows} images, in MB",
            "command": command_line("python benchmarks/loader_memory.py"),
            "date": now(),
            "environment": describe_environment(),
            "resident_megabytes": resident,
        },
    )


def resident_megabytes() -> float:
    """Memory of this process, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
