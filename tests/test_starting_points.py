"""Weights of timm, torchvision and transformers: to our models and back, by any name."""

import hashlib
import json
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

import convzoo.conversion.published
from convzoo.cli import main
from convzoo.conversion.converting import convert
from convzoo.conversion.formats import FORMATS
from convzoo.conversion.published import PublishedModel, published_models
from convzoo.conversion.starting_points import listed_place, starting_folder
from convzoo.conversion.writing import write_for
from modeling import CNN, CNNConfig, ConvZooImageProcessor, QLNet, QLNetConfig
from tests.support.clients import ROOT
from tests.support.golden_weights import tensor
from tests.support.hub_server import HubServer

SIZES = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2]}
TIMM = {
    "architecture": "resnet50",
    "num_classes": 3,
    "label_names": ["cat", "dog", "owl"],
    "pretrained_cfg": {
        "input_size": [3, 64, 64],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "crop_mode": "center",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "license": "cc-by-nc-4.0",
    },
}


@pytest.fixture(scope="module")
def resnet():
    """A real ResNet of transformers with made-up weights."""
    model = ResNetForImageClassification(ResNetConfig(**SIZES, num_labels=3)).eval()
    state = {name: tensor(name, list(t.shape)) for name, t in model.state_dict().items()}
    for name in state:
        if name.endswith("running_var"):
            state[name] = 0.5 + state[name].abs()
        elif name.endswith("normalization.weight"):
            state[name] = 0.5 * state[name].abs() + 0.2
    model.load_state_dict(state)
    return model


def timm_state(resnet):
    """The same weights by timm's names, which are written down here once more, by hand."""
    state = {}
    for name, value in resnet.state_dict().items():
        parts = name.removeprefix("resnet.").split(".")
        last = parts[-1]
        kind = {"convolution": "conv", "normalization": "bn"}.get(parts[-2], "")
        if parts[0] == "classifier":
            state[f"fc.{last}"] = value
        elif parts[0] == "embedder":
            state[f"{kind}1.{last}"] = value
        elif "shortcut" in parts:
            place = {"conv": 0, "bn": 1}[kind]
            state[f"layer{int(parts[2]) + 1}.{parts[4]}.downsample.{place}.{last}"] = value
        else:
            number = int(parts[6]) + 1
            state[f"layer{int(parts[2]) + 1}.{parts[4]}.{kind}{number}.{last}"] = value
    return state


def logits(model, images):
    with torch.inference_mode():
        return model.eval()(images).logits


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def timm_folder(folder, resnet, **changes):
    folder.mkdir()
    save_file(timm_state(resnet), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**TIMM, **changes}))
    return folder


@pytest.mark.parametrize("prelu", [False, True])
def test_a_resnet_of_transformers_gives_its_logits_as_a_cnn(resnet, images, tmp_path, prelu):
    resnet.save_pretrained(tmp_path / "resnet")
    settings = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}}
    settings |= {"crop_pct": 0.875, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}
    (tmp_path / "resnet" / "preprocessor_config.json").write_text(json.dumps(settings))
    convert(tmp_path / "resnet", tmp_path / "a b", prelu=prelu)
    cnn = AutoModelForImageClassification.from_pretrained(tmp_path / "a b")
    assert isinstance(cnn, CNN) and cnn.config.use_prelu == prelu
    torch.testing.assert_close(logits(cnn, images), logits(resnet, images), rtol=1e-5, atol=1e-5)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "a b")
    assert (processor.size, processor.resample) == ({"shortest_edge": 256}, 3)
    assert processor.crop_size["height"] == 224 and processor.image_mean == [0.5] * 3


def test_weights_of_timm_bring_preprocessing_classes_and_licence(resnet, images, tmp_path):
    source = timm_folder(tmp_path / "timm", resnet)
    report = convert(source, tmp_path / "out")
    assert "ResNet of timm" in report and "resize 67 (bicubic), crop 64" in report
    cnn = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(cnn, images), logits(resnet, images), rtol=1e-5, atol=1e-5)
    assert list(cnn.config.id2label.values()) == ["cat", "dog", "owl"]
    facts = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert facts["license"] == "cc-by-nc-4.0"


def test_a_bare_file_says_that_its_preprocessing_is_assumed(resnet, tmp_path):
    old = {k: v for k, v in timm_state(resnet).items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "resnet.pth")
    assert "assumed: nothing beside the weights" in convert(tmp_path / "resnet.pth", tmp_path / "o")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnetblur50"}, "says resnetblur50"),
        ({"model_type": "resnet", "downsample_in_bottleneck": True}, "downsample_in_bottleneck"),
        ({"pretrained_cfg": {"crop_mode": "squash"}}, "crop_mode center"),
        ({"label_names": ["cat"]}, "must name the 3 classes"),
    ],
)
def test_what_computes_something_else_is_refused(resnet, tmp_path, changes, message):
    source = timm_folder(tmp_path / "timm", resnet, **changes)
    with pytest.raises(ValueError, match=message):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def small_cnn(folder, *, use_prelu=True, slope=0.0):
    """A CNN with biases and scales that training moved."""
    torch.manual_seed(0)
    cnn = CNN(CNNConfig(**SIZES, num_labels=3, use_prelu=use_prelu, prelu_init=slope))
    with torch.no_grad():
        for name, value in cnn.named_parameters():
            if name.endswith(("bias", "residual_scale")):
                value.normal_()
    cnn.save_pretrained(folder)
    ConvZooImageProcessor(67, crop_size=64).save_pretrained(folder)
    return cnn


def test_a_cnn_becomes_a_resnet_of_transformers(images, tmp_path):
    cnn = small_cnn(tmp_path / "cnn")
    write_for("transformers", str(tmp_path / "cnn"), output=tmp_path / "out")
    resnet = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert isinstance(resnet, ResNetForImageClassification)
    torch.testing.assert_close(logits(resnet, images), logits(cnn, images), rtol=1e-4, atol=1e-5)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    assert processor.size["shortest_edge"] == 67 and processor.crop_size["height"] == 64


@pytest.mark.parametrize(
    ("changes", "library", "message"),
    [
        ({"slope": 0.25}, "transformers", r"slopes of 0, to become .* up to 0.25"),
        ({}, "timm", r"must have embedding_size = 64; its config.json has 8"),
        ({}, "keras", "--to must be one of timm, torchvision, transformers; got 'keras'"),
    ],
)
def test_what_no_other_library_computes_is_not_written(tmp_path, changes, library, message):
    small_cnn(tmp_path / "cnn", **changes)
    with pytest.raises(ValueError, match=message):
        write_for(library, str(tmp_path / "cnn"), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_qlnet_has_no_other_format(tmp_path):
    sizes = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "stem": "small"}
    QLNet(QLNetConfig(**sizes, num_labels=2)).save_pretrained(tmp_path / "qlnet")
    ConvZooImageProcessor(18, crop_size=16).save_pretrained(tmp_path / "qlnet")
    with pytest.raises(ValueError, match="no other library has a QLNet"):
        write_for("timm", str(tmp_path / "qlnet"), output=tmp_path / "out")


START = """
import sys
from convzoo.conversion.starting_points import starting_folder
print(*starting_folder(*sys.argv[1:]))
"""


def test_a_hub_id_is_converted_once_in_a_fresh_process(resnet, tmp_path):
    folder = timm_folder(tmp_path / "timm", resnet)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    about = {"home": tmp_path / "home", "cwd": tmp_path}
    with HubServer(tmp_path / "hub", {}) as hub:
        commit = hub.add_repo("models", "timm/tiny", folder)
        first = hub.run("-c", START, "timm/tiny", **about).stdout.split()
        asked = len(hub.requests("GET .*safetensors"))
        assert hub.run("-c", START, "timm/tiny", commit, **about).stdout.split() == first
        assert len(hub.requests("GET .*safetensors")) == asked
    assert first[1] == commit
    facts = json.loads((Path(first[0]) / "conversion.json").read_text())
    assert facts["source"]["hub_id"] == "timm/tiny" and facts["license"] == "mit"
    assert facts["source"]["commit"] == commit


def test_files_of_torchvision_are_known_by_their_hash(resnet, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(timm_state(resnet), cache / "x.pth")
    digest = hashlib.sha256((cache / "x.pth").read_bytes()).hexdigest()
    file = f"resnet-{digest[:8]}.pth"
    entry = PublishedModel(
        name="tv", family="cnn", num_parameters=1, license="bsd-3-clause", file=file,
        download="https://x", preprocessing={"size": 232, "crop_size": 224, "resample": 2},
    )  # fmt: skip
    monkeypatch.setattr(convzoo.conversion.published, "published_models", lambda: (entry,))
    with pytest.raises(FileNotFoundError, match=r"in the cache of torch.hub.*Download https://x"):
        convert("tv", tmp_path / "out")
    (cache / "x.pth").rename(cache / file)
    assert "as documented for tv: resize 232 (bilinear), crop 224" in convert("tv", tmp_path / "o")
    (cache / file).write_bytes((cache / file).read_bytes() + b"!")
    with pytest.raises(ValueError, match="SHA-256 that begins as its name ends"):
        convert("tv", tmp_path / "again")


def test_the_list_is_printed_and_its_names_are_looked_up(capsys):
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in listed] == [model.name for model in published_models()]
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert all(each["name"] in table for each in listed)
    assert main(["models", "resnet50-a1"]) == 0
    assert "5d9e13b8fdab4d9718bcf2c8f5c3af01878367e8" in capsys.readouterr().out
    assert main(["models", "resnet5"]) == 1
    assert "the name must be one of" in capsys.readouterr().err


def test_short_names_are_written_into_recipes_as_hub_id_and_commit(tmp_path):
    name, commit = listed_place("resnet50-a1")
    assert (name, len(commit)) == ("timm/resnet50.a1_in1k", 40)
    assert listed_place(str(tmp_path)) == (str(tmp_path), "")
    assert starting_folder(str(tmp_path)) == (str(tmp_path), None)


def test_quoted_accuracies_are_those_of_the_cards():
    """Two lists, of models and of results, name the same figures where both name a model."""
    quoted = tomllib.loads((ROOT / "hub_cards" / "quoted_results.toml").read_text())["results"]
    figures = {(q["url"], q["num_parameters"]): q["top1_accuracy"] for q in quoted}
    same = [m for m in published_models() if (m.url, m.num_parameters) in figures]
    assert {m.name for m in same} >= {"cnn-prelu-imagenet", "torchvision-alexnet", "qlnet-50-v0"}
    for model in same:
        assert model.top1_accuracy == figures[model.url, model.num_parameters]


def test_a_resnet_has_all_its_tensors_named(resnet):
    (fmt,) = [f for f in FORMATS if f.name == "ResNet of transformers"]
    cnn = CNN(CNNConfig(**SIZES, num_labels=3, use_prelu=False, conv_bias=False))
    ours = {fmt.original_name(n) for n in cnn.state_dict() if fmt.added_value(n) is None}
    assert ours == resnet.state_dict().keys()
