"""Grad-CAM: which parts of an image speak for a class.

The demo page (`app.py`) has the same rule in its own words, because it is copied to a Space alone;
tests hold the two together.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import BaseImageProcessor, PreTrainedModel

from convzoo.inspection.activation_maps import visible

# RGB of matplotlib's colour map inferno at equal distances: brighter is more, also for the
# colour-blind.
INFERNO = np.array(
    [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32
)


def grad_cam(
    model: PreTrainedModel, pixel_values: Tensor, classes: Sequence[int]
) -> list[np.ndarray] | None:
    """Weigh the last feature map of an image by what it contributes to each of some classes.

    Args:
        model: a classifier in evaluation mode whose last hidden state is a feature map.
        pixel_values: one preprocessed image, (1, C, H, W).
        classes: class numbers.

    Returns:
        For each class a map (h, w) of the size of the feature map, 0 or more; None if the model has
        no feature map that its logits depend on.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
        Localization", ICCV 2017, arXiv:1610.02391, equations 1 and 2.
    """
    with torch.enable_grad():
        output = model(pixel_values.to(model.device), output_hidden_states=True)
        maps: Tensor | None = output.hidden_states[-1] if output.hidden_states else None
        if maps is None or maps.ndim != 4 or not maps.requires_grad:
            return None
        heats = []
        for number in classes:
            (gradient,) = torch.autograd.grad(
                output.logits[0, number], maps, retain_graph=True, allow_unused=True
            )
            if gradient is None:  # the model copied the feature map before it went on
                return None
            weights = gradient.mean((2, 3), keepdim=True)
            heat = (weights * maps).sum(1)[0].relu().detach()
            heats.append(heat.float().cpu().numpy())
    return heats


def heat_over_image(
    heat: np.ndarray, pixel_values: Tensor, processor: BaseImageProcessor
) -> np.ndarray:
    """Lay a heat map over the image in grey, cropped as the model sees it.

    Args:
        heat: (h, w), 0 or more; its greatest value is the brightest colour.
        pixel_values: the preprocessed image, (1, C, H, W).
        processor: what preprocessed it.

    Returns:
        uint8, (H, W, 3).
    """
    grey = visible(pixel_values[0].float().cpu().numpy(), processor).mean(-1, keepdims=True)
    scaled = torch.from_numpy(heat / max(float(heat.max()), 1e-12))[None, None].float()
    large = torch.nn.functional.interpolate(scaled, grey.shape[:2], mode="bilinear")[0, 0]
    position = large.numpy()[..., None] * (len(INFERNO) - 1)
    below = position[..., 0].astype(int).clip(max=len(INFERNO) - 2)
    colour = INFERNO[below] + (INFERNO[below + 1] - INFERNO[below]) * (position - below[..., None])
    blended: np.ndarray = ((grey + colour) / 2).round().astype(np.uint8)
    return blended


def brightest_place(heat: np.ndarray) -> tuple[float, float] | None:
    """Return where a heat map is greatest: fractions from the left and the top; None if it is 0."""
    if heat.max() == 0:
        return None
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    return (column + 0.5) / heat.shape[1], (row + 0.5) / heat.shape[0]
