"""Measures whether the cores feed the GPU: crops per second, and training with real images."""

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_steps.record import Record, StepArguments, step_arguments
from benchmarks.gpu_steps.training import ROOT, train
from convzoo.data.opening import open_split
from convzoo.data.order import DataOrder
from convzoo.data.share import Share
from convzoo.data.stream import TrainStream, train_batches
from convzoo.images.train_transform import TrainTransform
from convzoo.recipe.files import load_recipe
from convzoo.recipe.settings import Recipe
from tests.support.images import write_split

PLAIN = ["augmentation.policy=", "augmentation.erasing=0.0"]
PLAIN += ["augmentation.mixup_alpha=0.0", "augmentation.cutmix_alpha=0.0"]


def main(args: StepArguments) -> None:
    """Measure crops and whole training, in order of worth."""
    record = Record(args.output, "images per second with real images", seconds=args.seconds)
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        photos = pack_photos(Path(folder) / "photos", repeats=1 if args.dry_run else 40)
        inputs = {"photos": ("cnn_relu_imagenet", str(photos))}
        if args.data:
            inputs["cifar10"] = ("cifar10_cnn_prelu", args.data)
        kinds = {"crop and flip": PLAIN, "as the recipe": []}

        def decode(data: str, kind: str, workers: int) -> bool:
            name, path = inputs[data]
            recipe = load_recipe(
                ROOT / f"recipes/{name}.toml",
                [f"data.path={path}", "data.eval_split=", *kinds[kind], *sizes(args)],
            )
            return record.measure(
                f"{data}, {kind}, {workers} worker(s)",
                lambda: crops(recipe, workers, dry_run=args.dry_run),
                seconds=0 if args.dry_run else 8,
            )

        def learn(network: str, kind: str) -> bool:
            return record.measure(
                f"training {network}, photos, {kind}",
                lambda: whole(
                    network,
                    photos,
                    overrides=kinds[kind],
                    args=args,
                    seconds=record.seconds_left,
                ),
                seconds=0 if args.dry_run else 40,
            )

        steps = [partial(decode, "photos", kind, cores) for kind in kinds]
        steps += [
            partial(learn, "cnn_relu", kind) for kind in list(kinds)[: 1 if args.dry_run else 2]
        ]
        steps += [partial(decode, "photos", kind, 1) for kind in kinds]
        if args.data:
            steps += [partial(decode, "cifar10", kind, n) for kind in kinds for n in (cores, 1)]
        if not args.dry_run:
            steps += [partial(learn, "cnn_prelu", kind) for kind in kinds]
        if not all(step() for step in steps):  # in order of worth, until the time is over
            return
    record.finish()


def sizes(args: StepArguments) -> list[str]:
    """Return overrides for the size of a batch, and for everything in a dry run."""
    if args.dry_run:
        return ["train.global_batch_size=8", "preprocessing.resize=40", "preprocessing.crop=32"]
    return ["train.global_batch_size=256"]


def pack_photos(folder: Path, *, repeats: int) -> Path:
    """Write the embedded photographs as a parquet split, several times over."""
    images = [path.read_bytes() for path in sorted((ROOT / "data/photos").glob("*.jpg"))] * repeats
    labels = [number % 10 for number in range(len(images))]
    names = [f"class {label}" for label in range(10)]
    write_split(folder, "train", images, labels, files=8, rows_per_group=50, names=names)
    return folder


def crops(recipe: Recipe, workers: int, *, dry_run: bool) -> dict[str, Any]:
    """Measure wall time from the first batch on: parquet to uint8 batches in pinned memory."""
    split, batch = open_split(recipe.data.path, "train"), recipe.train.global_batch_size
    order = DataOrder(
        split.group_rows,
        split.group_bytes,
        global_batch_size=batch,
        memory_bytes=recipe.data.shuffle_memory_mb * 2**20,
        seed=0,
    )
    stream = TrainStream(
        split,
        order,
        transform=TrainTransform(recipe.augmentation, recipe.preprocessing),
        share=Share(),
        steps=range(3 if dry_run else 1000),
    )
    batches = train_batches(stream, workers, pin=torch.cuda.is_available())
    next(batches)
    for _ in range(0 if dry_run else 4 if workers > 1 else 0):  # what was prepared ahead
        next(batches)
    start, count, seconds = time.perf_counter(), 0, 0.0
    for number, _ in enumerate(batches, 1):
        count, seconds = number * batch, time.perf_counter() - start
        if seconds > 4 or (dry_run and number == 2):
            break
    batches.close()
    return {
        "crops_per_second": round(count / seconds, 1),
        "crops_per_second_and_worker": round(count / seconds / workers, 1),
        "workers": workers,
        "cores": os.cpu_count(),
        "mean_bytes": round(sum(split.group_bytes) / split.num_rows),
    }


def whole(
    network: str, photos: Path, *, overrides: list[str], args: StepArguments, seconds: float
) -> dict[str, Any]:
    """Train a recipe for ImageNet on the photographs, compiled, all cores decoding."""
    settings = [f"data.path={photos}", "data.eval_split=", "run.resume=never", *sizes(args)]
    settings += ["schedule.warmup_epochs=0"]
    settings += [f"data.num_workers={os.cpu_count()}", *overrides]
    if args.dry_run:
        settings += ["model.embedding_size=8", "model.hidden_sizes=[16, 16]", "model.depths=[1, 1]"]
        settings += ["train.epochs=0.2", "train.log_every_steps=1", "train.mixed_precision=no"]
        settings += ["data.num_workers=0"]
    else:
        settings += ["train.epochs=6", "train.log_every_steps=10", "train.compile=true"]
    with tempfile.TemporaryDirectory() as folder:
        return train(f"{network}_imagenet", settings, Path(folder), seconds=max(1.0, seconds))


if __name__ == "__main__":
    main(step_arguments())
