"""convzoo/layers.py sees what a network does, and hub_cards/card/architecture.py draws it."""

import logging

import pytest
import torch
from torch import nn

from convzoo.inspection.model import count_layers
from convzoo.layers import count_multiply_adds, describe_network, image_shape
from hub_cards.card.architecture import diagram, layer_rows
from hub_cards.evidence.folder import read_evidence
from modeling import FAMILIES, CNNConfig, ConvZooImageProcessor
from tests.support.model_folders import CONFIGS, NUM_PARAMETERS, make_full, put, render, section

SMALL = {"embedding_size": 4, "hidden_sizes": [8, 16, 8], "depths": [1, 2, 1]}
SMALL_ALEXNET = {"hidden_sizes": [4, 8, 4, 8, 4], "classifier_hidden_size": 16}
SHAPES = {
    "cnn": ("cnn", SMALL | {"stem": "small"}, (30, 29)),
    "cnn, imagenet": ("cnn", SMALL | {"stem": "imagenet"}, (75, 64)),
    "qlnet": ("qlnet", SMALL | {"stem": "imagenet"}, (75, 64)),
    "alexnet": ("alexnet", SMALL_ALEXNET | {"stem": "imagenet", "stem_padding": 5}, (96, 80)),
    "alexnet, small": ("alexnet", SMALL_ALEXNET | {"stem": "small", "pooled_size": 2}, (32, 40)),
}


def build(model_type, **fields):
    (config_class,) = (family for family in FAMILIES if family.model_type == model_type)
    return FAMILIES[config_class](config_class(num_labels=9, **fields)).eval()


@pytest.mark.parametrize("case", SHAPES)
def test_layers_have_the_shapes_and_the_cost_that_the_model_computes(case):
    model_type, fields, (height, width) = SHAPES[case]
    model = build(model_type, **fields)
    facts = describe_network(model, [3, height, width])
    shapes = [row["shape"] for row in facts["layers"]]
    with torch.no_grad():
        output = model(torch.zeros(1, 3, height, width), output_hidden_states=True)
    assert shapes[0] == [3, height, width] and shapes[-1] == [9]
    places = [shapes.index(list(state.shape[1:])) for state in output.hidden_states]
    assert places == sorted(places)
    costs = count_layers(model, [3, height, width])
    assert facts["num_multiply_adds"] == sum(layer["multiply_adds"] for layer in costs)


def test_layers_are_called_by_what_they_do():
    """ResNet-50 with the sizes of He et al., arXiv:1512.03385, table 1."""
    rows = describe_network(build("cnn"), [3, 224, 224])["layers"]
    assert [(row["name"], *row["shape"]) for row in rows] == [
        ("image", 3, 224, 224),
        ("convolution 7x7, stride 2", 64, 112, 112),
        ("max pooling 3x3, stride 2", 64, 56, 56),
        ("stage 1, 3 blocks", 256, 56, 56),
        ("stage 2, 4 blocks", 512, 28, 28),
        ("stage 3, 6 blocks", 1024, 14, 14),
        ("stage 4, 3 blocks", 2048, 7, 7),
        ("features", 2048),
        ("linear", 9),
    ]


def test_multiply_adds_of_a_model_of_transformers_are_counted():
    """ResNet-50 of Transformers, whose 1x1, 3x3 and 7x7 convolutions and last layer are known."""
    from transformers import ResNetConfig, ResNetForImageClassification

    with torch.device("meta"):
        model = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    assert count_multiply_adds(model, [3, 224, 224]) == 4_089_184_256  # torchvision: 4.09 G
    assert count_multiply_adds(model, [1, 224, 224]) is None


def test_a_model_that_cannot_be_called_without_values_is_not_described(caplog):
    class Choosy(FAMILIES[CNNConfig]):
        def forward_head(self, x):
            return super().forward_head(x if x.sum() > 0 else -x)

    model = Choosy(CNNConfig(num_labels=9, **CONFIGS["cnn"] | {"drop_path_rate": 0.0}))
    with caplog.at_level(logging.WARNING):
        assert describe_network(model, [3, 32, 32]) == {}
    assert "the layers of Choosy are not described" in caplog.text
    assert describe_network(nn.Linear(2, 2), [3, 32, 32]) == {}  # of no zoo


def test_the_card_draws_what_was_recorded_for_the_published_preprocessing(tmp_path):
    folder = make_full(tmp_path / "model")
    assert section(render(folder), "Architecture") == "Not measured."
    processor = ConvZooImageProcessor(size=235, crop_size=224)
    facts = describe_network(build("cnn", **CONFIGS["cnn"]), image_shape(processor))
    put(folder, "conversion.json", {"num_parameters": NUM_PARAMETERS} | facts)
    evidence = read_evidence(folder)
    rows = [(row["name"], tuple(row["shape"])) for row in facts["layers"]]
    assert layer_rows(evidence) == rows
    assert section(render(folder), "Architecture") == f"```text\n{diagram(evidence)}\n```"
    assert "stage 2, 1 block  16 x 112 x 112" in diagram(evidence)
    facts["layers"][0]["shape"] = [3, 99, 99]  # of another preprocessing
    put(folder, "conversion.json", {"num_parameters": NUM_PARAMETERS} | facts)
    assert layer_rows(read_evidence(folder)) == []
    put(folder, "conversion.json", {"num_parameters": NUM_PARAMETERS, "layers": [3]})
    with pytest.raises(ValueError, match="must have names and shapes"):
        render(folder)
