"""`convzoo robustness`: hits under each corruption, counted again by hand."""

import hashlib
import io
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from convzoo.cli import main
from convzoo.evaluation import robustness
from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.evaluation.robustness_results import (
    ALEXNET_CLEAN_ERROR,
    ALEXNET_ERRORS,
    FILE,
    read_robustness,
    record_robustness,
    summarize,
)
from convzoo.imagenet_classes import imagenet_names
from convzoo.images.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.clients import launch_arguments, run
from tests.support.images import encode, write_split

NAMES = ("stripes", "noise", "ramp")


def save_model(folder, names=NAMES, **processor):
    torch.manual_seed(0)
    stages = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "stem": "small"}
    model = CNN(CNNConfig(id2label=dict(enumerate(names)), **stages))
    torch.nn.init.normal_(model.classifier.weight, std=3)
    model.save_pretrained(folder)
    ConvZooImageProcessor(**{"size": 36, "crop_size": 32} | processor).save_pretrained(folder)
    return folder


def some_images(count):
    random = np.random.default_rng(0)
    for _ in range(count):
        coarse = random.integers(0, 256, size=(5, 6, 3)).astype(np.uint8)
        yield encode(np.asarray(Image.fromarray(coarse).resize((60, 50))), "PNG")


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "my model")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("some data")
    write_split(folder, "test", list(some_images(24)), [n % 3 for n in range(24)], names=NAMES)
    return folder


def measure(model, data, *options):
    arguments = ["robustness", str(model), "--data", str(data), "--num-workers=0", *options]
    assert main([*arguments, "--quiet", "--json"]) == 0


def hits_by_hand(model, corruption, severity):
    """Right answers, with nothing of ours but model, crop and the corruption of one image."""
    network, processor = CNN.from_pretrained(model), ConvZooImageProcessor.from_pretrained(model)
    hits = 0
    for number, data in enumerate(some_images(24)):
        image = Image.open(io.BytesIO(data)).resize((43, 36), Image.Resampling.BILINEAR)
        crop = np.asarray(image.crop((6, 2, 38, 34)))  # (43 - 32) / 2, rounded to nearest even
        if corruption:
            crop = corrupt(crop, corruption, severity, digest=hashlib.sha256(data).digest())
        shown = (crop / 255 - processor.image_mean) / processor.image_std
        pixel_values = torch.tensor(shown, dtype=torch.float32).permute(2, 0, 1)[None]
        with torch.inference_mode():
            hits += int(network(pixel_values).logits.argmax()) == number % 3
    return hits


def test_hits_are_counted_of_each_corruption(model, data, capsys):
    measure(model, data, "--corruptions", "fog", "contrast", "--severities", "5", "1")
    printed = json.loads(capsys.readouterr().out)
    (result,) = read_robustness(model / FILE)
    assert result == printed and result["complete"]
    assert result["clean"]["num_correct"] == hits_by_hand(model, None, None)
    found = [(x["corruption"], x["severity"], x["num_correct"]) for x in result["conditions"]]
    assert found == [
        (name, severity, hits_by_hand(model, name, severity))
        for name in ("fog", "contrast")
        for severity in (1, 5)
    ]
    assert len({hits for *_, hits in found}) > 1
    assert result["summary"] == {"corruptions": [], "without": []}  # not all severities
    assert not (model / "predictions").exists()


def test_what_is_recorded_is_not_measured_again(model, data, caplog, capsys, monkeypatch):
    pairs = ["--corruptions", "snow", "pixelate"]
    measure(save_model(model.with_name("other")), data, *pairs)
    whole = json.loads(capsys.readouterr().out)
    measured, add = [], robustness._Record.add

    def fail_at_the_third(record, condition, finished):
        measured.append(condition)
        if len(measured) == 3:
            raise KeyboardInterrupt
        add(record, condition, finished)

    monkeypatch.setattr(robustness._Record, "add", fail_at_the_third)
    arguments = ["robustness", str(model), "--data", str(data), "--num-workers=0", *pairs]
    assert main(arguments) == 130
    (partial,) = read_robustness(model / FILE)
    assert not partial["complete"] and len(partial["conditions"]) == 1
    caplog.set_level(logging.INFO)
    assert main(arguments) == 0
    assert measured[2:] == [("snow", 2), *measured[3:]] and measured[3] == ("snow", 2)
    assert len(measured) == 3 + 9 and f"2 of 11 are recorded in {model / FILE}" in caplog.text
    (result,) = read_robustness(model / FILE)
    for key in ("clean", "conditions", "summary", "dataset", "complete"):
        assert result[key] == whole[key], key
    assert [row["corruption"] for row in result["summary"]["corruptions"]] == ["snow", "pixelate"]
    assert "mce" not in result["summary"]  # of AlexNet's errors on ImageNet


@pytest.mark.slow
def test_two_processes_count_as_one_does(model, data, capsys):
    options = ["--data", data, "--corruptions", "glass_blur", "frost", "--batch-size", "4"]
    measure(model, *map(str, options[1:]))
    (alone,) = read_robustness(model / FILE)
    both = save_model(model.with_name("both"))
    script = ("--module", "convzoo", "robustness", both, *options)
    run(*launch_arguments(2, *script))
    (result,) = read_robustness(both / FILE)
    assert result["conditions"] == alone["conditions"] and result["clean"] == alone["clean"]


def hits(accuracy):
    return {"num_correct": 0, "top1_accuracy": accuracy, "interval_95": [0.0, 1.0]}


def test_alexnet_itself_has_a_corruption_error_of_one():
    conditions = [
        {**hits(1 - error / 100), "corruption": name, "severity": severity}
        for name, error in ALEXNET_ERRORS.items()
        for severity in SEVERITIES
    ]
    clean = hits(1 - ALEXNET_CLEAN_ERROR / 100)
    summary = summarize(clean, conditions, comparable=True)
    assert summary["mce"] == pytest.approx(1) and summary["relative_mce"] == pytest.approx(1)
    assert summary["without"] == ["frost"] and len(summary["corruptions"]) == 15
    half = [{**each, "top1_accuracy": (1 + each["top1_accuracy"]) / 2} for each in conditions]
    summary = summarize(hits((1 + clean["top1_accuracy"]) / 2), half, comparable=True)
    assert summary["mce"] == pytest.approx(0.5) and summary["relative_mce"] == pytest.approx(0.5)
    assert "mce" not in summarize(clean, conditions[:-1], comparable=True)
    assert "mce" not in summarize(clean, conditions, comparable=False)
    assert ALEXNET_ERRORS.keys() == CORRUPTIONS.keys()
    assert sum(ALEXNET_ERRORS.values()) == pytest.approx(1183.5)  # of the paper's table


def test_a_mean_corruption_error_is_of_imagenets_classes_and_crops(tmp_path):
    images = list(some_images(2))
    write_split(tmp_path / "data", "test", images, [0, 1], names=imagenet_names())
    found = {}
    for size in (32, 224):
        folder = save_model(tmp_path / str(size), imagenet_names(), size=size, crop_size=size)
        measure(folder, tmp_path / "data", "--corruptions", "contrast")
        (result,) = read_robustness(folder / FILE)
        (found[size],) = result["summary"]["corruptions"]
    assert found[224]["ce"] == pytest.approx(found[224]["error"] / 0.853)
    assert "ce" not in found[32]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--corruptions", "rain"], "must be one of gaussian_noise"),
        (["--severities", "0"], "must be 1 to 5; got 0"),
        (["--severities", "high"], "must be whole numbers from 1 to 5; got 'high'"),
    ],
)
def test_what_is_asked_for_must_exist(options, sentence, data, capsys):
    assert main(["robustness", "nowhere", "--data", str(data), *options]) == 1
    assert sentence in capsys.readouterr().err


def test_models_that_corruptions_do_not_fit_are_refused(tmp_path, data, capsys):
    small = save_model(tmp_path / "small", crop_size=31)
    assert main(["robustness", str(small), "--data", str(data), "--num-workers=0"]) == 1
    assert "must be at least 32 pixels; got 31 x 31" in capsys.readouterr().err
    grey = {"num_channels": 1, "image_mean": [0.5], "image_std": [0.2]}
    ConvZooImageProcessor(**grey).save_pretrained(small)
    classifier = robustness.Classifier(
        name="grey",
        model=None,
        processor=ConvZooImageProcessor(**grey),
        names=NAMES,
        facts={},
    )
    for protocol, sentence in (({}, "takes grey ones"), ({"crops": 10}, "one crop of an image")):
        with pytest.raises(ValueError, match=sentence):
            robustness.measure_robustness(
                classifier, data, split="test", command="", protocol=EvaluationProtocol(**protocol)
            )


def test_a_damaged_file_is_refused_and_stays(model, data, *, capsys, caplog):
    assert main(["robustness", str(model), "--show"]) == 1
    assert "must have a result to show" in capsys.readouterr().err
    measure(model, data, "--corruptions", "fog", "--severities", "1")
    capsys.readouterr()
    assert main(["robustness", str(model), "--show"]) == 0
    sentence, header, clean, fog = capsys.readouterr().out.splitlines()
    (result,) = read_robustness(model / FILE)
    accuracy = f"{result['conditions'][0]['top1_accuracy']:.2%}"
    assert header.split() == ["corruption", "1", "mean"] and "under 1 corruption" in sentence
    assert fog.split() == ["fog", accuracy, accuracy]
    assert clean.split()[-1] == f"{result['clean']['top1_accuracy']:.2%}"
    caplog.set_level(logging.INFO)
    assert main(["robustness", str(model), "--show", "--figures"]) == 0
    figure = model / "robustness_results.png"
    assert f"drawn: {figure}" in caplog.text
    with Image.open(figure) as drawn:
        assert drawn.size == (363, 330)  # one panel
    content = json.loads((model / FILE).read_text())
    content["results"][0]["clean"]["num_correct"] = "all"
    (model / FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"results\.0\.clean\.num_correct.* Move the file away"):
        read_robustness(model / FILE)
    with pytest.raises(ValueError, match="Move the file away"):
        record_robustness(model / FILE, content["results"][0] | {"clean": hits(0.5)})
    assert json.loads((model / FILE).read_text()) == content


def test_images_that_cannot_be_read_count_as_wrong_if_told(model, tmp_path, capsys):
    images = [*some_images(5), b"no image"]
    write_split(tmp_path / "bad", "test", images, [0, 1, 2, 0, 1, 2], names=NAMES)
    options = ["--corruptions", "fog", "--severities", "2"]
    arguments = ["robustness", str(model), "--data", str(tmp_path / "bad"), "--num-workers=0"]
    assert main([*arguments, *options]) == 1
    assert "--unreadable wrong" in capsys.readouterr().err
    measure(model, tmp_path / "bad", *options, "--unreadable", "wrong")
    (result,) = read_robustness(model / FILE)
    assert result["unreadable"]["num_images"] == 1 and result["dataset"]["num_samples"] == 6


def test_a_model_that_chose_among_fewer_classes_has_a_result_of_its_own(model, data, capsys):
    """Of the same images, without ramps, which the model may answer in one of the two only."""
    options = ["--corruptions", "fog", "--severities", "1", "--classes", "stripes", "noise"]
    measure(model, data, *options)
    measure(model, data, *options, "--restrict-logits")
    whole, restricted = read_robustness(model / FILE)
    assert whole["dataset"]["fingerprint"] == restricted["dataset"]["fingerprint"]
    measure(model, data, *options, "--restrict-logits")
    assert len(read_robustness(model / FILE)) == 2
    for result, said in ((whole, ""), (restricted, " among 2 classes")):
        sentence = robustness.robustness_sentence("m", "d", result)
        assert sentence.startswith(f"m on 16 images{said} of d [test]: top-1 ")
