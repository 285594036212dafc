"""Erasing, mixing and ten crops against closed forms.

benchmarks/augmentation_parity.py compares them with timm 1.0.31 and torchvision 0.28.0.
"""

import math

import numpy as np
import pytest
import torch

from convzoo.images.erasing import _erase_on_gpu, erase, erasing_boxes
from convzoo.images.mixing import MixupCutmix
from convzoo.images.ten_crop import ten_crop


def mixing_of(**settings):
    """A mixing that does nothing but what is set."""
    nothing = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "probability": 1.0, "label_smoothing": 0.0}
    return MixupCutmix(**{**nothing, "switch_probability": 0.5, "num_labels": 10} | settings)


@pytest.mark.parametrize(
    ("probability", "area", "ratio", "max_count"),
    [(0.25, (0.02, 0.33), (0.3, 3.3), 1), (0.4, (0.02, 1 / 3), (0.3, 1 / 0.3), 3)],
    ids=["torchvision", "timm"],
)
def test_erasing_boxes_have_the_stated_geometry(probability, area, *, ratio, max_count):
    rng = np.random.default_rng(0)
    samples = [
        erasing_boxes(
            (1000, 1000), rng, probability=probability, area=area, ratio=ratio, max_count=max_count
        )
        for _ in range(20_000)
    ]
    erased = [boxes for boxes in samples if boxes]
    assert len(erased) / len(samples) == pytest.approx(probability, abs=0.012)
    counts = np.bincount([len(boxes) for boxes in erased], minlength=max_count + 1)[1:]
    assert counts / len(erased) == pytest.approx([1 / max_count] * max_count, abs=0.025)
    for count in range(1, max_count + 1):
        boxes = np.array([box for boxes in erased if len(boxes) == count for box in boxes])
        top, left, height, width = boxes.T
        assert (top >= 0).all() and (top + height <= 1000).all()
        assert (left >= 0).all() and (left + width <= 1000).all()
        share, shape = height * width / 1e6 * count, np.log(height / width)
        assert share.min() > area[0] * 0.97 and share.max() < area[1] * 1.03
        # Uniform; the largest areas with extreme shapes do not fit, hence the tolerance.
        assert share.mean() == pytest.approx(sum(area) / 2, rel=0.04)
        assert shape.mean() == pytest.approx(
            (math.log(ratio[0]) + math.log(ratio[1])) / 2, abs=0.04
        )
        assert shape.std() == pytest.approx(math.log(ratio[1] / ratio[0]) / math.sqrt(12), rel=0.04)


def test_boxes_that_never_fit_are_left_out():
    rng = np.random.default_rng(0)
    # 4 x 400 pixels: half of the area at no more than 1.1 times its height needs 27 rows.
    assert (
        erasing_boxes(
            (4, 400), rng, probability=1.0, area=(0.5, 0.6), ratio=(0.9, 1.1), max_count=2
        )
        == []
    )


def test_erasing_fills_boxes_with_the_mean_and_nothing_else():
    pixel_values = torch.randn(3, 3, 12, 10).to(memory_format=torch.channels_last) + 10
    before = pixel_values.clone()
    boxes = [[(1, 2, 4, 5)], [], [(0, 0, 12, 1), (5, 5, 2, 2)]]
    result = erase(pixel_values, boxes)
    assert result is pixel_values  # in place
    assert result.is_contiguous(memory_format=torch.channels_last)
    expected = before.clone()
    expected[0, :, 1:5, 2:7] = 0
    expected[2, :, :, 0] = 0
    expected[2, :, 5:7, 5:7] = 0
    assert torch.equal(result, expected)
    padded = torch.tensor([[[1, 2, 4, 5], [0] * 4], [[0] * 4] * 2, [[0, 0, 12, 1], [5, 5, 2, 2]]])
    assert torch.equal(erase(before.clone(), padded), expected)


def test_erasing_noise_is_a_function_of_the_sample_not_of_the_batch():
    pixel_values = torch.full((2, 3, 64, 64), 9.0)
    boxes = [[(0, 0, 40, 50)], [(10, 4, 30, 60), (0, 0, 3, 3)]]
    both = erase(
        pixel_values.clone(), boxes, noise=lambda row: np.random.default_rng([5, 100 + row])
    )
    alone = erase(
        pixel_values[1:].clone(), boxes[1:], noise=lambda row: np.random.default_rng([5, 101])
    )
    assert torch.equal(both[1:], alone)
    other = erase(
        pixel_values.clone(), boxes, noise=lambda row: np.random.default_rng([6, 100 + row])
    )
    assert not torch.equal(both, other)
    noise = both[0, :, :40, :50]
    assert noise.mean().item() == pytest.approx(0, abs=0.05)
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    assert (both[0, :, 40:] == 9).all() and (both[0, :, :, 50:] == 9).all()


@pytest.mark.parametrize("fill", ["mean", "noise"])
@pytest.mark.parametrize("max_count", [1, 3])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_what_gpus_fill_at_once_has_the_bits_of_box_after_box(fill, max_count, *, device):
    """The operations of a GPU run on a CPU here, and on a GPU with -m gpu."""
    rng = np.random.default_rng(3)
    settings = {"probability": 0.6, "area": (0.1, 0.5), "ratio": (0.3, 3.3)}
    boxes = [erasing_boxes((20, 30), rng, **settings, max_count=max_count) for _ in range(16)]
    assert [] in boxes
    pixel_values = torch.randn(16, 3, 20, 30).to(memory_format=torch.channels_last)
    noise = (lambda row: np.random.default_rng([5, row])) if fill == "noise" else None
    expected = erase(pixel_values.clone(), boxes, noise=noise)
    assert not torch.equal(expected, pixel_values)
    result = _erase_on_gpu(pixel_values.to(device), boxes, noise)
    assert torch.equal(result.cpu(), expected)
    empty = _erase_on_gpu(pixel_values.to(device), [[]] * 16, noise)
    assert torch.equal(empty.cpu(), erase(pixel_values.clone(), [[]] * 16, noise=noise))


def levels(count, height=20, width=30):
    """Images that show which row a pixel came from: all pixels of row i are i."""
    return torch.arange(count).float()[:, None, None, None].expand(count, 3, height, width)


@pytest.mark.parametrize("mode", ["batch", "elem", "pair"])
@pytest.mark.parametrize("rows", [8, 5, 1])
def test_mixup_blends_images_and_labels_by_the_same_share(mode, rows):
    mixing = mixing_of(mixup_alpha=0.4, num_labels=rows, mode=mode)
    pixels, targets = mixing(levels(rows), torch.arange(rows), np.random.default_rng(1))
    assert pixels.shape == (rows, 3, 20, 30) and targets.shape == (rows, rows)
    assert torch.allclose(targets.sum(dim=1), torch.ones(rows))
    mean_row = targets @ torch.arange(rows).float()
    assert torch.allclose(pixels, mean_row[:, None, None, None].expand_as(pixels), atol=1e-5)
    partners = torch.arange(rows).flip(0)
    shares = targets.diagonal()[partners != torch.arange(rows)]
    assert (targets[torch.arange(rows), partners] > 0).all()
    if rows == 8:
        distinct = {round(share.item(), 5) for share in shares}
        assert len(distinct) == {"batch": 1, "elem": 8, "pair": 4}[mode]
    if mode == "pair":
        assert torch.equal(targets.diagonal(), targets.diagonal().flip(0))


@pytest.mark.parametrize("mode", ["batch", "elem", "pair"])
def test_cutmix_labels_are_the_shares_of_the_real_area(mode):
    boxes = 0
    for seed in range(20):
        mixing = mixing_of(cutmix_alpha=1.0, num_labels=6, mode=mode)
        pixels, targets = mixing(levels(6), torch.arange(6), np.random.default_rng(seed))
        for row in range(6):
            own, other = pixels[row, 0] == row, pixels[row, 0] == 5 - row
            assert (own | other).all() and (pixels[row] == pixels[row, :1]).all()
            assert targets[row, row].item() == pytest.approx(own.float().mean().item(), abs=1e-6)
            inside = other.nonzero()
            if len(inside):  # all of one rectangle
                height, width = (inside.max(dim=0).values - inside.min(dim=0).values + 1).tolist()
                assert height * width == len(inside)
                boxes += 1
    assert boxes > 80


def test_mixing_draws_as_its_definition_says():
    rng = np.random.default_rng(0)
    shares, boxes = mixing_of(mixup_alpha=0.2, probability=0.8).draw(20_000, (224, 224), rng)
    assert (boxes[:, 1] == boxes[:, 0]).all()
    assert (shares == 1).mean() == pytest.approx(0.2, abs=0.03)  # Beta(0.2, 0.2) reaches 1 as well
    # Unmixed in 0.2, else Beta(0.2, 0.2) of mean 1/2 and variance 1 / (4 * 1.4).
    assert shares.mean() == pytest.approx(0.6, abs=0.01)
    assert (shares**2).mean() == pytest.approx(0.2 + 0.8 * (1 / 5.6 + 0.25), abs=0.01)
    _, boxes = mixing_of(mixup_alpha=0.2, cutmix_alpha=1.0, switch_probability=0.3).draw(
        20_000, (224, 224), rng
    )
    top, bottom, _, _ = boxes.T
    assert (bottom > top).mean() == pytest.approx(0.3, abs=0.01)
    assert boxes.min() == 0 and boxes.max() == 224
    # A box whose centre is uniform and side is s (s^2 uniform) loses an expected quarter of s at
    # each of two ends: the mean clipped side is E[s - s^2 / 4] = 2/3 - 1/8.
    sides = (bottom - top)[bottom > top] / 224
    assert sides.mean() == pytest.approx(2 / 3 - 1 / 8, abs=0.01)
    # A side is rounded down, so of 4 pixels at most 3; as in timm's rand_bbox an odd one loses one.
    _, boxes = mixing_of(cutmix_alpha=1.0).draw(1000, (4, 4), rng)
    assert (boxes[:, 1] - boxes[:, 0]).max() == 2


def test_label_smoothing_is_spread_before_mixing():
    # timm's mixup_target([0, 1, 1, 3], 4 classes, lambda 0.3, smoothing 0.1).
    expected = [[0.295, 0.025, 0.025, 0.655], [0.025, 0.925, 0.025, 0.025]]
    expected += [[0.025, 0.925, 0.025, 0.025], [0.655, 0.025, 0.025, 0.295]]
    mixing = mixing_of(mixup_alpha=1.0, label_smoothing=0.1, num_labels=4)
    mixing.draw = lambda *_: (np.array([0.3]), np.zeros((1, 4), int))
    _, targets = mixing(levels(4), torch.tensor([0, 1, 1, 3]), np.random.default_rng(0))
    assert torch.allclose(targets, torch.tensor(expected))


def test_a_batch_that_is_not_mixed_stays_as_it_is():
    pixels = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
    mixed, targets = mixing_of(mixup_alpha=0.2, cutmix_alpha=1.0, probability=0.0, num_labels=3)(
        pixels, torch.tensor([0, 2, 1, 1]), np.random.default_rng(0)
    )
    assert torch.equal(mixed, pixels)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert targets.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0]]


def test_wrong_mixing_settings_are_explained():
    with pytest.raises(ValueError, match="mixup_alpha and cutmix_alpha must be .* got 0.0 and 0"):
        mixing_of(cutmix_alpha=0)
    with pytest.raises(ValueError, match="batch, elem or pair; got 'half'"):
        mixing_of(mixup_alpha=0.2, cutmix_alpha=1.0, mode="half")


def test_ten_crops_come_in_torchvisions_order():
    # First pixel of torchvision's ten_crop(4) of 7 x 5 pixels numbered row by row: the centre is
    # rounded half to even, and the mirrored five are crops of the mirrored image.
    expected = [0, 1, 15, 16, 10, 4, 3, 19, 18, 14]
    numbered = torch.arange(35, dtype=torch.uint8).reshape(1, 7, 5).expand(2, 3, 7, 5)
    crops = ten_crop(numbered, 4)
    assert crops.shape == (2, 10, 3, 4, 4)
    assert crops[1, :, 2, 0, 0].tolist() == expected
    assert torch.equal(crops[0, 5, 0], numbered[0, 0].flip(-1)[:4, :4])
    array = ten_crop(np.moveaxis(numbered[0].numpy(), 0, -1), 4)
    assert array.shape == (10, 4, 4, 3)
    assert (np.moveaxis(array, -1, 1) == crops[0].numpy()).all()
    with pytest.raises(ValueError, match="at least 6 x 6 pixels.*got 7 x 5"):
        ten_crop(numbered, 6)
