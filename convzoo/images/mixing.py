"""MixUp and CutMix of whole batches.

They work on normalised pixels, on the device where the batch is. What is random is drawn on the CPU
from a NumPy generator, so it does not depend on the device.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from convzoo.images.boxes import inside_boxes
from convzoo.images.transfer import to_device
from convzoo.recipe.settings import Augmentation


class MixupCutmix:
    """Mix a batch with its mirror image by MixUp or CutMix: row i meets row N - 1 - i.

    Args:
        mixup_alpha: concentration of MixUp's Beta distribution; 0 switches MixUp off.
        cutmix_alpha: the same for CutMix.
        probability: with which a batch, row or pair is mixed.
        switch_probability: of CutMix where both are on.
        label_smoothing: share of the label's weight spread over all classes.
        num_labels: number of classes.
        mode: "batch" (one draw for all rows), "elem" (one per row) or "pair" (one per two rows that
            meet).

    Attributes:
        drawn: what the last call got from `draw`.

    Raises:
        ValueError: if both are off or the mode is unknown.

    Source: Zhang et al., arXiv:1710.09412; Yun et al., arXiv:1905.04899; timm 1.0.31,
    data/mixup.py.
    """

    def __init__(
        self,
        *,
        mixup_alpha: float,
        cutmix_alpha: float,
        probability: float,
        switch_probability: float,
        label_smoothing: float,
        num_labels: int,
        mode: str = "batch",
    ):
        if mixup_alpha < 0 or cutmix_alpha < 0 or mixup_alpha == cutmix_alpha == 0:
            raise ValueError(
                "mixup_alpha and cutmix_alpha must be at least 0 and one of them above 0;"
                f" got {mixup_alpha} and {cutmix_alpha}"
            )
        if mode not in ("batch", "elem", "pair"):
            raise ValueError(f"mode of MixupCutmix must be batch, elem or pair; got {mode!r}")
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.probability = probability
        self.switch_probability = switch_probability
        self.label_smoothing = label_smoothing
        self.num_labels = num_labels
        self.mode = mode

    def __call__(
        self, pixel_values: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix a batch.

        Args:
            pixel_values: normalised images, (N, C, H, W).
            labels: class indices, (N,).
            rng: the only source of randomness.

        Returns:
            Mixed images, same shape, and class probabilities, (N, num_labels) float32; the inputs
            are unchanged.
        """
        rows, _, height, width = pixel_values.shape
        draws = {"batch": 1, "elem": rows, "pair": (rows + 1) // 2}[self.mode]
        shares, boxes = self.draw(draws, (height, width), rng)
        self.drawn = shares, boxes
        if self.mode == "pair":
            order = [*range(draws), *reversed(range(rows // 2))]
            shares, boxes = shares[order], boxes[order]
        targets = F.one_hot(labels, self.num_labels).float()
        targets = targets * (1 - self.label_smoothing) + self.label_smoothing / self.num_labels
        device = pixel_values.device
        kept = to_device(torch.from_numpy(shares).float(), device)[:, None]
        targets = torch.lerp(targets.flip(0), targets, kept)
        places = to_device(torch.from_numpy(boxes), device)
        weights = _weights(kept, places, (height, width)).to(pixel_values.dtype)
        return torch.lerp(pixel_values.flip(0), pixel_values, weights), targets

    def draw(
        self, count: int, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw the shares that images keep, and the boxes that CutMix replaces.

        Args:
            count: how many to draw.
            size: height, width in pixels.
            rng: the only source of randomness.

        Returns:
            Shares on [0, 1], (count,), for CutMix those of the area outside the box; and top,
            bottom, left, right, (count, 4), an empty box where CutMix was not drawn.
        """
        use_cutmix = np.full(count, not self.mixup_alpha)
        if self.mixup_alpha and self.cutmix_alpha:
            use_cutmix = rng.random(count) < self.switch_probability
        alphas = np.where(use_cutmix, self.cutmix_alpha, self.mixup_alpha)
        shares = np.where(rng.random(count) < self.probability, rng.beta(alphas, alphas), 1.0)
        sides = np.array(size)[:, None]
        cut = (sides * np.sqrt(1 - shares) * use_cutmix).astype(int)
        centre = rng.integers(sides, size=(2, count))
        low, high = (centre - cut // 2).clip(0, sides), (centre + cut // 2).clip(0, sides)
        shares = np.where(use_cutmix, 1 - (high - low).prod(axis=0) / math.prod(size), shares)
        return shares, np.stack([low[0], high[0], low[1], high[1]], axis=1)


def build_mix(
    settings: Augmentation, label_smoothing: float, *, num_labels: int
) -> MixupCutmix | None:
    """Build the recipe's MixUp and CutMix; None if it has neither."""
    if not (settings.mixup_alpha or settings.cutmix_alpha):
        return None
    return MixupCutmix(
        mixup_alpha=settings.mixup_alpha,
        cutmix_alpha=settings.cutmix_alpha,
        probability=settings.mix_probability,
        switch_probability=settings.mix_switch_probability,
        label_smoothing=label_smoothing,
        num_labels=num_labels,
        mode=settings.mix_mode,
    )


def _weights(kept: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Weight of each image's own pixels: 0 in its box and 1 outside, or `kept` without a box."""
    top, bottom, left, right = boxes.T
    inside = inside_boxes(top=top, bottom=bottom, left=left, right=right, size=size)[:, None]
    has_box = ((bottom > top) & (right > left))[:, None, None, None]
    return torch.where(has_box, (~inside).float(), kept[:, :, None, None])
