"""Ten crops of an image: corners and centre, and their mirror images."""

from typing import TypeVar

import numpy as np
import torch

Pixels = TypeVar("Pixels", torch.Tensor, np.ndarray)


def ten_crop(pixels: Pixels, size: int) -> Pixels:
    """Cut corners and centre, then the same of the mirrored image, in torchvision's order.

    Args:
        pixels: a tensor (..., C, H, W) or an array (..., H, W, C).
        size: side of the crops, pixels.

    Returns:
        The same kind, with an axis of ten in front of the image's three: top left, top right,
        bottom left, bottom right, centre, and these of the mirrored image.

    Raises:
        ValueError: if the image is smaller than the crop.
    """
    if isinstance(pixels, np.ndarray):
        return np.moveaxis(
            ten_crop(torch.from_numpy(np.moveaxis(pixels, -1, -3)), size).numpy(), -3, -1
        )
    height, width = pixels.shape[-2:]
    if min(height, width) < size:
        raise ValueError(
            f"images must be at least {size} x {size} pixels, the size of the crops;"
            f" got {height} x {width}. Resize them first."
        )
    bottom, right = height - size, width - size
    corners = (
        (0, 0),
        (0, right),
        (bottom, 0),
        (bottom, right),
        (round(bottom / 2), round(right / 2)),
    )
    return torch.stack(
        [
            view[..., top : top + size, left : left + size]
            for view in (pixels, pixels.flip(-1))
            for top, left in corners
        ],
        dim=-4,
    )
