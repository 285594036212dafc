import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from convzoo.inspection.activation_maps import draw_activations, mosaic
from modeling import (
    CNN,
    AlexNet,
    AlexNetConfig,
    CNNConfig,
    ConvZooImageProcessor,
    QLNet,
    QLNetConfig,
)
from tests.support.clients import ROOT

SMALL = {"stem": "small", "embedding_size": 8, "hidden_sizes": [8, 200], "depths": [1, 1]}
RED_PANDA = str(ROOT / "data" / "photos" / "red_panda.jpg")
GREY = {"num_channels": 1, "image_mean": [0.5], "image_std": [0.5]}


def test_a_mosaic_holds_every_map_in_reading_order():
    maps = np.random.default_rng(0).normal(size=(7, 4, 5)).astype(np.float32)
    sheet = mosaic(maps)
    assert sheet.shape == (3 * 4 + 2, 3 * 5 + 2)
    for index, expected in enumerate(maps):
        top, left = index // 3 * 5, index % 3 * 6
        assert np.array_equal(sheet[top : top + 4, left : left + 5], expected)
    assert np.isnan(sheet).sum() == sheet.size - maps.size
    assert mosaic(np.ones((1, 2, 2))).shape == (2, 2)
    assert mosaic(np.ones((4, 1, 100))).shape == (7, 100)


@pytest.mark.parametrize(
    ("model_class", "config", "num_channels"),
    [(CNN, CNNConfig, 3), (QLNet, QLNetConfig, 1), (AlexNet, AlexNetConfig, 3)],
)
def test_every_stage_is_drawn_with_the_prediction_of_the_pipeline(
    model_class, config, *, num_channels, tmp_path
):
    torch.manual_seed(0)
    sizes = {"stem": "small", "pooled_size": 2, "classifier_hidden_size": 16}
    sizes = sizes if config is AlexNetConfig else SMALL
    names = {"id2label": {index: f"class {index}" for index in range(30)}}
    model = model_class(config(**sizes, **names, num_channels=num_channels)).eval()
    settings = {"size": 36, "crop_size": 32} | (GREY if num_channels == 1 else {})
    processor = ConvZooImageProcessor(**settings)
    found = draw_activations(model, processor, image=RED_PANDA, folder=tmp_path / "drawn")

    classify = pipeline("image-classification", model=model, image_processor=processor)
    expected = {guess["label"]: guess["score"] for guess in classify(RED_PANDA, top_k=5)}
    assert found["predictions"] == pytest.approx(expected, rel=1e-4)
    assert list(found["predictions"]) == list(expected)
    names = ["prediction", "0_stem", "1_stage", "2_stage"]
    assert found["images"] == [str(tmp_path / "drawn" / f"{name}.png") for name in names]
    for path in found["images"]:
        with Image.open(path) as figure:
            assert min(figure.size) >= 500
            assert figure.convert("L").getextrema() == (0, 255)  # ink on paper


def test_a_file_that_is_no_image_is_named(tmp_path):
    model = CNN(CNNConfig(**SMALL))
    with pytest.raises(ValueError, match=r"test_activation_maps\.py: "):
        draw_activations(model, ConvZooImageProcessor(), image=__file__, folder=tmp_path)
