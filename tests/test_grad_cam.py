"""Grad-CAM against its closed form and against that of the demo page."""

import numpy as np
import pytest
import torch

import app
from convzoo.inspection.grad_cam import brightest_place, grad_cam, heat_over_image
from modeling import (
    CNN,
    AlexNet,
    AlexNetConfig,
    CNNConfig,
    ConvZooImageProcessor,
    QLNet,
    QLNetConfig,
)

SMALL = {"stem": "small", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
ALEXNET = {"stem": "small", "pooled_size": 2, "classifier_hidden_size": 16}


def made(model_class, config, **sizes):
    torch.manual_seed(0)
    return model_class(config(num_labels=5, **sizes)).eval()


def test_it_is_the_class_activation_map_of_a_network_that_ends_in_a_mean_and_a_linear_layer():
    """Zhou et al., arXiv:1512.04150: the gradient of the mean is the row of weights over h * w."""
    model = made(CNN, CNNConfig, **SMALL)
    pixels = torch.randn(1, 3, 32, 40)
    heats = grad_cam(model, pixels, [3, 0])
    with torch.inference_mode():
        maps = model(pixels, output_hidden_states=True).hidden_states[-1][0].numpy()
    for number, heat in zip((3, 0), heats, strict=True):
        weights = model.classifier.weight[number].detach().numpy() / maps[0].size
        expected = np.einsum("c,chw->hw", weights, maps).clip(min=0)
        assert np.allclose(heat, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("model_class", "config", "sizes"),
    [(CNN, CNNConfig, SMALL), (QLNet, QLNetConfig, SMALL), (AlexNet, AlexNetConfig, ALEXNET)],
)
def test_the_demo_page_shows_the_same_heat(model_class, config, sizes):
    model = made(model_class, config, **sizes)
    processor = ConvZooImageProcessor(36, crop_size=32)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    (heat,) = grad_cam(model, pixels, [2])
    theirs = app.grad_cam(model, pixels, 2)
    assert np.allclose(heat, theirs.numpy(), rtol=1e-5, atol=1e-8)
    shown = np.asarray(app.draw_heat(theirs, pixels, processor)).astype(int)
    assert np.abs(heat_over_image(heat, pixels, processor).astype(int) - shown).max() <= 1


def test_a_model_without_a_feature_map_has_no_heat():
    class Flat(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, pixel_values, output_hidden_states):
            flat = pixel_values.flatten(1).requires_grad_()
            return type("Output", (), {"hidden_states": (flat,), "logits": flat})

    assert grad_cam(Flat(), torch.zeros(1, 3, 4, 4), [0]) is None


def test_the_brightest_place_is_named_and_no_heat_has_none():
    heat = np.zeros((2, 4), np.float32)
    assert brightest_place(heat) is None
    heat[1, 0] = 1
    assert brightest_place(heat) == (0.125, 0.75)


def test_grey_images_have_heat_in_colour():
    processor = ConvZooImageProcessor(
        8, crop_size=8, num_channels=1, image_mean=[0.5], image_std=[0.5]
    )
    pixels = processor(np.full((8, 8), 100, np.uint8), return_tensors="pt")["pixel_values"]
    shown = heat_over_image(np.eye(2, dtype=np.float32), pixels, processor)
    assert shown.shape == (8, 8, 3)
    assert shown[0, 0].tolist() == [176, 178, 132]  # (100 + inferno's brightest) / 2
    assert shown[0, -1].tolist() == [50, 50, 52]
