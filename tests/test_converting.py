"""Conversion: the numbers of the originals from files like theirs, and what must be refused."""

import argparse
import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from convzoo.__main__ import main
from convzoo.conversion.converting import convert
from convzoo.conversion.formats import FORMATS
from convzoo.files import file_sha256
from modeling import QLNet, QLNetConfig
from tests.support.clients import run
from tests.support.golden_weights import golden, images, weights

KEYS = ("cnn_prelu", "alexnet_one_tower", "alexnet_2012_reimplementation", "qlnet_v0")


@pytest.fixture
def folder(tmp_path):
    """A temporary folder that is emptied at once: weights are large."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def keys(name):
    """{our name: [original name, shape]}; the CNNs differ in their activations only."""
    if not name.startswith("cnn"):
        return golden(f"{name}.keys")
    table = golden("cnn_prelu.keys")
    if name == "cnn_relu":
        return {ours: entry for ours, entry in table.items() if "act" not in ours}
    shared = {"cnn_prelu_shared": [1]}.get(name)
    return {
        ours: [original, shared if shared and "act" in ours else shape]
        for ours, (original, shape) in table.items()
    }


def blank(name, fill=0.0, num_labels=1000):
    """A state dict of the original's names and shapes that takes no space in a PyTorch file."""
    state = {}
    for ours, (original, shape) in keys(name).items():
        shape = [num_labels, *shape[1:]] if ours.startswith("classifier") else shape
        counter = original.endswith("num_batches_tracked")
        state[original] = torch.tensor(7) if counter else torch.tensor(fill).expand(shape)
    return state


def uploaded_cnn(folder, state):
    """The Hub repository of the CNN: a compiled model's names, and a config.json of its own."""
    source = folder / "cnn-prelu-imagenet"
    source.mkdir()
    save_file({f"_orig_mod.{name}": t for name, t in state.items()}, source / "model.safetensors")
    claims = {"model_type": "cnn", "architecture": "resnet-style", "use_prelu": True}
    (source / "config.json").write_text(json.dumps(claims))
    return source


def trainer_folder(folder, state):
    source = folder / "checkpoint-375300"
    source.mkdir()
    torch.save(state, source / "pytorch_model.bin")
    return source


def bare_safetensors(folder, state):
    save_file(state, folder / "weights.txt")
    return folder / "weights.txt"


def bare_state_dict(folder, state):
    """What torchvision publishes, here in a pickle protocol that makes PyTorch warn."""
    torch.save(state, folder / "alexnet-owt-7be5be79.pth", pickle_protocol=3)
    return folder / "alexnet-owt-7be5be79.pth"


def full_checkpoint(folder, state):
    """What github.com/xevolesi/alexnet_pytorch writes after every epoch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    content = {"epoch": 89, "model": state, "optimizer": optimizer.state_dict()}
    content["scheduler"] = scheduler.state_dict()
    torch.save(content, folder / "alexnet_89_0.2269_full.pt")
    return folder / "alexnet_89_0.2269_full.pt"


def timm_checkpoint(folder, state, **more):
    """What timm's train.py writes, in the older of PyTorch's two file formats."""
    args = argparse.Namespace(model="resnet50", lr=0.1, drop=None, scale=[0.08, 1.0])
    content = {"epoch": 239, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}}
    content |= {"version": 2, "args": args, "amp_scaler": {"scale": 65536.0}, "metric": 78.4}
    path = folder / "model_best.pth.tar"
    torch.save(content | more, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize(("fmt", "name"), list(zip(FORMATS, KEYS, strict=False)), ids=KEYS)
def test_every_tensor_has_one_original_name(fmt, name):
    assert {ours: fmt.original_name(ours) for ours in keys(name)} == {
        ours: original for ours, (original, _) in keys(name).items()
    }


@pytest.mark.parametrize(
    ("name", "write", "origin", "resize", "resample", "mean"),
    [
        ("cnn_prelu", uploaded_cnn, "the whole file", 256, 2, 0.485),
        ("cnn_relu", trainer_folder, "the whole file", 256, 2, 0.485),
        ("cnn_prelu_shared", bare_safetensors, "the whole file", 256, 2, 0.485),
        ("alexnet_one_tower", bare_state_dict, "the whole file", 256, 2, 0.485),
        ("alexnet_2012_reimplementation", full_checkpoint, "its model", 256, 3, 123.675),
        ("qlnet_v0", timm_checkpoint, "its state_dict", 235, 3, 0.485),
    ],
)
def test_converted_weights_give_the_logits_of_the_original(
    folder, name, *, write, origin, resize, resample, mean
):
    expected = golden(name)
    source = write(folder, weights(keys(name), original_names=True))
    if name == "cnn_prelu":
        report = run("-m", "convzoo", "convert", source, folder / "out").stdout
    else:
        report = convert(str(source), str(folder / "out"))
    assert f"{expected['num_parameters']:,} parameters, 1000 classes" in report

    model, info = AutoModelForImageClassification.from_pretrained(
        folder / "out", output_loading_info=True
    )
    assert not any(info.values())
    with torch.inference_mode():
        logits = model(images(expected["input_scale"]).float()).logits.double()
    wanted = torch.tensor(expected["logits"], dtype=torch.float64)
    error = (logits - wanted).abs().max() / wanted.abs().max()
    assert error < 1e-4
    assert model.num_parameters() == expected["num_parameters"]
    labels = model.config.id2label
    assert [labels[i] for i in (0, 388, 999)] == ["tench", "giant panda", "toilet tissue"]
    assert len(set(labels.values())) == 1000

    stored = load_file(folder / "out" / "model.safetensors")
    assert stored.keys() == keys(name).keys()
    assert {tensor.dtype for tensor in stored.values()} <= {torch.float32, torch.int64}
    processor = AutoImageProcessor.from_pretrained(folder / "out")
    assert processor.size == {"shortest_edge": resize}
    assert (processor.resample, processor.image_mean[0]) == (resample, mean)
    assert processor.crop_size == {"height": 224, "width": 224}

    family = model.config.model_type
    assert {path.name for path in (folder / "out").iterdir()} == {
        *("config.json", "model.safetensors", "preprocessor_config.json", "conversion.json"),
        *(f"configuration_{family}.py", f"modeling_{family}.py", "image_processing_convzoo.py"),
        *("configuration_convzoo.py", "modeling_convzoo.py", "layers_by_hand.py"),
    }
    facts = json.loads((folder / "out" / "conversion.json").read_text())
    file = source if source.is_file() else next(source.glob("*model.*"))
    assert facts["source"] == {"file": file.name, "sha256": file_sha256(file), "weights": origin}
    assert facts["num_tensors"] == len(keys(name))
    assert facts["format"] in report


def test_a_later_qlnet_of_other_classes_and_channels_keeps_every_value(folder):
    torch.manual_seed(0)
    model = QLNet(QLNetConfig.v10m(num_labels=7, num_channels=1))
    names = {ours: original for ours, (original, _) in keys("qlnet_v0").items()}
    state = model.state_dict()
    torch.save(
        {names[ours]: tensor for ours, tensor in state.items()}, folder / "qlnet-10m.pth.tar"
    )
    report = convert(folder / "qlnet-10m.pth.tar", folder / "out")
    assert "qlnet, num_channels = 1, expansion_limit = 256, depthwise_multiplier = 1" in report
    assert "check" in report
    assert "LABEL_0" in report
    converted = AutoModelForImageClassification.from_pretrained(folder / "out")
    for field in QLNetConfig.__annotations__:
        assert getattr(converted.config, field) == getattr(model.config, field), field
    assert converted.config.num_labels == 7
    torch.testing.assert_close(converted.state_dict(), state, rtol=0, atol=0)
    batch = AutoImageProcessor.from_pretrained(folder / "out")(np.zeros((9, 9), np.uint8))
    assert batch["pixel_values"].shape == (1, 1, 224, 224)


def test_the_moving_average_is_taken_and_prefixes_are_not(folder):
    average = {
        f"module._orig_mod.{name}": tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in blank("qlnet_v0", 0.5, num_labels=2).items()
    }
    path = timm_checkpoint(folder, blank("qlnet_v0", 0.25), state_dict_ema=average)
    report = convert(path, folder / "out")
    assert "its state_dict_ema (it also has state_dict)" in report
    for name, tensor in load_file(folder / "out" / "model.safetensors").items():
        counter = name.endswith("num_batches_tracked")
        assert tensor.dtype == (torch.int64 if counter else torch.float32)
        assert (tensor == (7 if counter else 0.5)).all()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\n  dog \n\ncrane\ncrane\n", ["cat", "dog", "crane", "crane (2)"]),
        ('["cat", "dog", "crane", "tits"]', ["cat", "dog", "crane", "tits"]),
        ('{"1": "dog", "0": "cat", "3": "b", "2": "a"}', ["cat", "dog", "a", "b"]),
    ],
)
def test_class_names_come_from_a_file(folder, text, names):
    torch.save(blank("qlnet_v0", num_labels=4), folder / "weights.pt")
    (folder / "names.txt").write_text(text)
    assert "names.txt" in convert(folder / "weights.pt", folder / "out", folder / "names.txt")
    config = json.loads((folder / "out" / "config.json").read_text())
    assert list(config["id2label"].values()) == names
    assert config["label2id"] == {name: index for index, name in enumerate(names)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ndog\n", r"names must name the 4 classes of .*weights\.pt; it has 2"),
        ('{"1": "dog", "2": "cat"}', r"names must have one name a line.*KeyError\('0'\)"),
        ('["cat", 2, 3, 4]', r"names must have one name a line.*got \['cat', 2, 3\]"),
        ('["cat",', "names must have one name a line.*JSONDecodeError"),
    ],
)
def test_wrong_class_names_are_refused(folder, text, message):
    torch.save(blank("qlnet_v0", num_labels=4), folder / "weights.pt")
    (folder / "names").write_text(text)
    with pytest.raises(ValueError, match=message):
        convert(folder / "weights.pt", folder / "out", folder / "names")
    assert not (folder / "out").exists()


def test_a_thousand_classes_get_the_names_of_imagenet_which_differ(folder):
    torch.save(blank("qlnet_v0"), folder / "weights.pt")
    assert "ImageNet-1k, assumed" in convert(folder / "weights.pt", folder / "out")
    config = json.loads((folder / "out" / "config.json").read_text())
    assert config["id2label"]["134"] == "crane (n02012849)" and len(config["label2id"]) == 1000


def test_the_originals_choice_of_layers_is_kept(folder):
    torch.save(blank("cnn_relu", num_labels=4), folder / "pytorch_model.bin")
    (folder / "config.json").write_text('{"model_type": "cnn", "use_builtin_conv": false}')
    assert "layer_implementation = by_hand" in convert(folder, folder / "out")
    config = json.loads((folder / "out" / "config.json").read_text())
    assert config["layer_implementation"] == "by_hand"
    (folder / "config.json").write_text("[")
    with pytest.raises(ValueError, match=r"config.json must hold a JSON object"):
        convert(folder, folder / "again")


def changed(name, drop=(), add=None):
    state = {key: value for key, value in blank(name).items() if key not in drop}
    return state | (add or {})


BIAS = torch.zeros(1000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            changed("qlnet_v0", drop=["fc.bias"]),
            "is QLNet.*313 of its 314.*1 are missing: fc.bias$",
        ),
        (changed("cnn_prelu", add={"x": BIAS}), "closest is CNN.*434 of its 434.*are unknown: x$"),
        (changed("qlnet_v0", add={"fc.bias": BIAS[1:]}), r"\(999,\) instead of \(1000,\)"),
        (changed("qlnet_v0", add={"fc.bias": BIAS.long()}), "torch.int64"),
        (changed("qlnet_v0", add={"fc.bias": BIAS / 0}), "fc.bias has values that are not finite"),
        (changed("qlnet_v0", add={"fc.bias": BIAS.double() + 1e99}), "not finite in float32"),
        (changed("qlnet_v0", add={"module.fc.bias": BIAS}), "must name each tensor once"),
        (
            {"features.0.weight": BIAS, "features.1.weight": BIAS},
            "AlexNet of torchvision, with 1 of",
        ),
        ({"conv1.weight": torch.zeros(8, 4), "fc": BIAS}, "0 of its|1 of its"),
        ({"stem.conv.weight": BIAS, "classifier.weight": BIAS}, "is already converted"),
        ({"epoch": 3, "optimizer": {}}, r"must hold named tensors.*\['epoch', 'optimizer'\]"),
        ({"state_dict": {"epoch": 3}}, r"must hold named tensors.*\['state_dict'\]"),
        ([BIAS], "must hold named tensors"),
        ({1: BIAS}, "must hold named tensors"),
        ({"fc.bias": BIAS.to_sparse()}, "must hold named tensors"),
    ],
)
def test_weights_that_fit_no_format_are_refused_and_nothing_is_written(folder, content, message):
    torch.save(content, folder / "weights.pt")
    with pytest.raises(ValueError, match=message) as caught:
        convert(folder / "weights.pt", folder / "out")
    assert str(folder / "weights.pt") in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["weights.pt"]


def test_a_refusal_counts_all_differences_and_shows_a_dozen(folder):
    torch.save(dict(list(blank("cnn_prelu").items())[20:]), folder / "weights.pt")
    # Older checkpoints have no counters of batches, which may be missing.
    missing = {n for n in list(blank("cnn_prelu"))[:20] if not n.endswith("num_batches_tracked")}
    assert len(missing) == 18
    with pytest.raises(ValueError, match="18 are missing: ") as caught:
        convert(folder / "weights.pt", folder / "out")
    listed = str(caught.value).partition("18 are missing: ")[2].split(", ")
    assert len(listed) == 12
    assert set(listed) < missing


# Runs the command as one who has only what pyproject.toml calls dependencies (pydantic comes with
# typer, that with transformers), and says in the end which modules it imported that train.
WITHOUT_EXTRAS = """
import runpy, sys
extras = "accelerate datasets evaluate gradio jinja2 matplotlib pyarrow scipy simplejpeg"
sys.modules.update(dict.fromkeys([*extras.split(), "tenacity", "tomlkit", "turbojpeg"]))
sys.argv = ["convzoo", "convert", *sys.argv[1:]]
try:
    runpy.run_module("convzoo", run_name="__main__")
finally:
    print([name for name in sys.modules if name.startswith(("convzoo.training", "convzoo.recipe"))])
"""


def test_conversion_needs_base_dependencies_only(folder):
    torch.save(blank("qlnet_v0", num_labels=2), folder / "weights.pt")
    done = run("-c", WITHOUT_EXTRAS, folder / "weights.pt", folder / "out")
    assert "QLNet of liuyao12" in done.stdout and done.stdout.endswith("[]\n")
    assert (folder / "out" / "config.json").exists()


class MakesFolder:
    """Unpickling it runs code: it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_command_line_reports_a_refusal_and_fails(folder, capsys):
    path = folder / "weights.pt"
    path.write_bytes(pickle.dumps(MakesFolder(folder / "marker"), protocol=2))
    assert main(["convert", str(path), str(folder / "out")]) == 1
    assert re.fullmatch(r"error: .*weights\.pt must hold only .*\n", capsys.readouterr().err)
    assert not (folder / "marker").exists()


def test_an_output_with_files_in_it_is_left_alone(folder):
    torch.save(blank("qlnet_v0", num_labels=2), folder / "weights.pt")
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("years of work")
    for output in ("out", "weights.pt"):
        with pytest.raises(FileExistsError, match="must be new or an empty folder"):
            convert(folder / "weights.pt", folder / output)
    assert (folder / "out" / "thesis.txt").read_text() == "years of work"
    (folder / "out" / "thesis.txt").unlink()
    convert(folder / "weights.pt", folder / "out")
    assert (folder / "out" / "config.json").exists()
