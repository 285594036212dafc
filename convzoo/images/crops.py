"""Random resized crops, their growing size, and the resize that makes them."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def crop_size_at(step: int, *, first_crop: int, full_crop: int, growing: range) -> int:
    """Return the side of the training crops at a step, pixels: a line from first to full.

    It is a multiple of 32, as the strides of most networks want it, or of 4 where the full crop is
    smaller than 64.

    Args:
        step: 0-based.
        first_crop: side up to the first step of `growing`, before rounding; 0 for the full side at
            every step.
        full_crop: side from the stop of `growing` on.
        growing: steps of the line.
    """
    if not first_crop or step >= growing.stop:
        return full_crop
    multiple = 32 if full_crop >= 64 else 4
    progress = max(0, step - growing.start) / len(growing)
    side = first_crop + (full_crop - first_crop) * progress
    return min(full_crop, max(1, round(side / multiple)) * multiple)


def resize_shorter_side(image: np.ndarray, side: int, *, interpolation: str) -> np.ndarray:
    """Resize so that the shorter side has this length; the longer one is rounded down."""
    height, width = image.shape[:2]
    short = min(height, width)
    if short == side:
        return image
    size = int(height * side / short), int(width * side / short)
    return resize(image, size, interpolation=interpolation)


def random_resized_box(
    image_size: tuple[int, int],
    rng: np.random.Generator,
    *,
    scale: tuple[float, ...],
    ratio: tuple[float, ...],
) -> tuple[int, int, int, int]:
    """Draw a box of random area and shape, the Inception crop.

    Args:
        image_size: height, width in pixels.
        rng: the only source of randomness.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height, drawn uniformly in its logarithm.

    Returns:
        top, left, height, width; the largest centred box of an allowed ratio when ten draws do not
        fit, as torchvision does.

    Source: Szegedy et al., "Going Deeper with Convolutions", arXiv:1409.4842, section 6;
    torchvision.transforms.RandomResizedCrop.
    """
    image_height, image_width = image_size
    area = image_height * image_width
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        target = area * rng.uniform(scale[0], scale[1])
        shape = math.exp(rng.uniform(low, high))
        width, height = round(math.sqrt(target * shape)), round(math.sqrt(target / shape))
        if 0 < width <= image_width and 0 < height <= image_height:
            top = int(rng.integers(image_height - height + 1))
            left = int(rng.integers(image_width - width + 1))
            return top, left, height, width
    shape = min(max(image_width / image_height, ratio[0]), ratio[1])
    width = min(image_width, round(image_height * shape))
    height = min(image_height, round(image_width / shape))
    return (image_height - height) // 2, (image_width - width) // 2, height, width


def resize(image: np.ndarray, size: tuple[int, int], *, interpolation: str) -> np.ndarray:
    """Resize uint8 pixels, (H, W, C), to `size`, (height, width), antialiased."""
    if image.shape[:2] == size:
        return image
    # The new axis first: torch sees channels-last memory only in this order of the two.
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # (1, C, H, W), channels last
    pixels = F.interpolate(pixels, size=size, mode=interpolation, antialias=True)
    return pixels[0].permute(1, 2, 0).numpy()
