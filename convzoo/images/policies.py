"""The augmentation policies RandAugment, TrivialAugment and AugMix.

Every operation on an image is a small frozen object called as `operation(image, rng)`; image and
result are RGB uint8 (height, width, 3), and the generator is the only source of randomness. The
draws come from a NumPy generator instead of global state, so they are distributed like those of
timm and torchvision but are not the same numbers.
"""

import math
import re
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import numpy as np
from PIL import Image

from convzoo.images.operations import (
    AUG_MIX,
    OPERATIONS,
    RAND_AUGMENT,
    RAND_AUGMENT_INCREASING,
    RESAMPLING,
    TRIVIAL_AUGMENT_WIDE,
    Color,
)

IMAGENET_FILL = (124, 116, 104)  # RGB, 0-255: the ImageNet mean, rounded
Drawn = tuple[str, float | None]  # name of an operation, and its argument


@dataclass(frozen=True, kw_only=True)
class _Policy:
    """Apply operations with a fill colour and a filter for the geometric ones."""

    fill: Color = IMAGENET_FILL
    interpolation: str = "random"

    def __post_init__(self) -> None:
        if self.interpolation not in RESAMPLING:
            raise ValueError(
                f"interpolation must be one of {', '.join(RESAMPLING)}; got {self.interpolation!r}"
            )

    def _apply(self, image: Image.Image, operation: Drawn, rng: np.random.Generator) -> Image.Image:
        name, argument = operation
        filters = RESAMPLING[self.interpolation]
        resample = filters[0] if len(filters) == 1 else filters[rng.integers(len(filters))]
        return OPERATIONS[name](image, argument, resample, self.fill)


@dataclass(frozen=True, kw_only=True)
class RandAugment(_Policy):
    """Apply a few random operations of about the same magnitude, as timm does.

    Args:
        fill: colour of the pixels that come from outside the image, 0-255.
        interpolation: a key of RESAMPLING; "random" draws bilinear or bicubic for every operation.
        magnitude: strength of the operations, 0 to 10.
        magnitude_std: standard deviation of the strength; above 100 it is uniform on
            [0, magnitude] instead of normal.
        num_operations: how many are drawn, with replacement.
        probability: with which each drawn operation is applied.
        increasing: whether every operation gets stronger with the magnitude.

    Source: Cubuk et al., "RandAugment", arXiv:1909.13719; timm 1.0.31, data/auto_augment.py.
    """

    magnitude: int = 10
    magnitude_std: float = 0.0
    num_operations: int = 2
    probability: float = 0.5
    increasing: bool = False

    def draw(self, rng: np.random.Generator) -> list[Drawn]:
        """Draw the operations for one image."""
        table = RAND_AUGMENT_INCREASING if self.increasing else RAND_AUGMENT
        names = list(table)
        chosen = []
        for index in rng.integers(len(names), size=self.num_operations):
            if rng.random() < self.probability:
                strength, sign = _draw_strength(self.magnitude, self.magnitude_std, rng=rng)
                chosen.append((names[index], table[names[index]](strength, sign)))
        return chosen

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment an RGB uint8 image."""
        chosen = self.draw(rng)
        if not chosen:
            return image
        augmented = Image.fromarray(image)
        for operation in chosen:
            augmented = self._apply(augmented, operation, rng)
        return np.array(augmented)


def _draw_strength(magnitude: float, std: float, *, rng: np.random.Generator) -> tuple[float, int]:
    """Draw a strength on [0, 1] and a sign."""
    if std > 100:
        magnitude = rng.uniform(0, magnitude)
    elif std > 0:
        magnitude = rng.normal(magnitude, std)
    return min(max(magnitude, 0.0), 10.0) / 10.0, 1 - 2 * int(rng.integers(2))


@dataclass(frozen=True, kw_only=True)
class TrivialAugmentWide(_Policy):
    """Apply one operation of random, often great, strength.

    Args:
        fill: colour of the pixels that come from outside the image, 0-255.
        interpolation: a key of RESAMPLING.

    Source: Mueller and Hutter, "TrivialAugment", arXiv:2103.10158; torchvision 0.28.0, whose
    defaults are the ones here.
    """

    fill: Color = (0, 0, 0)
    interpolation: str = "nearest"

    def draw(self, rng: np.random.Generator) -> Drawn:
        """Draw the operation for one image."""
        name = list(TRIVIAL_AUGMENT_WIDE)[rng.integers(len(TRIVIAL_AUGMENT_WIDE))]
        arguments = TRIVIAL_AUGMENT_WIDE[name]
        return name, arguments[int(rng.integers(len(arguments)))]

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment an RGB uint8 image."""
        return np.array(self._apply(Image.fromarray(image), self.draw(rng), rng))


@dataclass(frozen=True, kw_only=True)
class AugMix(_Policy):
    """Blend an image with a random mixture of chains of operations, as timm does.

    Args:
        fill: colour of the pixels that come from outside the image, 0-255.
        interpolation: a key of RESAMPLING.
        magnitude: strength of the operations, 0 to 10.
        magnitude_std: as for RandAugment.
        width: number of chains.
        depth: operations in a chain; 0 draws 1 to 3.
        alpha: concentration of the Dirichlet and Beta distributions of the weights.

    Source: Hendrycks et al., "AugMix", arXiv:1912.02781; timm 1.0.31, data/auto_augment.py.
    """

    magnitude: int = 3
    magnitude_std: float = math.inf
    width: int = 3
    depth: int = 0
    alpha: float = 1.0

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment an RGB uint8 image."""
        weights = rng.dirichlet([self.alpha] * self.width).astype(np.float32)
        share = rng.beta(self.alpha, self.alpha)
        original = Image.fromarray(image)
        chains = (np.asarray(self._chain(original, rng), np.float32) for _ in weights)
        mixed = sum(weight * chain for weight, chain in zip(weights, chains, strict=True))
        blend = Image.fromarray(np.asarray(mixed).clip(0, 255).astype(np.uint8))
        return np.array(Image.blend(original, blend, share))

    def _chain(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for _ in range(self.depth or rng.integers(1, 4)):
            name = list(AUG_MIX)[rng.integers(len(AUG_MIX))]
            strength, sign = _draw_strength(self.magnitude, self.magnitude_std, rng=rng)
            image = self._apply(image, (name, AUG_MIX[name](strength, sign)), rng)
        return image


Policy = RandAugment | AugMix | TrivialAugmentWide
# Class, and key of the policy text -> (field, type).
_POLICY_FIELDS: dict[str, tuple[type[Policy], dict[str, tuple[str, type]]]] = {
    "rand": (
        RandAugment,
        {
            "m": ("magnitude", int),
            "n": ("num_operations", int),
            "mstd": ("magnitude_std", float),
            "inc": ("increasing", int),
            "p": ("probability", float),
        },
    ),
    "augmix": (
        AugMix,
        {
            "m": ("magnitude", int),
            "w": ("width", int),
            "d": ("depth", int),
            "mstd": ("magnitude_std", float),
            "a": ("alpha", float),
        },
    ),
    "ta_wide": (TrivialAugmentWide, {}),
}


def parse_policy(text: str, **settings: Any) -> Policy:
    """Return the policy that a text such as "rand-m9-mstd0.5" names.

    Args:
        text: timm's notation, "rand-m<magnitude>-n<operations>-mstd<deviation>-inc<0|1>-p<share>"
            or "augmix-m<magnitude>-w<width>-d<depth>-mstd<deviation>-a<alpha>", any part but the
            first may be absent; or torchvision's "ta_wide".
        settings: `fill` and `interpolation` where they differ from the class's own.

    Raises:
        ValueError: if a part of the text is unknown, repeated or out of range.
    """
    kind, *parts = text.split("-")
    if kind not in _POLICY_FIELDS:
        kinds = ", ".join(_POLICY_FIELDS)
        raise ValueError(f"augmentation policy must start with one of {kinds}; got {text!r}")
    policy_class, fields = _POLICY_FIELDS[kind]
    values: dict[str, Any] = {}
    for part in parts:
        number = part.lstrip(ascii_lowercase)
        key = part.removesuffix(number)
        field, number_type = fields.get(key, ("", float))
        pattern = r"\d+" if number_type is int else r"\d+(\.\d*)?"
        if not field or field in values or not re.fullmatch(pattern, number):
            keys = ", ".join(f"{key}<number>" for key in fields) or "nothing"
            raise ValueError(
                f"augmentation policy {text!r} has an unknown, repeated or malformed part"
                f" {part!r}; {kind} takes {keys}"
            )
        values[field] = number_type(number)
    limits: dict[str, tuple[float, float]] = {
        "magnitude": (0, 10),
        "increasing": (0, 1),
        "probability": (0, 1),
    }
    limits |= {"num_operations": (1, 15), "width": (1, 15), "alpha": (0.01, 100)}
    for field, (low, high) in limits.items():
        if not low <= values.get(field, low) <= high:
            raise ValueError(
                f"{field} in augmentation policy {text!r} must lie in [{low}, {high}];"
                f" got {values[field]}"
            )
    if "increasing" in values:
        values["increasing"] = bool(values["increasing"])
    return policy_class(**values, **settings)
