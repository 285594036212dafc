import copy
import json
import logging
import re

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from convzoo.recipe.files import load_recipe, recipe_from_tables, recipe_to_tables
from convzoo.training.building import build_model, build_processor
from convzoo.training.finetuning import freeze, freeze_cancelled_biases, stage_of
from modeling import (
    CNN,
    FAMILIES,
    AlexNet,
    AlexNetConfig,
    CNNConfig,
    ConvZooImageProcessor,
    QLNet,
    QLNetConfig,
)
from modeling.modeling_convzoo import adapt_channels
from tests.support.golden_weights import golden, tensor
from tests.support.hub_server import HubServer
from tests.support.images import COLOURS

STAGES = {"stem": "small", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1]}
ALEXNET = {
    "stem": "small",
    "hidden_sizes": [8, 8, 8, 8, 8],
    "pooled_size": 2,
    "classifier_hidden_size": 16,
}
CONFIGS = {"cnn": CNNConfig, "alexnet": AlexNetConfig, "qlnet": QLNetConfig}
SIZES = {"cnn": STAGES, "alexnet": ALEXNET, "qlnet": STAGES}


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
    processor = build_processor(recipe.preprocessing, exif_rotation=recipe.data.exif_rotation)
    assert processor.exif_rotation is False
    assert processor.size == {"shortest_edge": 18}
    assert processor.crop_size == {"height": 16, "width": 16}
    assert processor.resample == 2  # Pillow's bilinear
    assert processor.num_channels == 3


def test_a_grey_protocol_makes_grey_batches(tiny_recipe):
    channels = ["model.num_channels=1", "preprocessing.mean=[0.5]", "preprocessing.std=[0.25]"]
    recipe = load_recipe(tiny_recipe, channels)
    model = build_model(recipe, list(COLOURS))
    processor = build_processor(recipe.preprocessing, 1)
    pixels = processor(torch.full((20, 30), 255, dtype=torch.uint8), return_tensors="pt")
    assert pixels.pixel_values.shape == (1, 1, 16, 16)
    assert torch.allclose(pixels.pixel_values, torch.tensor(2.0))  # (1 - 0.5) / 0.25
    assert model(**pixels).logits.shape == (1, 3)
    with pytest.raises(ValueError, match="num_channels must be 1 .grey. or 3 .RGB.; got 4"):
        build_processor(recipe.preprocessing, 4)


# Fine-tuning -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Family -> a saved model of five classes whose weights and statistics are all different."""
    folders = {}
    for family, config_class in CONFIGS.items():
        torch.manual_seed(1)
        config = config_class(**SIZES[family], id2label=dict(enumerate("abcde")))
        model = FAMILIES[config_class](config)
        for value in model.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.rand_like(value)
        folders[family] = tmp_path_factory.mktemp("pretrained") / family
        model.save_pretrained(folders[family])
        ConvZooImageProcessor().save_pretrained(folders[family])
    return folders


def recipe_of(folder, **sections):
    sections["finetune"] = {"pretrained": str(folder)} | sections.get("finetune", {})
    return recipe_from_tables({"data": {"path": "images"}, **sections})


def steps(model, count=3):
    """Training steps as any loop takes them; each begins with train()."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for seed in range(count):
        model.train()
        torch.manual_seed(seed)
        images = torch.randn(6, model.config.num_channels, 32, 32)
        labels = torch.arange(6) % model.config.num_labels
        optimizer.zero_grad()
        F.cross_entropy(model(images).logits, labels).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("family", CONFIGS)
def test_the_same_classes_give_the_same_model(pretrained, family):
    model = build_model(recipe_of(pretrained[family]), list("abcde"))
    expected = FAMILIES[CONFIGS[family]].from_pretrained(pretrained[family]).eval()
    assert model.training
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval()(images).logits, expected(images).logits)
    assert model.config.id2label == expected.config.id2label


@pytest.mark.parametrize("family", CONFIGS)
def test_other_classes_give_a_new_head_from_the_seed_on_the_same_body(pretrained, family):
    def head(seed, names="vwxyz"):
        recipe = recipe_of(pretrained[family], run={"seed": seed})
        return build_model(recipe, list(names)).classifier.weight

    trained = FAMILIES[CONFIGS[family]].from_pretrained(pretrained[family])
    assert head(1).shape == trained.classifier.weight.shape
    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))
    assert not torch.equal(head(1), trained.classifier.weight)
    assert head(1, "vw").shape[0] == 2
    assert not torch.equal(head(1, "edcba"), trained.classifier.weight)  # another order

    model = build_model(recipe_of(pretrained[family]), list("vw"))
    assert model.config.id2label == {0: "v", 1: "w"}
    body = {k: v for k, v in model.state_dict().items() if not k.startswith("classifier")}
    assert len(body) == len(trained.state_dict()) - 2
    for name, value in body.items():
        assert torch.equal(value, trained.state_dict()[name]), name


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("frozen", [0, 1, 2, -1])
def test_frozen_stages_stay_bit_equal_and_all_others_move(pretrained, family, frozen):
    sections = {"finetune": {"frozen_stages": frozen}}
    if family == "alexnet":  # dropout could leave a weight without gradient
        sections["model"] = {"dropout_rate": 0.0}
    model = build_model(recipe_of(pretrained[family], **sections), list("vw"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    steps(model)
    body = tuple(f"{name}." for name in ("stem", "stages", "fc6", "fc7"))
    first = {0: (), 1: ("stem.",), 2: ("stem.", "stages.0."), -1: body}
    for name, value in model.state_dict().items():
        stays = name.startswith(first[frozen])
        exempt = name.endswith("bias")  # batch norm cancels those in front of it
        assert torch.equal(value, before[name]) == stays or (exempt and not stays), name


def test_frozen_statistics_survive_accelerate_copies_and_synchronised_batch_norm(pretrained):
    recipe = recipe_of(pretrained["cnn"], finetune={"frozen_stages": 2})
    model = build_model(recipe, list("vw"))
    before = model.state_dict()["stages.0.0.bn1.running_mean"].clone()
    prepared = Accelerator(cpu=True).prepare(copy.deepcopy(model))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    freeze(converted, 2)
    for one in (prepared, converted):
        one.train()
        with torch.no_grad():
            one.stem(torch.randn(4, 3, 32, 32))
            one.stages[0](torch.randn(4, 8, 32, 32))
        assert torch.equal(one.state_dict()["stages.0.0.bn1.running_mean"], before)
        assert not one.stages[0][0].bn1.training and one.stages[1][0].bn1.training


def test_freezing_replaces_batch_norms_and_keeps_names_order_and_tensors(pretrained):
    model = build_model(recipe_of(pretrained["cnn"]), list("vw"))
    norm, trained = model.stem.bn, model.stages[1][0].bn1
    state, parameters = model.state_dict(keep_vars=True), list(model.parameters())
    freeze(model, 2)
    assert model.stem.bn is not norm and type(norm) is nn.BatchNorm2d  # its class is as it was
    assert model.stages[1][0].bn1 is trained
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(state)
    assert all(after[name] is state[name] for name in state)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert (model.stem.bn.eps, model.stem.bn.momentum) == (norm.eps, norm.momentum)


def test_biases_that_batch_norms_cancel_have_no_gradient_and_are_not_trained(pretrained):
    torch.manual_seed(0)
    model = build_model(recipe_of(pretrained["cnn"]), list("abcde")).double()
    x, labels = torch.randn(8, 3, 16, 16, dtype=torch.float64), torch.arange(8) % 5
    model(x, labels=labels).loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters()}
    freeze_cancelled_biases(model)
    left_out = {name for name, value in model.named_parameters() if not value.requires_grad}
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert left_out == {f"{name}.bias" for name in convolutions if "shortcut" not in name}
    for name in left_out:
        weight = gradients[name.replace("bias", "weight")]
        assert gradients[name].abs().max() < 1e-12 * max(1, weight.abs().max()), name
    model.zero_grad()
    model(x, labels=labels).loss.backward()
    for name, value in model.named_parameters():
        assert name in left_out or torch.allclose(value.grad, gradients[name], atol=1e-12), name


def test_biases_in_front_of_frozen_batch_norms_and_without_any_stay_in_training(pretrained):
    model = build_model(recipe_of(pretrained["cnn"]), list("abcde"))
    model.stem.bn.eval()
    freeze_cancelled_biases(model)
    assert model.stem.conv.bias.requires_grad and not model.stages[0][0].conv1.bias.requires_grad
    for family in ("alexnet", "qlnet"):
        model = build_model(recipe_of(pretrained[family]), list("abcde"))
        freeze_cancelled_biases(model)
        assert all(value.requires_grad for value in model.parameters())


def test_stages_are_counted_from_the_input(pretrained):
    ends = {"cnn": 3, "qlnet": 3, "alexnet": 5}
    for family, folder in pretrained.items():
        model = build_model(recipe_of(folder), list("vw"))
        stages = stage_of(model)
        assert list(stages) == [name for name, _ in model.named_parameters()]
        for name, stage in stages.items():
            part = name.split(".")
            heads = {"stem": 0, "fc6": 3, "fc7": 4, "classifier": ends[family]}
            assert stage == (int(part[1]) + 1 if part[0] == "stages" else heads[part[0]]), name


def test_fields_of_the_recipe_replace_those_of_the_pretrained_model(pretrained):
    changes = {"drop_path_rate": 0.3, "batch_norm_momentum": 0.01}
    model = build_model(recipe_of(pretrained["cnn"], model=changes), list("abcde"))
    assert model.config.drop_path_rate == model.stages[1][0].drop_path_rate == 0.3
    assert model.stem.bn.momentum == 0.01
    assert model.config.hidden_sizes == [8, 16]
    expected = CNN.from_pretrained(pretrained["cnn"]).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    model = build_model(recipe_of(pretrained["alexnet"], model={"dropout_rate": 0.2}), ["a", "b"])
    assert model.dropout.p == 0.2


@pytest.mark.parametrize("family", CONFIGS)
def test_a_grey_image_looks_the_same_to_a_model_of_one_channel(pretrained, family):
    grey = {"preprocessing": {"mean": [0.5], "std": [0.25]}, "model": {"num_channels": 1}}
    model = build_model(recipe_of(pretrained[family], **grey), list("abcde")).eval()
    colour = FAMILIES[CONFIGS[family]].from_pretrained(pretrained[family])
    image = torch.randn(2, 1, 32, 32)
    assert model.config.num_channels == 1
    torch.testing.assert_close(model(image).logits, colour(image.expand(-1, 3, -1, -1)).logits)
    steps(model)


def test_channels_are_repeated_and_rescaled_as_in_timm():
    weight = torch.randn(5, 3, 3, 3)
    r, g, b = weight.unbind(1)
    assert adapt_channels(weight, 3) is weight
    torch.testing.assert_close(adapt_channels(weight, 1), (r + g + b)[:, None])
    expected = torch.stack([r, g, b, r], 1) * 0.75
    torch.testing.assert_close(adapt_channels(weight, 4), expected)
    torch.testing.assert_close(adapt_channels(weight, 2), torch.stack([r, g], 1) * 1.5)
    grey = torch.randn(5, 1, 3, 3)
    torch.testing.assert_close(adapt_channels(grey, 3), grey.expand(-1, 3, -1, -1) / 3)


@pytest.mark.parametrize(
    ("family", "sections", "words"),
    [
        ("cnn", {"model": {"depths": [1, 1]}}, ["model.depths", "[2, 1]", "[1, 1]", "fresh"]),
        ("cnn", {"model": {"stem": "imagenet"}}, ["model.stem", "small", "imagenet"]),
        ("cnn", {"model": {"drop_path_rate": 0.1, "use_prelu": False}}, ["model.use_prelu"]),
        (
            "cnn",
            {"model": {"depths": [1, 1, 1], "hidden_sizes": [8, 16, 32]}},
            ["model.depths must fit the weights"],
        ),
        ("cnn", {"model": {"drop_path_rate": 2.0}}, ["drop_path_rate", "[0, 1)", "2.0"]),
        ("cnn", {"model": {"groups": [1, 1, 1, 1, 1]}}, ["'groups'", "family cnn", "depths"]),
        ("qlnet", {"model": {"expansion": 2}}, ["model.expansion", "4", "2"]),
        ("alexnet", {"model": {"pooled_size": 3}}, ["model.pooled_size", "2", "3"]),
        ("alexnet", {"model": {"model_type": "cnn"}}, ["model_type", "cnn", "family alexnet"]),
        ("cnn", {"finetune": {"frozen_stages": 4}}, ["frozen_stages", "-1..3", "4"]),
    ],
)
def test_what_does_not_fit_the_pretrained_model_is_named(pretrained, family, *, sections, words):
    recipe = recipe_of(pretrained[family], **sections)
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        build_model(recipe, list("abc"))
    for word in words:
        assert word in str(caught.value)


def test_models_of_others_and_missing_ones_are_refused(tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="families cnn, alexnet, qlnet; .* is of the family resn"):
        build_model(recipe_of(tmp_path), list("abc"))
    with pytest.raises(OSError, match="nowhere"):
        build_model(recipe_of(tmp_path / "nowhere"), list("abc"))


def test_a_grey_pretrained_model_asks_for_grey_settings(tmp_path):
    CNN(CNNConfig(**STAGES, num_channels=1, num_labels=2)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"num_channels must be set .* has 1 colour"):
        build_model(recipe_of(tmp_path), ["a", "b"])
    settings = {"model": {"num_channels": 3}}
    with pytest.raises(ValueError, match="num_channels must be set"):
        build_model(recipe_of(tmp_path), ["a", "b"])
    assert build_model(recipe_of(tmp_path, **settings), ["a", "b"]).config.num_channels == 3


def test_other_pixels_than_the_pretrained_model_saw_are_a_warning(pretrained, caplog):
    settings = {"rescale_factor": 1.0, "mean": [123.675, 116.28, 103.53], "std": [1.0, 1.0, 1.0]}
    build_model(recipe_of(pretrained["cnn"]), list("vw"))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    build_model(recipe_of(pretrained["cnn"], preprocessing=settings), list("vw"))
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 3 and "rescale_factor 0.0039" in warnings[0]


def test_fresh_weights_cannot_be_frozen(tiny_recipe):
    with pytest.raises(ValueError, match="frozen_stages .* needs finetune.pretrained"):
        load_recipe(tiny_recipe, ["finetune.frozen_stages=1"])


def test_the_family_may_be_left_to_the_pretrained_model(pretrained, tmp_path):
    recipe = recipe_of(pretrained["qlnet"], model={"batch_norm_momentum": 0.2})
    assert recipe.model.model_type == ""
    assert recipe_from_tables(recipe_to_tables(recipe)) == recipe
    assert isinstance(build_model(recipe, ["a"]), QLNet)
    assert isinstance(build_model(recipe_of(pretrained["alexnet"]), ["a"]), AlexNet)


# From the Hub ----------------------------------------------------------------------------------

FINE_TUNES = """
import json, sys
import torch
from convzoo.training.building import build_model
from convzoo.recipe.files import recipe_from_tables

saw = []
for revision in ("", sys.argv[1]):
    finetune = {"pretrained": "user/original", "revision": revision}
    model = build_model(
        recipe_from_tables({"data": {"path": "x"}, "finetune": finetune}), ["cat", "dog"]
    )
    saw.append([model.config.id2label, model.stem.conv.weight.sum().item()])
json.dump(saw, open("saw.json", "w"))
"""


def test_a_checkpoint_of_the_original_starts_a_run_from_the_hub_at_a_revision(tmp_path):
    small = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32]}
    reference = CNN(CNNConfig(**small, num_labels=5))
    names = {key: name for key, (name, _) in golden("cnn_prelu.keys").items()}
    state = {
        f"_orig_mod.{names[key]}": tensor(names[key], list(value.shape))
        for key, value in reference.state_dict().items()
    }
    original = tmp_path / "original"
    original.mkdir()
    (original / "config.json").write_text(
        json.dumps({"model_type": "cnn", "architecture": "resnet-style", "num_classes": 5, **small})
    )
    first = "_orig_mod.conv1.0.conv.weight"
    with HubServer(tmp_path / "hub", {"hf_user": "user"}) as hub:
        save_file(state, original / "model.safetensors")
        old = hub.add_repo("models", "user/original", original)
        save_file({**state, first: state[first] + 1}, original / "model.safetensors")
        hub.add_commit("models", "user/original", original)
        hub.run("-c", FINE_TUNES, old, home=tmp_path / "home", cwd=tmp_path)
    newest, pinned = json.loads((tmp_path / "saw.json").read_text())
    assert newest[0] == pinned[0] == {"0": "cat", "1": "dog"}
    assert pinned[1] == pytest.approx(state[first].sum().item(), rel=1e-4, abs=1e-3)
    assert newest[1] - pinned[1] == pytest.approx(state[first].numel(), rel=1e-4)


def test_a_fine_tuning_is_resumed_without_its_pretrained_model(tiny_recipe, tmp_path):
    model = build_model(load_recipe(tiny_recipe), list(COLOURS))
    model.save_pretrained(tmp_path / "checkpoint")
    tables = recipe_to_tables(load_recipe(tiny_recipe))
    tables["model"] = {}
    tables["finetune"] = {"pretrained": str(tmp_path / "gone"), "frozen_stages": -1}
    recipe = recipe_from_tables(tables)
    for make in (lambda: None, (tmp_path / "gone").mkdir):  # then a folder without a model
        make()
        with pytest.raises(OSError, match="finetune.pretrained must be a model folder or a Hub id"):
            build_model(recipe, list(COLOURS))
    resumed = build_model(recipe, list(COLOURS), tmp_path / "checkpoint")
    resumed.load_state_dict(model.state_dict())
    trained = [name for name, value in resumed.named_parameters() if value.requires_grad]
    assert trained == ["classifier.weight", "classifier.bias"] and resumed.training
