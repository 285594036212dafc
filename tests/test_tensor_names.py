"""Checkpoints that we write have the names and shapes of the libraries they are for."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from convzoo.conversion.converting import convert
from convzoo.conversion.writing import write_for
from modeling import CNN, AlexNet, AlexNetConfig, CNNConfig, ConvZooImageProcessor
from tests.support.clients import ROOT

GOLDEN = ROOT / "tests" / "golden"


def golden(name):
    """Shapes of the library's own network by name; its file says which version that was."""
    return json.loads((GOLDEN / f"{name}.keys.json").read_text())["tensors"]


def moved(model):
    """A network whose every tensor, also the statistics, has values of its own."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("residual_scale"):
                value.uniform_(0.2, 0.6, generator=generator)
            elif name.endswith(("running_mean", "running_var", "bn1.weight", "bias")):
                value.uniform_(0.1, 0.9, generator=generator)
    return model.eval()


def read(folder):
    (path,) = [*folder.glob("*.safetensors"), *folder.glob("*.pth")]
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A ResNet-50 as a CNN, and an AlexNet, of full size; and the logits of both."""
    home, logits = tmp_path_factory.mktemp("our models"), {}
    cnn = moved(CNN(CNNConfig(use_prelu=False)))
    alexnet = moved(AlexNet(AlexNetConfig.one_tower()))
    for name, model in (("cnn", cnn), ("alexnet", alexnet)):
        model.save_pretrained(home / name)
        ConvZooImageProcessor().save_pretrained(home / name)
        logits[name] = logits_of(model)
    return home, logits


def logits_of(model):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.eval()(images).logits


@pytest.mark.parametrize(
    ("model", "library", "keys"),
    [
        ("cnn", "timm", "resnet50_of_timm"),
        ("cnn", "torchvision", "resnet50_of_timm"),
        ("cnn", "transformers", "resnet50_of_transformers"),
        ("alexnet", "torchvision", "alexnet_of_torchvision"),
    ],
)
def test_what_is_written_has_the_tensors_of_the_library_and_comes_back(
    model, library, keys, *, folders, tmp_path
):
    home, logits = folders
    write_for(library, str(home / model), output=tmp_path / "there")
    written = read(tmp_path / "there")
    assert {name: list(tensor.shape) for name, tensor in written.items()} == golden(keys)
    counters = [n for n, t in written.items() if not t.is_floating_point()]
    assert all(name.endswith("num_batches_tracked") for name in counters)
    convert(tmp_path / "there", tmp_path / "and back")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "and back")
    largest = logits[model].abs().max().item()
    torch.testing.assert_close(logits_of(again), logits[model], rtol=0, atol=1e-5 * largest)
