import hashlib
import io
import json
import math
import shutil
import warnings

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image, ImageOps
from transformers.image_processing_utils import BatchFeature

from convzoo.cli import main
from convzoo.cli.evaluate import where_it_is_kept
from convzoo.data.opening import open_split
from convzoo.evaluation import evaluating
from convzoo.evaluation.class_matching import match_classes
from convzoo.evaluation.evaluating import result_sentence
from convzoo.evaluation.predicting import Kept, predict_split
from convzoo.evaluation.protocols import Computation, EvaluationProtocol
from convzoo.files import file_sha256
from convzoo.imagenet_classes import imagenet_names
from convzoo.images import decoding
from convzoo.recipe.files import load_recipe
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.clients import ROOT, run_warm
from tests.support.evaluations import evaluate
from tests.support.golden_weights import golden, images
from tests.support.images import COLOURS, coloured_images, encode, write_split
from tests.support.models import ORIGINALS, golden_alexnet


@pytest.fixture(scope="module")
def metric():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that evaluate imports
        import evaluate
    return evaluate.load(str(ROOT / "convzoo/evaluation/metrics/topk_accuracy"))


def test_the_metric_agrees_with_counting_by_hand(metric):
    predictions = [[3, 1, 2], [0, 1, 2], [2, 0, 3], [1, 2, 0]]
    references = [3, 1, 1, 0]  # found at places 1, 2, none, 3
    metric.add_batch(predictions=predictions[:3], references=references[:3])
    metric.add_batch(predictions=predictions[3:], references=references[3:])
    result = metric.compute(k=[1, 2, 3])
    assert result == {"top1_accuracy": 0.25, "top2_accuracy": 0.5, "top3_accuracy": 0.75}


def test_the_metric_refuses_a_k_that_was_not_predicted(metric):
    with pytest.raises(ValueError, match=r"k must lie in \[1, 3\].*got \[5\]"):
        metric.compute(predictions=[[0, 1, 2]], references=[0])


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tiny_recipe):
    from convzoo.training.building import build_model, build_processor

    recipe = load_recipe(tiny_recipe)
    folder = tmp_path_factory.mktemp("model")
    build_model(recipe, list(COLOURS)).save_pretrained(folder)
    build_processor(recipe.preprocessing).save_pretrained(folder)
    return folder


def expected_metrics(model_folder, images, labels, *, views=lambda processor, image: [image]):
    """One image and view at a time, with nothing of ours but the model and its processor."""
    model = CNN.from_pretrained(model_folder)
    processor = ConvZooImageProcessor.from_pretrained(model_folder)
    probabilities = []
    with torch.no_grad():
        for data in images:
            shown = views(processor, Image.open(io.BytesIO(data)))
            pixel_values = processor(shown, return_tensors="pt").pixel_values
            logits = [model(each[None]).logits[0].double() for each in pixel_values]
            probabilities.append(torch.stack(logits).softmax(-1).mean(0).numpy())
    probabilities, labels = np.array(probabilities), np.array(labels)
    own = probabilities[np.arange(len(labels)), labels]
    top1 = (probabilities.argmax(axis=1) == labels).mean()
    confidence = probabilities.max(axis=1).mean()
    return {"top1_accuracy": top1, "loss": -np.log(own).mean(), "mean_confidence": confidence}


def ten_views(processor, image):
    """Ten crops by Pillow, each enlarged so that the processor's own steps bring back the crop."""
    short, crop = processor.size["shortest_edge"], processor.crop_size["height"]
    width, height = (int(side * short / min(image.size)) for side in image.size)
    image = image.resize((width, height), processor.resample)
    left, top = round((width - short) / 2), round((height - short) / 2)
    square = image.crop((left, top, left + short, top + short))
    border, middle = round((short - crop) / 2), []
    for view in (square, ImageOps.mirror(square)):
        far = short - crop
        for x, y in ((0, 0), (far, 0), (0, far), (far, far), (border, border)):
            part = view.crop((x, y, x + crop, y + crop))
            middle.append(ImageOps.expand(part, border))  # short x short, with the crop inside
    return middle


@pytest.mark.parametrize("workers", [0, 2])
def test_results_equal_a_plain_loop_over_the_images(model_folder, colour_data, workers):
    result = evaluate(model_folder, colour_data, num_workers=workers)
    images, labels = coloured_images(23, seed=1)
    expected = expected_metrics(model_folder, images, labels)
    assert result["metrics"]["top1_accuracy"] == expected["top1_accuracy"]
    assert result["metrics"]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert result["metrics"]["top5_accuracy"] is None  # three classes: it would always be 1
    assert result["intervals_95"].keys() == {"top1_accuracy"}
    confidence = result["calibration"]["mean_confidence"]
    assert confidence == pytest.approx(expected["mean_confidence"], rel=1e-5)
    classes = [(row["name"], row["num_samples"]) for row in result["classes"]]
    assert classes == [("red", 8), ("green", 8), ("blue", 7)]
    errors = sum(row["count"] for row in result["confusions"])
    assert errors == round(23 * (1 - expected["top1_accuracy"]))
    assert result["dataset"]["num_samples"] == 23
    content = hashlib.sha256()
    for data, label in zip(images, labels, strict=True):
        content.update(hashlib.sha256(data).digest() + label.to_bytes(4, "little"))
    assert result["dataset"]["fingerprint"] == "sha256:" + content.hexdigest()
    written = json.loads((model_folder / "eval_results.json").read_text())
    assert written == {"schema_version": 1, "results": [result]}
    assert result["model"]["sha256"] == file_sha256(model_folder / "model.safetensors")


def test_ten_crops_are_averaged_as_probabilities_and_recorded(model_folder, colour_data):
    result = evaluate(model_folder, colour_data, crops=10)
    expected = expected_metrics(model_folder, *coloured_images(23, seed=1), views=ten_views)
    assert result["metrics"]["top1_accuracy"] == expected["top1_accuracy"]
    assert result["metrics"]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    confidence = result["calibration"]["mean_confidence"]
    assert confidence == pytest.approx(expected["mean_confidence"], rel=1e-5)
    single = evaluate(model_folder, colour_data)
    assert result["metrics"]["loss"] != pytest.approx(single["metrics"]["loss"], rel=1e-4)
    assert result["protocol"]["views"] == 10
    assert result["protocol"]["averaged"] == "probabilities"
    assert single["protocol"].keys() == {"views", "image_processor"}
    written = json.loads((model_folder / "eval_results.json").read_text())["results"]
    assert [entry["protocol"]["views"] for entry in written][-2:] == [10, 1]


def test_a_fast_evaluation_gives_the_same_result_and_says_so(model_folder, colour_data):
    plain = evaluate(model_folder, colour_data)
    fast = evaluate(model_folder, colour_data, computation=Computation(fused=True))
    assert fast["metrics"]["loss"] == pytest.approx(plain["metrics"]["loss"], rel=1e-5)
    assert fast["metrics"]["top1_accuracy"] == plain["metrics"]["top1_accuracy"]
    assert fast["model"] == plain["model"]
    assert fast["protocol"] == plain["protocol"] | {"fused": True}


class GoldenImages:
    """An image processor that knows two images of 256 pixels by their colour."""

    size, crop_size = {"shortest_edge": 256}, {"height": 224, "width": 224}

    def __init__(self, scale):
        self.pixel_values = images(scale, 256).float()

    def __call__(self, shown, return_tensors, **options):
        assert options in ({"crop_size": 256}, {"do_center_crop": False})
        numbers = [round(np.asarray(image).mean() / 100) for image in shown]
        return BatchFeature({"pixel_values": self.pixel_values[numbers]})


@pytest.mark.parametrize("name", ORIGINALS)
def test_ten_crops_give_the_probabilities_of_the_originals(name, tmp_path):
    best = golden(name)["ten_crop"]["mean_of_softmax_top5"]
    grey = [encode(np.full((8, 8, 3), 100 * number, np.uint8)) for number in range(2)]
    labels, names = [best[0][0][0], best[1][2][0]], [str(number) for number in range(1000)]
    write_split(tmp_path / "two", "test", grey, labels, files=1, names=names)
    source = open_split(str(tmp_path / "two"), "test")
    processor = GoldenImages(golden(name)["input_scale"])
    model = golden_alexnet(name)
    predictions, mean_logits = (
        predict_split(
            model,
            processor,
            source=source,
            accelerator=Accelerator(),
            protocol=EvaluationProtocol(crops=10, batch_size=2, crops_of=of, averaged=averaged),
            kept=Kept(logits=True),
        )
        for of, averaged in (("square", "probabilities"), ("image", "logits"))
    )
    expected = np.array(golden(name)["ten_crop"]["mean_of_logits"])
    assert np.allclose(mean_logits.logits, expected, rtol=1e-4, atol=1e-3)
    for ranked, expected in zip(predictions.top_classes[:, :5], best, strict=True):
        assert ranked.tolist() == [number for number, _ in expected]
    expected = [-math.log(best[0][0][1]), -math.log(best[1][2][1])]
    assert predictions.loss.tolist() == pytest.approx(expected, rel=1e-3)


def test_ten_crops_need_a_square_crop_within_a_larger_size(model_folder, colour_data):
    model = CNN.from_pretrained(model_folder)
    source = open_split(str(colour_data), "test")
    processor = ConvZooImageProcessor(size=18, crop_size={"height": 16, "width": 12})
    with pytest.raises(ValueError, match="a square crop_size; ConvZooImageProcessor has 18 and"):
        predict_split(
            model,
            processor,
            source=source,
            accelerator=Accelerator(),
            protocol=EvaluationProtocol(crops=10),
        )


def test_a_part_of_a_split_says_so_and_does_not_replace_the_whole(model_folder, colour_data):
    images, labels = coloured_images(23, seed=1)
    rows = [row for row in range(23) if labels[row] != 1]
    rows = [rows[i * len(rows) // 5] for i in range(5)]
    whole = evaluate(model_folder, colour_data)
    part = evaluate(model_folder, colour_data, classes=["red", "blue"], limit=5)
    chosen = [[images[row] for row in rows], [labels[row] for row in rows]]  # numbers of three
    expected = expected_metrics(model_folder, *chosen)
    assert part["metrics"]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert whole["dataset"]["subset"] is None
    assert part["dataset"]["num_samples"] == 5
    assert [(row["class"], row["name"]) for row in part["classes"]] == [(0, "red"), (2, "blue")]
    assert part["dataset"]["subset"] == {
        "of": 23,
        "taken": [{"classes": ["red", "blue"]}, {"limit": 5, "spaced": True}],
    }
    written = json.loads((model_folder / "eval_results.json").read_text())["results"]
    assert written[-2:] == [whole, part]


@pytest.fixture(scope="module")
def model_of_two(tmp_path_factory):
    """A grey model of two of the three classes."""
    folder = tmp_path_factory.mktemp("two")
    torch.manual_seed(0)
    config = CNNConfig(
        num_channels=1,
        stem="small",
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        id2label={0: "red", 1: "blue"},
        label2id={"red": 0, "blue": 1},
    )
    CNN(config).save_pretrained(folder)
    grey = {"num_channels": 1, "image_mean": [0.5], "image_std": [0.25]}
    ConvZooImageProcessor(size=18, crop_size=16, **grey).save_pretrained(folder)
    return folder


def test_a_grey_model_of_some_classes_is_evaluated_on_them(model_of_two, colour_data):
    images, labels = coloured_images(23, seed=1)
    rows = [row for row in range(23) if labels[row] != 1]
    expected = expected_metrics(
        model_of_two, [images[row] for row in rows], [labels[row] // 2 for row in rows]
    )
    for classes in (["blue", "red"], None):  # by name, and those of the model
        result = evaluate(model_of_two, colour_data, classes=classes)
        assert result["metrics"]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert result["dataset"]["subset"]["taken"] == [{"classes": ["red", "blue"]}]


def test_images_are_turned_by_exif_only_if_asked(model_of_two, tmp_path):
    """An image that lies on its side with a note, against the same one upright."""
    data = {}
    rng = np.random.default_rng(0)
    upright = Image.fromarray(rng.integers(0, 256, (30, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to look at it
    for name, image, note in (
        ("noted", upright.rotate(90, expand=True), exif),
        ("upright", upright, None),
        ("lying", upright.rotate(90, expand=True), None),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **({"exif": note} if note else {}))
        write_split(tmp_path / name, "test", [buffer.getvalue()], [0], 1, names=["red", "blue"])

        def loss(turn, name=name):
            result = evaluate(model_of_two, tmp_path / name, exif_rotation=turn)
            assert result["protocol"].get("exif_rotation", False) == turn
            return result["metrics"]["loss"]

        data[name] = loss(False), loss(True)
    assert data["noted"] == (data["lying"][0], data["upright"][0])
    assert data["lying"][0] != data["upright"][0]


def test_a_model_that_learnt_from_turned_images_is_not_quietly_measured_on_others(
    model_of_two, colour_data, tmp_path, caplog
):
    turning = tmp_path / "turning"
    shutil.copytree(model_of_two, turning)
    ConvZooImageProcessor.from_pretrained(turning, exif_rotation=True).save_pretrained(turning)
    evaluate(turning, colour_data, classes=["red", "blue"], limit=4)
    assert "here none is turned. `convzoo evaluate --exif-rotation`" in caplog.text
    caplog.clear()
    evaluate(turning, colour_data, classes=["red", "blue"], limit=4, exif_rotation=True)
    evaluate(model_of_two, colour_data, classes=["red", "blue"], limit=4)
    assert "turned" not in caplog.text


def test_other_classes_are_refused(model_folder, tmp_path):
    images, labels = coloured_images(6, seed=2)
    write_split(tmp_path / "four", "test", images, labels, files=1, names="abcd")
    with pytest.raises(ValueError, match="4 of the 4 .*four are none .* 'a'; .*--label-map"):
        evaluate(model_folder, tmp_path / "four")
    with pytest.raises(ValueError, match="the model has 3, .*four has 4. --label-map"):
        evaluate(model_folder, tmp_path / "four", match_by="number")
    more = ["red", "green", "blue", "grey"]
    write_split(tmp_path / "more", "test", images, labels, files=1, names=more)
    with pytest.raises(ValueError, match="1 of the 4 .*'grey'; .* --classes evaluates"):
        evaluate(model_folder, tmp_path / "more")
    write_split(tmp_path / "three", "test", images, labels, files=1, names="abc")
    with pytest.raises(ValueError, match="3 of the 3 .*three are none of the model's, as 'a'"):
        evaluate(model_folder, tmp_path / "three")
    result = evaluate(model_folder, tmp_path / "three", match_by="number")
    by_number = {"by": "number", "num_model_classes": 3, "num_data_classes": 3}
    assert result["dataset"]["class_matching"] == by_number
    assert result["metrics"]["loss"] == pytest.approx(
        expected_metrics(model_folder, images, labels)["loss"], rel=1e-5
    )


def test_classes_in_another_order_or_only_some_of_them_are_matched_by_name(model_folder, tmp_path):
    images, labels = coloured_images(6, seed=2)
    expected = expected_metrics(model_folder, images, labels)
    other = [{0: 2, 1: 0, 2: 1}[label] for label in labels]
    write_split(tmp_path / "other", "test", images, other, files=1, names=["green", "blue", "red"])
    result = evaluate(model_folder, tmp_path / "other")
    assert result["metrics"]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert result["metrics"]["top1_accuracy"] == expected["top1_accuracy"]
    by_name = {"by": "name", "num_model_classes": 3, "num_data_classes": 3}
    assert result["dataset"]["class_matching"] == by_name

    rows = [row for row in range(6) if labels[row] != 1]
    images, labels = [images[row] for row in rows], [labels[row] for row in rows]
    expected = expected_metrics(model_folder, images, labels)
    some = [{0: 1, 2: 0}[label] for label in labels]
    write_split(tmp_path / "some", "test", images, some, files=1, names=["blue", "red"])
    result = evaluate(model_folder, tmp_path / "some")
    assert result["metrics"]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert [row["class"] for row in result["classes"]] == [0, 2]
    assert result["dataset"]["class_matching"] == by_name | {"num_data_classes": 2}


def test_classes_of_imagenet_are_matched_though_lists_call_them_otherwise(tmp_path):
    images, labels = coloured_images(3, seed=2)
    theirs = ["n02119789", "crane2", "tench, Tinca tinca"]  # WordNet, and the dataset on the Hub
    write_split(tmp_path / "some", "test", images, labels, files=1, names=theirs)
    source = open_split(str(tmp_path / "some"), "test")
    names = imagenet_names()
    found = match_classes(source, names)
    matched, matching = found.source, found.facts
    assert [names[number] for number in matched.class_numbers] == [
        "kit fox",
        "crane (n03126707)",
        "tench",
    ]
    assert matching == {"by": "name", "num_model_classes": 1000, "num_data_classes": 3}
    for model in (names[:-1], [*names[:-1], "cat"]):  # which is not ImageNet
        with pytest.raises(ValueError, match="must name their classes alike"):
            match_classes(source, model)


def test_a_file_that_is_no_image_is_named(model_folder, tmp_path):
    images, labels = coloured_images(6, seed=2)
    images[4] = images[4][:40]
    write_split(tmp_path / "bad", "test", images, labels, files=1)
    for classes in ((), ["green"]):  # rows 1 and 4
        with pytest.raises(ValueError, match="row 4 of row group 0 of .*test-00000.*readable JPEG"):
            evaluate(model_folder, tmp_path / "bad", classes=classes)


def test_the_command_line_says_what_was_evaluated(model_folder, colour_data, tmp_path):
    command = ["-m", "convzoo", "evaluate", model_folder, "--data", colour_data]
    options = ["--crops", "10", "--limit", "4", "--classes", "red", "blue", "--num-workers", "0"]
    done = run_warm(*command, *options, "--output", tmp_path / "result.json")
    assert f"{model_folder} on 4 of 23 images of {colour_data} [test], ten crops: top-1" in (
        done.stdout
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert "--crops 10 --limit 4 --classes red blue" in result["command"]
    assert result["dataset"]["num_samples"] == 4


def test_a_result_is_said_in_one_line():
    result = {
        "dataset": {"split": "test", "num_samples": 200, "subset": None},
        "protocol": {"views": 1},
        "metrics": {"top1_accuracy": 0.5, "top5_accuracy": 0.75, "loss": 1.25},
    }
    said = "model on 200 images of data [test]: top-1 50.00%, top-5 75.00%, loss 1.2500"
    assert result_sentence("model", "data", result) == said
    result["metrics"]["top5_accuracy"] = None  # there are at most five classes
    assert result_sentence("model", "data", result) == said.replace(", top-5 75.00%", "")


def test_the_command_line_reports_errors_without_a_traceback(tmp_path):
    done = run_warm(
        *["-m", "convzoo", "evaluate", tmp_path / "none", "--data", ROOT / "data/photos"],
        check=False,
    )
    assert done.returncode == 1
    assert "error:" in done.stderr and "Traceback" not in done.stderr


def ruin(model_folder, folder):
    """A copy of a model whose weights are not finite."""
    model = CNN.from_pretrained(model_folder)
    torch.nn.init.constant_(model.classifier.weight, math.nan)
    ConvZooImageProcessor.from_pretrained(model_folder).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def test_scores_that_are_not_finite_are_no_result(model_folder, colour_data, *, tmp_path, capsys):
    ruined = ruin(model_folder, tmp_path / "ruined")
    with pytest.raises(ValueError, match="must be finite; those of 4 of 4 images are not"):
        evaluate(ruined, colour_data)
    assert not (ruined / "eval_results.json").exists()
    Image.new("RGB", (20, 20)).save(tmp_path / "black.png")
    assert main(["predict", str(ruined), str(tmp_path / "black.png")]) == 1
    said = capsys.readouterr()
    assert "nan" not in said.out and "black.png are not. Its weights may be ruined" in said.err


def test_weights_in_another_file_are_refused_before_the_evaluation(
    model_folder, colour_data, *, tmp_path, monkeypatch
):
    folder = tmp_path / "pickle"
    shutil.copytree(model_folder, folder)
    torch.save(CNN.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(evaluating, "predict_to_file", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(OSError, match=r"pickle must have its weights in one file, model.safetens"):
        evaluate(folder, colour_data)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_elongated_image_is_named(model_folder, workers, *, tmp_path):
    images, labels = coloured_images(6, seed=2)
    images[4] = encode(np.zeros((2, 900, 3), np.uint8), "PNG")
    write_split(tmp_path / "long", "test", images, labels, files=1)
    with pytest.raises(
        ValueError, match=r"row 4 of row group 0 of .*factor of 100; got \(900, 2\)"
    ):
        evaluate(model_folder, tmp_path / "long", num_workers=workers)


def test_an_unlabelled_split_says_that_it_is_one(model_folder, tmp_path):
    images, labels = coloured_images(6, seed=2)
    write_split(tmp_path / "data", "test", images, [-1] * 6, files=2)
    with pytest.raises(
        ValueError, match=r"split 'test' of .*data must have labels; it is an unlab"
    ):
        evaluate(model_folder, tmp_path / "data")
    write_split(tmp_path / "data", "test", images, [-1, *labels[1:]], files=2)
    with pytest.raises(ValueError, match=r"label must lie in \[0, 2\]; got -1 in row 0"):
        evaluate(model_folder, tmp_path / "data")


@pytest.mark.parametrize(("brightest", "warned"), [(4095, 1), (4096, 0)])
def test_grey_images_of_12_bits_in_16_are_warned_of_once(
    brightest, warned, *, model_folder, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(decoding.DARK_IMAGES, "warned", False)
    pixels = np.linspace(0, brightest, 400).astype(np.uint16).reshape(20, 20)
    for number in range(6):
        path = tmp_path / "scans" / "test" / list(COLOURS)[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    evaluate(model_folder, tmp_path / "scans")
    assert caplog.text.count("uses at most 12: it is nearly black") == warned
    assert caplog.text.count("scans/test/blue/2.png has 16 bits") == warned


def test_where_a_result_was_written_is_said(model_folder, colour_data, *, tmp_path, caplog):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    command = ["evaluate", str(folder), "--data", str(colour_data), "--num-workers", "0"]
    for options in ((), ("--output", str(tmp_path / "result.json"))):
        caplog.clear()
        assert main([*command, *options]) == 0
        written = " and ".join([f"{folder}/eval_results.json", *options[1:]])
        assert f"result: {written}\n" in caplog.text
        assert all((tmp_path / name).is_file() for name in written.split(" and "))


def test_a_result_of_a_hub_model_says_that_it_was_not_written():
    assert where_it_is_kept("user/name", None).startswith("not written to a file; for a model of")
    assert where_it_is_kept("user/name", "result.json") == "result.json"
