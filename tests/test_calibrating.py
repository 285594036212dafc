"""The calibration temperature: against closed forms and scikit-learn, and as its readers see it."""

import json

import evaluate as evaluate_library
import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import app
from convzoo.calibration.calibrating import cooled, fit_temperature
from convzoo.cli import main
from convzoo.data.opening import open_split
from convzoo.evaluation.prediction_file import read_predictions
from convzoo.evaluation.results import FILE, read_results
from convzoo.files import write_json
from convzoo.prediction.classifier import load_classifier
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.clients import ROOT
from tests.support.evaluations import evaluate
from tests.support.images import COLOURS, coloured_images, write_split

METRIC = ROOT / "convzoo/evaluation/metrics/expected_calibration_error"


def test_a_temperature_of_two_scores_has_a_closed_form():
    """Of logits (a, 0), right in a share q of the cases, it makes the sigmoid of a / T equal q."""
    logits = np.tile(np.float32([4, 0]), (100, 1))
    labels = (np.arange(100) >= 80).astype(np.int32)
    assert fit_temperature(logits, labels) == pytest.approx(4 / np.log(0.8 / 0.2), rel=1e-4)


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_recovered(true):
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1.5, (20_000, 5))
    labels = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)  # drawn from their softmax
    logits = (true * scores).astype(np.float32)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(true, rel=0.03)
    grid = np.geomspace(0.8 * found, 1.25 * found, 41)
    means = [cooled(logits, labels, value)[0].mean() for value in grid]
    assert grid[np.argmin(means)] == pytest.approx(found, rel=0.006)
    probabilities = np.exp(logits / found)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    losses, confidences = cooled(logits, labels, found)
    assert losses.mean() == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    assert confidences == pytest.approx(probabilities.max(axis=1), abs=1e-5)


def test_of_two_classes_it_is_the_logistic_regression_of_scikit_learn():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 4, (800, 2))
    labels = (rng.random(800) < 1 / (1 + np.exp((logits[:, 0] - logits[:, 1]) / 3))).astype(int)
    peer = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-9)
    peer.fit(logits[:, 1:] - logits[:, :1], labels)
    assert fit_temperature(logits, labels) == pytest.approx(1 / peer.coef_.item(), rel=1e-4)


@pytest.mark.parametrize(("labels", "bound"), [([0, 1, 2], "0.05"), ([1, 2, 0], "20")])
def test_a_temperature_at_a_bound_is_refused(labels, bound):
    with pytest.raises(ValueError, match=f"on 3 images it is at the bound {bound} or"):
        fit_temperature(np.eye(3) * 5, np.array(labels))


@pytest.fixture
def unsure(tmp_path):
    """A model whose logits are three times what they should be; its images in two splits."""
    folder, data = tmp_path / "my model", tmp_path / "my data"
    sizes = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1]}
    names = dict(enumerate(COLOURS))
    torch.manual_seed(0)
    network = CNN(CNNConfig(stem="small", num_labels=3, id2label=names, **sizes)).eval()
    ConvZooImageProcessor(18, crop_size=16).save_pretrained(folder)
    network.save_pretrained(folder)
    images = coloured_images(180, seed=0)[0]
    for split, part in (("validation", images[:120]), ("test", images[120:])):
        write_split(data, split, part, [n % 3 for n in range(len(part))])
    (head,) = [each for each in network.modules() if isinstance(each, torch.nn.Linear)]
    result = evaluate(folder, data, logits=True, num_workers=0)
    logits = read_predictions(folder / result["predictions"]["file"]).logits
    with torch.no_grad():
        scale, mean = torch.tensor(6 / logits.std(axis=0)), torch.tensor(logits.mean(axis=0))
        head.bias.copy_((head.bias - mean) * scale)
        head.weight.mul_(scale[:, None])
    network.save_pretrained(folder)
    classifier = load_classifier(str(folder), device="cpu")
    rng = np.random.default_rng(0)
    for split, part in (("validation", images[:120]), ("test", images[120:])):
        source = open_split(str(data), split)
        shown = [source.read_row(row)[0] for row in range(len(part))]
        scores = _scores(classifier, shown) / 3
        labels = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)  # drawn from their softmax
        write_split(data, split, part, labels.tolist())
    return folder, data


def _scores(classifier, encoded):
    from convzoo.images.decoding import open_rgb

    pixels = classifier.processor([open_rgb(bytes(each)) for each in encoded], return_tensors="pt")
    with torch.inference_mode():
        return classifier.model(pixels["pixel_values"]).logits.numpy()


def test_predict_and_the_demo_take_what_is_written(unsure, capsys):
    folder, data = unsure
    words = ["calibrate", str(folder), "--fit-split", "validation", "--num-workers", "0", "--quiet"]
    assert main(words) == 1  # nothing is recorded with logits
    assert "must have a result of the split validation with all logits" in capsys.readouterr().err
    assert main([*words, "--data", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    fitting, measured = read_results(folder)
    assert fitting["dataset"]["split"] == "validation"
    assert "temperature" not in fitting["calibration"]
    assert measured["calibration"]["temperature"] == found
    assert found["fitted_on"] == {
        "split": "validation",
        "fingerprint": fitting["dataset"]["fingerprint"],
        "num_samples": 120,
    }
    assert found["value"] == pytest.approx(3, rel=0.4) and found["nll_after"] < found["nll_before"]
    assert found["ece_after"] < found["ece_before"]
    assert found["nll_before"] == pytest.approx(measured["metrics"]["loss"], abs=1e-6)
    before = measured["calibration"]["expected_calibration_error"]
    assert found["ece_before"] == pytest.approx(before, abs=1e-6)
    table = read_predictions(folder / measured["predictions"]["file"])
    cool = np.exp(table.logits.astype(float) / found["value"])
    cool /= cool.sum(axis=1, keepdims=True)
    assert found["nll_after"] == pytest.approx(log_loss(table.label, cool), abs=1e-9)
    metric = evaluate_library.load(str(METRIC))
    error = metric.compute(predictions=cool.max(axis=1), references=table.hits())
    assert found["ece_after"] == pytest.approx(error["expected_calibration_error"], abs=1e-6)
    assert load_classifier(str(folder), calibrated=True).temperature == found["value"]
    assert app.read_temperature(folder).value == found["value"]
    assert main(words[:-1]) == 0  # the recorded logits again
    said = capsys.readouterr().out
    assert f"temperature {found['value']:.4f}, fitted on 120 images of the split validation" in said
    assert "On 60 other images [test]: loss" in said
    assert read_results(folder)[-1]["calibration"]["temperature"] == found


def test_without_other_images_each_is_measured_with_a_temperature_of_others(unsure, capsys):
    folder, data = unsure
    for file in data.rglob("test-*.parquet"):
        file.unlink()
    words = ["calibrate", str(folder), "--data", str(data), "--num-workers", "0", "--quiet"]
    words += ["--fit-split", "validation"]
    assert main(words) == 1
    assert "one of validation; got 'test'. Where no images were kept" in capsys.readouterr().err
    before = read_results(folder)
    assert all(each["dataset"]["split"] == "test" for each in before)  # nothing was evaluated
    assert main([*words, "--cross-fit", "--split", "validation"]) == 2
    assert main([*words, "--cross-fit"]) == 0
    assert "On these, with temperatures that were fitted without them in" in capsys.readouterr().out
    result = read_results(folder)[-1]
    found = result["calibration"]["temperature"]
    assert found["fitted_on"]["folds"] == 10 and found["fitted_on"]["num_samples"] == 120
    table = read_predictions(folder / result["predictions"]["file"])
    rank = np.argsort(np.argsort([bytes(digest) for digest in table.digest]))
    grid = np.geomspace(0.5, 20, 2000)
    losses = -log_softmax(table.logits / grid[:, None, None], axis=2)[:, range(120), table.label]
    best = losses.mean(axis=1).argmin()
    assert found["value"] == pytest.approx(grid[best], rel=2e-3)
    parts = [rank % 10 == part for part in range(10)]
    outside = [losses[losses[:, ~own].mean(axis=1).argmin(), own] for own in parts]
    assert found["nll_after"] == pytest.approx(np.concatenate(outside).mean(), abs=1e-4)
    assert found["nll_after"] > losses[best].mean()  # what was fitted on all would look better


def test_what_says_nothing_of_other_images_is_refused(unsure, capsys, caplog):
    folder, data = unsure

    def refusal(*words, status=1):
        command = ["calibrate", str(folder), "--num-workers", "0", *words]
        assert main(command) == status
        return capsys.readouterr().err

    assert "either --fit-split NAME or --validation-share" in refusal(status=2)
    assert "must differ from --split" in refusal("--fit-split", "test")
    assert "its share with all logits" in refusal("--validation-share")
    with_data = ("--data", str(data), "--fit-split", "copy")
    source = open_split(str(data), "test")
    rows = [source.read_row(row) for row in range(60)]
    same = [bytes(row[0]) for row in rows]
    write_split(data, "copy", same, [row[1] for row in rows])
    assert "must be fitted on other images than it is measured on" in refusal(*with_data)
    others = [bytes(open_split(str(data), "validation").read_row(n)[0]) for n in range(60)]
    classifier = load_classifier(str(folder), device="cpu")
    right = _scores(classifier, others).argmax(axis=1).tolist()
    write_split(data, "copy", same + others, [row[1] for row in rows] + right)
    assert "at the bound 0.05 or beyond, as where all of them are right" in refusal(*with_data)
    assert "60 images not fitted on: measured, too" in caplog.text
    write_split(
        data, "copy", others, [n if row % 12 else (n + 1) % 3 for row, n in enumerate(right)]
    )
    write_json(folder / "train_results.json", {"dataset": {"path": str(data), "split": "copy"}})
    main(["calibrate", str(folder), "--num-workers", "0", *with_data])
    assert "was trained on the images of the split copy" in caplog.text
    assert all("temperature" not in each["calibration"] for each in read_results(folder)[:-1])
    (folder / "config.json").write_text('{"problem_type": "multi_label_classification"}')
    assert "classes that exclude each other" in refusal("--fit-split", "validation")
    assert (folder / FILE).is_file()
