"""The operations of the augmentation policies, and each policy's strengths for them.

Pillow's own operations do the work, so a given operation and argument gives exactly the pixels of
timm or torchvision; `benchmarks/augmentation_parity.py` shows it.
"""

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps, ImageStat

RESAMPLING = {
    "nearest": (Image.Resampling.NEAREST,),
    "bilinear": (Image.Resampling.BILINEAR,),
    "bicubic": (Image.Resampling.BICUBIC,),
    "random": (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC),
}
_RAMP = Image.frombytes("L", (256, 1), bytes(range(256)))


def _affine(image, matrix, resample, fill):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill)


def _blend_with_grey(image, grey, factor):
    """Image.blend of an image with one grey level, through a table of the 256 results."""
    table = Image.blend(Image.new("L", _RAMP.size, grey), _RAMP, factor)
    return image.point(list(table.tobytes()) * 3)


def _contrast(image, factor):
    return _blend_with_grey(image, int(ImageStat.Stat(image.convert("L")).mean[0] + 0.5), factor)


def _sharpness(image, factor):
    """ImageEnhance.Sharpness, its filter (1 1 1, 1 5 1, 1 1 1) / 13 in integers: same pixels."""
    pixels = np.asarray(image)
    wide = pixels.astype(np.uint16)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    total = rows[:-2] + rows[1:-1] + rows[2:] + 4 * wide[1:-1, 1:-1]
    smooth = pixels.copy()  # the border stays as it is
    smooth[1:-1, 1:-1] = (total + 6) // 13
    return Image.blend(Image.fromarray(smooth), image, factor)


# name -> (Pillow image, argument, resampling filter, fill colour) -> Pillow image
OPERATIONS = {
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
    "Brightness": lambda image, factor, *_: _blend_with_grey(image, 0, factor),
    "Sharpness": lambda image, factor, *_: _sharpness(image, factor),
    "Rotate": lambda image, degrees, resample, fill: image.rotate(
        degrees, resample, fillcolor=fill
    ),
    "ShearX": lambda image, shear, *rest: _affine(image, (1, shear, 0, 0, 1, 0), *rest),
    "ShearY": lambda image, shear, *rest: _affine(image, (1, 0, 0, shear, 1, 0), *rest),
    "TranslateX": lambda image, pixels, *rest: _affine(image, (1, 0, pixels, 0, 1, 0), *rest),
    "TranslateY": lambda image, pixels, *rest: _affine(image, (1, 0, 0, 0, 1, pixels), *rest),
    "TranslateXRel": lambda image, share, *rest: _affine(
        image, (1, 0, share * image.width, 0, 1, 0), *rest
    ),
    "TranslateYRel": lambda image, share, *rest: _affine(
        image, (1, 0, 0, 0, 1, share * image.height), *rest
    ),
}

# name -> (strength on [0, 1], sign) -> argument. Source: timm 1.0.31, data/auto_augment.py; the
# plain list gets weaker with rising strength in Posterize and Solarize, and so it stays here.
RAND_AUGMENT = {
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
RAND_AUGMENT_INCREASING = RAND_AUGMENT | {
    "Posterize": lambda strength, sign: 4 - int(strength * 4),
    "Solarize": lambda strength, sign: 256 - int(strength * 256),
    **dict.fromkeys(
        ("Color", "Contrast", "Brightness", "Sharpness"),
        lambda strength, sign: max(0.1, 1 + sign * (strength * 0.9)),
    ),
}
AUG_MIX = {
    name: argument
    for name, argument in RAND_AUGMENT_INCREASING.items()
    if name not in ("Invert", "SolarizeAdd")
}


def _bins(low, high):
    return torch.linspace(low, high, 31).tolist()


def _both_signs(values):
    return [sign * value for value in values for sign in (1, -1)]


# name -> equally likely arguments. Source: torchvision 0.28.0, transforms.TrivialAugmentWide.
_TRANSLATIONS = _both_signs([int(pixels) for pixels in _bins(0, 32)])
_FACTORS = [1 + change for change in _both_signs(_bins(0, 0.99))]
TRIVIAL_AUGMENT_WIDE = {
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
    argument: float | None,
    interpolation: str,
    fill: tuple[int, int, int],
) -> np.ndarray:
    """One operation of the policies with a given argument.

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
