"""The 15 corruptions of ImageNet-C, computed from their definitions, each in five severities.

An image is corrupted as the model would see it: after the resize and the crop, before the
normalisation. What is random follows from the image's own bytes, the corruption and the severity,
so an image has the same corruption wherever it stands in a split and whoever computes it.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, arXiv:1903.12261, with the parameters of the authors' make_imagenet_c.py.
Like the files of ImageNet-C, corrupted images go through JPEG of quality 85. What differs:

- The overlay of frost is made of noise: the authors' photographs are not ours to give.
- Motion blur follows ImageMagick's definition without calling it; snow does, too.
"""

import hashlib
import io
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image

from convzoo.images.corruption_filters import (
    affine,
    blur,
    defocus_kernel,
    displaced,
    filtered,
    frost_overlay,
    motion_blurred,
    plasma_fractal,
    zoomed,
)

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 32  # pixels of a side; below it, kernels are wider than the image
JPEG_QUALITY = 85  # of the files of ImageNet-C
GREY = np.array((0.299, 0.587, 0.114))
Corruption = Callable[[np.ndarray, int, Generator], np.ndarray]


def corrupt(image: np.ndarray, name: str, severity: int, *, digest: bytes) -> np.ndarray:
    """Corrupt one image.

    Args:
        image: uint8, (height, width, 3), RGB, each side at least SMALLEST.
        name: a key of CORRUPTIONS.
        severity: 1 to 5.
        digest: stands for the image: the same digest gives the same noise.

    Returns:
        uint8, of the same shape.

    Raises:
        ValueError: if name, severity or shape breaks its rule.
    """
    check_corruption(name, severity)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"an image to corrupt must be uint8, (height, width, 3); got {image.dtype}, "
            f"{image.shape}"
        )
    if min(image.shape[:2]) < SMALLEST:
        raise ValueError(
            f"sides of an image to corrupt must be at least {SMALLEST} pixels; got "
            f"{image.shape[1]} x {image.shape[0]}. Corruptions are defined for 224 x 224"
        )
    seed = hashlib.sha256(digest + f"{name} {severity}".encode()).digest()[:16]
    random = np.random.default_rng(int.from_bytes(seed, "little"))
    return as_jpeg(to_bytes(CORRUPTIONS[name](image / 255.0, severity - 1, random)), JPEG_QUALITY)


def check_corruption(name: str, severity: int) -> None:
    """Raise a ValueError that names the rule, unless there is this corruption and severity."""
    if name not in CORRUPTIONS:
        raise ValueError(f"a corruption must be one of {', '.join(CORRUPTIONS)}; got {name!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"the severity of a corruption must be 1 to 5; got {severity!r}")


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Round down, as the authors do; what is whole but for a rounding error stays as it is."""
    return np.floor(np.round(pixels.clip(0, 1) * 255, 4)).astype(np.uint8)


def as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Return an image as it comes out of a JPEG file: uint8, (height, width, 3)."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    with Image.open(file) as opened:
        return np.asarray(opened.convert("RGB"))


# Each takes RGB in [0, 1], (height, width, 3), the severity from 0 on, and its source of noise.
# It returns an image that may leave [0, 1].


def _gaussian_noise(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    scale = (0.08, 0.12, 0.18, 0.26, 0.38)[level]
    return image + random.normal(size=image.shape, scale=scale)


def _shot_noise(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    photons = (60, 25, 12, 5, 3)[level]
    return np.asarray(random.poisson(image * photons) / photons)


def _impulse_noise(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    """Salt and pepper, in each channel for itself."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    hit = random.random(image.shape) <= share
    salt = random.random(image.shape) <= 0.5
    return np.where(hit, salt, image)


def _defocus_blur(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    return filtered(image, defocus_kernel(radius, softness))


def _glass_blur(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    """Each pixel becomes one near it, between two blurs.

    The authors' code means to swap the two, but NumPy assigns through views: the nearer one stays.
    """
    sigma, reach, passes = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    height, width = image.shape[:2]
    rows = np.arange(height - reach, reach, -1)
    columns = np.arange(width - reach, reach, -1)
    places = (rows[:, None] * width + columns).ravel().tolist()
    source = list(range(height * width))  # the pixel that has come to each place
    for _ in range(passes):
        moves = random.integers(-reach, reach, size=(len(places), 2))
        for place, move in zip(places, (moves[:, 1] * width + moves[:, 0]).tolist(), strict=True):
            source[place] = source[place + move]
    shuffled = to_bytes(blur(image, sigma)).reshape(-1, 3)[source].reshape(image.shape)
    return blur(shuffled / 255.0, sigma)


def _motion_blur(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    blurred = motion_blurred(image, radius, sigma, angle=random.uniform(-45, 45))
    return np.asarray(np.round(blurred * 255) / 255)  # ImageMagick gives whole numbers


def _zoom_blur(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    last, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    factors = np.arange(1, last, step)
    views = [zoomed(image, factor) for factor in factors]
    return np.asarray((image + sum(views)) / (len(views) + 1))


def _snow(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    mean, spread, zoom, least, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]
    flakes = zoomed(random.normal(size=image.shape[:2], loc=mean, scale=spread), zoom)
    flakes = np.floor(np.where(flakes < least, 0, flakes).clip(0, 1) * 255) / 255
    falling = motion_blurred(flakes[..., None], radius, sigma, angle=random.uniform(-135, -45))
    falling = np.round(falling * 255) / 255
    bleak = np.maximum(image, (image @ GREY)[..., None] * 1.5 + 0.5)
    return np.asarray(kept * image + (1 - kept) * bleak + falling + np.rot90(falling, k=2))


def _frost(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    kept, added = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[level]
    return np.asarray(kept * image + added * frost_overlay(image.shape[:2], random))


def _fog(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    density, decay = ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[level]
    brightest = image.max()
    foggy = image + density * plasma_fractal(image.shape[:2], decay, random)[..., None]
    return np.asarray(foggy * brightest / (brightest + density))


def _brightness(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    """More value in HSV: hue and saturation stay if all channels grow by one factor."""
    value = image.max(axis=2, keepdims=True)
    brighter = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[level]).clip(0, 1)
    factor = brighter / np.where(value > 0, value, 1)
    return np.asarray(np.where(value > 0, image * factor, brighter))


def _contrast(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    means = image.mean(axis=(0, 1), keepdims=True)
    return np.asarray((image - means) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + means)


def _elastic_transform(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    """Three points move, then every pixel; the authors take 244 for the side of 224 pixels.

    For images of another size, these lengths in pixels grow or shrink with the shorter side.
    """
    strength, sigma, jump = (
        (2, 0.7, 0.1),
        (2, 0.08, 0.2),
        (0.05, 0.01, 0.02),
        (0.07, 0.01, 0.02),
        (0.12, 0.01, 0.02),
    )[level]
    side = 244 * min(image.shape[:2]) / 224
    corners = random.uniform(-jump * side, jump * side, size=(3, 2))
    moved = affine(image, corners)
    return displaced(moved, random, strength=side * strength, sigma=side * sigma)


def _pixelate(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    height, width = image.shape[:2]
    whole = Image.fromarray(np.round(image * 255).astype(np.uint8))
    small = whole.resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)) / 255.0


def _jpeg_compression(image: np.ndarray, level: int, random: Generator) -> np.ndarray:
    quality = (25, 18, 15, 10, 7)[level]
    return as_jpeg(np.round(image * 255).astype(np.uint8), quality) / 255.0


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
