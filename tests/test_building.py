import torch

from convzoo.building import build_model, build_processor, unique_names
from convzoo.recipe import load_recipe
from tests.conftest import COLOURS


def test_the_seed_decides_the_weights(tiny_recipe):
    def weights(*overrides):
        model = build_model(load_recipe(tiny_recipe, overrides), list(COLOURS))
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(weights(), weights())
    assert not torch.equal(weights(), weights("run.seed=43"))


def test_classes_and_protocol_are_published(tiny_recipe):
    recipe = load_recipe(tiny_recipe)
    model = build_model(recipe, list(COLOURS))
    assert model.config.id2label == dict(enumerate(COLOURS))
    assert model.config.label2id == {name: i for i, name in enumerate(COLOURS)}
    processor = build_processor(recipe.preprocessing)
    assert processor.size == {"shortest_edge": 18}
    assert processor.crop_size == {"height": 16, "width": 16}
    assert processor.resample == 2  # Pillow's bilinear


def test_repeated_names_stay_apart():
    names = ["crane", "maillot", "crane", "tench", "maillot"]
    assert unique_names(names) == ["crane", "maillot", "crane (2)", "tench", "maillot (2)"]
    assert unique_names(["a", "a", "a (2)"]) == ["a", "a (2)", "a (2) (2)"]
