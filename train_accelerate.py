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
newest good checkpoint. SIGTERM or Ctrl-C saves one and ends this process with status 0 (`accelerate
launch` itself reports the signal).
"""

import argparse
import copy
import dataclasses
import logging
import math
import os
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from convzoo.data.classes import log_classes
from convzoo.data.examples import save_examples
from convzoo.data.opening import DatasetReference, open_split
from convzoo.data.order import DataOrder
from convzoo.data.row_cache import RowCache
from convzoo.data.share import Share
from convzoo.data.stream import TrainStream, train_batches
from convzoo.data.subset import subset
from convzoo.data.unreadable import UnreadableImages
from convzoo.environment import command_line, describe_environment, now
from convzoo.errors import user_message
from convzoo.evaluation.predicting import EvaluationProtocol, predict_split
from convzoo.files import file_sha256, lock_folder, write_folder, write_json, write_text
from convzoo.images.erasing import erase
from convzoo.images.mixing import build_mix
from convzoo.images.normalize import Normalize
from convzoo.images.train_transform import TrainTransform
from convzoo.inspection.monitor_report import diagnose, plot_monitors
from convzoo.recipe.files import load_recipe, recipe_differences, recipe_to_tables, recipe_to_toml
from convzoo.recipe.settings import num_channels
from convzoo.signals import StopRequest
from convzoo.training import checkpointing
from convzoo.training.batch_norm import share_statistics
from convzoo.training.building import build_model, build_processor
from convzoo.training.curves import plot_curves
from convzoo.training.devices import check_compiler, check_deterministic, prepare_device
from convzoo.training.ema import ModelEma
from convzoo.training.finetuning import freeze, freeze_cancelled_biases, stage_of
from convzoo.training.losses import classification_loss
from convzoo.training.metrics_log import MetricsLog, memory_gb, read_metrics
from convzoo.training.monitors import Monitors
from convzoo.training.optimization import build_optimizer, clamp_slopes
from convzoo.training.schedule import learning_rate_at
from convzoo.training.trackers import Trackers

logger = logging.getLogger("train")

AFTER_DIVERGENCE = (
    "The last checkpoint is as it was. Set run.name for a new run with a lower "
    "optimizer.learning_rate or with train.max_grad_norm"
)


def main(argv: list[str] | None = None) -> None:
    """Train as the recipe says; see the module's docstring."""
    args = parse_args(argv)

    # ---- recipe and run folder -----------------------------------------------------------------
    recipe = load_recipe(args.recipe, args.overrides)
    settings, data, augmentation = recipe.train, recipe.data, recipe.augmentation
    seed, run_folder = recipe.run.seed, recipe.folder
    # What `accelerate config` says of precision and compilation, the recipe says.
    accelerator = Accelerator(mixed_precision=settings.mixed_precision, dynamo_backend="no")
    if int(os.environ.get("WORLD_SIZE", "1")) != accelerator.num_processes:
        raise ValueError(
            f"{os.environ['WORLD_SIZE']} processes were launched, and each would train alone. On "
            f"CPUs set ACCELERATE_USE_CPU=true"
        )
    is_main = accelerator.is_main_process
    disable_progress_bar()  # of Transformers, for each file it writes
    logging.basicConfig(format="%(message)s")
    for name in ("train", "convzoo", "hub_cards"):  # not all: HTTP clients log each request at INFO
        logging.getLogger(name).setLevel(logging.INFO if is_main else logging.WARNING)
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)  # data without a card
    prepare_device(accelerator.device, settings.mixed_precision, settings.deterministic)
    images_per_step = settings.global_batch_size // augmentation.repeats
    if images_per_step < accelerator.num_processes:
        raise ValueError(
            f"train.global_batch_size must be at least the number of processes, "
            f"{accelerator.num_processes}, times augmentation.repeats; got "
            f"{settings.global_batch_size}"
        )
    if settings.compile:
        check_compiler(accelerator.device)
    if settings.compile and "residual_ratio" in recipe.monitor.names:
        raise ValueError(
            "monitor.names must not have 'residual_ratio' with train.compile: compiled blocks call "
            "no hooks. Leave one of them out"
        )
    if settings.batch_norm_statistics == "sync" and accelerator.device.type == "cpu":
        raise ValueError(
            "train.batch_norm_statistics must be 'average' or 'first' on CPUs; PyTorch's "
            "synchronised batch norm needs GPUs"
        )
    if is_main:
        lock_folder(run_folder)
        checkpointing.recover(run_folder / "checkpoints")
    accelerator.wait_for_everyone()  # what is in the folder stays as it is now
    check_run_folder(run_folder, recipe)
    if (run_folder / "model" / "train_results.json").is_file():
        logger.info("%s is finished; set run.name for another run, or delete it", run_folder)
        accelerator.end_training()
        return
    stop = StopRequest(accelerator)
    if recipe.run.push_to:
        import hub_cards.hub.pushing  # noqa: F401  what it needs is missed now, not after the training

    # ---- data ----------------------------------------------------------------------------------
    dataset = DatasetReference(
        data.path,
        name=data.name,
        revision=data.revision,
        image_column=data.image_column,
        label_column=data.label_column,
    )
    cache = RowCache(Path(data.cache_dir), int(data.cache_gb * 1e9)) if data.cache_dir else None

    def open_cached(split):
        source = open_split(dataset, split)
        return dataclasses.replace(source, cache=cache) if source.is_remote else source

    train_source = open_cached(data.train_split)
    train_source = subset(
        train_source, data.classes, fraction=data.fraction, limit=data.limit, seed=seed
    )
    eval_source = None
    if data.eval_split:
        eval_source = open_cached(data.eval_split)
        eval_source = subset(eval_source, data.classes, limit=data.eval_limit, spaced=True)
        if eval_source.label_names != train_source.label_names:
            raise ValueError(
                f"splits {data.train_split} and {data.eval_split} of {data.path} must have the "
                f"same classes in the same order; they differ. Set data.eval_split to another one"
            )
    log_classes(train_source)
    if images_per_step > train_source.num_rows:
        raise ValueError(
            f"train.global_batch_size must be at most the number of training images, "
            f"{train_source.num_rows}, times augmentation.repeats; got {settings.global_batch_size}"
        )
    order = DataOrder(
        train_source.group_rows,
        train_source.group_bytes,
        global_batch_size=images_per_step,
        memory_bytes=data.shuffle_memory_mb * 2**20,
        seed=seed,
    )
    steps_per_epoch = train_source.num_rows / settings.global_batch_size
    total_images = settings.epochs * train_source.num_rows
    total_steps = max(1, math.ceil(total_images / settings.global_batch_size))

    # ---- model, processor, optimizer -----------------------------------------------------------
    checkpoint = checkpointing.latest_checkpoint(run_folder / "checkpoints")
    model = build_model(recipe, train_source.label_names, checkpoint)
    processor = build_processor(recipe.preprocessing, num_channels(recipe.model))
    if settings.deterministic:
        check_deterministic(model, accelerator.device)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if settings.batch_norm_statistics == "sync" and accelerator.num_processes > 1:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        freeze(model, recipe.finetune.frozen_stages)
    optimizer = build_optimizer(
        model, recipe.optimizer, recipe.finetune.layer_decay, stage_of(model)
    )
    freeze_cancelled_biases(model)  # after it: older checkpoints have them in the optimizer
    preprocessing = recipe.preprocessing
    normalize = Normalize(
        rescale_factor=preprocessing.rescale_factor, mean=preprocessing.mean, std=preprocessing.std
    ).to(accelerator.device)

    # ---- resume: 1. the newest checkpoint that is whole, 2. a fresh start ----------------------
    start_step, elapsed, best, eval_history = 0, 0.0, {}, []
    unreadable = UnreadableImages(int(data.max_unreadable_share * train_source.num_rows))
    if checkpoint:
        state = checkpointing.load_state(checkpoint)
        if state["data_fingerprint"] != train_source.fingerprint:
            raise ValueError(
                f"{data.path} must be the data that {checkpoint} was trained on; it has changed. "
                f"Restore it, or set run.name for a new run"
            )
        start_step, elapsed = state["step"], state["elapsed_seconds"]
        best, eval_history = state["best"], state["eval_history"]
        if settings.keep_best and not checkpointing.has_checkpoint(checkpoint.parent, best):
            best = {}  # it was not kept so far
        unreadable.know(state.get("unreadable", {}))  # older checkpoints have none
        logger.info("resuming from %s", checkpoint)
        model.load_state_dict(state["raw_model"] or load_file(checkpoint / "model.safetensors"))
    model, optimizer = accelerator.prepare(model, optimizer)
    bare_model = accelerator.unwrap_model(model)
    if model is not bare_model and settings.batch_norm_statistics != "first":
        model.broadcast_buffers = False  # of DDP: no statistics from process 0 at every step
    if settings.compile:
        bare_model.compile()  # in place: no _orig_mod. in the names of the weights
    ema = (
        ModelEma(bare_model, settings.ema_decay, settings.ema_warmup)
        if settings.ema_decay
        else None
    )
    if checkpoint:
        try:
            optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise ValueError(
                f"optimizer settings and trained parameters must be those of {checkpoint}; "
                f"they differ ({error}). Restore them, or set run.name for a new run"
            ) from error
        if state["scaler"]:
            accelerator.scaler.load_state_dict(state["scaler"])
        if ema:
            ema.load_state_dict(state["ema"])
    if len(set(gather_object([(start_step, train_source.fingerprint)]))) > 1:
        raise ValueError(
            f"all processes must see the same run folder and data; they would start at different "
            f"steps. Put {run_folder} on a file system that all share"
        )

    stream = TrainStream(
        train_source,
        order,
        transform=TrainTransform(
            augmentation,
            preprocessing,
            num_channels=num_channels(recipe.model),
            growing_steps=round(augmentation.growing_epochs * steps_per_epoch),
        ),
        share=Share(accelerator.process_index, accelerator.num_processes),
        steps=range(start_step, total_steps),
        exif_rotation=data.exif_rotation,
    )
    num_labels = len(train_source.label_names)
    mix = build_mix(augmentation, settings.label_smoothing, num_labels=num_labels)
    if "mixing" in recipe.monitor.names and not mix:
        raise ValueError(
            "monitor.names must not have 'mixing' without augmentation.mixup_alpha or cutmix_alpha"
        )
    metrics = MetricsLog(run_folder / "metrics.jsonl", start_step, enabled=is_main)
    monitors = Monitors(
        *(bare_model, recipe.monitor.names, recipe.monitor.every_steps),
        *(run_folder, start_step, is_main),
    )
    trackers = Trackers(
        recipe.run.trackers if is_main else (),
        *(run_folder, recipe.run.name, recipe_to_tables(recipe)),
    )
    logger.info(
        "%s: %s parameters, %d images, %d steps of %d images on %d process(es), %s",
        recipe.run.name,
        f"{bare_model.num_parameters():,}",
        train_source.num_rows,
        total_steps,
        settings.global_batch_size,
        accelerator.num_processes,
        accelerator.device,
    )
    readers = accelerator.num_processes * max(1, data.num_workers)
    logger.info(
        "order: each image once in %d epoch(s), batches mix %d row groups; %d reader(s) open a row "
        "group at most %.2f times in that",
        augmentation.repeats,
        min(order.num_lanes * order.window_groups, len(train_source.groups)),
        readers,
        order.read_amplification(readers),
    )

    # ---- the rare things -----------------------------------------------------------------------
    def noise(positions):
        """Row of a batch to the generator of its erasing noise; None for the mean colour."""
        if augmentation.erasing_fill == "noise":
            return lambda row: np.random.default_rng([seed, int(positions[row]), 1])

    def settle():
        """Make batch-norm statistics the same on all processes; what is not finite is not kept."""
        how = settings.batch_norm_statistics
        share_statistics(bare_model, accelerator, how)
        if ema:
            with ema.applied_to(bare_model):
                share_statistics(bare_model, accelerator, how)
                check_weights(bare_model)
        check_weights(bare_model)

    def published():
        """While it lasts, the model has the weights that are evaluated and published."""
        return ema.applied_to(bare_model) if ema else nullcontext()

    def log(step, **values):
        epoch = step / steps_per_epoch
        metrics.write(step=step, epoch=epoch, elapsed_seconds=elapsed, **values)
        trackers.log(step, epoch=epoch, **values)

    def fill_model(folder):
        checkpointing.save_model(folder, bare_model, processor, recipe_to_toml(recipe))

    def save(step, evaluation_due=False):
        settle()
        unreadable.know(dict(gather_object(list(unreadable.reasons.items()))))
        if is_main:
            state = {
                "optimizer": optimizer.state_dict(),
                "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
                "ema": ema.state_dict() if ema else None,
                "raw_model": copy.deepcopy(bare_model.state_dict()) if ema else None,
                "best": best,
                "eval_history": eval_history,
                "evaluation_due": evaluation_due,
                "unreadable": unreadable.reasons,
                "elapsed_seconds": elapsed,
                "data_fingerprint": train_source.fingerprint,
            }
            folder = run_folder / "checkpoints"
            best_step = best.get("step") if settings.keep_best else None
            with published():
                checkpointing.save_checkpoint(
                    folder, step, settings.keep_checkpoints, fill_model, state, best_step
                )
        accelerator.wait_for_everyone()

    def end():
        nonlocal model, optimizer
        trackers.finish()
        # DDP first: gloo deadlocks when a model is the last to let go of its process group.
        model, optimizer = accelerator.free_memory(model, optimizer)
        accelerator.end_training()

    def evaluate(step):
        """Whether the model is the best so far; None if a signal came, and nothing was noted."""
        nonlocal best
        settle()
        with published():
            predictions = predict_split(
                bare_model,
                processor,
                source=eval_source,
                accelerator=accelerator,
                protocol=EvaluationProtocol(
                    crops=settings.eval_crops,
                    exif_rotation=data.exif_rotation,
                    batch_size=settings.eval_batch_size,
                    num_workers=data.num_workers,
                ),
                stopped=lambda: stop.signal is not None,
            )
        if predictions is None:
            return None
        values = predictions.summary()
        log(step, **{f"eval_{key}": value for key, value in values.items()})
        if is_main:
            bar.write(
                f"epoch {step / steps_per_epoch:.2f}: held-out loss {values['loss']:.4f}, "
                f"top-1 {values['top1_accuracy']:.2%}, top-5 {values['top5_accuracy']:.2%}"
            )
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(
                f"the held-out loss must be finite; it is {values['loss']} after step {step}. "
                f"{AFTER_DIVERGENCE}"
            )
        eval_history.append(plateau_value(values, recipe.schedule.plateau_metric))
        if values["top1_accuracy"] <= best.get("top1_accuracy", -1.0):
            return False
        best = {"step": step, "top1_accuracy": values["top1_accuracy"]}
        return True

    def assess(step, saved):
        """Evaluate; a checkpoint that was saved before it learns the outcome. Whether to stop."""
        better = evaluate(step)
        if better is None:
            if not saved:
                save(step, evaluation_due=True)
            return True
        if (saved or (better and settings.keep_best)) and step < total_steps:
            save(step)
        return False

    # ---- loop ----------------------------------------------------------------------------------
    if is_main:
        write_text(run_folder / "recipe.toml", recipe_to_toml(recipe))
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
    # The same number on all processes, and no part is empty.
    smallest_share = images_per_step // accelerator.num_processes * augmentation.repeats
    num_parts = min(settings.accumulation_steps, smallest_share)
    eval_period = settings.evaluate_every_epochs * steps_per_epoch
    save_period = settings.checkpoint_every_epochs * steps_per_epoch
    losses, grad_norm = [], None  # since the last log line
    due = checkpoint and eval_source and state.get("evaluation_due")
    stopping = bool(due) and assess(start_step, saved=True)
    logged_at, data_wait = time.perf_counter(), 0.0
    for step in range(start_step, start_step if stopping else total_steps):
        waiting = time.perf_counter()
        batch = next(batches)
        data_wait += time.perf_counter() - waiting
        unreadable.add(batch["unreadable"])
        pixel_values = normalize(batch["pixels"].to(accelerator.device, non_blocking=True))
        labels = batch["labels"].to(accelerator.device, non_blocking=True)
        if augmentation.erasing:
            pixel_values = erase(pixel_values, batch["erasing"], noise=noise(batch["positions"]))
        if mix:
            rng = np.random.default_rng([seed, step, accelerator.process_index])
            pixel_values, labels = mix(pixel_values, labels, rng)
            monitors.mixing(step + 1, mix.drawn)
        # Dropout and drop path depend on (seed, step, process) only: a resumed run repeats them.
        torch.manual_seed(hash((seed, step, accelerator.process_index)))

        learning_rate = learning_rate_at(
            *(step, recipe.optimizer.learning_rate, recipe.schedule, total_steps),
            *(steps_per_epoch, eval_history),
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)
        parts = list(
            zip(pixel_values.tensor_split(num_parts), labels.tensor_split(num_parts), strict=True)
        )
        losses.append(torch.zeros((), device=accelerator.device))
        with monitors.watching(step + 1):
            for number, (part_pixels, part_labels) in enumerate(parts, 1):
                with nullcontext() if number == len(parts) else accelerator.no_sync(model):
                    logits = model(part_pixels).logits
                    loss = classification_loss(logits, part_labels, settings, num_labels)
                    # DDP takes the mean over processes; the shares of a batch may differ by one.
                    share = len(part_labels) * accelerator.num_processes
                    loss = loss * (share / settings.global_batch_size)
                    accelerator.backward(loss)
                losses[-1] += loss.detach()
        if monitors.looks(step + 1):
            scaler = accelerator.scaler
            monitors.after_backward(step + 1, scaler.get_scale() if scaler else 1.0)
        if settings.max_grad_norm:
            grad_norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if recipe.optimizer.slope_limits:
            clamp_slopes(bare_model, recipe.optimizer.slope_limits)
        if ema:
            ema.update(bare_model)
        monitors.after_step(step + 1)
        done = step + 1
        bar.update(settings.global_batch_size)

        last = done == total_steps
        stopping = stop.agreed(done) and not last
        evaluating = eval_source is not None and (last or completes(done, eval_period))
        saving = not last and (stopping or completes(done, save_period))
        if done % settings.log_every_steps == 0 or evaluating or saving or last:
            # Waits for the GPU: the time after it is that of all the steps.
            window = accelerator.reduce(torch.stack(losses), "mean").tolist()
            seconds = time.perf_counter() - logged_at
            elapsed += seconds
            check_finite(window, done, run_folder, train_source, order, is_main)
            values = {
                "loss": sum(window) / len(window),
                "learning_rate": learning_rate,
                "images_per_second": len(window) * settings.global_batch_size / seconds,
                "data_wait_fraction": data_wait / seconds,
                "memory_gb": memory_gb(),
            }
            if grad_norm is not None:
                values["grad_norm"] = float(grad_norm)
            log(done, **values)
            bar.set_postfix(loss=f"{values['loss']:.4f}", wait=f"{data_wait / seconds:.0%}")
            losses, data_wait, logged_at = [], 0.0, time.perf_counter()
        saved = saving or (evaluating and last)
        if saved:  # after the loss was found to be finite, before an evaluation that may fail
            save(done, evaluation_due=evaluating)
        if evaluating and not stopping:
            stopping = assess(done, saved)
        if saved or evaluating:
            logged_at = time.perf_counter()  # not training time
        if stopping:
            break
    batches.close()
    bar.close()
    if stopping:
        logger.info(
            "stopped by %s after step %d of %d; the same command%s goes on from %s",
            *(stop.signal or "a signal to another process", done, total_steps),
            " with run.resume=auto" if recipe.run.resume == "never" else "",
            run_folder / "checkpoints",
        )
        end()
        return

    # ---- the finished model --------------------------------------------------------------------
    settle()
    found = dict(gather_object(list(unreadable.reasons.items())))  # name -> reason
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
            "seed": seed,
            "num_parameters": bare_model.num_parameters(),
            "best_evaluation": best or None,
            "unreadable_images": {
                "count": len(found),
                "examples": dict(list(found.items())[:20]),
            },
            "environment": describe_environment(),
        }

        def fill_finished(folder):
            fill_model(folder)
            for name in ("metrics.jsonl", "training_curve.png"):
                shutil.copy(run_folder / name, folder / name)
            if eval_source and data.examples:
                save_examples(
                    eval_source,
                    folder / "examples",
                    count=data.examples,
                    exif_rotation=data.exif_rotation,
                )
            weights = file_sha256(folder / "model.safetensors")
            write_json(folder / "train_results.json", results | {"model_sha256": weights})

        with published():
            write_folder(run_folder / "model", fill_finished)
        logger.info("model, curves and training results: %s", run_folder / "model")
        if recipe.monitor.names:
            plot_monitors(run_folder)
            for fault in diagnose(read_metrics(run_folder / "monitors.jsonl")):
                logger.warning("monitors: %s", fault)
    accelerator.wait_for_everyone()
    end()
    if is_main and recipe.run.push_to:  # nobody waits for it
        push(run_folder / "model", recipe.run.push_to, recipe.run.push_private)


def push(folder, repo_id, private):
    """Push a finished model; a push that fails is told, and costs nothing but itself."""
    from hub_cards.hub.pushing import PushError, PushOptions, push_folder

    try:
        pushed = push_folder(folder, repo_id, options=PushOptions(private=private))
        logger.info("pushed: %s", pushed.url)
    except (PushError, OSError, ValueError) as error:
        command = f"python -m hub_cards push {folder} {repo_id}"
        logger.error("not pushed: %s. The model is whole; push it with: %s", error, command)


def completes(steps_done, period):
    """Whether the last step completed a multiple of a period, in steps, 0 for never."""
    if not period:
        return False
    before, after = ((step + 1e-6) // period for step in (steps_done - 1, steps_done))
    return after > before


def plateau_value(evaluated, metric):
    """What a plateau schedule watches: lower is better."""
    if metric == "loss":
        return evaluated["loss"]
    return 1 - evaluated[metric.replace("error", "accuracy")]


def check_run_folder(run_folder, recipe):
    """Refuse to mix two recipes, or to start over, in one run folder."""
    saved = run_folder / "recipe.toml"
    began = [*run_folder.glob("checkpoints/step_*"), *run_folder.glob("model")]
    if not saved.is_file() or not (began or read_metrics(run_folder / "metrics.jsonl")):
        return  # nothing that another recipe could spoil
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


def check_finite(window, done, run_folder, source, order, is_main):
    """Stop at the first step whose loss is not finite, and leave its images' names in a file."""
    bad = next((i for i, loss in enumerate(window) if not math.isfinite(loss)), None)
    if bad is None:
        return
    step = done - len(window) + bad
    report = run_folder / "nonfinite_batch.json"
    if is_main:
        pictures = order.positions(step, Share()).tolist()
        names = [source.where(*order.row(picture)) for picture in pictures]
        write_json(report, {"step": step, "loss": str(window[bad]), "images": names})
    raise FloatingPointError(
        f"the training loss must be finite; it is {window[bad]} in step {step}, whose images "
        f"{report} names. {AFTER_DIVERGENCE}"
    )


def check_weights(model):
    """Refuse to evaluate or save what the last step may have ruined; its loss came before it."""
    bad = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if bad:
        raise FloatingPointError(
            f"all weights must be finite; after the last step {len(bad)} of them are not, the "
            f"first is {bad[0]}. {AFTER_DIVERGENCE}"
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
    problem = None
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        problem = f"error: {user_message(error)}"
    sys.exit(problem)  # after the traceback is gone, and with it the data workers
