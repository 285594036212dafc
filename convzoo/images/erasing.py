"""Random erasing: boxes are drawn on the CPU, and filled on the device."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from convzoo.images.boxes import inside_boxes
from convzoo.images.transfer import to_device

Box = tuple[int, int, int, int]  # top, left, height, width, pixels


def erasing_boxes(
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    probability: float,
    area: tuple[float, ...],
    ratio: tuple[float, ...],
    max_count: int,
) -> list[Box]:
    """Draw the boxes of an image to erase: none, or 1 to `max_count`.

    torchvision's RandomErasing is area (0.02, 0.33), ratio (0.3, 3.3), max_count 1; timm's is area
    (0.02, 1 / 3), ratio (0.3, 1 / 0.3) and any max_count.

    Args:
        size: height, width in pixels.
        rng: the only source of randomness.
        probability: with which anything is erased.
        area: smallest and largest share of the image, divided by the number of boxes.
        ratio: smallest and largest height / width, drawn uniformly in its logarithm.
        max_count: largest number of boxes.

    Returns:
        The boxes; one that does not fit in ten draws is left out.

    Source: Zhong et al., "Random Erasing Data Augmentation", arXiv:1708.04896.
    """
    if rng.random() >= probability:
        return []
    height, width = size
    count = int(rng.integers(1, max_count + 1))
    boxes = []
    for _ in range(count):
        for _ in range(10):
            target = rng.uniform(area[0], area[1]) * height * width / count
            shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
            h, w = round(math.sqrt(target * shape)), round(math.sqrt(target / shape))
            if h < height and w < width:
                top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                boxes.append((top, left, h, w))
                break
    return boxes


def erase(
    pixel_values: torch.Tensor,
    boxes: Sequence[Sequence[Box]],
    *,
    noise: Callable[[int], np.random.Generator] | None = None,
) -> torch.Tensor:
    """Fill boxes of normalised images with 0, their mean colour, or with N(0, 1) noise.

    Args:
        pixel_values: normalised images, (N, C, H, W).
        boxes: for each image its boxes; an image without any is not changed.
        noise: row of the batch to the generator of that image's noise, which is drawn on the CPU
            and so is the same on every device; None fills with 0.

    Returns:
        The same tensor, changed in place: a copy takes longer than the erasing.
    """
    if pixel_values.device.type == "cuda":
        return _erase_on_gpu(pixel_values, boxes, noise)
    for row, row_boxes in enumerate(boxes):
        rng = noise(row) if noise and len(row_boxes) else None
        for top, left, height, width in row_boxes:
            region = pixel_values[row, :, top : top + height, left : left + width]
            if rng:
                drawn = rng.standard_normal((height, width, len(region)), dtype=np.float32)
                region.copy_(torch.from_numpy(drawn).permute(2, 0, 1))  # as channels-last memory
            else:
                region.zero_()
    return pixel_values


def _erase_on_gpu(
    pixel_values: torch.Tensor,
    boxes: Sequence[Sequence[Box]],
    noise: Callable[[int], np.random.Generator] | None,
) -> torch.Tensor:
    """Fill the boxes with the same bits: all means at once, all noise from one copy."""
    if noise is None:
        return pixel_values.masked_fill_(_inside(boxes, pixel_values)[:, None], 0)
    channels = pixel_values.shape[1]
    drawn: list[np.ndarray] = []
    regions: list[torch.Tensor] = []
    for row, row_boxes in enumerate(boxes):
        rng = noise(row) if len(row_boxes) else None
        for top, left, height, width in row_boxes:
            assert rng, "a row with boxes has one"
            drawn.append(rng.standard_normal(height * width * channels, dtype=np.float32))
            regions.append(pixel_values[row, :, top : top + height, left : left + width])
    if drawn:
        values = to_device(torch.from_numpy(np.concatenate(drawn)), pixel_values.device)
        for region, part in zip(regions, values.split([len(d) for d in drawn]), strict=True):
            _, height, width = region.shape
            region.copy_(part.view(height, width, channels).permute(2, 0, 1))
    return pixel_values


def _inside(boxes: Sequence[Sequence[Box]], pixel_values: torch.Tensor) -> torch.Tensor:
    """Tell for each pixel of each image whether it lies in a box: (N, H, W)."""
    count, _, height, width = pixel_values.shape
    padded = np.zeros((count, max(1, max(map(len, boxes), default=1)), 4), np.int64)
    for row, row_boxes in enumerate(boxes):
        padded[row, : len(row_boxes)] = row_boxes if len(row_boxes) else 0
    places = to_device(torch.from_numpy(padded), pixel_values.device)
    top, left, rows, columns = places.unbind(-1)  # (N, boxes) each
    inside = inside_boxes(
        top=top, bottom=top + rows, left=left, right=left + columns, size=(height, width)
    )
    return inside.any(1)
