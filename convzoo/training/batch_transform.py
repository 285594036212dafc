"""From the uint8 crops of a batch to what the model is trained on: normalised, erased, mixed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from convzoo.images.erasing import erase
from convzoo.images.mixing import build_mix
from convzoo.images.normalize import Normalize
from convzoo.recipe.settings import Recipe
from convzoo.training.monitors import Monitors


class BatchTransform:
    """Moves a batch to the device and does there what needs whole batches or float pixels.

    Args:
        recipe: the sections preprocessing, augmentation and train are read.
        num_labels: number of classes.
        accelerator: gives device and process.
        monitors: are told how a batch was mixed.
    """

    def __init__(
        self, recipe: Recipe, num_labels: int, *, accelerator: Accelerator, monitors: Monitors
    ):
        settings = recipe.preprocessing
        self.augmentation, self.seed = recipe.augmentation, recipe.run.seed
        self.device, self.process_index = accelerator.device, accelerator.process_index
        self.monitors = monitors
        normalize = Normalize(
            rescale_factor=settings.rescale_factor, mean=settings.mean, std=settings.std
        )
        self.normalize = normalize.to(self.device)
        # With class weights labels are smoothed after they are weighed, by the loss.
        weighted = recipe.train.class_weights != "none"
        smoothing = 0.0 if weighted else recipe.train.label_smoothing
        self.mix = build_mix(recipe.augmentation, smoothing, num_labels=num_labels)

    def __call__(self, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform the batch of a step.

        Args:
            batch: from `train_batches`: pixels uint8 (N, H, W, C), labels, positions, erasing.
            step: its number.

        Returns:
            Normalised images, (N, C, H, W) float32, and class numbers, (N,), or, after MixUp and
            CutMix, class probabilities, (N, num_labels).
        """
        pixel_values = self.normalize(batch["pixels"].to(self.device, non_blocking=True))
        labels = batch["labels"].to(self.device, non_blocking=True)
        if self.augmentation.erasing:
            noise = self._noise(batch["positions"])
            pixel_values = erase(pixel_values, batch["erasing"], noise=noise)
        if self.mix:
            rng = np.random.default_rng([self.seed, step, self.process_index])
            pixel_values, labels = self.mix(pixel_values, labels, rng)
            self.monitors.mixing(self.mix.drawn)
        return pixel_values, labels

    def _noise(self, positions: torch.Tensor) -> Callable[[int], np.random.Generator] | None:
        """Give each row of a batch its generator of erasing noise; None for the mean colour."""
        if self.augmentation.erasing_fill != "noise":
            return None
        return lambda row: np.random.default_rng([self.seed, int(positions[row]), 1])
