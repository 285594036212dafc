"""Recorded figures are from timm 1.0.31 and torchvision 0.28.0 with Pillow 12.3.0 on `IMAGE`.

benchmarks/augmentation_parity.py compares the distributions, too.
"""

import math

import numpy as np
import pytest
from PIL import Image

from convzoo.images import color
from convzoo.images import policies as augmentation
from convzoo.images.color import ColorJitter, PcaColorOffset, PcaColorStretch, stretch_colors
from convzoo.images.policies import AugMix, RandAugment, TrivialAugmentWide, parse_policy

Y, X, C = np.mgrid[:24, :32, :3]
IMAGE = ((Y * 7 + X * 5 + C * 59 + (X * Y) % 17 * 3) % 256).astype(np.uint8)
POLICIES = [
    RandAugment(magnitude=9, magnitude_std=0.5, probability=1.0),
    RandAugment(magnitude=7, increasing=True, probability=1.0),
    TrivialAugmentWide(),
    AugMix(),
    ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    PcaColorOffset(),
    PcaColorStretch(std=30.0, probability=1.0),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_a_policy_is_a_function_of_its_generator_and_leaves_its_input_alone(policy):
    before = IMAGE.copy()
    results = [policy(IMAGE, np.random.default_rng(seed)) for seed in (1, 1, *range(2, 20))]
    assert np.array_equal(IMAGE, before)
    assert (results[0] == results[1]).all()
    assert len({result.tobytes() for result in results}) > 5
    for result in results:
        assert result.shape == IMAGE.shape and result.dtype == np.uint8
        assert result.flags.writeable and result.flags.c_contiguous


@pytest.mark.parametrize("increasing", [False, True])
def test_rand_augment_draws_as_its_definition_says(increasing):
    policy = RandAugment(magnitude=9, magnitude_std=0.5, increasing=increasing)
    rng = np.random.default_rng(0)
    drawn = [policy.draw(rng) for _ in range(20_000)]
    # Two operations of probability 1/2 each: none, one, two in 1/4, 1/2, 1/4 of the images.
    numbers = np.bincount([len(operations) for operations in drawn])
    assert chi_square(numbers, [5000, 10_000, 5000]) < 13.8  # 2 degrees of freedom, p = 0.001
    operations = [operation for operations in drawn for operation in operations]
    counts = [sum(name == known for name, _ in operations) for known in augmentation.RAND_AUGMENT]
    assert chi_square(counts, [len(operations) / 15] * 15) < 36.1  # 14 degrees, p = 0.001
    shares = np.array([value for name, value in operations if name == "TranslateXRel"])
    assert (shares > 0).mean() == pytest.approx(0.5, abs=0.05)
    # The mean of min(Z, 10) for Z of N(9, 0.5) is 9 - 0.5 (phi(2) - 2 (1 - Phi(2))) = 8.99575.
    assert np.abs(shares).mean() == pytest.approx(0.0899575 * 4.5, rel=0.003)
    assert np.abs(shares).max() == 0.45  # 2.3 % of the draws are cut off at level 10
    assert (np.abs(shares) == 0.45).mean() == pytest.approx(0.02275, abs=0.012)
    factors = [value for name, value in operations if name == "Color"]
    assert min(factors) >= 0.1 and max(factors) < 1.9 + 1e-9
    assert (min(factors) < 0.5) == increasing  # the plain list only strengthens colours at 9


def test_a_large_deviation_means_uniform_strength():
    policy = RandAugment(magnitude=8, magnitude_std=math.inf, probability=1.0)
    rng = np.random.default_rng(0)
    operations = [operation for _ in range(20_000) for operation in policy.draw(rng)]
    angles = np.abs([value for name, value in operations if name == "Rotate"])
    assert angles.mean() == pytest.approx(12, rel=0.03)  # uniform on 0 to 24
    assert angles.std() == pytest.approx(24 / math.sqrt(12), rel=0.03)


def test_an_untouched_image_is_handed_back():
    assert RandAugment(probability=0.0)(IMAGE, np.random.default_rng(0)) is IMAGE


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "random"])
def test_policies_use_the_filter_and_fill_they_are_given(interpolation, monkeypatch):
    monkeypatch.setattr(augmentation, "RAND_AUGMENT", {"Rotate": lambda strength, sign: 20.0})
    policy = RandAugment(interpolation=interpolation, fill=(9, 8, 7), probability=1.0)
    policy = RandAugment(**vars(policy) | {"num_operations": 1})
    rng = np.random.default_rng(0)
    results = {policy(IMAGE, rng).tobytes() for _ in range(20)}
    filters = ["bilinear", "bicubic"] if interpolation == "random" else [interpolation]
    expected = {
        np.asarray(
            Image.fromarray(IMAGE).rotate(20.0, Image.Resampling[name.upper()], fillcolor=(9, 8, 7))
        ).tobytes()
        for name in filters
    }
    assert results == expected
    with pytest.raises(ValueError, match="interpolation must be one of nearest.*got 'cubic'"):
        RandAugment(interpolation="cubic")


def test_policy_texts_are_read_as_timm_reads_them():
    assert parse_policy("rand-m9-mstd0.5") == RandAugment(
        magnitude=9, magnitude_std=0.5, num_operations=2, probability=0.5, increasing=False
    )
    assert parse_policy("rand-m7-mstd0.5-inc1") == RandAugment(
        magnitude=7, magnitude_std=0.5, increasing=True
    )
    assert parse_policy("rand-n3-p0.25-inc0", interpolation="bicubic", fill=(1, 2, 3)) == (
        RandAugment(
            fill=(1, 2, 3),
            interpolation="bicubic",
            magnitude=10,
            num_operations=3,
            probability=0.25,
        )
    )
    assert parse_policy("rand") == RandAugment(
        fill=(124, 116, 104),
        interpolation="random",
        magnitude=10,
        magnitude_std=0.0,
        num_operations=2,
        probability=0.5,
        increasing=False,
    )
    assert parse_policy("augmix-m5-w4-d2") == AugMix(magnitude=5, width=4, depth=2)
    assert parse_policy("ta_wide") == TrivialAugmentWide(fill=(0, 0, 0), interpolation="nearest")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must start with one of rand, augmix, ta_wide; got ''"),
        ("random-m9", "must start with"),
        ("rand-m9.5", "malformed part 'm9.5'; rand takes m<number>"),
        ("rand-m", "malformed part 'm'"),
        ("rand-m9-m8", "repeated"),
        ("rand-mstd", "malformed part 'mstd'"),
        ("rand-q3", "unknown"),
        ("rand-m9-", "malformed part ''"),
        ("rand-m9-tweights", "malformed part 'tweights'"),
        ("rand-mstd-0.5", "malformed"),
        ("rand-m11", r"magnitude in .*'rand-m11' must lie in \[0, 10\]; got 11"),
        ("rand-inc2", "increasing"),
        ("rand-p1.5", "probability"),
        ("rand-n0", "num_operations"),
        ("ta_wide-m3", "ta_wide takes nothing"),
    ],
)
def test_wrong_policy_texts_are_explained(text, message):
    with pytest.raises(ValueError, match=message):
        parse_policy(text)


def test_trivial_augment_draws_every_operation_and_argument_alike():
    rng = np.random.default_rng(0)
    policy = TrivialAugmentWide()
    drawn = [policy.draw(rng) for _ in range(20_000)]
    names = [name for name, _ in drawn]
    counts = [names.count(name) for name in sorted(set(names))]
    assert len(counts) == 14
    assert chi_square(counts, [20_000 / 14] * 14) < 34.5  # 13 degrees of freedom, p = 0.001
    angles = np.array([value for name, value in drawn if name == "Rotate"])
    # 62 equally likely values k * 4.5, both signs: the square's mean is 135^2 * 61 / 180.
    assert (angles**2).mean() == pytest.approx(135**2 * 61 / 180, rel=0.08)


def test_augmix_is_the_weighted_mean_of_its_chains(monkeypatch):
    """With Invert as the only operation the mixture has a closed form."""
    monkeypatch.setattr(augmentation, "AUG_MIX", {"Invert": lambda strength, sign: None})
    for seed in range(5):
        result = AugMix(depth=1)(IMAGE, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        rng.dirichlet([1.0] * 3)
        share = rng.beta(1, 1)
        expected = IMAGE + share * (255.0 - 2 * IMAGE.astype(float))
        assert np.abs(result - expected).max() <= 2  # two truncations


def test_color_jitter_multiplies_by_factors_of_the_stated_range():
    image = np.full((4, 4, 3), 100, np.uint8)
    rng = np.random.default_rng(0)
    levels = [ColorJitter(brightness=0.4)(image, rng)[0, 0, 0] for _ in range(2000)]
    assert min(levels) in (60, 61) and max(levels) in (138, 139)
    assert np.mean(levels) == pytest.approx(99.5, abs=1)  # truncated
    assert (ColorJitter(contrast=0.9)(image, rng) == 100).all()  # the mean grey stays
    assert (ColorJitter(saturation=0.9)(image, rng) == 100).all()  # a grey image stays
    assert (ColorJitter()(image, rng) == image).all()
    half = IMAGE // 4 * 4
    contrast = ColorJitter(contrast=0.5)(half, rng)
    assert contrast.mean() == pytest.approx(half.mean(), abs=3)
    assert abs(contrast.std() / half.std() - 1) > 0.01


def test_hue_agrees_with_torchvision():
    # Sum, pixels [3, 4] and [20, 27] of torchvision's adjust_hue on IMAGE.
    for turns, total, early, late in (
        (0.2, 319582, [158, 77, 195], [139, 59, 176]),
        (-0.31, 282050, [122, 195, 77], [103, 176, 59]),
        (0.5, 292100, [195, 130, 77], [176, 111, 59]),
    ):
        result = np.asarray(color.shift_hue(Image.fromarray(IMAGE), turns))
        assert result.sum() == total
        assert result[3, 4].tolist() == early and result[20, 27].tolist() == late


@pytest.mark.parametrize("setting", [{"brightness": -0.1}, {"hue": 0.6}])
def test_color_jitter_refuses_impossible_strengths(setting):
    with pytest.raises(ValueError, match="of ColorJitter must lie in"):
        ColorJitter(**setting)


def test_pca_offset_adds_one_color_along_the_components():
    image = np.clip(IMAGE, 60, 190)
    result = PcaColorOffset()(image, np.random.default_rng(3))
    (offset,) = {tuple(row) for row in (result.astype(int) - image).reshape(-1, 3).tolist()}
    assert np.abs(offset - PcaColorOffset().offset(np.random.default_rng(3))).max() <= 0.5
    rng = np.random.default_rng(0)
    offsets = np.array([PcaColorOffset().offset(rng) for _ in range(20_000)])
    # Red: 25.5 sqrt((0.5675 * 0.2175)^2 + (0.7192 * 0.0188)^2 + (0.4009 * 0.0045)^2) = 3.1668,
    # green and blue alike; the dominant component is nearly grey.
    assert offsets.std(axis=0) == pytest.approx([3.1668, 3.2227, 3.2543], rel=0.02)
    assert np.corrcoef(offsets.T).min() > 0.97
    assert offsets.mean(axis=0) == pytest.approx([0, 0, 0], abs=0.1)


def test_pca_stretch_scales_a_known_component():
    """Half of the pixels have red 40, half 240: one component, variance (100/255)^2 n/(n-1)."""
    image = np.full((10, 10, 3), 77, np.uint8)
    image[:, :5, 0], image[:, 5:, 0] = 40, 240
    variance = (100 / 255) ** 2 * 100 / 99
    factor = -3.0
    result = stretch_colors(image, np.array([factor, 50.0, -20.0]))
    shift = 100 * (1 + factor * variance)
    assert (result[:, :5, 0] == round(140 - shift)).all()
    assert (result[:, 5:, 0] == round(140 + shift)).all()
    assert (result[..., 1:] == 77).all()
    assert (PcaColorStretch(probability=0.0)(image, np.random.default_rng(0)) == image).all()


def test_pca_stretch_agrees_with_the_definition_in_double_precision():
    factors = np.array([0.9, -4.0, 12.0])
    pixels = IMAGE.reshape(-1, 3) / 255
    centred = pixels - pixels.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(centred.T))
    scores = centred @ vectors[:, ::-1] * (1 + factors * values[::-1])
    expected = ((scores @ vectors[:, ::-1].T + pixels.mean(axis=0)) * 255).clip(0, 255)
    difference = np.abs(stretch_colors(IMAGE, factors).reshape(-1, 3) - expected)
    assert difference.max() < 0.51


def chi_square(counts, expected):
    return sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True))
