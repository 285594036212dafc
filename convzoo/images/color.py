"""Colour jitter, and PCA colour noise."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from convzoo.images.operations import OPERATIONS, RESAMPLING, Color

# Principal components of the colours of ImageNet, RGB on [0, 1]: one column per component.
# Source: facebookarchive/fb.resnet.torch, datasets/imagenet.lua.
IMAGENET_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
IMAGENET_EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


# Filter and fill colour, which operations on colours ignore.
GEOMETRY: tuple[Image.Resampling, Color] = (RESAMPLING["nearest"][0], (0, 0, 0))


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue at random, in random order.

    Args:
        brightness: factor uniform on [max(0, 1 - brightness), 1 + brightness].
        contrast: the same for the distance from the mean grey.
        saturation: the same for the distance from the grey image.
        hue: shift uniform on [-hue, hue], in turns, at most 0.5.

    Source: torchvision 0.28.0, transforms.ColorJitter.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            high = 0.5 if name == "hue" else math.inf
            if not 0 <= value <= high:
                raise ValueError(f"{name} of ColorJitter must lie in [0, {high}]; got {value}")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Jitter an RGB uint8 image."""
        jittered = Image.fromarray(image)
        for name in rng.permutation([name for name, value in vars(self).items() if value]):
            width = getattr(self, name)
            if name == "hue":
                jittered = shift_hue(jittered, rng.uniform(-width, width))
            else:
                factor = rng.uniform(max(0.0, 1 - width), 1 + width)
                operation = "Color" if name == "saturation" else name.capitalize()
                jittered = OPERATIONS[operation](jittered, factor, *GEOMETRY)
        return np.array(jittered)


def shift_hue(image: Image.Image, turns: float) -> Image.Image:
    """Turn the hue of an RGB image by a number of turns in [-0.5, 0.5], as torchvision does."""
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + int(turns * 255)) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


@dataclass(frozen=True)
class PcaColorOffset:
    """Add one colour to all pixels, along the principal components of ImageNet's colours.

    Args:
        std: standard deviation of the factor of each component.

    Source: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks",
    2012, section 4.1; the components are those of fb.resnet.torch.
    """

    std: float = 0.1

    def offset(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the colour, RGB in grey levels of 0-255."""
        factors = rng.normal(0, self.std, 3)
        return np.asarray(255 * IMAGENET_EIGENVECTORS @ (factors * IMAGENET_EIGENVALUES))

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Colour an RGB uint8 image."""
        tables = np.rint(np.arange(256) + self.offset(rng)[:, None]).clip(0, 255).astype(int)
        return np.array(Image.fromarray(image).point(tables.ravel().tolist()))


@dataclass(frozen=True)
class PcaColorStretch:
    """Stretch colours about their mean along the image's own principal components.

    The mean colour never moves, and a component of variance v (of pixels on [0, 1]) changes by the
    factor 1 + v * N(0, std): far weaker than `PcaColorOffset`.

    Args:
        std: standard deviation of the factor of each component.
        probability: with which an image is changed.

    Source: albumentations 1.4.20, FancyPCA, in its defaults.
    """

    std: float = 0.1
    probability: float = 0.5

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stretch the colours of an RGB uint8 image."""
        if rng.random() >= self.probability:
            return image
        return stretch_colors(image, rng.normal(0, self.std, 3))


def stretch_colors(image: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiply principal component i of the colours by 1 + factors[i] * its variance.

    Args:
        image: RGB uint8, (height, width, 3).
        factors: one per component, greatest variance first; variances are of pixels on [0, 1].

    Returns:
        RGB uint8, same shape.
    """
    pixels = image.reshape(-1, 3).T.astype(np.float32, order="C")  # (3, height * width)
    mean = pixels.mean(axis=1, keepdims=True)
    pixels -= mean
    covariance = (pixels @ pixels.T).astype(np.float64) / max(1, pixels.shape[1] - 1) / 255**2
    variances, components = np.linalg.eigh(covariance)
    stretch = np.eye(3) + components * (factors[::-1] * variances) @ components.T
    matrix = np.column_stack([stretch, mean - stretch @ mean])
    return np.array(Image.fromarray(image).convert("RGB", tuple(matrix.ravel().tolist())))
