"""Networks that several test files need, with made-up weights, and folders of before."""

import zipfile
from functools import cache

import pytest
import torch

from modeling import AlexNet, AlexNetConfig
from tests.support.golden_weights import GOLDEN, golden, images, weights

ORIGINALS = {
    "alexnet_one_tower": AlexNetConfig.one_tower,
    "alexnet_2012_reimplementation": AlexNetConfig.from_2012_reimplementation,
}


@cache
def golden_alexnet(name):
    state = weights(golden(f"{name}.keys"))
    return AlexNet.from_pretrained(None, config=ORIGINALS[name](), state_dict=state)


def with_random_norms(model):
    """Give batch norms statistics and weights that a mistake would show in."""
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        for value, low, high in (
            (norm.weight, 0.5, 1.5),
            (norm.bias, -1, 1),
            (norm.running_mean, -1, 1),
            (norm.running_var, 0.5, 2),
        ):
            torch.nn.init.uniform_(value, low, high)
    return model


def relative_error(actual, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


def check_training_step(model, expected):
    """Check loss, logits, gradients and running statistics of a step against the original's."""
    output = model(images(), labels=torch.tensor(expected["labels"]))
    output.loss.backward()
    assert output.loss.item() == pytest.approx(expected["loss"], rel=1e-8)
    assert relative_error(output.logits[:, :8], expected["logits_first8"]) < 1e-6
    norms = {key: value.grad.norm().item() for key, value in model.named_parameters()}
    assert norms == pytest.approx(expected["gradient_norms"], rel=1e-5, abs=1e-9)
    assert all(norms[key] < 1e-9 for key in expected["zero_gradients"])
    total = torch.tensor(list(norms.values())).norm().item()
    assert total == pytest.approx(expected["total_gradient_norm"], rel=1e-5)
    buffers = {
        key: value.norm().item()
        for key, value in model.named_buffers()
        if value.is_floating_point()
    }
    assert buffers == pytest.approx(expected["buffer_norms"], rel=1e-5)


def extract_published_folders(folder):
    """Unpack one small folder of each family, byte for byte as commit b753996 published it.

    Each family's two files held everything then; logits.json has the logits of
    golden_weights.images(size=40). A zip, because nobody should find, lint or mend this code.
    """
    with zipfile.ZipFile(GOLDEN / "published_folders.zip") as archive:
        archive.extractall(folder)
