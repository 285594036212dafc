"""The operations of the augmentation policies, and each policy's strengths for them.

Pillow's own operations do the work, so a given operation and argument gives exactly the pixels of
timm or torchvision; `benchmarks/augmentation_parity.py` shows it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps, ImageStat

RESAMPLING = {
    "nearest": (Image.Resampling.NEAREST,),
    "bilinear": (Image.Resampling.BILINEAR,),
    "bicubic": (Image.Resampling.BICUBIC,),
    "random": (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC),
}
Color = tuple[int, int, int]  # RGB, 0-255
_RAMP = Image.frombytes("L", (256, 1), bytes(range(256)))


def _affine(
    image: Image.Image,
    matrix: tuple[float, ...],
    *,
    resample: Image.Resampling,
    fill: Color,
) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill)


def _blend_with_grey(image: Image.Image, grey: int, *, factor: float) -> Image.Image:
    """Image.blend of an image with one grey level, through a table of the 256 results."""
    table = Image.blend(Image.new("L", _RAMP.size, grey), _RAMP, factor)
    return image.point(list(table.tobytes()) * 3)


def _contrast(image: Image.Image, factor: float) -> Image.Image:
    grey = int(ImageStat.Stat(image.convert("L")).mean[0] + 0.5)
    return _blend_with_grey(image, grey, factor=factor)


def _sharpness(image: Image.Image, factor: float) -> Image.Image:
    """ImageEnhance.Sharpness, its filter (1 1 1, 1 5 1, 1 1 1) / 13 in integers: same pixels."""
    pixels = np.asarray(image)
    wide = pixels.astype(np.uint16)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    total = rows[:-2] + rows[1:-1] + rows[2:] + 4 * wide[1:-1, 1:-1]
    smooth = pixels.copy()  # the border stays as it is
    smooth[1:-1, 1:-1] = (total + 6) // 13
    return Image.blend(Image.fromarray(smooth), image, factor)


# Pillow image, argument, resampling filter and fill colour -> Pillow image. An argument is in bits,
# grey levels, degrees, pixels, a factor, a shear or a share of the side, or None.
Operation = Callable[[Image.Image, Any, Image.Resampling, Color], Image.Image]


def _geometric(matrix: Callable[[Image.Image, float], tuple[float, ...]]) -> Operation:
    """Return the operation that moves pixels by matrix(image, argument)."""
    return lambda image, argument, resample, fill: _affine(
        image, matrix(image, argument), resample=resample, fill=fill
    )


OPERATIONS: dict[str, Operation] = {
    "Identity": lambda image, *_: image,
    "AutoContrast": lambda image, *_: ImageOps.autocontrast(image),
    "Equalize": lambda image, *_: ImageOps.equalize(image),
    "Invert": lambda image, *_: ImageOps.invert(image),
    "Posterize": lambda image, bits, *_: ImageOps.posterize(image, bits),
    "Solarize": lambda image, threshold, *_: ImageOps.solarize(image, threshold),
    "SolarizeAdd": lambda image, add, *_: image.point(
        [min(255, i + add) if i < 128 else i for i in range(256)] * 3
    ),
    "Color": lambda image, factor, *_: ImageEnhance.Color(image).enhance(factor),
    "Contrast": lambda image, factor, *_: _contrast(image, factor),
    "Brightness": lambda image, factor, *_: _blend_with_grey(image, 0, factor=factor),
    "Sharpness": lambda image, factor, *_: _sharpness(image, factor),
    "Rotate": lambda image, degrees, resample, fill: image.rotate(
        degrees, resample, fillcolor=fill
    ),
    "ShearX": _geometric(lambda image, shear: (1, shear, 0, 0, 1, 0)),
    "ShearY": _geometric(lambda image, shear: (1, 0, 0, shear, 1, 0)),
    "TranslateX": _geometric(lambda image, pixels: (1, 0, pixels, 0, 1, 0)),
    "TranslateY": _geometric(lambda image, pixels: (1, 0, 0, 0, 1, pixels)),
    "TranslateXRel": _geometric(lambda image, share: (1, 0, share * image.width, 0, 1, 0)),
    "TranslateYRel": _geometric(lambda image, share: (1, 0, 0, 0, 1, share * image.height)),
}

# name -> (strength on [0, 1], sign) -> argument. Source: timm 1.0.31, data/auto_augment.py; the
# plain list gets weaker with rising strength in Posterize and Solarize, and so it stays here.
Arguments = Mapping[str, Callable[[float, int], float | None]]
RAND_AUGMENT: Arguments = {
    "AutoContrast": lambda strength, sign: None,
    "Equalize": lambda strength, sign: None,
    "Invert": lambda strength, sign: None,
    "Rotate": lambda strength, sign: sign * (strength * 30),
    "Posterize": lambda strength, sign: int(strength * 4),
    "Solarize": lambda strength, sign: int(strength * 256),
    "SolarizeAdd": lambda strength, sign: int(strength * 110),
    "Color": lambda strength, sign: strength * 1.8 + 0.1,
    "Contrast": lambda strength, sign: strength * 1.8 + 0.1,
    "Brightness": lambda strength, sign: strength * 1.8 + 0.1,
    "Sharpness": lambda strength, sign: strength * 1.8 + 0.1,
    "ShearX": lambda strength, sign: sign * (strength * 0.3),
    "ShearY": lambda strength, sign: sign * (strength * 0.3),
    "TranslateXRel": lambda strength, sign: sign * (strength * 0.45),
    "TranslateYRel": lambda strength, sign: sign * (strength * 0.45),
}
RAND_AUGMENT_INCREASING: Arguments = {
    **RAND_AUGMENT,
    "Posterize": lambda strength, sign: 4 - int(strength * 4),
    "Solarize": lambda strength, sign: 256 - int(strength * 256),
    **dict.fromkeys(
        ("Color", "Contrast", "Brightness", "Sharpness"),
        lambda strength, sign: max(0.1, 1 + sign * (strength * 0.9)),
    ),
}
AUG_MIX: Arguments = {
    name: argument
    for name, argument in RAND_AUGMENT_INCREASING.items()
    if name not in ("Invert", "SolarizeAdd")
}


def _bins(low: float, high: float) -> list[float]:
    bins: list[float] = torch.linspace(low, high, 31).tolist()
    return bins


def _both_signs(values: Sequence[float]) -> list[float]:
    return [sign * value for value in values for sign in (1, -1)]


# name -> equally likely arguments. Source: torchvision 0.28.0, transforms.TrivialAugmentWide.
_TRANSLATIONS = _both_signs([int(pixels) for pixels in _bins(0, 32)])
_FACTORS = [1 + change for change in _both_signs(_bins(0, 0.99))]
TRIVIAL_AUGMENT_WIDE: dict[str, Sequence[float | None]] = {
    "Identity": [None],
    "ShearX": _both_signs(_bins(0, 0.99)),
    "ShearY": _both_signs(_bins(0, 0.99)),
    "TranslateX": _TRANSLATIONS,
    "TranslateY": _TRANSLATIONS,
    "Rotate": _both_signs(_bins(0, 135)),
    "Brightness": _FACTORS,
    "Color": _FACTORS,
    "Contrast": _FACTORS,
    "Sharpness": _FACTORS,
    "Posterize": [8 - round(6 * i / 30) for i in range(31)],
    "Solarize": _bins(255, 0),
    "AutoContrast": [None],
    "Equalize": [None],
}


def apply_operation(
    image: np.ndarray,
    name: str,
    *,
    argument: float | None,
    interpolation: str,
    fill: Color,
) -> np.ndarray:
    """Apply one operation of the policies with a given argument.

    Args:
        image: RGB uint8, (height, width, 3).
        name: a key of OPERATIONS.
        argument: bits, grey levels, factor, degrees, shear, pixels or share of the side.
        interpolation: "nearest", "bilinear" or "bicubic", for the geometric operations.
        fill: colour of the pixels that come from outside the image, 0-255.

    Returns:
        RGB uint8, same shape.
    """
    (resample,) = RESAMPLING[interpolation]
    return np.array(OPERATIONS[name](Image.fromarray(image), argument, resample, fill))
