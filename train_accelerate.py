"""Train an image classifier from a recipe, on any number of processes.

    accelerate launch -q train_accelerate.py recipes/quickstart.toml
    accelerate launch -q train_accelerate.py recipes/quickstart.toml train.epochs=1 run.name=short
    accelerate launch -q --multi_gpu --num_processes 8 train_accelerate.py RECIPE

On CPUs, two processes need ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2
(--cpu would silently start one).

Everything that decides the result stands in the recipe; `python -m convzoo recipe` explains its
keys. The run writes <output_dir>/<name>/: checkpoints/, metrics.jsonl, recipe.toml,
training_curve.png and at the end model/, a complete folder for `from_pretrained`,
`python -m convzoo evaluate` and `python -m hub_cards render`. Started again, it goes on from its
newest good checkpoint.
"""

import argparse
import dataclasses
import logging
import math
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from safetensors.torch import load_file
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from convzoo import checkpointing
from convzoo.batch_augmentation import MixupCutmix, erase
from convzoo.building import build_model, build_processor
from convzoo.data import TrainStream, UnreadableImages, save_examples, train_batches
from convzoo.environment import (
    command_line,
    describe_environment,
    file_sha256,
    now,
    write_json,
    write_text,
)
from convzoo.errors import user_message
from convzoo.evaluation import predict_split
from convzoo.metrics_log import MetricsLog, plot_curves, read_metrics
from convzoo.optimization import build_optimizer, learning_rate_at
from convzoo.order import DataOrder
from convzoo.recipe import load_recipe, recipe_differences, recipe_to_toml
from convzoo.row_cache import RowCache
from convzoo.sources import open_source
from convzoo.transforms import Normalize, TrainTransform

logger = logging.getLogger("train")


def main(argv: list[str] | None = None) -> None:
    """Train as the recipe says; see the module's docstring."""
    args = parse_args(argv)

    # ---- recipe and run folder -----------------------------------------------------------------
    recipe = load_recipe(args.recipe, args.overrides)
    settings = recipe.train
    accelerator = Accelerator(mixed_precision=settings.mixed_precision)
    is_main = accelerator.is_main_process
    disable_progress_bar()  # of Transformers, for each file it writes
    logging.basicConfig(format="%(message)s")
    for name in ("train", "convzoo"):  # not all: HTTP clients log each request at INFO
        logging.getLogger(name).setLevel(logging.INFO if is_main else logging.WARNING)
    run_folder = recipe.folder
    finished = run_folder / "model" / "train_results.json"
    check_run_folder(run_folder, recipe)
    if finished.is_file():
        logger.info("%s is finished; set run.name for another run, or delete it", run_folder)
        return
    if settings.global_batch_size < accelerator.num_processes:
        raise ValueError(
            f"train.global_batch_size must be at least the number of processes, "
            f"{accelerator.num_processes}; got {settings.global_batch_size}"
        )

    if is_main:
        checkpointing.lock_folder(run_folder)

    # ---- data ----------------------------------------------------------------------------------
    data = recipe.data
    columns = (data.name, data.revision, data.image_column, data.label_column)
    train_source = open_source(data.path, data.train_split, *columns)
    eval_source = open_source(data.path, data.eval_split, *columns) if data.eval_split else None
    if data.cache_dir and train_source.is_remote:
        cache = RowCache(Path(data.cache_dir), int(data.cache_gb * 1e9))
        train_source = dataclasses.replace(train_source, cache=cache)
    order = DataOrder(
        train_source.group_rows * recipe.augmentation.repeats,
        train_source.group_bytes * recipe.augmentation.repeats,
        settings.global_batch_size,
        data.shuffle_memory_mb * 2**20,
        recipe.run.seed,
    )
    steps_per_epoch = train_source.num_rows / settings.global_batch_size
    total_images = settings.epochs * train_source.num_rows
    total_steps = max(1, math.ceil(total_images / settings.global_batch_size))

    # ---- model, processor, optimizer -----------------------------------------------------------
    model = build_model(recipe, train_source.label_names)
    processor = build_processor(recipe.preprocessing)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, recipe.optimizer)
    normalize = Normalize(
        recipe.preprocessing.rescale_factor, recipe.preprocessing.mean, recipe.preprocessing.std
    ).to(accelerator.device)

    # ---- resume: 1. the newest checkpoint that is whole, 2. a fresh start ----------------------
    start_step, elapsed = 0, 0.0
    checkpoint = checkpointing.latest_checkpoint(run_folder / "checkpoints")
    if checkpoint:
        state = checkpointing.load_state(checkpoint)
        if state["data_fingerprint"] != train_source.fingerprint:
            raise ValueError(
                f"{data.path} must be the data that {checkpoint} was trained on; it has changed. "
                f"Restore it, or set run.name for a new run"
            )
        model.load_state_dict(load_file(checkpoint / "model.safetensors"))
        start_step, elapsed = state["step"], state["elapsed_seconds"]
        logger.info("resuming from %s", checkpoint)
    model, optimizer = accelerator.prepare(model, optimizer)
    bare_model = accelerator.unwrap_model(model)
    if checkpoint:
        optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            accelerator.scaler.load_state_dict(state["scaler"])
    if len(set(gather_object([(start_step, train_source.fingerprint)]))) > 1:
        raise ValueError(
            f"all processes must see the same run folder and data; they would start at different "
            f"steps. Put {run_folder} on a file system that all share"
        )
    if is_main:
        write_text(run_folder / "recipe.toml", recipe_to_toml(recipe))

    stream = TrainStream(
        train_source,
        order,
        TrainTransform(
            recipe.augmentation, recipe.preprocessing.crop, recipe.preprocessing.interpolation
        ),
        accelerator.process_index,
        accelerator.num_processes,
        start_step,
        total_steps,
    )
    allowed = int(data.max_unreadable_share * train_source.num_rows / accelerator.num_processes)
    unreadable = UnreadableImages(allowed)
    metrics = MetricsLog(run_folder / "metrics.jsonl", start_step, enabled=is_main)
    logger.info(
        "%s: %s parameters, %d images, %d steps of %d images on %d process(es), %s",
        recipe.run.name,
        f"{sum(parameter.numel() for parameter in bare_model.parameters()):,}",
        train_source.num_rows,
        total_steps,
        settings.global_batch_size,
        accelerator.num_processes,
        accelerator.device,
    )

    readers = accelerator.num_processes * max(1, data.num_workers)
    logger.info(
        "order: each image once an epoch, batches mix %d row groups; %d reader(s) open a row group "
        "at most %.2f times an epoch",
        min(order.num_lanes * order.window_groups, len(train_source.groups)),
        readers,
        order.read_amplification(readers),
    )

    augmentation, mix = recipe.augmentation, None
    if augmentation.mixup_alpha or augmentation.cutmix_alpha:
        mix = MixupCutmix(
            augmentation.mixup_alpha,
            augmentation.cutmix_alpha,
            augmentation.mix_probability,
            augmentation.mix_switch_probability,
            settings.label_smoothing,
            len(train_source.label_names),
            augmentation.mix_mode,
        )

    def noise(positions):
        """Row of a batch to the generator of its erasing noise; None for the mean colour."""
        if augmentation.erasing_fill == "noise":
            return lambda row: np.random.default_rng([recipe.run.seed, int(positions[row]), 1])

    # ---- the rare things -----------------------------------------------------------------------
    def fill_model(folder):
        checkpointing.save_model(folder, bare_model, processor, recipe_to_toml(recipe))

    def save(step):
        if is_main:
            state = {
                "optimizer": optimizer.state_dict(),
                "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
                "elapsed_seconds": elapsed,
                "data_fingerprint": train_source.fingerprint,
            }
            folder = run_folder / "checkpoints"
            checkpointing.save_checkpoint(
                folder, step, settings.keep_checkpoints, fill_model, state
            )
        accelerator.wait_for_everyone()

    def evaluate(step):
        if accelerator.num_processes > 1:
            for buffer in bare_model.buffers():  # DDP does this before the next step anyway
                buffer.copy_(broadcast(buffer))
        predictions = predict_split(
            *(bare_model, processor, eval_source, accelerator),
            *(settings.eval_batch_size, data.num_workers),
        )
        values = {f"eval_{key}": value for key, value in predictions.summary().items()}
        metrics.write(step=step, epoch=step / steps_per_epoch, elapsed_seconds=elapsed, **values)
        if is_main:
            bar.write(
                f"epoch {step / steps_per_epoch:.2f}: held-out loss {values['eval_loss']:.4f}, "
                f"top-1 {values['eval_top1_accuracy']:.2%}, "
                f"top-5 {values['eval_top5_accuracy']:.2%}"
            )

    # ---- loop ----------------------------------------------------------------------------------
    warmup_steps = round(recipe.schedule.warmup_epochs * steps_per_epoch)
    eval_every, save_every = (
        max(1, round(epochs * steps_per_epoch)) if epochs else total_steps
        for epochs in (settings.evaluate_every_epochs, settings.checkpoint_every_epochs)
    )
    batches = train_batches(stream, data.num_workers, pin=accelerator.device.type == "cuda")
    bar = tqdm(
        desc=recipe.run.name,
        total=total_steps * settings.global_batch_size,
        initial=start_step * settings.global_batch_size,
        unit=" images",
        unit_scale=True,
        disable=not is_main,
        smoothing=0.05,
        mininterval=0.5 if sys.stderr.isatty() else 10,
    )
    loss_sum = torch.zeros((), device=accelerator.device)
    logged_step, logged_at, data_wait = start_step, time.perf_counter(), 0.0
    for step in range(start_step, total_steps):
        waiting = time.perf_counter()
        batch = next(batches)
        data_wait += time.perf_counter() - waiting
        unreadable.add(batch["unreadable"])
        pixel_values = normalize(batch["pixels"].to(accelerator.device, non_blocking=True))
        labels = batch["labels"].to(accelerator.device, non_blocking=True)
        if augmentation.erasing:
            pixel_values = erase(pixel_values, batch["erasing"], noise(batch["positions"]))
        if mix:
            rng = np.random.default_rng([recipe.run.seed, step, accelerator.process_index])
            pixel_values, labels = mix(pixel_values, labels, rng)
        # Dropout and drop path depend on (seed, step, process) only: a resumed run repeats them.
        torch.manual_seed(hash((recipe.run.seed, step, accelerator.process_index)))

        learning_rate = learning_rate_at(
            step, recipe.optimizer.learning_rate, recipe.schedule, total_steps, warmup_steps
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        logits = model(pixel_values).logits
        smoothing = 0.0 if mix else settings.label_smoothing  # mixed labels are smoothed already
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        # Processes' shares of a batch may differ by one image: weigh them for the exact mean.
        loss = loss * (len(labels) * accelerator.num_processes / settings.global_batch_size)
        accelerator.backward(loss)
        if settings.max_grad_norm:
            accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        loss_sum += loss.detach()
        done = step + 1
        bar.update(settings.global_batch_size)

        saving = done % save_every == 0 and done < total_steps
        if done % settings.log_every_steps == 0 or saving or done == total_steps:
            seconds = time.perf_counter() - logged_at
            elapsed += seconds
            mean_loss = accelerator.reduce(loss_sum, "mean").item() / (done - logged_step)
            if not math.isfinite(mean_loss):
                raise FloatingPointError(
                    f"the training loss must be finite; it is {mean_loss} within steps "
                    f"{logged_step} to {done}. Lower optimizer.learning_rate, or set "
                    f"train.max_grad_norm; the last checkpoint is as it was"
                )
            speed = (done - logged_step) * settings.global_batch_size / seconds
            metrics.write(
                step=done,
                epoch=done / steps_per_epoch,
                loss=mean_loss,
                learning_rate=learning_rate,
                images_per_second=speed,
                data_wait_fraction=data_wait / seconds,
                elapsed_seconds=elapsed,
            )
            bar.set_postfix(loss=f"{mean_loss:.4f}", wait=f"{data_wait / seconds:.0%}")
            loss_sum.zero_()
            logged_step, data_wait = done, 0.0
            logged_at = time.perf_counter()
        rare = time.perf_counter()
        if eval_source and (done % eval_every == 0 or done == total_steps):
            evaluate(done)
        if saving:  # after the loss was found to be finite
            save(done)
        logged_at += time.perf_counter() - rare  # not training time
    bar.close()

    # ---- the finished model --------------------------------------------------------------------
    if is_main:
        lines = read_metrics(run_folder / "metrics.jsonl")
        plot_curves(lines, recipe.run.name, run_folder / "training_curve.png")
        images_seen = total_steps * settings.global_batch_size
        results = {
            "schema_version": 1,
            "recipe": recipe.run.name,
            "command": command_line("accelerate launch -q train_accelerate.py"),
            "date": now(),
            "dataset": train_source.describe() | {"config": data.name or None},
            "epochs": settings.epochs,
            "optimizer_steps": total_steps,
            "images_seen": images_seen,
            "duration_seconds": round(elapsed, 1),
            "images_per_second": round(images_seen / elapsed, 1),
            "final_train_loss": [line["loss"] for line in lines if "loss" in line][-1],
            "num_processes": accelerator.num_processes,
            "global_batch_size": settings.global_batch_size,
            "mixed_precision": settings.mixed_precision,
            "seed": recipe.run.seed,
            "num_parameters": sum(parameter.numel() for parameter in bare_model.parameters()),
            "environment": describe_environment(),
        }

        def fill_finished(folder):
            fill_model(folder)
            for name in ("metrics.jsonl", "training_curve.png"):
                shutil.copy(run_folder / name, folder / name)
            if eval_source and data.examples:
                save_examples(eval_source, data.examples, folder / "examples")
            weights = file_sha256(folder / "model.safetensors")
            write_json(folder / "train_results.json", results | {"model_sha256": weights})

        checkpointing.write_folder(run_folder / "model", fill_finished)
        logger.info("model, curves and training results: %s", run_folder / "model")
    accelerator.wait_for_everyone()
    accelerator.end_training()


def check_run_folder(run_folder, recipe):
    """Refuse to mix two recipes, or to start over, in one run folder."""
    saved = run_folder / "recipe.toml"
    if not saved.is_file():
        return
    if recipe.run.resume == "never":
        raise ValueError(
            f"run.resume='never' needs an empty run folder; {run_folder} has a run. Delete it, or "
            f"set run.name"
        )
    differences = recipe_differences(load_recipe(saved), recipe)
    if differences:
        raise ValueError(
            f"{run_folder} was made with another recipe ({'; '.join(differences)}). Set run.name "
            f"for a new run, or delete the folder"
        )


def parse_args(argv):
    """Recipe file and overrides."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="`python -m convzoo recipe` prints every section and key with its meaning.",
    )
    parser.add_argument("recipe", help="TOML file, as in recipes/")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {user_message(error)}")
