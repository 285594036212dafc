"""Corruptions against the authors' code, whose pixels lie in tests/golden/corruptions.json."""

import json

import numpy as np
import pytest
from PIL import Image

from convzoo.images.corruption_filters import frost_overlay, plasma_fractal, zoomed
from convzoo.images.corruptions import CORRUPTIONS, SEVERITIES, as_jpeg, corrupt, to_bytes
from tests.support.clients import ROOT

GOLDEN = json.loads((ROOT / "tests/golden/corruptions.json").read_text())
RANDOM = ("noise", "glass", "motion", "snow", "frost", "fog", "elastic")
DIGEST = bytes(32)


@pytest.fixture(scope="module")
def photo():
    """The centre of a photograph, as ImageNet's classic protocol crops it."""
    with Image.open(ROOT / GOLDEN["image"]) as opened:
        image = opened.convert("RGB")
    scale = 256 / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


@pytest.mark.parametrize("name", GOLDEN["pixels"])
def test_pixels_are_those_of_the_authors_code(photo, name):
    """With the same random numbers, before the JPEG: at most one grey level of rounding apart."""
    rows, columns = np.array(GOLDEN["places"]).T
    for severity in SEVERITIES:
        random = np.random.default_rng(GOLDEN["seed"])
        ours = to_bytes(CORRUPTIONS[name](photo / 255.0, severity - 1, random))
        theirs = GOLDEN["pixels"][name][severity - 1]
        assert np.abs(ours[rows, columns].astype(int) - theirs).max() <= 1, severity
        means = GOLDEN["means"][name][severity - 1]
        assert np.allclose(ours.mean(axis=(0, 1)), means, atol=0.1), severity


def test_all_but_frost_are_compared():
    assert [*CORRUPTIONS] == GOLDEN["order"]
    assert CORRUPTIONS.keys() - GOLDEN["pixels"].keys() == {"frost"}


def test_frost_is_as_bright_and_as_even_as_the_photographs():
    seen = np.array([stats(frost_overlay((224, 224), np.random.default_rng(n))) for n in range(20)])
    photographs = np.array([[*each["mean"], each["deviation"]] for each in GOLDEN["frost"]])
    distance = np.abs(seen[:, None] - photographs).max(axis=-1)
    assert distance.min(axis=1).max() < 6  # grey levels from the photograph that it stands for
    assert {*distance.argmin(axis=1).tolist()} == {0, 1, 3, 4}  # the authors' third is their second


def stats(overlay):
    return [*(overlay * 255).mean(axis=(0, 1)), (overlay * 255).mean(axis=2).std()]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_has_its_own_noise_whenever_it_comes(photo, name):
    first = corrupt(photo, name, 3, digest=DIGEST)
    corrupt(photo, name, 4, digest=DIGEST)
    assert np.array_equal(corrupt(photo, name, 3, digest=DIGEST), first)
    other = corrupt(photo, name, 3, digest=b"another image")
    assert np.array_equal(other, first) != any(word in name for word in RANDOM)


@pytest.mark.parametrize("shape", [(32, 32), (96, 61)])
def test_other_sizes_stay_as_they_are(shape):
    image = np.random.default_rng(0).integers(0, 256, size=(*shape, 3)).astype(np.uint8)
    for name in CORRUPTIONS:
        corrupted = corrupt(image, name, 5, digest=DIGEST)
        assert corrupted.shape == image.shape and corrupted.dtype == np.uint8, name
        assert corrupted.std() > 0 or name == "contrast", name


def test_what_has_no_edges_is_not_changed_by_blurs():
    even = np.full((64, 64, 3), (200, 100, 50)) / 255
    for name in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "pixelate"):
        after = to_bytes(CORRUPTIONS[name](even, 2, np.random.default_rng(0)))
        assert (after == (200, 100, 50)).all(), name
    brighter = to_bytes(CORRUPTIONS["brightness"](even, 0, np.random.default_rng(0)))
    assert (brighter == [225, 112, 56]).all()  # 200 + 25.5, and the same factor for all channels


def test_the_amount_of_noise_is_as_defined():
    grey = np.full((256, 256, 3), 0.5)
    random = np.random.default_rng(0)
    for level, scale in enumerate((0.08, 0.12, 0.18, 0.26, 0.38)):
        assert CORRUPTIONS["gaussian_noise"](grey, level, random).std() == pytest.approx(
            scale, rel=0.02
        )
    for level, photons in enumerate((60, 25, 12, 5, 3)):  # of a Poisson variable
        deviation = (0.5 / photons) ** 0.5
        noisy = CORRUPTIONS["shot_noise"](grey, level, random)
        assert noisy.std() == pytest.approx(deviation, rel=0.02)
        assert noisy.mean() == pytest.approx(0.5, rel=0.02)
    for level, share in enumerate((0.03, 0.06, 0.09, 0.17, 0.27)):
        hit = CORRUPTIONS["impulse_noise"](grey, level, random) != 0.5
        assert hit.mean() == pytest.approx(share, rel=0.05)


def test_files_of_the_benchmark_went_through_jpeg(photo):
    contrast = to_bytes(CORRUPTIONS["contrast"](photo / 255.0, 1, np.random.default_rng(0)))
    assert np.array_equal(corrupt(photo, "contrast", 2, digest=DIGEST), as_jpeg(contrast, 85))


def test_what_cannot_be_corrupted_is_refused(photo):
    cases = {
        "one of gaussian_noise": (photo, "rain", 1),
        "severity of a corruption must be 1 to 5": (photo, "fog", 6),
        "at least 32 pixels; got 31 x 40": (photo[:40, :31], "fog", 1),
        r"uint8, \(height, width, 3\); got float64": (photo / 255, "fog", 1),
        r"got uint8, \(224, 224\)": (photo[..., 0], "fog", 1),
    }
    for sentence, (image, name, severity) in cases.items():
        with pytest.raises(ValueError, match=sentence):
            corrupt(image, name, severity, digest=DIGEST)


def test_parts_of_filters_keep_their_promises():
    cloud = plasma_fractal((256, 256), 2, np.random.default_rng(0))
    assert (cloud.min(), cloud.max()) == (0, 1)
    ramp = np.arange(64.0)[:, None, None] * np.ones((1, 64, 1))
    assert np.allclose(zoomed(ramp, 1), ramp)
    middle = zoomed(ramp, 2)
    assert np.allclose(np.diff(middle[:, 0, 0]), 31 / 63)  # 32 pixels become 64, ends on ends
    assert middle.mean() == pytest.approx(31.5)
