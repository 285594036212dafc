"""Networks of timm, as far as that can be tested where timm is not installed."""

import importlib.util
import json

import pytest

from convzoo.cli import main
from convzoo.evaluation.timm_models import hub_name, is_of_timm, processor_settings

# The pretrained_cfg of timm/resnet50.a1_in1k, whose published transform is Resize(235, bicubic) and
# CenterCrop(224).
RESNET50 = {
    "input_size": [3, 224, 224],
    "test_input_size": [3, 288, 288],
    "interpolation": "bicubic",
    "crop_pct": 0.95,
    "crop_mode": "center",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "num_classes": 1000,
}


def test_images_are_prepared_as_the_transform_of_timm_does():
    assert processor_settings(RESNET50) == {
        "size": 235,
        "crop_size": 224,
        "resample": 3,
        "num_channels": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    assert processor_settings({})["size"] == 256  # timm's defaults: 224 / 0.875, bicubic
    for changes in ({"crop_mode": "squash"}, {"input_size": [3, 224, 288]}):
        assert processor_settings(RESNET50 | changes) is None


def test_without_timm_one_sentence_says_so(tmp_path, capsys):
    assert importlib.util.find_spec("timm") is None, "no environment of the tests has it"
    config = {"architecture": "resnet50", "num_classes": 1000, "pretrained_cfg": RESNET50}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert is_of_timm(str(tmp_path))
    assert main(["evaluate", str(tmp_path), "--data", str(tmp_path)]) == 1
    assert "pip install timm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "expected"),
    [("timm:resnet50.a1_in1k", "timm/resnet50.a1_in1k"), ("timm/x", "timm/x"), ("a/b", "a/b")],
)
def test_a_network_of_timm_is_a_model_on_the_hub(name, expected):
    assert hub_name(name) == expected
