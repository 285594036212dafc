import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from convzoo.images.color import ColorJitter, PcaColorOffset
from convzoo.images.crops import crop_size_at, random_resized_box, resize
from convzoo.images.decoding import decode_rgb, open_for_cropping
from convzoo.images.normalize import Normalize
from convzoo.images.policies import parse_policy
from convzoo.images.train_transform import TrainTransform, sample_rng
from convzoo.recipe.settings import Augmentation, Preprocessing
from tests.support.images import smooth_image


def protocol(size, **settings):
    """The preprocessing section with crops of this size."""
    return Preprocessing(crop=size, **{"resize": size} | settings)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(50, 70), (301, 207)])
def test_resize_agrees_with_pillow_to_one_grey_level(name, size):
    image = smooth_image(180, 230)
    expected = Image.fromarray(image).resize(size[::-1], Image.Resampling[name.upper()])
    difference = np.abs(
        resize(image, size, interpolation=name).astype(int) - np.asarray(expected).astype(int)
    )
    assert difference.max() <= 1


def test_random_resized_boxes_have_the_areas_and_ratios_that_were_asked_for():
    rng = np.random.default_rng(0)
    scale, ratio = (0.2, 0.6), (0.5, 2.0)
    boxes = np.array(
        [random_resized_box((1000, 1000), rng, scale=scale, ratio=ratio) for _ in range(4000)]
    )
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (top + height <= 1000).all()
    assert (left >= 0).all() and (left + width <= 1000).all()
    areas, shapes = height * width / 1e6, np.log(width / height)
    # Uniform distributions: mean (a + b) / 2, standard deviation (b - a) / sqrt(12); the few draws
    # that do not fit a square are drawn again, hence the tolerance.
    assert areas.mean() == pytest.approx(0.4, abs=0.015)
    assert areas.std() == pytest.approx(0.4 / math.sqrt(12), rel=0.05)
    assert shapes.mean() == pytest.approx(0, abs=0.03)
    assert shapes.std() == pytest.approx(math.log(4) / math.sqrt(12), rel=0.05)


def test_a_box_that_never_fits_is_the_largest_centred_one():
    rng = np.random.default_rng(0)
    # 10 x 400 pixels: every area of at least 0.5 needs a wider box than ratio 4/3 allows.
    box = random_resized_box((10, 400), rng, scale=(0.5, 1), ratio=(3 / 4, 4 / 3))
    assert box == (0, 193, 10, 13)


@pytest.mark.parametrize("crop", ["random_resized", "padded", "center"])
def test_a_sample_is_a_function_of_its_seed_and_number(crop):
    transform = TrainTransform(Augmentation(crop=crop), protocol(32))
    image = smooth_image(61, 47)
    first = transform(image, sample_rng(7, 100))
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, transform(image, sample_rng(7, 100)))
    others = [transform(image, sample_rng(7, 101 + i)) for i in range(4)]
    assert any(not np.array_equal(first, other) for other in others)


def test_half_of_the_images_are_mirrored():
    settings = Augmentation(crop="center", horizontal_flip=0.5)
    transform = TrainTransform(settings, protocol(32))
    image = smooth_image(32, 32)
    crops = [transform(image, sample_rng(0, i)) for i in range(400)]
    mirrored = sum(np.array_equal(crop, image[:, ::-1]) for crop in crops)
    assert mirrored + sum(np.array_equal(crop, image) for crop in crops) == 400
    assert 160 <= mirrored <= 240  # 200 +- 4 standard deviations


def test_padded_crops_reach_every_offset_and_pad_with_black():
    settings = Augmentation(crop="padded", padding=2, horizontal_flip=0.0)
    transform = TrainTransform(settings, protocol(8))
    image = smooth_image(8, 8).clip(1)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[y : y + 8, x : x + 8].tobytes() for y in range(5) for x in range(5)}
    crops = {transform(image, sample_rng(0, i)).tobytes() for i in range(300)}
    assert crops == windows


def test_normalize_is_the_textbook_formula():
    pixels = torch.randint(0, 256, (2, 5, 4, 3), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ours = Normalize(rescale_factor=1 / 255, mean=mean, std=std)(pixels)
    scaled = pixels.double().permute(0, 3, 1, 2) / 255
    expected = (scaled - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(ours.double(), expected, atol=2e-6, rtol=0)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_operations_of_the_recipe_work_on_the_crop_in_order():
    settings = Augmentation(
        crop="center", policy="rand-m9-mstd0.5", color_jitter=(0.4, 0.4, 0.4), pca_noise="offset"
    )
    transform = TrainTransform(settings, protocol(32))
    image, rng = smooth_image(32, 32), sample_rng(1, 2)
    ours = transform(image, rng)
    boxes = transform.erasing_boxes(rng)
    rng = sample_rng(1, 2)
    expected = image[:, ::-1].copy() if rng.random() < 0.5 else image
    for operation in (
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        parse_policy(settings.policy),
        PcaColorOffset(),
    ):
        expected = operation(expected, rng)
    assert np.array_equal(ours, expected) and boxes == []


def test_erasing_follows_the_recipe():
    settings = Augmentation(erasing=1.0, erasing_area=(0.1, 0.2), erasing_max_count=3)
    transform = TrainTransform(settings, protocol(64))
    counts = set()
    for position in range(50):
        boxes = transform.erasing_boxes(sample_rng(0, position))
        counts.add(len(boxes))
        assert sum(height * width for _, _, height, width in boxes) <= 0.21 * 64 * 64
    assert counts == {1, 2, 3}


def test_an_unknown_policy_is_explained_before_training():
    with pytest.raises(ValueError, match="rand-x9"):
        TrainTransform(Augmentation(policy="rand-x9"), protocol(32))


def jpegs(count):
    """JPEG files of many sizes, some of them progressive or of other subsamplings."""
    rng = np.random.default_rng(0)
    for number in range(count):
        buffer = io.BytesIO()
        image = Image.fromarray(smooth_image(*rng.integers(20, 200, 2), number))
        image.save(buffer, "JPEG", subsampling=number % 3, progressive=number % 5 == 4)
        yield buffer.getvalue()


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("crop", ["random_resized", "padded", "random", "center"])
def test_a_crop_that_is_decoded_alone_is_bit_equal(crop, num_channels):
    settings = Augmentation(crop=crop, interpolation="random")
    transform = TrainTransform(settings, protocol(32, resize=40), num_channels=num_channels)
    for number, data in enumerate(jpegs(10)):
        for position in range(5):
            ours = transform(open_for_cropping(data, num_channels), sample_rng(number, position))
            reference = transform(decode_rgb(data, num_channels), sample_rng(number, position))
            assert ours.shape == (32, 32, num_channels)
            assert np.array_equal(ours, reference)


def test_a_random_crop_is_a_window_of_the_resized_image():
    settings = Augmentation(crop="random", horizontal_flip=0.0)
    transform = TrainTransform(settings, protocol(8, resize=10))
    image = smooth_image(40, 48)
    small = resize(image, (10, 12), interpolation="bilinear")
    windows = {small[y : y + 8, x : x + 8].tobytes() for y in range(3) for x in range(5)}
    crops = {transform(image, sample_rng(0, i)).tobytes() for i in range(200)}
    assert crops == windows
    # At half the size the image is half as large, too: 5 x 6 pixels with crops of 4.
    small = resize(image, (5, 6), interpolation="bilinear")
    windows = {small[y : y + 4, x : x + 4].tobytes() for y in range(2) for x in range(3)}
    assert {transform(image, sample_rng(0, i), size=4).tobytes() for i in range(99)} == windows


def test_the_filter_is_the_recipes_own_or_that_of_evaluation_or_random():
    image = smooth_image(40, 40)
    made = {
        name: resize(image, (16, 16), interpolation=name).tobytes()
        for name in ("bilinear", "bicubic")
    }
    for setting, expected in (
        ("same", {"bicubic"}),
        ("bilinear", {"bilinear"}),
        ("bicubic", {"bicubic"}),
        ("random", {"bilinear", "bicubic"}),
    ):
        settings = Augmentation(crop="center", interpolation=setting, horizontal_flip=0.0)
        transform = TrainTransform(settings, protocol(16, interpolation="bicubic"))
        crops = {transform(image, sample_rng(0, i)).tobytes() for i in range(30)}
        assert crops == {made[name] for name in expected}


def test_grey_images_are_resized_as_by_pillow():
    image = smooth_image(180, 230)[..., :1]
    expected = Image.fromarray(image[..., 0]).resize((70, 50), Image.Resampling.BILINEAR)
    difference = resize(image, (50, 70), interpolation="bilinear")[..., 0].astype(int) - np.asarray(
        expected
    )
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    "settings", [{"policy": "ta_wide"}, {"color_jitter": (0.4,)}, {"pca_noise": "offset"}]
)
def test_colour_operations_need_three_channels(settings):
    with pytest.raises(ValueError, match="need images of 3 channels; got model.num_channels=1"):
        TrainTransform(Augmentation(**settings), protocol(32), num_channels=1)


def test_crops_grow_in_steps_of_32_pixels_along_a_straight_line():
    sizes = [
        crop_size_at(step, first_crop=128, full_crop=224, growing=range(600)) for step in range(700)
    ]
    # The line 128 + 0.16 * step passes 144, 176 and 208, where rounding changes, at these steps.
    assert sizes == [128] * 101 + [160] * 199 + [192] * 201 + [224] * 199
    small = [crop_size_at(step, first_crop=16, full_crop=30, growing=range(5)) for step in range(6)]
    assert small == [16, 20, 20, 24, 28, 30]
    assert crop_size_at(0, first_crop=0, full_crop=224, growing=range(100)) == 224
    assert crop_size_at(0, first_crop=128, full_crop=224, growing=range(0)) == 224
    late = [crop_size_at(s, first_crop=32, full_crop=64, growing=range(4, 6)) for s in range(8)]
    assert late == [32, 32, 32, 32, 32, 64, 64, 64]  # 48 lies between, and 1.5 goes to 2


def test_a_transform_grows_its_crops_and_the_boxes_on_them():
    settings = Augmentation(first_crop=64, erasing=1.0, erasing_area=(0.3, 0.3))
    transform = TrainTransform(settings, protocol(128), growing=range(10))
    for step, size in ((0, 64), (4, 96), (10, 128)):
        assert transform.size_at(step) == size
        rng = sample_rng(0, step)
        assert transform(smooth_image(150, 130), rng, size=transform.size_at(step)).shape == (
            size,
            size,
            3,
        )
        (box,) = transform.erasing_boxes(rng, size)
        assert box[2] * box[3] == pytest.approx(0.3 * size**2, rel=0.05)
    with pytest.raises(ValueError, match="first_crop must be at most preprocessing.crop, 32; got"):
        TrainTransform(settings, protocol(32))
