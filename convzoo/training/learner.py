"""The model and everything that an optimizer step changes with it."""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import PreTrainedModel

import modeling
from convzoo.recipe.files import recipe_to_toml
from convzoo.recipe.settings import Recipe, num_channels
from convzoo.training import checkpointing
from convzoo.training.batch_norm import share_statistics
from convzoo.training.building import build_model, build_processor
from convzoo.training.devices import check_deterministic
from convzoo.training.ema import ModelEma
from convzoo.training.finetuning import freeze, freeze_cancelled_biases, stage_of
from convzoo.training.optimization import build_optimizer, clamp_slopes

AFTER_DIVERGENCE = (
    "The last checkpoint is as it was. Set run.name for a new run with a lower "
    "optimizer.learning_rate or with train.max_grad_norm"
)


@dataclass(kw_only=True)
class Learner:
    """Hold what training changes on one process: weights, optimizer, averaged weights.

    Attributes:
        model: what the loop calls: DistributedDataParallel around `bare_model` on several
            processes, else `bare_model` itself.
        bare_model: the module whose weights are saved.
        optimizer: over the parameters that are trained.
        ema: the averaged weights, which are evaluated and published, or None.
        processor: the image processor that is published with the model.
        recipe: of the run.
        accelerator: the processes.
    """

    model: torch.nn.Module
    bare_model: PreTrainedModel
    optimizer: torch.optim.Optimizer
    ema: ModelEma | None
    processor: "modeling.ConvZooImageProcessor"
    recipe: Recipe
    accelerator: Accelerator

    @property
    def pretrained_commit(self) -> str | None:
        """Commit of the Hub that the model started from, where that was in this process."""
        commit: str | None = getattr(self.bare_model.config, "_commit_hash", None)
        return commit

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the rate of the next step; a group takes it times its own `lr_scale`."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)

    def step(self) -> torch.Tensor | None:
        """Clip the gradients, take the optimizer's step, then clamp slopes and move the average.

        Returns:
            The norm of the gradients before they were clipped; None without train.max_grad_norm.
        """
        grad_norm = None
        if limit := self.recipe.train.max_grad_norm:
            grad_norm = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if slope_limits := self.recipe.optimizer.slope_limits:
            clamp_slopes(self.bare_model, slope_limits)
        if self.ema:
            self.ema.update(self.bare_model)
        return grad_norm

    def published(self) -> AbstractContextManager[None]:
        """While it lasts, the model has the weights that are evaluated and published."""
        return self.ema.applied_to(self.bare_model) if self.ema else nullcontext()

    def synchronise(self) -> None:
        """Give batch norms the same statistics on all processes.

        Raises:
            FloatingPointError: if a weight is not finite: it is neither evaluated nor saved.
        """
        how = self.recipe.train.batch_norm_statistics
        share_statistics(self.bare_model, self.accelerator, how)
        if self.ema:
            with self.published():
                share_statistics(self.bare_model, self.accelerator, how)
                check_weights(self.bare_model)
        check_weights(self.bare_model)

    def save_model(self, folder: Path) -> None:
        """Write weights, code, processor and recipe into a folder."""
        checkpointing.save_model(
            folder,
            self.bare_model,
            processor=self.processor,
            recipe_toml=recipe_to_toml(self.recipe),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs besides the published weights.

        To be called outside of `published`, for the weights that are trained.
        """
        scaler = self.accelerator.scaler
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "ema": self.ema.state_dict() if self.ema else None,
            "raw_model": copy.deepcopy(self.bare_model.state_dict()) if self.ema else None,
        }

    def load_state_dict(self, saved: dict[str, Any], checkpoint: Path) -> None:
        """Take optimizer, scaler and averaged weights from a checkpoint's content."""
        try:
            self.optimizer.load_state_dict(saved["optimizer"])
        except ValueError as error:
            raise ValueError(
                f"optimizer settings and trained parameters must be those of {checkpoint}; "
                f"they differ ({error}). Restore them, or set run.name for a new run"
            ) from error
        if saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        if self.ema:
            self.ema.load_state_dict(saved["ema"])

    def release(self) -> None:
        """Let go of model and optimizer.

        DistributedDataParallel goes before the process group does: gloo deadlocks when a model is
        the last to let go of its group.
        """
        self.model, self.optimizer = self.accelerator.free_memory(self.model, self.optimizer)


def build_learner(
    recipe: Recipe,
    label_names: Sequence[str],
    *,
    accelerator: Accelerator,
    checkpoint: Path | None = None,
    saved: dict[str, Any] | None = None,
) -> Learner:
    """Build a fresh learner, or restore that of a checkpoint.

    Args:
        recipe: of the run.
        label_names: one name for each class.
        accelerator: the processes.
        checkpoint: to restore, or None.
        saved: the checkpoint's content, from `load_state`.
    """
    model = _build_trainable_model(
        recipe, label_names, accelerator=accelerator, checkpoint=checkpoint
    )
    optimizer = build_optimizer(
        model,
        recipe.optimizer,
        layer_decay=recipe.finetune.layer_decay,
        stage_of=stage_of(model),
        fused=takes_fused_step(accelerator),
    )
    freeze_cancelled_biases(model)  # after it: older checkpoints have them in the optimizer
    if checkpoint and saved:
        model.load_state_dict(saved["raw_model"] or load_file(checkpoint / "model.safetensors"))
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    bare_model = accelerator.unwrap_model(wrapped)
    if wrapped is not bare_model and recipe.train.batch_norm_statistics != "first":
        wrapped.broadcast_buffers = False  # of DDP: no statistics from process 0 at every step
    if recipe.train.compile:
        bare_model.compile()  # in place: no _orig_mod. in the names of the weights
    decay = recipe.train.ema_decay
    learner = Learner(
        model=wrapped,
        bare_model=bare_model,
        optimizer=optimizer,
        ema=ModelEma(bare_model, decay, warmup=recipe.train.ema_warmup) if decay else None,
        processor=build_processor(
            recipe.preprocessing,
            num_channels(recipe.model),
            exif_rotation=recipe.data.exif_rotation,
        ),
        recipe=recipe,
        accelerator=accelerator,
    )
    if checkpoint and saved:
        learner.load_state_dict(saved, checkpoint)
    return learner


def takes_fused_step(accelerator: Accelerator) -> bool | None:
    """Tell whether the optimizer's step shall be one kernel; None leaves it to PyTorch.

    Not with the loss scaling of fp16: where it skips the first step, PyTorch 2.11's fused SGD takes
    memory that was never written for its momentum.
    """
    is_gpu = accelerator.device.type == "cuda"
    return True if is_gpu and accelerator.mixed_precision != "fp16" else None


def _build_trainable_model(
    recipe: Recipe,
    label_names: Sequence[str],
    *,
    accelerator: Accelerator,
    checkpoint: Path | None,
) -> PreTrainedModel:
    settings = recipe.train
    model = build_model(recipe, label_names, checkpoint)
    if settings.deterministic:
        check_deterministic(model, accelerator.device)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # a wrapped method
    if settings.gradient_checkpointing:
        # Transformers up to 5.20 have the older name alone, which later ones deprecate.
        newer = getattr(model, "activation_checkpointing_enable", None)
        (newer or model.gradient_checkpointing_enable)()
    if settings.batch_norm_statistics == "sync" and accelerator.num_processes > 1:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        freeze(model, recipe.finetune.frozen_stages)
    return model


def check_weights(model: torch.nn.Module) -> None:
    """Refuse to evaluate or save what the last step may have ruined; its loss came before it."""
    bad = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if bad:
        raise FloatingPointError(
            f"all weights must be finite; after the last step {len(bad)} of them are not, the "
            f"first is {bad[0]}. {AFTER_DIVERGENCE}"
        )
