"""What `convzoo evaluate --fast-decoding` saves, and what it changes.

    PYTHONPATH=. python benchmarks/fast_decoding.py --data FOLDER data/photos --peers FOLDER

Time of an image from its bytes to pixel values of 224 px, on one thread: the image processor, fast
decoding, and the evaluation transform of timm (`pip install --target FOLDER --no-deps timm
torchvision`) take turns, batch by batch. Then the pixels of both ways, and what the networks in
data/models say of all test images, resized by several protocols.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convzoo.data.opening import open_split
from convzoo.data.stream import eval_rows
from convzoo.environment import command_line, describe_environment, now
from convzoo.evaluation.crop_settings import CropSettings
from convzoo.evaluation.evaluating import evaluate_model
from convzoo.evaluation.fast_decoding import fast_processor
from convzoo.evaluation.prediction_file import read_predictions
from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.files import write_json
from convzoo.images.decoding import decode_rgb, open_rgb
from modeling import ConvZooImageProcessor

ROOT = Path(__file__).resolve().parent.parent
BATCH = 20
MODELS = ("fashion-mnist-cnn", "fashion-mnist-qlnet")
CROPS = {
    "smaller, bilinear": CropSettings(size=20, interpolation="bilinear"),
    "smaller, bicubic": CropSettings(size=20, interpolation="bicubic"),
    "larger, cropped, bicubic": CropSettings(size=28, ratio=0.875, interpolation="bicubic"),
}
TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")
Prepare = Callable[[list[bytes]], Any]


def main() -> None:
    """Measure time, pixels and accuracy, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", nargs="+", default=["data/photos"])
    parser.add_argument("--peers", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", default="benchmarks/results/fast_decoding_202611.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ways = preparations(args.peers)
    environment = describe_environment()
    environment["versions"]["timm"] = import_module("timm").__version__
    command = command_line("PYTHONPATH=. python benchmarks/fast_decoding.py")
    for folder in (*args.data, args.peers):
        if not Path(folder).resolve().is_relative_to(ROOT):
            command = command.replace(str(folder), "FOLDER")
    record = {
        "what": "processor milliseconds of an image from its bytes to pixel values of 224 px, as "
        "[median, least, most] of rounds; pixels in levels of 255; answers of trained networks",
        "command": command,
        "date": now(),
        "environment": environment,
        "threads": 1,
        "n": args.rounds,
        "photographs": [measure(folder, ways, rounds=args.rounds) for folder in args.data],
        "networks": [compare_answers(name) for name in MODELS],
    }
    write_json(Path(args.output), record)


def preparations(peers: Path) -> dict[str, Prepare]:
    """The ways to prepare a batch; ours resize to 256 by a bilinear filter, and so does timm's."""
    sys.path.append(str(peers))
    if torch.__version__.endswith("+cpu"):  # it lacks the operators of torchvision's usual wheel
        for name in ("nms", "qnms"):
            TORCHVISION.define(f"{name}(Tensor d, Tensor s, float t) -> Tensor")
    transforms: Any = import_module("timm.data")
    theirs = transforms.create_transform(
        (3, 224, 224), is_training=False, interpolation="bilinear", crop_pct=0.875
    )
    processor = ConvZooImageProcessor()
    fast = fast_processor(processor)
    return {
        "image processor": lambda batch: processor(
            [open_rgb(data) for data in batch], return_tensors="pt"
        ),
        "fast decoding": lambda batch: fast([decode_rgb(data) for data in batch]),
        "timm": lambda batch: torch.stack([theirs(open_rgb(data)) for data in batch]),
        "decoding alone": lambda batch: [decode_rgb(data) for data in batch],
    }


def measure(folder: str, ways: dict[str, Prepare], *, rounds: int) -> dict[str, Any]:
    """Time the ways in turns, and compare the pixels of both of ours."""
    encoded = read_images(folder)
    batches = [encoded[n : n + BATCH] for n in range(0, len(encoded), BATCH)]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        spent = dict.fromkeys(ways, 0.0)
        for batch in batches:
            for name, prepare in ways.items():
                begin = time.process_time()
                prepare(batch)
                spent[name] += time.process_time() - begin
        if number:  # the first one warms up
            for name, value in spent.items():
                seconds[name].append(1000 * value / len(encoded))
    exact = seconds["image processor"]
    differences = np.concatenate([pixel_differences(batch) for batch in batches])
    row = {
        "data": Path(folder).name,
        "num_images": len(encoded),
        "mean_bytes": round(statistics.mean(map(len, encoded))),
        "milliseconds": {name: spread(values) for name, values in seconds.items()},
        "speed_over_image_processor": {
            name: spread([a / b for a, b in zip(exact, values, strict=True)])
            for name, values in seconds.items()
        },
        "levels": {
            "mean": round(float(differences.mean()), 5),
            "largest": int(differences.max()),
            "share_above_one": float(f"{(differences > 1).mean():.1e}"),
        },
    }
    print(row, flush=True)
    return row


def read_images(folder: str) -> list[bytes]:
    """Encoded images of a folder of photographs, or of a dataset's split train."""
    if paths := sorted(Path(folder).rglob("*.jpg")):
        return [path.read_bytes() for path in paths]
    return [bytes(data) for _, data, _ in eval_rows(open_split(folder, "train"))]


def pixel_differences(batch: list[bytes]) -> np.ndarray:
    """Differences of the pixels of both ways, in levels of 255."""
    processor = ConvZooImageProcessor(do_normalize=False, do_rescale=False)
    exact = processor([open_rgb(data) for data in batch], return_tensors="np")["pixel_values"]
    fast = fast_processor(processor)([decode_rgb(data) for data in batch])["pixel_values"]
    return np.abs(exact - fast.numpy()).round().astype(np.uint8).reshape(-1)


def spread(values: list[float]) -> list[float]:
    """Median, least and most."""
    return [round(each, 3) for each in (statistics.median(values), min(values), max(values))]


def compare_answers(name: str) -> dict[str, Any]:
    """Evaluate a trained network both ways with each crop."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(ROOT / "data/models" / name, Path(temporary) / name))
        for title, crop in CROPS.items():
            tables, results = [], []
            for fast in (False, True):
                protocol = EvaluationProtocol(crop=crop, fast_decoding=fast)
                results += evaluate_model(
                    str(folder),
                    str(ROOT / "data/fashion-mnist"),
                    split="test",
                    command="",
                    protocols=[protocol],
                )
                tables.append(read_predictions(folder / results[-1]["predictions"]["file"]))
            answers = [table.top_classes[:, 0] for table in tables]
            rows.append(
                {
                    "crop": title,
                    "n": len(answers[0]),
                    "top1_accuracy": [result["metrics"]["top1_accuracy"] for result in results],
                    "loss": [round(result["metrics"]["loss"], 6) for result in results],
                    "same_first_class": int((answers[0] == answers[1]).sum()),
                }
            )
            print(name, rows[-1], flush=True)
    return {"network": name, "exact_and_fast": rows}


if __name__ == "__main__":
    main()
