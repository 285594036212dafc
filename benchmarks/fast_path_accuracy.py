"""Does the fast path to a training crop cost accuracy? And how far are its pixels from exact ones?

    python benchmarks/fast_path_accuracy.py --data CIFAR10_FOLDER --photographs IMAGENET_FOLDER

Exact is what torchvision's transforms do on Pillow images: decode all of it, cut the box out,
resize with Pillow's antialiased filter. Ours is the package's training transform. A small CNN
trains with either, from the same weights, in the same order, on the same boxes and flips, once per
seed; both are evaluated on exactly resized test images. Crops are smaller than the images, so
that the resize matters: a quarter to all of an image of 32 pixels becomes 12 x 12.
"""

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from convzoo.data.opening import open_split
from convzoo.data.stream import eval_rows
from convzoo.environment import provenance
from convzoo.files import write_json
from convzoo.images import turbojpeg
from convzoo.images.crops import random_resized_box
from convzoo.images.decoding import open_for_cropping
from convzoo.images.normalize import Normalize
from convzoo.images.train_transform import TrainTransform, sample_rng
from convzoo.recipe.settings import Augmentation, Preprocessing
from modeling import CNN, CNNConfig

ROOT = Path(__file__).resolve().parent.parent
SCALE = (0.25, 1.0)
BATCH = 128
# Two-sided 95 % quantile of Student's t distribution by degrees of freedom.
STUDENT_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}

Prepare = Callable[[bytes, np.random.Generator], np.ndarray]


def main() -> None:
    """Train with both paths, compare pixels, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="data/fashion-mnist", help="folder with train and test")
    parser.add_argument("--photographs", help="folder of photographs for the pixel error")
    parser.add_argument("--images", type=int, default=20_000, help="training images")
    parser.add_argument("--epochs", type=int, default=4, help="passes over them")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each path, 2 to 9")
    parser.add_argument("--crop", type=int, default=12, help="side of the crops, pixels")
    parser.add_argument("--output", default="benchmarks/results/fast_path_accuracy_202611.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (read_split(args.data, split) for split in ("train", "test"))
    train = train[:: max(1, len(train) // args.images)][: args.images]
    report: dict[str, Any] = {
        "what": f"top-1 accuracy of a small CNN on {len(test)} test images after {args.epochs} "
        f"epochs of {len(train)} images in crops of {args.crop} px, exact and fast crops",
        "data": Path(args.data).name,
        "fingerprint": open_split(args.data, "train").fingerprint,
        "photographs": Path(args.photographs).name if args.photographs else None,
        **provenance(command(args)),
        "threads": 1,
        "jpegs_are_decoded_only_where_cropped": turbojpeg.library() is not None,
        "scale": SCALE,
        "runs": [],
    }
    for seed in range(args.seeds):
        for name, prepare in (
            ("exact", exact_crop(args.crop, SCALE)),
            ("fast", fast_crop(args.crop, SCALE)),
        ):
            started = time.process_time()
            accuracy = train_once(
                seed, prepare, train=train, test=test, epochs=args.epochs, size=args.crop
            )
            seconds = round(time.process_time() - started, 1)
            report["runs"].append(
                {"path": name, "seed": seed, "top1_accuracy": accuracy, "cpu_seconds": seconds}
            )
            print(report["runs"][-1], flush=True)
    report |= summarise(report["runs"])
    if args.photographs:
        report["pixel_error"] = pixel_error(args.photographs)
    write_json(Path(args.output), report)


def command(args: argparse.Namespace) -> str:
    """What a reader types to repeat this; folders outside this repository are called FOLDER."""
    words = ["python benchmarks/fast_path_accuracy.py"]
    for name in ("data", "photographs", "images", "epochs", "seeds", "crop"):
        value = getattr(args, name)
        if name in ("data", "photographs") and value:
            folder = Path(value).resolve()
            value = folder.relative_to(ROOT).as_posix() if folder.is_relative_to(ROOT) else "FOLDER"
        words += [f"--{name} {value}"] if value else []
    return " ".join(words)


def read_split(path: str, split: str) -> list[tuple[bytes, int]]:
    """Encoded images and labels."""
    return [(bytes(data), label) for _, data, label in eval_rows(open_split(path, split))]


def exact_crop(size: int, scale: tuple[float, float], flip: float = 0.5) -> Prepare:
    """Random resized crop and flip as torchvision's transforms make them with Pillow."""
    settings = Augmentation()

    def prepare(data, rng):
        with Image.open(io.BytesIO(data)) as image:
            image = image.convert("RGB")
        box = random_resized_box(
            (image.height, image.width), rng, scale=scale, ratio=settings.ratio
        )
        top, left, height, width = box
        image = image.crop((left, top, left + width, top + height))
        pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
        return pixels[:, ::-1] if rng.random() < flip else pixels

    return prepare


def fast_crop(size: int, scale: tuple[float, float], flip: float = 0.5) -> Prepare:
    """The same by the package."""
    settings = Augmentation(scale=scale, horizontal_flip=flip)
    transform = TrainTransform(settings, Preprocessing(crop=size))
    return lambda data, rng: transform(open_for_cropping(data), rng)


def train_once(
    seed: int,
    prepare: Prepare,
    *,
    train: list[tuple[bytes, int]],
    test: list[tuple[bytes, int]],
    epochs: int,
    size: int,
) -> float:
    """Top-1 accuracy after training, share."""
    torch.manual_seed(seed)
    model = CNN(  # type: ignore[call-arg]  # a field of the base
        CNNConfig(  # type: ignore[call-arg]
            stem="small",
            embedding_size=32,
            hidden_sizes=[32, 64, 128],
            depths=[1, 1, 1],
            bottleneck_expansion=2,
            conv_bias=False,
            num_labels=1 + max(label for _, label in train),
        )
    ).to(memory_format=torch.channels_last)
    normalize = Normalize(
        rescale_factor=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    steps = epochs * len(train) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, steps)
    order = np.concatenate(
        [np.random.default_rng([seed, epoch]).permutation(len(train)) for epoch in range(epochs)]
    )
    labels = torch.tensor([label for _, label in train])
    for step in tqdm(range(steps), leave=False, disable=not os.isatty(2)):
        chosen = order[step * BATCH : (step + 1) * BATCH]
        crops = [
            prepare(train[number][0], sample_rng(seed, step * BATCH + slot))
            for slot, number in enumerate(chosen)
        ]
        logits = model(normalize(torch.from_numpy(np.stack(crops)))).logits
        loss = F.cross_entropy(logits, labels[torch.from_numpy(chosen)], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    correct = 0
    for first in range(0, len(test), 500):
        rows = test[first : first + 500]
        pixels = torch.from_numpy(np.stack([resized(data, size) for data, _ in rows]))
        with torch.inference_mode():
            guesses = model(normalize(pixels)).logits.argmax(1)
        correct += int((guesses == torch.tensor([label for _, label in rows])).sum())
    return correct / len(test)


def resized(data: bytes, size: int) -> np.ndarray:
    """A whole square image, exactly resized."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def summarise(runs: list[dict]) -> dict:
    """Means, deviations, and the difference within the pairs with its 95 % confidence interval."""
    by_path = {
        name: [run["top1_accuracy"] for run in runs if run["path"] == name]
        for name in ("exact", "fast")
    }
    differences = [f - e for e, f in zip(by_path["exact"], by_path["fast"], strict=True)]
    n, spread = len(differences), statistics.stdev(differences)
    mean, half = statistics.mean(differences), STUDENT_T[n - 1] * spread / n**0.5
    return {
        "n": n,
        **{
            name: {
                "mean": round(statistics.mean(values), 5),
                "standard_deviation": round(statistics.stdev(values), 5),
            }
            for name, values in by_path.items()
        },
        "fast_minus_exact": {
            "mean": round(mean, 5),
            "standard_deviation": round(spread, 5),
            "confidence_interval_95": [round(mean - half, 5), round(mean + half, 5)],
        },
    }


def pixel_error(path: str, size: int = 224, crops: int = 3) -> dict:
    """Grey levels between training crops of photographs and the exact ones."""
    scale = Augmentation().scale
    exact, fast = exact_crop(size, scale, flip=0.0), fast_crop(size, scale, flip=0.0)
    means, worst = [], []
    photographs = read_split(path, "train")
    for number, (data, _) in enumerate(photographs):
        for crop in range(crops):
            seed = number * crops + crop
            pair = [prepare(data, sample_rng(0, seed)).astype(int) for prepare in (exact, fast)]
            difference = np.abs(pair[0] - pair[1])
            means.append(difference.mean())
            worst.append(difference.max())
    return {
        "what": f"absolute difference in levels of 0-255, {crops} crops of {size} px of each of "
        f"{len(photographs)} photographs, scale {scale}, bilinear",
        "mean": round(float(np.mean(means)), 4),
        "mean_of_the_worst_crop": round(float(np.max(means)), 4),
        "max_of_the_median_crop": float(np.median(worst)),
        "max": int(np.max(worst)),
    }


if __name__ == "__main__":
    main()
