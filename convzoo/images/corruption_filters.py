"""Blurs, zooms and textures that the corruptions are made of; images are floats, channels last."""

import math
from functools import lru_cache

import numpy as np
from numpy.random import Generator

# Red, green, blue and their deviations of the five photographs of frost that the authors use.
FROST_TINTS = (
    ((0.31, 0.58, 0.65), 0.06),
    ((0.79, 0.81, 0.84), 0.07),
    ((0.79, 0.81, 0.84), 0.07),
    ((0.54, 0.60, 0.65), 0.12),
    ((0.44, 0.48, 0.53), 0.13),
)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur rows and columns by a Gaussian of 4 deviations; the border is repeated."""
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(image, (sigma, sigma, 0), mode="nearest", truncate=4.0))


@lru_cache(maxsize=8)
def defocus_kernel(radius: int, softness: float) -> np.ndarray:
    """Make a disk that sums to 1, blurred by a Gaussian of 3 or, beyond radius 8, 5 taps."""
    reach, taps = (8, 3) if radius <= 8 else (radius, 5)
    place = np.arange(-reach, reach + 1)
    disk = (place[:, None] ** 2 + place**2 <= radius**2).astype(np.float64)
    gauss = np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2 * softness**2))
    return filtered((disk / disk.sum())[..., None], np.outer(gauss, gauss) / gauss.sum() ** 2)[
        ..., 0
    ]


def filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve each channel with a symmetric kernel; beyond the border lies the mirror image."""
    from scipy.signal import oaconvolve

    height, width = kernel.shape
    edges = ((height // 2, height // 2), (width // 2, width // 2), (0, 0))
    around = np.pad(image, edges, mode="reflect")
    return np.asarray(oaconvolve(around, kernel[..., None], mode="valid", axes=(0, 1)))


def motion_blurred(image: np.ndarray, radius: int, sigma: float, *, angle: float) -> np.ndarray:
    """Blur along a line to one side, as ImageMagick's MotionBlurImage does.

    Args:
        image: (height, width, channels).
        radius: the line has 2 * radius + 1 pixels.
        sigma: of the half Gaussian that weighs them.
        angle: of the line, degrees.
    """
    height, width = image.shape[:2]
    rows, columns = np.arange(height), np.arange(width)
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    down, right = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    blurred = np.zeros_like(image)
    for step, weight in zip(steps.tolist(), (weights / weights.sum()).tolist(), strict=True):
        row = (rows + math.ceil(step * down - 0.5)).clip(0, height - 1)
        column = (columns + math.ceil(step * right - 0.5)).clip(0, width - 1)
        blurred += weight * image[row[:, None], column]
    return blurred


def zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    """Enlarge the centre of an image, so that the size stays; linear interpolation."""
    image = _zoom_axis(image, factor)
    return _zoom_axis(image.swapaxes(0, 1), factor).swapaxes(0, 1)


def _zoom_axis(image: np.ndarray, factor: float) -> np.ndarray:
    return np.asarray(np.tensordot(_zoom_weights(len(image), float(factor)), image, axes=1))


@lru_cache(maxsize=32)
def _zoom_weights(side: int, factor: float) -> np.ndarray:
    """(side, side): row N has the two weights that make up pixel N of the enlarged centre."""
    inside = math.ceil(side / factor)
    enlarged = round(inside * factor)
    first = (side - inside) // 2
    trimmed = (enlarged - side) // 2
    places = (np.arange(side) + trimmed) * (inside - 1) / (enlarged - 1)
    left = np.minimum(np.floor(places).astype(int), inside - 2)
    weights = np.zeros((side, side))
    weights[np.arange(side), first + left] = 1 - (places - left)
    weights[np.arange(side), first + left + 1] += places - left
    return weights


def plasma_fractal(shape: tuple[int, ...], decay: float, random: Generator) -> np.ndarray:
    """Make a cloud by the diamond-square algorithm on a torus.

    Args:
        shape: height and width of the part that is returned, of a square of a power of two.
        decay: noise of a step is that of the step before divided by it.
        random: source of the noise.

    Returns:
        In [0, 1] over the whole square.
    """
    side = 2 ** math.ceil(math.log2(max(shape)))
    cloud = np.zeros((side, side))
    step, noise = side, 100.0

    def mean_and_noise(four: np.ndarray) -> np.ndarray:
        # The authors' noise is the square of what its name says.
        return four / 4 + noise * random.uniform(-noise, noise, four.shape)

    while step >= 2:
        half = step // 2
        corners = cloud[::step, ::step]
        sums = corners + np.roll(corners, -1, axis=0)
        cloud[half::step, half::step] = mean_and_noise(sums + np.roll(sums, -1, axis=1))
        centres = cloud[half::step, half::step]
        upright = centres + np.roll(centres, 1, axis=0) + corners + np.roll(corners, -1, axis=1)
        cloud[::step, half::step] = mean_and_noise(upright)
        level = centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=0)
        cloud[half::step, ::step] = mean_and_noise(level)
        step, noise = half, noise / decay
    cloud -= cloud.min()
    return np.asarray(cloud / cloud.max())[: shape[0], : shape[1]]


def frost_overlay(shape: tuple[int, ...], random: Generator) -> np.ndarray:
    """Make a texture of crystals, (height, width, 3), as bright as one of the photographs.

    Crystals are the ridges of clouds; mean and deviation are those of the photograph.
    """
    tint, deviation = FROST_TINTS[random.integers(len(FROST_TINTS))]
    ridges = [1 - np.abs(2 * plasma_fractal(shape, 1.6, random) - 1) for _ in range(3)]
    texture = np.maximum.reduce(ridges) + 0.5 * plasma_fractal(shape, 1.3, random)
    texture = (texture - texture.mean()) / texture.std()
    return np.asarray((np.array(tint) + deviation * texture[..., None]).clip(0, 1))


def affine(image: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Move three points around the centre, and the image with them; the border is mirrored.

    Args:
        image: (height, width, channels).
        moves: (3, 2), by how many pixels x and y of the points move.
    """
    height, width = image.shape[:2]
    x, y = height // 2, width // 2  # the authors take them so; their images are squares
    reach = min(height, width) // 3
    points = np.array([(x + reach, y + reach), (x + reach, y - reach), (x - reach, y - reach)])
    ones = np.ones((3, 1))
    back = np.linalg.solve(np.hstack([points + moves, ones]), points)  # from new x, y to old
    grid_y, grid_x = np.mgrid[:height, :width]
    old_x, old_y = np.moveaxis(np.stack([grid_x, grid_y, grid_x * 0 + 1], -1) @ back, -1, 0)
    return _sample(image, old_y, old_x, border="mirror")


def displaced(image: np.ndarray, random: Generator, *, strength: float, sigma: float) -> np.ndarray:
    """Move every pixel by smooth noise: uniform in [-1, 1], blurred, then times `strength`."""
    height, width = image.shape[:2]
    rows, columns = _blur_weights(height, sigma), _blur_weights(width, sigma)
    x, y = (
        strength * (rows @ random.uniform(-1, 1, size=(height, width)) @ columns.T)
        for _ in range(2)
    )
    grid_y, grid_x = np.mgrid[:height, :width]
    return _sample(image, grid_y + y, grid_x + x, border="reflect")


def _sample(image: np.ndarray, y: np.ndarray, x: np.ndarray, *, border: str) -> np.ndarray:
    """Read an image (height, width, channels) at places between its pixels, linearly."""
    from scipy.ndimage import map_coordinates

    channels = np.moveaxis(image, -1, 0)
    return np.stack([map_coordinates(c, (y, x), order=1, mode=border) for c in channels], axis=-1)


@lru_cache(maxsize=8)
def _blur_weights(side: int, sigma: float) -> np.ndarray:
    """(side, side): row N has the weights of a Gaussian of 3 deviations; the border is mirrored."""
    from scipy.ndimage import gaussian_filter1d

    return np.asarray(gaussian_filter1d(np.eye(side), sigma, axis=0, mode="reflect", truncate=3.0))
