"""What each corruption of `convzoo robustness` costs beside the preparation of an image.

    PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/corruption_cost.py --data data/photos

Processor time on one thread. An image is prepared from its bytes to a crop of 224 pixels, and the
crop is corrupted in five severities, as an evaluation does both; the corruptions take turns in each
round, so that a busy machine is busy for all.
"""

import argparse
import hashlib
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from convzoo.environment import command_line, provenance
from convzoo.files import write_json
from convzoo.images.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from convzoo.images.decoding import open_rgb
from convzoo.prediction.image_names import find_images
from modeling import ConvZooImageProcessor


def main() -> None:
    """Measure, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", nargs="+", default=["data/photos"])
    parser.add_argument("--limit", type=int, default=12, help="images, evenly spaced")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default="benchmarks/results/corruption_cost_202611.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = find_images(args.data, lambda: b"").names
    chosen = [names[len(names) * n // args.limit] for n in range(min(args.limit, len(names)))]
    files = [Path(name).read_bytes() for name in chosen]
    processor = ConvZooImageProcessor()
    crops, digests = [prepare(processor, each) for each in files], [*map(digest, files)]
    seconds: dict[str, list[float]] = {"preparation": [], **{name: [] for name in CORRUPTIONS}}
    for _ in tqdm(range(args.rounds + 1), desc="rounds"):
        started = time.process_time()
        for each in files:
            prepare(processor, each)
        seconds["preparation"].append((time.process_time() - started) / len(files))
        for name in CORRUPTIONS:
            started = time.process_time()
            for crop, key in zip(crops, digests, strict=True):
                for severity in SEVERITIES:
                    corrupt(crop, name, severity, digest=key)
            spent = time.process_time() - started
            seconds[name].append(spent / len(files) / len(SEVERITIES))
    rows = {name: summary(values[1:]) for name, values in seconds.items()}  # the first warms up
    preparation = rows["preparation"]["milliseconds"]
    content = {
        "what": "processor time of an image, one thread: preparation to 224 pixels, and corruption "
        "of the crop, mean over five severities",
        "num_images": len(files),
        "rounds": args.rounds,
        "rows": {
            name: row | {"of_preparation": round(row["milliseconds"] / preparation, 2)}
            for name, row in rows.items()
        },
        **provenance(command_line("python benchmarks/corruption_cost.py")),
    }
    write_json(Path(args.output), content)


def prepare(processor: ConvZooImageProcessor, data: bytes) -> np.ndarray:
    """Decode, resize and crop, as `CorruptingProcessor` does before it corrupts."""
    shown = processor([open_rgb(data)], do_rescale=False, do_normalize=False)["pixel_values"][0]
    return np.ascontiguousarray(shown.transpose(1, 2, 0)).round().astype(np.uint8)


def digest(data: bytes) -> bytes:
    """What the noise of an image follows from."""
    return hashlib.sha256(data).digest()


def summary(values: list[float]) -> dict[str, float]:
    """Median and standard deviation over the rounds, in milliseconds."""
    return {
        "milliseconds": round(1000 * statistics.median(values), 3),
        "standard_deviation": round(1000 * statistics.stdev(values), 3),
    }


if __name__ == "__main__":
    main()
