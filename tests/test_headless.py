"""The families without their heads: AutoModel, AutoBackbone, and the maps of any stage."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoBackbone,
    AutoModel,
    AutoModelForImageClassification,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

import modeling
from modeling import AlexNetConfig, CNNConfig, ConvZooImageProcessor, QLNetConfig
from tests.support.clients import STRANGER
from tests.support.golden_weights import checkerboard
from tests.support.hub_server import GUARD, HubServer

STAGES = {"embedding_size": 4, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 2, 1, 1]}
CONFIGS = {
    "cnn": lambda **f: CNNConfig(**{**STAGES, "num_labels": 5, **f}),
    "qlnet": lambda **f: QLNetConfig(**{**STAGES, "num_labels": 5, **f}),
    "alexnet": lambda **f: AlexNetConfig(
        **{"hidden_sizes": [4, 8, 8, 8, 12], "classifier_hidden_size": 16, "num_labels": 5, **f}
    ),
}


@pytest.fixture(params=CONFIGS)
def family(request):
    return request.param


@pytest.fixture
def classifier(family):
    torch.manual_seed(0)
    config = CONFIGS[family]()
    return modeling.FAMILIES[type(config)](config).eval()


@pytest.fixture
def folder(classifier, tmp_path):
    classifier.save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 64)


# AutoModel ------------------------------------------------------------------------------------


@torch.inference_mode()
def test_automodel_loads_a_classifier_without_its_head_and_says_nothing(
    family, classifier, folder, *, x, capfd
):
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert type(model) is modeling.FEATURES[type(classifier.config)] and not model.training
    assert not any(info.values()) and "UNEXPECTED" not in capfd.readouterr().err
    assert model.state_dict().keys() == {
        key for key in classifier.state_dict() if not key.startswith("classifier.")
    }
    output, whole = model(x, output_hidden_states=True), classifier(x, output_hidden_states=True)
    for state, expected in zip(output.hidden_states, whole.hidden_states, strict=True):
        assert torch.equal(state, expected)
    assert torch.equal(output.last_hidden_state, whole.hidden_states[-1])
    assert torch.equal(classifier.classifier(output.pooler_output), whole.logits)
    assert model(x).hidden_states is None
    embeddings = type(classifier).from_pretrained(folder, num_labels=0)(x).logits
    assert torch.equal(embeddings, output.pooler_output)


@torch.inference_mode()
def test_what_automodel_saves_loads_again_and_takes_a_new_classifier(family, folder, x, tmp_path):
    model = AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "features")
    again = AutoModel.from_pretrained(tmp_path / "features")
    assert torch.equal(again(x).pooler_output, model(x).pooler_output)
    assert again.config.id2label == model.config.id2label and len(again.config.id2label) == 5
    for name in ("config.json", "model.safetensors"):
        again.save_pretrained(tmp_path / "again")
        assert (tmp_path / "again" / name).read_bytes() == (
            tmp_path / "features" / name
        ).read_bytes()
    with pytest.raises(ValueError, match=r"Pass num_labels=0, or ignore_mismatched_sizes=True for"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "features")
    trained = AutoModelForImageClassification.from_pretrained(
        tmp_path / "features", num_labels=7, ignore_mismatched_sizes=True
    )
    assert trained(x).logits.shape == (2, 7) and trained.classifier.weight.isfinite().all()


# AutoBackbone ---------------------------------------------------------------------------------


@torch.inference_mode()
def test_a_backbone_returns_the_maps_of_the_chosen_stages(family, classifier, folder, x):
    backbone_class = modeling.BACKBONES[type(classifier.config)]
    states = classifier(x, output_hidden_states=True).hidden_states
    last = backbone_class.from_pretrained(folder)
    assert last.out_features == [f"stage{len(states) - 1}"]
    assert torch.equal(*last(x).feature_maps, states[-1])
    assert not {key.partition(".")[0] for key in last.state_dict()} - {"stem", "stages"}
    backbone = backbone_class.from_pretrained(folder, out_indices=(0, -1))
    assert backbone.out_features == ["stem", f"stage{len(states) - 1}"]
    output = backbone(x, output_hidden_states=True)
    assert len(output.hidden_states) == len(states)
    for which in (output.feature_maps, backbone(x).feature_maps, backbone(x, return_dict=False)[0]):
        assert torch.equal(which[0], states[0]) and torch.equal(which[1], states[-1])
    for feature, channels, stride in zip(
        output.feature_maps, backbone.channels, backbone.strides, strict=True
    ):
        assert feature.shape[:2] == (2, channels)
        assert abs(feature.shape[-1] - 64 / stride) <= 1


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_channels_and_strides_are_those_of_the_maps(family, stem):
    config = CONFIGS[family](stem=stem)
    backbone = modeling.BACKBONES[type(config)](config).eval()
    backbone.out_features = config.stage_names
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 3, 128, 128)).feature_maps
        wider = backbone(torch.randn(1, 3, 256, 256)).feature_maps
    assert [feature.shape[1] for feature in maps] == backbone.channels
    grown = [(b.shape[-1] - a.shape[-1]) for a, b in zip(maps, wider, strict=True)]
    assert [128 / pixels for pixels in grown] == backbone.strides


def test_the_stages_of_a_backbone_are_kept_and_can_be_chosen_anew(family, folder, tmp_path):
    config = CONFIGS[family](out_features=("stem", "stage1"))
    backbone_class = modeling.BACKBONES[type(config)]
    backbone_class(config).save_pretrained(tmp_path / "backbone")
    again = backbone_class.from_pretrained(tmp_path / "backbone")
    assert again.out_indices == [0, 1] and again.channels == config.stage_channels[:2]
    other = backbone_class.from_pretrained(tmp_path / "backbone", out_indices=[2])
    assert other.out_features == ["stage2"]
    with pytest.raises(ValueError, match="stage9"):
        backbone_class.from_pretrained(tmp_path / "backbone", out_features=["stage9"])
    written = json.loads((folder / "config.json").read_text())
    assert not written.keys() & {"out_features", "out_indices", "stage_names"}  # as before


def test_stages_after_the_last_chosen_one_do_not_run(family):
    backbone = modeling.BACKBONES[type(CONFIGS[family]())](CONFIGS[family](out_indices=[1])).eval()
    backbone.stages[-1] = torch.nn.Linear(1, 1)  # which would fail
    assert len(backbone(torch.randn(1, 3, 64, 64)).feature_maps) == 1


def test_a_segmentation_head_of_transformers_trains_on_a_backbone(family, classifier, tmp_path):
    torch.manual_seed(0)
    names = classifier.config.stage_names[-4:]
    backbone_config = CONFIGS[family](stem="small", out_features=names)
    config = UperNetConfig(
        backbone_config=backbone_config,
        hidden_size=8,
        pool_scales=[1, 2],
        use_auxiliary_head=False,
        num_labels=3,
    )
    model = UperNetForSemanticSegmentation(config).train()
    assert type(model.backbone) is modeling.BACKBONES[type(backbone_config)]
    x = torch.randn(2, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    labels = x.argmax(1)  # the strongest colour of each square
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(10):
        loss = model(x, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert model.backbone.stem.conv.weight.grad.abs().max() > 0
    model.eval().save_pretrained(tmp_path)
    again = UperNetForSemanticSegmentation.from_pretrained(tmp_path)
    assert again.backbone.out_features == names
    with torch.inference_mode():
        assert torch.allclose(again(x).logits, model(x).logits, atol=1e-5)


# Any stage ------------------------------------------------------------------------------------


@torch.inference_mode()
def test_the_maps_of_any_stages_are_had_by_place_or_name(classifier, x):
    states = classifier(x, output_hidden_states=True).hidden_states
    last, found = classifier.forward_intermediates(x)
    assert torch.equal(last, states[-1])
    assert all(torch.equal(a, b) for a, b in zip(found, states, strict=True))
    _, found = classifier.forward_intermediates(x, ["stage1", -1])
    assert torch.equal(found[0], states[1]) and torch.equal(found[1], states[-1])
    _, found = classifier.forward_intermediates(x, 2)
    assert torch.equal(found[0], states[-2]) and torch.equal(found[1], states[-1])
    early, found = classifier.forward_intermediates(x, [1], stop_early=True)
    assert torch.equal(early, states[1]) and torch.equal(found[0], states[1])


@pytest.mark.parametrize("indices", [[9], ["stage9"], [-9], 9, [1.5], 0, []])
def test_a_stage_that_is_not_there_is_refused(classifier, x, indices):
    with pytest.raises(ValueError, match=r"indices must .*'stem', 'stage1', 'stage2'"):
        classifier.forward_intermediates(x, indices)


# By name, by somebody who has the libraries only ----------------------------------------------

BY_NAME = """
import json, sys
import numpy as np, torch
from transformers import AutoBackbone, AutoModel, pipeline

torch.set_num_threads(1)
for family in sys.argv[1:]:
    name, trust = f"user/{family}", {"trust_remote_code": True}
    extract = pipeline("image-feature-extraction", model=name, device="cpu", **trust)
    assert type(extract.model).__module__.startswith("transformers_modules."), extract.model
    maps = extract("image.png", return_tensors=True)
    pooled = extract("image.png", pool=True, return_tensors=True)
    pixels = extract.preprocess("image.png")["pixel_values"]
    backbone = AutoBackbone.from_pretrained(name, out_indices=[0, 2], **trust)
    grey = AutoModel.from_pretrained(
        name, num_channels=1, ignore_mismatched_sizes=True, **trust
    )
    with torch.inference_mode():
        features = backbone(pixels).feature_maps
        of_grey = grey(pixels[:, :1]).pooler_output
    arrays = {"maps": maps, "pooled": pooled, "first": features[0], "second": features[1]}
    arrays |= {"pixels": pixels, "grey": of_grey}
    np.savez(f"{family}.npz", **{key: value.numpy() for key, value in arrays.items()})
    grey.save_pretrained(f"again/{family}")
"""


@torch.inference_mode()
def test_a_stranger_has_features_and_backbones_by_their_names(tmp_path):
    Image.fromarray(checkerboard(70, 90)).save(tmp_path / "image.png")
    with HubServer(tmp_path / "hub", {"hf_user": "user"}) as hub:
        for family, config in CONFIGS.items():
            torch.manual_seed(0)
            published = tmp_path / "published" / family
            modeling.FAMILIES[type(config())](config()).save_pretrained(published)
            ConvZooImageProcessor(size=72, crop_size=64).save_pretrained(published)
            hub.add_repo("models", f"user/{family}", published)
        about = {"home": tmp_path / "home", "token": "hf_user", "cwd": tmp_path}
        hub.run("-I", "-S", "-c", STRANGER + GUARD + BY_NAME, *CONFIGS, **about)
    for family in CONFIGS:
        published, saw = tmp_path / "published" / family, np.load(tmp_path / f"{family}.npz")
        model, pixels = AutoModel.from_pretrained(published), torch.from_numpy(saw["pixels"])
        output = model(pixels, output_hidden_states=True)
        arrays = {"maps": output.last_hidden_state, "pooled": output.pooler_output}
        arrays |= {"first": output.hidden_states[0], "second": output.hidden_states[2]}
        grey = AutoModel.from_pretrained(published, num_channels=1, ignore_mismatched_sizes=True)
        arrays["grey"] = grey(pixels[:, :1]).pooler_output
        for key, value in arrays.items():
            np.testing.assert_allclose(saw[key], value, atol=1e-5, err_msg=f"{family} {key}")
        auto_map = json.loads((tmp_path / "again" / family / "config.json").read_text())["auto_map"]
        assert len(auto_map) == 4 and not any("--" in name for name in auto_map.values())


def test_the_auto_classes_know_the_families_without_their_heads(family):
    config = CONFIGS[family]()
    assert type(AutoModel.from_config(config)) is modeling.FEATURES[type(config)]
    assert type(AutoBackbone.from_config(config)) is modeling.BACKBONES[type(config)]
