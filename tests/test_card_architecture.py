"""The column of layers on a card."""

import pytest
import torch

from hub_cards.card.architecture import layer_rows
from hub_cards.evidence.folder import read_evidence

SMALL = {"embedding_size": 4, "hidden_sizes": [8, 16, 8], "depths": [1, 2, 1]}


SMALL_ALEXNET = {"hidden_sizes": [4, 8, 4, 8, 4], "classifier_hidden_size": 16}


SHAPES = {
    "cnn": ("cnn", SMALL | {"stem": "small"}, (30, 29)),
    "cnn, imagenet": ("cnn", SMALL | {"stem": "imagenet"}, (75, 64)),
    "qlnet": ("qlnet", SMALL | {"stem": "imagenet"}, (75, 64)),
    "alexnet": ("alexnet", SMALL_ALEXNET | {"stem": "imagenet", "stem_padding": 5}, (96, 80)),
    "alexnet, small": ("alexnet", SMALL_ALEXNET | {"stem": "small", "pooled_size": 2}, (32, 40)),
}


@pytest.mark.parametrize("case", SHAPES)
def test_the_diagram_has_the_shapes_that_the_model_computes(tmp_path, case):
    from modeling import FAMILIES, ConvZooImageProcessor

    model_type, fields, (height, width) = SHAPES[case]
    (config_class,) = (family for family in FAMILIES if family.model_type == model_type)
    model = FAMILIES[config_class](config_class(num_labels=9, **fields)).eval()
    model.save_pretrained(tmp_path)
    crop = {"height": height, "width": width}
    ConvZooImageProcessor(size=99, crop_size=crop).save_pretrained(tmp_path)
    with torch.no_grad():
        output = model(torch.zeros(1, 3, height, width), output_hidden_states=True)
    shapes = [shape for _, shape in layer_rows(read_evidence(tmp_path))]
    assert shapes[0] == (3, height, width) and shapes[-1] == (9,)
    places = [shapes.index(tuple(state.shape[1:])) for state in output.hidden_states]
    assert places == sorted(places)
