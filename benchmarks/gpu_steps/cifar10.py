"""Trains the CIFAR-10 recipes to their end, seed after seed, as time allows."""

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_steps.record import Record, StepArguments, step_arguments
from benchmarks.gpu_steps.training import train

RECIPES = ("cifar10_cnn_prelu", "cifar10_cnn_relu")
SEEDS = 5
# A run of its own is compiled, and evaluated now and then: one that is killed has an accuracy, too.
SETTINGS = [
    "train.compile=true",
    "train.evaluate_every_epochs=20",
    "train.checkpoint_every_epochs=0",
]
FIRST_RUN_SECONDS = 60.0  # the first one is begun with this much time left


def main(args: StepArguments) -> None:
    """Train; each run that does not end in time is a row with an error."""
    record = Record(args.output, "CIFAR-10 from scratch, whole recipes", seconds=args.seconds)
    if not args.data:
        record.measure("none", lambda: {"reason": "--data names no folder"}, seconds=0)
        record.finish()
        return
    needed = 0.0 if args.dry_run else FIRST_RUN_SECONDS
    for seed in range(42, 42 + (1 if args.dry_run else SEEDS)):
        for recipe in RECIPES[:1] if args.dry_run else RECIPES:
            start = time.monotonic()
            begun = record.measure(
                f"{recipe}, seed {seed}",
                lambda r=recipe, s=seed: run(r, s, args=args, seconds=record.seconds_left),
                seconds=needed,
            )
            if not begun:
                return
            if not args.dry_run:  # the second one is not begun where it would not end
                needed = max(needed, time.monotonic() - start)
    record.finish()


def run(recipe: str, seed: int, *, args: StepArguments, seconds: float) -> dict[str, Any]:
    """Train one seed."""
    settings = [*SETTINGS, f"data.path={args.data}", f"run.seed={seed}", "run.resume=never"]
    if args.dry_run:
        settings += ["model.embedding_size=8", "model.hidden_sizes=[16, 16]", "model.depths=[1, 1]"]
        settings += ["train.compile=false", "train.mixed_precision=no", "train.epochs=0.5"]
        settings += ["train.global_batch_size=16", "data.num_workers=0", "schedule.warmup_epochs=0"]
    with tempfile.TemporaryDirectory() as folder:
        return {"seed": seed, **train(recipe, settings, Path(folder), seconds=max(1.0, seconds))}


if __name__ == "__main__":
    main(step_arguments())
