"""Another crop of the image, on the processors that models have."""

import numpy as np
import pytest
from PIL import Image
from transformers import ConvNextImageProcessorPil, ViTImageProcessorPil
from transformers.image_processing_utils import BaseImageProcessor

from convzoo.evaluation.crop_settings import FILTERS, CropSettings
from modeling import ConvZooImageProcessor


@pytest.mark.parametrize(
    ("settings", "resized", "side"),
    [
        ({"size": 160}, 182, 160),  # 160 * 256 / 224 is 182.9
        ({"size": 288}, 329, 288),
        ({"size": 224, "ratio": 0.95}, 235, 224),  # as timm's, of a QLNet
        ({"ratio": 1.0}, 224, 224),
        ({"size": 63, "ratio": 0.9}, 70, 63),  # 69.99... in floating point
    ],
)
def test_the_resized_side_is_rounded_down(settings, resized, side):
    processor = ConvZooImageProcessor(size=256, crop_size=224, image_mean=[0.1, 0.2, 0.3])
    changed = CropSettings(**settings).apply(processor)
    expected = ConvZooImageProcessor(size=resized, crop_size=side, image_mean=[0.1, 0.2, 0.3])
    assert changed.to_dict() == expected.to_dict()
    assert processor.size == {"shortest_edge": 256}


def test_filters_have_the_numbers_of_pillow():
    assert {name.upper(): number for name, number in FILTERS.items()} == {
        each.name: each.value for each in Image.Resampling
    }
    changed = CropSettings(interpolation="lanczos").apply(ConvZooImageProcessor())
    assert changed.resample == Image.Resampling.LANCZOS


def test_processors_of_transformers_crop_in_their_own_ways():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    convnext = ConvNextImageProcessorPil(size={"shortest_edge": 16}, crop_pct=0.8)
    changed = CropSettings(size=24, ratio=0.75).apply(convnext)
    assert (changed.size["shortest_edge"], changed.crop_pct) == (24, 0.75)
    assert changed(image, return_tensors="np")["pixel_values"].shape == (1, 3, 24, 24)
    vit = ViTImageProcessorPil(size={"height": 16, "width": 16})
    changed = CropSettings(size=20, interpolation="bicubic").apply(vit)
    assert changed(image, return_tensors="np")["pixel_values"].shape == (1, 3, 20, 20)
    with pytest.raises(ValueError, match="to take a crop ratio; ViTImageProcessorPil has do_resi"):
        CropSettings(ratio=0.9).apply(vit)


def test_processors_that_crop_no_square_are_refused():
    whole = ConvZooImageProcessor(do_center_crop=False)
    for processor in (
        whole,
        ConvZooImageProcessor(do_resize=False),
        ConvZooImageProcessor(crop_size={"height": 16, "width": 12}),
    ):
        with pytest.raises(ValueError, match="crop a square to take another size; ConvZooImage"):
            CropSettings(size=9).apply(processor)
    with pytest.raises(ValueError, match="an interpolation; BaseImageProcessor has none of these"):
        CropSettings(interpolation="box").apply(BaseImageProcessor())
    for wrong in ({"ratio": 1.5}, {"ratio": 0.0}, {"size": 0}):
        with pytest.raises(ValueError, match="must be"):
            CropSettings(**wrong)
