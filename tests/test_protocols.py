"""Evaluations with other crops, views and precisions: their numbers, and what is recorded."""

import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from convzoo.cli import main
from convzoo.evaluation.crop_settings import CropSettings
from convzoo.evaluation.protocols import Computation
from convzoo.evaluation.remeasuring import Request, reevaluate
from modeling import CNN, AlexNet, AlexNetConfig, CNNConfig, ConvZooImageProcessor
from tests.support.evaluations import evaluate
from tests.support.images import COLOURS, coloured_images


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    config = CNNConfig(
        stem="small",
        embedding_size=8,
        hidden_sizes=[8],
        depths=[1],
        id2label=dict(enumerate(COLOURS)),
    )
    CNN(config).save_pretrained(tmp_path / "model")
    ConvZooImageProcessor(size=18, crop_size=16).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def plain_loss(folder, processor, *, dtype=torch.float32, average=lambda logits: logits[0]):
    """Mean loss of the test images by a plain loop; an image is shown with its mirror image."""
    model = CNN.from_pretrained(folder).to(dtype).eval()
    losses = []
    for data, label in zip(*coloured_images(23, seed=1), strict=True):
        x = processor(Image.open(io.BytesIO(data)), return_tensors="pt").pixel_values
        with torch.no_grad():
            logits = model(torch.cat([x, x.flip(-1)]).to(dtype)).logits.double()
        losses.append(-average(logits).log_softmax(-1)[label].item())
    return np.mean(losses)


def verified(folder, result, data):
    entry = json.loads(json.dumps(result))
    request = Request(folder=str(folder), results=[entry], data=[str(data)], num_workers=0)
    (answer,) = reevaluate(request)["results"]
    assert answer["loss"] == pytest.approx(result["metrics"]["loss"], rel=1e-5)
    assert answer["preprocessing"] == {}


def test_another_crop_is_measured_recorded_and_verified(folder, colour_data):
    crop = CropSettings(size=12, ratio=0.6, interpolation="bicubic")
    result = evaluate(folder, colour_data, crop=crop)
    processor = ConvZooImageProcessor(size=20, crop_size=12, resample=Image.Resampling.BICUBIC)
    assert result["metrics"]["loss"] == pytest.approx(plain_loss(folder, processor), rel=1e-5)
    protocol = result["protocol"]
    assert protocol["crop"] == {"size": 12, "ratio": 0.6, "interpolation": "bicubic"}
    assert protocol["image_processor"].items() >= processor.to_dict().items()
    own = evaluate(folder, colour_data)
    assert own["protocol"].keys() == {"views", "image_processor"}
    assert own["model"] == result["model"]
    written = json.loads((folder / "eval_results.json").read_text())["results"]
    assert written == [result, own]
    verified(folder, result, colour_data)


@pytest.mark.parametrize(
    ("averaged", "average"),
    [
        ("logits", lambda logits: logits.mean(0)),
        ("probabilities", lambda logits: logits.softmax(-1).mean(0).log()),
    ],
)
def test_a_flip_is_averaged_as_asked(averaged, average, folder, colour_data):
    result = evaluate(folder, colour_data, flip=True, averaged=averaged)
    expected = plain_loss(folder, ConvZooImageProcessor(size=18, crop_size=16), average=average)
    assert result["metrics"]["loss"] == pytest.approx(expected, rel=1e-5)
    protocol = result["protocol"]
    assert (protocol["views"], protocol["flip"], protocol["averaged"]) == (2, True, averaged)
    verified(folder, result, colour_data)


def test_ten_crops_of_whole_images_at_two_scales_are_verified(folder, colour_data):
    options = {"crops": 10, "crops_of": "image", "scales": (1.0, 1.25), "averaged": "logits"}
    result = evaluate(folder, colour_data, **options)
    protocol = {key: result["protocol"][key] for key in ("views", "crops_of", "scales", "averaged")}
    assert protocol == {
        "views": 20,
        "crops_of": "image",
        "scales": [1.0, 1.25],
        "averaged": "logits",
    }
    verified(folder, result, colour_data)


def test_bfloat16_is_that_of_a_cast_model(folder, colour_data):
    computation = Computation(dtype="bfloat16", channels_last=True)
    result = evaluate(folder, colour_data, computation=computation)
    processor = ConvZooImageProcessor(size=18, crop_size=16)
    expected = plain_loss(folder, processor, dtype=torch.bfloat16)
    assert result["metrics"]["loss"] == pytest.approx(expected, rel=1e-2)
    assert result["metrics"]["loss"] != evaluate(folder, colour_data)["metrics"]["loss"]
    assert result["protocol"]["dtype"] == "bfloat16" and result["protocol"]["channels_last"]
    verified(folder, result, colour_data)


@pytest.mark.slow  # a compiler runs
def test_a_compiled_model_gives_the_same_numbers(folder, colour_data):
    result = evaluate(folder, colour_data, computation=Computation(compiled=True))
    plain = evaluate(folder, colour_data)
    assert result["metrics"]["loss"] == pytest.approx(plain["metrics"]["loss"], rel=1e-5)
    assert result["protocol"] == plain["protocol"] | {"compiled": True}


def test_several_sizes_are_a_list_of_results(folder, colour_data, tmp_path, capsys):
    file = tmp_path / "sweep of sizes.json"
    command = ["evaluate", str(folder), "--data", str(colour_data), "--num-workers", "0"]
    command += ["--size", "12,16,20", "--limit", "8", "--output", str(file)]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("[test]")[1].split(":")[0] for line in lines] == [
        ", size 12",
        ", size 16",
        ", size 20",
    ]
    results = json.loads(file.read_text())
    assert [each["protocol"]["crop"] for each in results] == [{"size": n} for n in (12, 16, 20)]
    assert json.loads((folder / "eval_results.json").read_text())["results"] == results


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--size 12,12", "--size: must be whole numbers above 0, each once"),
        ("--size 12.5", "--size: must be whole numbers above 0"),
        ("--scales 1,nan", "--scales: must be numbers above 0"),
        ("--crops 10 --flip", "ten crops have their mirror images already"),
        ("--crops-of image", "crops of the whole image must be 10"),
        ("--averaged logits", "logits are averaged over several views; got one"),
        ("--crop-ratio 1.2", r"crop ratio must be in \(0, 1\]; got 1.2"),
    ],
)
def test_protocols_that_do_not_exist_are_refused(options, said, folder, colour_data, capsys):
    command = ["evaluate", str(folder), "--data", str(colour_data), *options.split()]
    assert main(command) != 0
    assert re.search(said, capsys.readouterr().err)


def test_a_size_that_the_model_cannot_take_is_told_before_images_are_read(tmp_path, colour_data):
    small = AlexNetConfig(
        hidden_sizes=[4, 8, 4, 8, 4], classifier_hidden_size=16, id2label=dict(enumerate(COLOURS))
    )
    AlexNet(small).save_pretrained(tmp_path)
    ConvZooImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="size must be one that .* can take; got 20: "):
        evaluate(tmp_path, colour_data, crop=CropSettings(size=20))
