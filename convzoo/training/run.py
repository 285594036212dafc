"""A run's life around the loop: start the processes, begin or resume, save, publish, end."""

import logging
import math
import os
import shutil
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    gather_object,
)
from transformers.utils.logging import disable_progress_bar

from convzoo.data.examples import save_examples
from convzoo.data.share import Share
from convzoo.data.stream import TrainStream
from convzoo.data.unreadable import UnreadableImages
from convzoo.environment import command_line, describe_environment, now
from convzoo.files import SCHEMA_VERSION, file_sha256, write_folder, write_json, write_text
from convzoo.layers import describe_network, image_shape
from convzoo.log_lines import show_log_lines
from convzoo.recipe.files import evaluations_decide, load_recipe, recipe_to_toml
from convzoo.recipe.settings import Recipe
from convzoo.training import checkpointing
from convzoo.training.batch_transform import BatchTransform
from convzoo.training.class_weights import LabelWeights, class_weights, tell_class_weights
from convzoo.training.commits import note_commits, stay_on_commits
from convzoo.training.curves import plot_curves
from convzoo.training.devices import advise_precision, check_compiler, prepare_device
from convzoo.training.learner import AFTER_DIVERGENCE, Learner, build_learner
from convzoo.training.metrics_log import read_metrics, set_evaluations_aside
from convzoo.training.monitors import Monitors
from convzoo.training.progress import Plan, State
from convzoo.training.run_data import RunData, open_run_data, open_stream
from convzoo.training.run_log import RunLog

logger = logging.getLogger("train")


@dataclass(kw_only=True)
class Run:
    """A training run on one process: who takes part, where it stands, what it changes and writes.

    Attributes:
        recipe: what is to be done; the run writes into its folder.
        accelerator: the processes.
        data: splits and order.
        plan: how many steps there are, and after which of them something rare happens.
        state: the steps that are done, and what came of them.
        learner: model, optimizer and averaged weights.
        stream: this process's samples.
        transform: from a batch of them to the model's input.
        label_weights: how much each label counts in the loss.
        unreadable: the training images that could not be read.
        monitors: looks inside the model.
        log: bar, metrics and trackers.
    """

    recipe: Recipe
    accelerator: Accelerator
    data: RunData
    plan: Plan
    state: State
    learner: Learner
    stream: TrainStream
    transform: BatchTransform
    label_weights: LabelWeights
    unreadable: UnreadableImages
    monitors: Monitors
    log: RunLog

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a step: as many on each process, and few enough that none is empty."""
        train, repeats = self.recipe.train, self.recipe.augmentation.repeats
        images = train.global_batch_size // repeats // self.accelerator.num_processes
        return int(min(train.accumulation_steps, images * repeats))

    @property
    def stopped_early(self) -> bool:
        """Whether the training ends before its last step."""
        return self.plan.stops_early(self.state) and not self.plan.is_done(self.state.step)

    @property
    def published_step(self) -> int:
        """Number of steps after which the weights of model/ were as they are published."""
        if self.recipe.run.publish == "best" and self.state.best:
            return int(self.state.best["step"])
        return self.state.step

    def save(self) -> None:
        """Write a checkpoint of this step."""
        self.learner.synchronise()
        self._share_unreadable()
        if self.accelerator.is_main_process:
            train, best = self.recipe.train, self.state.best
            content = self.learner.state_dict() | self.state.state_dict()
            with self.learner.published():
                checkpointing.save_checkpoint(
                    self.recipe.folder / "checkpoints",
                    self.state.step,
                    fill=self.learner.save_model,
                    state=content,
                    keep=train.keep_checkpoints,
                    keep_step=best.get("step") if self.recipe.keeps_best else None,
                )
        self.accelerator.wait_for_everyone()

    def check_losses(self, losses: list[float]) -> None:
        """Stop at the first step whose loss is not finite, and name its images in a file.

        Args:
            losses: of the steps that were done last.

        Raises:
            FloatingPointError: if one is not finite.
        """
        bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is None:
            return
        step = self.state.step - len(losses) + bad
        report = self.recipe.folder / "nonfinite_batch.json"
        if self.accelerator.is_main_process:
            order = self.data.order
            positions = order.positions(step, Share()).tolist()
            names = [self.data.train.where(*order.row(position)) for position in positions]
            write_json(report, {"step": step, "loss": str(losses[bad]), "images": names})
        raise FloatingPointError(
            f"the training loss must be finite; it is {losses[bad]} in step {step}, whose images "
            f"{report} names. {AFTER_DIVERGENCE}"
        )

    def publish(self) -> None:
        """Write the finished model folder, with training curves and results."""
        self.learner.synchronise()
        self._share_unreadable()
        if self.accelerator.is_main_process:
            folder = self.recipe.folder
            lines = read_metrics(folder / "metrics.jsonl")
            plot_curves(lines, self.recipe.run.name, folder / "training_curve.png")
            with self.learner.published():
                write_folder(folder / "model", partial(self._fill_model_folder, lines=lines))
            logger.info("model, curves and training results: %s", folder / "model")

    def end(self) -> None:
        """Let go of trackers, model and processes, once all processes have come here."""
        self.accelerator.wait_for_everyone()
        self.log.trackers.finish()
        self.learner.release()
        self.accelerator.end_training()

    def _share_unreadable(self) -> None:
        """Let every process know, and the state hold, what each could not read."""
        self.unreadable.know(dict(gather_object(list(self.unreadable.reasons.items()))))
        self.state.unreadable = self.unreadable.reasons

    def _fill_model_folder(self, folder: Path, *, lines: list[dict[str, Any]]) -> None:
        self.learner.save_model(folder)
        if self.published_step != self.state.step:
            best = checkpointing.whole_checkpoint(
                self.recipe.folder / "checkpoints", self.published_step
            )
            shutil.copy(best / "model.safetensors", folder / "model.safetensors")
            logger.info("published are the weights of step %d, the best", self.published_step)
        for name in ("metrics.jsonl", "training_curve.png"):
            shutil.copy(self.recipe.folder / name, folder / name)
        data = self.recipe.data
        if self.data.validation and data.examples:
            save_examples(
                self.data.validation,
                folder / "examples",
                count=data.examples,
                exif_rotation=data.exif_rotation,
            )
        weights = file_sha256(folder / "model.safetensors")
        write_json(folder / "train_results.json", self._results(lines) | {"model_sha256": weights})

    def _results(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """Collect the content of train_results.json, all but the hash of the weights.

        Args:
            lines: of the metrics log.
        """
        train, state, model = self.recipe.train, self.state, self.learner.bare_model
        images_seen = state.step * train.global_batch_size
        early = self.stopped_early
        return {
            "schema_version": SCHEMA_VERSION,
            "recipe": self.recipe.run.name,
            "command": command_line("accelerate launch -q train_accelerate.py"),
            "date": now(),
            "dataset": self.data.train.describe() | {"config": self.recipe.data.name or None},
            "classes": self._class_facts(),
            "validation": state.validation or None,
            "epochs": round(state.step / self.plan.steps_per_epoch, 2) if early else train.epochs,
            "optimizer_steps": state.step,
            "stopped_early": early,
            "images_seen": images_seen,
            "duration_seconds": round(state.elapsed_seconds, 1),
            "images_per_second": round(images_seen / state.elapsed_seconds, 1),
            # None where the log was deleted, after the last step, before this run was resumed.
            "final_train_loss": next((e["loss"] for e in reversed(lines) if "loss" in e), None),
            "num_processes": self.accelerator.num_processes,
            "global_batch_size": train.global_batch_size,
            "mixed_precision": train.mixed_precision,
            "seed": self.recipe.run.seed,
            "num_parameters": model.num_parameters(),
            **describe_network(model, image_shape(self.learner.processor)),
            "best_evaluation": state.best or None,
            "published_step": self.published_step,
            "unreadable_images": {
                "count": len(state.unreadable),
                "examples": dict(list(state.unreadable.items())[:20]),
            },
            "environment": describe_environment(),
        }

    def _class_facts(self) -> dict[str, list[float]] | None:
        """Tell what balances the classes, in the order of the class numbers; None if nothing."""
        samples, weights = self.data.samples_per_epoch, self.label_weights.weights
        facts = {
            "samples_per_epoch": samples if self.recipe.data.balance else None,
            "loss_weights": None if weights is None else weights.cpu(),
        }
        known = {name: values.tolist() for name, values in facts.items() if values is not None}
        return known or None


# ---- start -------------------------------------------------------------------------------------
def start_processes(recipe: Recipe) -> Accelerator:
    """Set up processes, logging and device.

    Raises:
        ValueError: if the recipe asks for what cannot work on them.
    """
    settings = recipe.train
    # What `accelerate config` says of precision and compilation, the recipe says.
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # of it, or of its configuration
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        dynamo_backend="no",
        # The gradients that are sent are those that the optimizer reads, not copies of them.
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            # All wait for one that opens a large dataset, or compares its images.
            InitProcessGroupKwargs(timeout=timedelta(hours=12)),
        ],
    )
    if int(os.environ.get("WORLD_SIZE", "1")) != accelerator.num_processes:
        raise ValueError(
            f"{os.environ['WORLD_SIZE']} processes were launched, and each would train alone. On "
            f"CPUs set ACCELERATE_USE_CPU=true"
        )
    disable_progress_bar()  # of Transformers, for each file it writes
    level = logging.INFO if accelerator.is_main_process else logging.WARNING
    show_log_lines("train", "convzoo", "hub_cards", level=level)
    if launched not in ("no", settings.mixed_precision) and accelerator.is_main_process:
        logger.warning(
            "the recipe decides on precision: train.mixed_precision is %r; %r of `accelerate` is "
            "ignored",
            settings.mixed_precision,
            launched,
        )
    prepare_device(
        accelerator.device, settings.mixed_precision, deterministic=settings.deterministic
    )
    _check_settings(recipe, accelerator)
    return accelerator


def _check_settings(recipe: Recipe, accelerator: Accelerator) -> None:
    settings = recipe.train
    if settings.global_batch_size // recipe.augmentation.repeats < accelerator.num_processes:
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
    augmentation = recipe.augmentation
    mixes = augmentation.mixup_alpha or augmentation.cutmix_alpha
    if "mixing" in recipe.monitor.names and not mixes:
        raise ValueError(
            "monitor.names must not have 'mixing' without augmentation.mixup_alpha or cutmix_alpha"
        )
    if settings.batch_norm_statistics == "sync" and accelerator.device.type == "cpu":
        raise ValueError(
            "train.batch_norm_statistics must be 'average' or 'first' on CPUs; PyTorch's "
            "synchronised batch norm needs GPUs"
        )


# ---- begin or resume ---------------------------------------------------------------------------
def begin_run(recipe: Recipe, accelerator: Accelerator) -> Run:
    """Build a run that stands where it should: 1. at the newest whole checkpoint, 2. at step 0.

    Raises:
        OSError: if data, pretrained model or checkpoint cannot be read.
        ValueError: if something does not fit the recipe, the checkpoint or the other processes.
    """
    checkpoint = checkpointing.latest_checkpoint(recipe.folder / "checkpoints")
    # A checkpoint takes the place of finetune.pretrained.
    pinned = stay_on_commits(recipe, ("data",) if checkpoint else ("data", "finetune"))
    data = open_run_data(pinned, accelerator)
    weights = class_weights(recipe.train, data.label_names, data.samples_per_epoch)
    plan = Plan.of(recipe, data.train.num_rows)
    saved = checkpointing.load_state(checkpoint) if checkpoint else None
    state = State(data_fingerprint=data.train.fingerprint, label_fingerprint=data.label_fingerprint)
    evaluations_go_on = True
    if checkpoint and saved:
        state = _resume(recipe, data, checkpoint=checkpoint, saved=saved)
        evaluations_go_on = _evaluations_go_on(recipe, data, state, checkpoint=checkpoint)
    if not evaluations_go_on:
        state.best, state.top1_history, state.eval_history = {}, [], []
    if data.validation:  # else the evaluations of before, if any, stay those of their images
        state.validation = data.validation.describe()
    unreadable = UnreadableImages(int(recipe.data.max_unreadable_share * data.train.num_rows))
    # Checkpoints of before have names with the place of the data.
    unreadable.know({data.train.relative(name): why for name, why in state.unreadable.items()})
    learner = build_learner(
        pinned, data.label_names, accelerator=accelerator, checkpoint=checkpoint, saved=saved
    )
    learner.recipe = recipe  # the published one is the user's
    commits = {"data": data.train.revision, "finetune": learner.pretrained_commit}
    facts = (state.step, state.data_fingerprint, state.label_fingerprint, *commits.values())
    if len(set(gather_object([facts]))) > 1:
        raise ValueError(
            f"all processes must see the same run folder and data; they would start at different "
            f"steps. Put {recipe.folder} on a file system that all share"
        )
    stream = open_stream(recipe, data, plan=plan, start_step=state.step, accelerator=accelerator)
    monitors = Monitors(
        learner.bare_model,
        recipe.monitor.names,
        every_steps=recipe.monitor.every_steps,
        folder=recipe.folder,
        start_step=state.step,
        enabled=accelerator.is_main_process,
    )
    run = Run(
        recipe=recipe,
        accelerator=accelerator,
        data=data,
        plan=plan,
        state=state,
        learner=learner,
        stream=stream,
        transform=BatchTransform(
            recipe, len(data.label_names), accelerator=accelerator, monitors=monitors
        ),
        label_weights=LabelWeights(
            weights, recipe.train.global_batch_size, accelerator=accelerator
        ),
        unreadable=unreadable,
        monitors=monitors,
        log=RunLog(recipe, plan, state=state, accelerator=accelerator),
    )
    _tell_plan(run)
    if accelerator.is_main_process:
        if not evaluations_go_on:
            set_evaluations_aside(recipe.folder / "metrics.jsonl")
        write_text(recipe.folder / "recipe.toml", recipe_to_toml(recipe))
        note_commits(recipe, commits)
    return run


def _resume(recipe: Recipe, data: RunData, *, checkpoint: Path, saved: dict[str, Any]) -> State:
    """Take the state of a checkpoint, if it is one of these training images."""
    state = State.of(saved)
    if state.data_fingerprint != data.train.fingerprint:
        raise ValueError(
            f"{recipe.data.path} must be the data that {checkpoint} was trained on; it has "
            f"changed. Restore it, or set run.name for a new run"
        )
    known, labels = state.label_fingerprint, data.label_fingerprint
    if known and labels and known != labels:
        raise ValueError(
            f"{recipe.data.path} must have the labels that {checkpoint} was trained with; labels "
            f"or names of classes have changed. Restore them, or set run.name for a new run"
        )
    state.label_fingerprint = known or labels
    best = state.best
    if recipe.keeps_best and best and not checkpointing.has_checkpoint(checkpoint.parent, best):
        logger.warning(
            "the best weights are looked for from now on: those of the best evaluation so far, "
            "%.2f %% after step %d, were not kept",
            *(100 * best["top1_accuracy"], best["step"]),
        )
        state.best = {}
    state.evaluation_due = state.evaluation_due and data.validation is not None
    logger.info("resuming from %s", checkpoint)
    return state


def _evaluations_go_on(recipe: Recipe, data: RunData, state: State, *, checkpoint: Path) -> bool:
    """Tell whether evaluations to come are of the same images and views as those of before.

    Without images to evaluate on none is to come, and those of before stay.

    Raises:
        ValueError: if they are not, and evaluations decide something.
    """
    known = state.validation.get("fingerprint")
    images = data.validation.describe()["fingerprint"] if data.validation else known
    views = load_recipe(checkpoint / "recipe.toml").train.eval_crops
    same = known in (None, images)
    if not state.top1_history or (same and views == recipe.train.eval_crops):
        return True
    if evaluations_decide(recipe):
        raise ValueError(
            f"the validation images of {recipe.data.path} must be those that {checkpoint} was "
            f"evaluated on, because evaluations decide in this run; they have changed. Restore "
            f"them, or set run.name for a new run"
        )
    logger.warning(
        "validation images or views are not those of the evaluations up to step %d, which are "
        "set aside: the best one is that of those to come",
        state.step,
    )
    return False


def _tell_plan(run: Run) -> None:
    recipe, data, order = run.recipe, run.data, run.data.order
    logger.info(
        "%s: %s parameters, %d images, %d steps of %d images on %d process(es), %s",
        recipe.run.name,
        f"{run.learner.bare_model.num_parameters():,}",
        data.train.num_rows,
        run.plan.total_steps,
        recipe.train.global_batch_size,
        run.accelerator.num_processes,
        run.accelerator.device,
    )
    model, processor = run.learner.bare_model, run.learner.processor
    network = describe_network(model, image_shape(processor))
    advice = advise_precision(
        run.accelerator.device, recipe.train.mixed_precision, network.get("num_multiply_adds", 0)
    )
    if advice:
        logger.info(advice)
    readers = run.accelerator.num_processes * max(1, recipe.data.num_workers)
    if run.label_weights.weights is not None:
        tell_class_weights(run.label_weights.weights.cpu().numpy(), data.label_names)
    if order.balance:
        logger.info("order: %s", order.balance.describe(data.label_names))
    logger.info(
        "order: %s in %d epoch(s), batches mix %d row groups; %d reader(s) open a row "
        "group at most %.2f times in that",
        "as many images as there are" if order.balance else "each image once",
        recipe.augmentation.repeats,
        min(order.num_lanes * order.window_groups, len(data.train.groups)),
        readers,
        order.read_amplification(readers),
    )
