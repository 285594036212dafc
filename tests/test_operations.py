"""Recorded figures are from timm 1.0.31 and torchvision 0.28.0 with Pillow 12.3.0 on `IMAGE`.

benchmarks/augmentation_parity.py compares many more arguments with them.
"""

import numpy as np
import pytest

from convzoo.images.operations import (
    AUG_MIX,
    RAND_AUGMENT,
    RAND_AUGMENT_INCREASING,
    TRIVIAL_AUGMENT_WIDE,
    apply_operation,
)

Y, X, C = np.mgrid[:24, :32, :3]
IMAGE = ((Y * 7 + X * 5 + C * 59 + (X * Y) % 17 * 3) % 256).astype(np.uint8)
FILL = (124, 116, 104)

# timm's name of the operation, the argument that timm gives it at level 8.8 with a negative sign,
# the filter, and of its result the sum of all pixels and the pixels [3, 4] and [20, 27].
TIMM = [
    ("AutoContrast", None, "bilinear", 298974, [77, 136, 195], [58, 117, 176]),
    ("Equalize", None, "bilinear", 358563, [56, 184, 255], [43, 164, 255]),
    ("Invert", None, "bilinear", 288549, [178, 119, 60], [197, 138, 79]),
    ("Rotate", -26.4, "bilinear", 297392, [87, 146, 205], [29, 88, 147]),
    ("Posterize", 3, "bilinear", 262848, [64, 128, 192], [32, 96, 160]),
    ("Solarize", 225, "bilinear", 226511, [77, 136, 195], [58, 117, 176]),
    ("SolarizeAdd", 96, "bilinear", 405243, [173, 136, 195], [154, 213, 176]),
    ("Color", 1.684, "bilinear", 298333, [44, 143, 242], [25, 124, 223]),
    ("Contrast", 1.684, "bilinear", 294982, [38, 137, 236], [6, 105, 204]),
    ("Brightness", 1.684, "bilinear", 411145, [129, 229, 255], [97, 197, 255]),
    ("Sharpness", 1.684, "bilinear", 299123, [79, 138, 197], [66, 125, 184]),
    ("ShearX", -0.264, "bicubic", 299352, [64, 123, 182], [39, 98, 157]),
    ("ShearY", -0.264, "bilinear", 302179, [54, 113, 172], [59, 52, 111]),
    ("TranslateXRel", -0.396, "bilinear", 295119, [124, 116, 104], [238, 41, 100]),
    ("TranslateYRel", -0.396, "bicubic", 294886, [124, 116, 104], [249, 52, 111]),
    ("PosterizeIncreasing", 1, "bilinear", 153216, [0, 128, 128], [0, 0, 128]),
    ("SolarizeIncreasing", 31, "bilinear", 218213, [178, 119, 60], [197, 138, 79]),
    ("ColorIncreasing", 0.208, "bilinear", 305745, [115, 127, 139], [96, 108, 120]),
    ("ContrastIncreasing", 0.208, "bilinear", 305576, [122, 134, 146], [118, 130, 142]),
    ("BrightnessIncreasing", 0.208, "bilinear", 61055, [16, 28, 40], [12, 24, 36]),
    ("SharpnessIncreasing", 0.208, "bilinear", 297632, [73, 132, 191], [48, 107, 166]),
]


@pytest.mark.parametrize("case", TIMM, ids=[case[0] for case in TIMM])
def test_operations_agree_with_timm_in_argument_and_pixels(case):
    name, argument, interpolation, total, early, late = case
    table = RAND_AUGMENT
    if name.endswith("Increasing"):
        name, table = name.removesuffix("Increasing"), RAND_AUGMENT_INCREASING
    given = table[name](0.88, -1)
    assert given == (argument if argument is None else pytest.approx(argument))
    result = apply_operation(IMAGE, name, argument=given, interpolation=interpolation, fill=FILL)
    assert result.shape == IMAGE.shape and result.dtype == np.uint8
    assert result.sum() == total
    assert result[3, 4].tolist() == early and result[20, 27].tolist() == late


def test_operations_agree_with_torchvision_in_pixels():
    # torchvision's _apply_op with NEAREST and fill None: Rotate by -76.5 degrees, ShearY by 0.99.
    for name, argument, total, early, late in (
        ("Rotate", -76.5, 236966, [181, 240, 43], [147, 206, 9]),
        ("ShearY", 0.99, 118791, [102, 161, 220], [0, 0, 0]),
    ):
        result = apply_operation(
            IMAGE, name, argument=argument, interpolation="nearest", fill=(0, 0, 0)
        )
        assert result.sum() == total
        assert result[3, 4].tolist() == early and result[20, 27].tolist() == late


def test_posterize_of_full_increasing_strength_keeps_no_bit():
    """So it is in timm: level 10 shows a black image."""
    bits = RAND_AUGMENT_INCREASING["Posterize"](1.0, 1)
    black = apply_operation(IMAGE, "Posterize", argument=bits, interpolation="nearest", fill=FILL)
    assert bits == 0 and not black.any()


def test_trivial_augment_has_torchvisions_table():
    table = TRIVIAL_AUGMENT_WIDE
    assert table["Posterize"] == [int(bits) for bits in "8887777766666555554444433333222"]
    assert table["Solarize"][:2] == [255.0, 246.5] and table["Solarize"][-1] == 0
    # int() of float32 bins; bin 15 is 15.999999 or 16.0, as torch.linspace rounds it.
    pixels = table["TranslateX"][::2]
    assert pixels.pop(15) in (15, 16)
    assert pixels == [*range(15), *range(17, 31), 32]
    for name, bins in {
        "ShearX": [0.0, 0.033, 0.495, 0.99],
        "ShearY": [0.0, 0.033, 0.495, 0.99],
        "Rotate": [0.0, 4.5, 67.5, 135.0],
        "Brightness": [1.0, 1.033, 1.495, 1.99],
        "Sharpness": [1.0, 1.033, 1.495, 1.99],
    }.items():
        positive = table[name][::2]
        assert [positive[i] for i in (0, 1, 15, 30)] == pytest.approx(bins, abs=1e-6)
        middle = 1 if min(bins) == 1 else 0
        assert [2 * middle - value for value in positive] == pytest.approx(table[name][1::2])


def test_augmix_draws_one_to_three_operations_from_thirteen():
    assert set(AUG_MIX) == set(RAND_AUGMENT) - {"Invert", "SolarizeAdd"}
