"""Images per second that two data workers deliver, from parquet files to normalised batches.

    PYTHONPATH=. python benchmarks/two_workers.py --data FOLDER

Ours beside `datasets` streaming with the transforms of the transformers examples, in the
environment of benchmarks/input_pipeline.py, which tells how to make it. Wall time from the first
batch to the last of ten passes, so that starting the workers does not count; the two take turns.
The main process normalises our batches and theirs come normalised. The workers need two idle cores.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import datasets
import torch

from benchmarks import input_pipeline
from convzoo.data.opening import open_split
from convzoo.data.order import DataOrder
from convzoo.data.share import Share
from convzoo.data.stream import TrainStream, train_batches
from convzoo.environment import command_line, describe_environment, now
from convzoo.files import write_json

BATCH, PASSES, WORKERS = 20, 10, 2


def main() -> None:
    """Time both in turns and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="parquet files with a train split")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default="benchmarks/results/two_workers_202611.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = open_split(args.data, "train")
    steps = PASSES * source.num_rows // BATCH
    rounds = []
    for _ in range(args.rounds):
        load = os.getloadavg()[0]
        speeds = [speed(batches(source, steps)) for batches in (ours, theirs)]
        rounds.append(
            {"ours": speeds[0], "theirs": speeds[1], "load_average_before": round(load, 1)}
        )
        print(rounds[-1], flush=True)
    ratios = sorted(row["ours"] / row["theirs"] for row in rounds)
    write_json(
        input_pipeline.ROOT / args.output,
        {
            "what": f"images per second of {WORKERS} data workers, parquet to normalised batches "
            f"of 224 px; theirs: datasets, streaming, with torchvision v1",
            "command": command_line("PYTHONPATH=. python benchmarks/two_workers.py").replace(
                args.data, input_pipeline.folder_as_typed(args.data)
            ),
            "date": now(),
            "environment": describe_environment(),
            "data": Path(args.data).name,
            "fingerprint": source.fingerprint,
            "n": args.rounds,
            "ratio": {
                "median": round(statistics.median(ratios), 2),
                "least": round(ratios[0], 2),
                "most": round(ratios[-1], 2),
            },
            "rounds": rounds,
        },
    )


def speed(batches) -> float:
    """Images per second from the first batch on."""
    next(batches)
    started, count = time.perf_counter(), 0
    for _ in batches:
        count += BATCH
    return round(count / (time.perf_counter() - started), 1)


def ours(source, steps):
    """Normalised batches of the training stream."""
    order = DataOrder(
        source.group_rows,
        source.group_bytes,
        global_batch_size=BATCH,
        memory_bytes=512 * 2**20,
        seed=0,
    )
    stream = TrainStream(
        source, order, transform=input_pipeline.transform, share=Share(), steps=range(steps)
    )
    for batch in train_batches(stream, WORKERS):
        yield input_pipeline.normalize(batch["pixels"])


def theirs(source, steps):
    """Batches of a streamed dataset, as often as needed for the steps."""
    to_tensor = input_pipeline.torchvision_v1()
    files = list(source.files) * PASSES
    streamed = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    mapped = streamed.map(
        lambda row: {"pixel_values": to_tensor(row["image"].convert("RGB"))},
        remove_columns=[source.image_column],
    )
    loader = torch.utils.data.DataLoader(
        mapped, batch_size=BATCH, num_workers=WORKERS, collate_fn=collate, drop_last=True
    )
    return iter(loader)


def collate(rows):
    """Stacked images."""
    return torch.stack([row["pixel_values"] for row in rows])


if __name__ == "__main__":
    main()
