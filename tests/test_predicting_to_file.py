"""Evaluations keep their predictions, and go on where they were interrupted."""

import hashlib
import io
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from convzoo.cli import main
from convzoo.data.opening import open_split
from convzoo.evaluation import classifiers, unfinished
from convzoo.evaluation.evaluating import result_sentence
from convzoo.evaluation.prediction_file import read_predictions, read_recorded_predictions
from convzoo.evaluation.results import read_results
from convzoo.files import file_sha256
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.clients import ENVIRONMENT, run_warm
from tests.support.evaluations import evaluate
from tests.support.images import COLOURS, coloured_images, encode, write_image_folder, write_split

NAMES = [*COLOURS, "grey", "black", "white", "brown"]


def save_model(folder, seed=0):
    torch.manual_seed(seed)
    stages = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "stem": "small"}
    model = CNN(CNNConfig(id2label=dict(enumerate(NAMES)), **stages))
    torch.nn.init.normal_(model.classifier.weight, std=0.3)
    model.save_pretrained(folder)
    ConvZooImageProcessor(size=18, crop_size=16).save_pretrained(folder)
    return folder


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "my model")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of three of the model's seven classes."""
    folder = tmp_path_factory.mktemp("some data")
    write_split(folder, "test", *coloured_images(41, seed=1), names=NAMES)
    return folder


def logits_of(model, images):
    """The scores of each image, one at a time, with nothing of ours but model and processor."""
    network, processor = CNN.from_pretrained(model), ConvZooImageProcessor.from_pretrained(model)
    shown = [processor(Image.open(io.BytesIO(each)), return_tensors="pt") for each in images]
    with torch.inference_mode():
        return np.stack([network(each.pixel_values).logits[0].numpy() for each in shown])


def test_the_file_says_what_the_model_said_of_each_image(model, data):
    result = evaluate(model, data, top_k=4, logits=True)
    record = result["predictions"]
    assert record.keys() == {"file", "sha256", "num_rows", "top_k", "logits"}
    assert (record["num_rows"], record["top_k"], record["logits"]) == (41, 4, True)
    assert record["sha256"] == file_sha256(model / record["file"])
    assert [each.name for each in (model / "predictions").iterdir()] == [
        record["file"].removeprefix("predictions/")
    ]
    table = read_recorded_predictions(model, record)
    images, labels = coloured_images(41, seed=1)
    scores = logits_of(model, images)
    np.testing.assert_allclose(table.logits, scores, rtol=1e-4, atol=1e-4)
    probabilities = np.exp(scores.astype(float)) / np.exp(scores.astype(float)).sum(1)[:, None]
    order = np.argsort(-scores, axis=1)
    assert table.row.tolist() == list(range(41)) and table.label.tolist() == labels
    assert table.top_classes.tolist() == order[:, :4].tolist()
    tops = np.take_along_axis(probabilities, order[:, :4], axis=1)
    np.testing.assert_allclose(table.top_probabilities, tops, rtol=1e-4)
    squares = (probabilities**2).sum(axis=1)
    np.testing.assert_allclose(table.squared_probabilities, squares, rtol=1e-4)
    ranks = [list(row).index(label) for row, label in zip(order, labels, strict=True)]
    assert table.rank.tolist() == ranks
    assert table.digest.tobytes() == b"".join(hashlib.sha256(each).digest() for each in images)
    assert table.image[[0, 20, 21, 40]].tolist() == [
        "data/test-00000-of-00002.parquet, row 0",
        "data/test-00000-of-00002.parquet, row 20",
        "data/test-00001-of-00002.parquet, row 0",
        "data/test-00001-of-00002.parquet, row 19",
    ]
    assert not any(table.error)
    assert table.facts.names == tuple(NAMES)
    weights = {key: result["model"][key] for key in ("file", "sha256", "num_parameters")}
    assert table.facts.model == weights and table.facts.protocol == result["protocol"]
    path = result["dataset"].pop("path")
    assert path == str(data) and table.facts.dataset == result["dataset"]  # names no home folder


def test_scikit_learn_computes_the_numbers_of_the_result_from_the_file(model, data):
    result = evaluate(model, data, logits=True)
    table, metrics = read_predictions(model / result["predictions"]["file"]), result["metrics"]
    probabilities = np.exp(table.logits.astype(float))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    classes = range(len(NAMES))
    top1 = accuracy_score(table.label, table.top_classes[:, 0])
    assert metrics["top1_accuracy"] == top1 == table.hits().mean()
    top5 = top_k_accuracy_score(table.label, probabilities, k=5, labels=classes)
    assert metrics["top5_accuracy"] == pytest.approx(top5) == table.hits(5).mean()
    loss = log_loss(table.label, probabilities, labels=classes)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-6)
    brier = ((probabilities - np.eye(len(NAMES))[table.label]) ** 2).sum(axis=1).mean()
    own = np.exp(-table.loss.astype(float))
    assert (table.squared_probabilities - 2 * own + 1).mean() == pytest.approx(brier, rel=1e-5)
    confidence = table.top_probabilities[:, 0].astype(float)
    edges = np.linspace(0, 1, 16)
    inside = [(low < confidence) & (confidence <= high) for low, high in zip(edges, edges[1:])]  # noqa: B905, RUF007
    error = sum(
        abs(table.hits()[b].mean() - confidence[b].mean()) * b.mean() for b in inside if b.any()
    )
    calibration = result["calibration"]
    assert calibration["expected_calibration_error"] == pytest.approx(error, abs=1e-9)
    for row in result["classes"]:
        of_class = table.label == row["class"]
        assert (row["num_samples"], row["num_correct"]) == (
            of_class.sum(),
            table.hits()[of_class].sum(),
        )
    for pair in result["confusions"]:
        found = table.top_classes[table.label == NAMES.index(pair["name"]), 0]
        assert pair["count"] == (found == NAMES.index(pair["predicted"])).sum()


def test_a_part_of_a_folder_keeps_the_rows_of_the_whole(model, tmp_path):
    write_image_folder(tmp_path / "photos")
    (tmp_path / "photos" / "train").rename(tmp_path / "photos" / "test")
    result = evaluate(model, tmp_path / "photos", classes=["blue", "red"], limit=9)
    table = read_predictions(model / result["predictions"]["file"])
    whole = open_split(str(tmp_path / "photos"), "test")
    assert [f"{tmp_path}/photos/{name}" for name in table.image] == [
        whole.where_is(row) for row in table.row.tolist()
    ]
    for row, label, digest in zip(table.row, table.label, table.digest, strict=True):
        encoded, number = whole.read_row(int(row))
        assert NAMES[label] == whole.label_names[number]
        assert digest.tobytes() == hashlib.sha256(encoded).digest()


def test_a_newer_result_takes_the_place_of_the_old_one_and_of_its_file(model, data):
    few = evaluate(model, data, limit=7)
    first = evaluate(model, data)
    again = evaluate(model, data)
    assert again["predictions"] == first["predictions"]  # the same bytes
    other = evaluate(model, data, top_k=2)
    there = {f"predictions/{each.name}" for each in (model / "predictions").iterdir()}
    assert there == {each["predictions"]["file"] for each in (few, other)}
    mine = model / "predictions" / "mine.parquet"
    mine.write_text("not of convzoo")
    save_model(model, seed=1)
    new = evaluate(model, data)
    there = {f"predictions/{each.name}" for each in (model / "predictions").iterdir()}
    assert there == {new["predictions"]["file"], "predictions/mine.parquet"}


INTERRUPTED = """
import os, sys
from convzoo.evaluation import classifiers, unfinished
from tests.support.evaluations import evaluate
unfinished.PART_ROWS = 8
write, parts = unfinished.PartWriter.flush, []
def flush(self):
    write(self)
    parts.append(self)
    if len(parts) == 3:
        os.kill(os.getpid(), 9)
unfinished.PartWriter.flush = flush
evaluate(sys.argv[1], sys.argv[2], logits=True, num_workers=int(sys.argv[3]))
"""


@pytest.fixture(scope="module", params=[2, pytest.param(0, marks=pytest.mark.slow)])
def interrupted(data, request, tmp_path_factory):
    """A model folder whose evaluation was killed after 24 of 41 images."""
    model = save_model(tmp_path_factory.mktemp("killed") / "model")
    command = [sys.executable, "-c", INTERRUPTED, model, data, str(request.param)]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list(parts_of(model).glob("part-*.arrow"))) == 3
    assert read_results(model) == []
    return model


@pytest.fixture
def killed(interrupted, tmp_path):
    """A copy of it, to go on with."""
    return shutil.copytree(interrupted, tmp_path / "killed model")


def parts_of(model):
    (parts,) = (model / "predictions").glob(".*.partial")
    return parts


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The result of an evaluation that nobody interrupted."""
    return evaluate(save_model(tmp_path_factory.mktemp("whole")), data, logits=True)


COMPUTED = ("dataset", "protocol", "metrics", "calibration", "classes", "confusions")


def test_a_killed_evaluation_goes_on_and_gives_the_same_file(killed, data, whole, *, caplog, capfd):
    caplog.set_level(logging.INFO, "convzoo")
    seen = []
    real = CNN.forward

    def forward(self, pixel_values, **options):
        if pixel_values.device.type != "meta":  # on which only shapes are found out
            seen.append(len(pixel_values))
        return real(self, pixel_values, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CNN, "forward", forward)
        result = evaluate(killed, data, logits=True)
    assert "going on with an interrupted evaluation: 24 of 41 images are done" in caplog.text
    assert sum(seen) == 41 - 24
    assert "24/41" in capfd.readouterr().err  # the bar goes on, too
    assert result["predictions"] == whole["predictions"]
    for part in COMPUTED:
        assert result[part] == whole[part]
    assert not list((killed / "predictions").glob(".*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 5}, "had another batch size: starting anew"),
        ({"seed": 1}, "had another model: starting anew"),
        ({"images": 42}, "had another data: starting anew"),
    ],
    ids=["batch size", "weights", "data"],
)
def test_an_interrupted_evaluation_of_something_else_is_no_start(
    killed, data, *, change, said, caplog
):
    if "seed" in change:
        save_model(killed, seed=1)
    if "images" in change:
        write_split(data, "test", *coloured_images(42, seed=1), names=NAMES)
    options = {"logits": True} | {key: change[key] for key in change.keys() & {"batch_size"}}
    try:
        result = evaluate(killed, data, **options)
        assert said in caplog.text
        assert evaluate(killed, data, **options)["predictions"] == result["predictions"]
    finally:
        write_split(data, "test", *coloured_images(41, seed=1), names=NAMES)
    assert not list((killed / "predictions").glob(".*"))


def test_another_protocol_leaves_an_interrupted_evaluation_alone_and_names_it(
    killed, data, *, caplog
):
    parts = parts_of(killed)
    caplog.set_level(logging.INFO, "convzoo")
    evaluate(killed, data, crops=10)
    assert f"{parts} is another unfinished evaluation; this goes on with it:" in caplog.text
    assert parts.is_dir()
    save_model(killed, seed=1)
    evaluate(killed, data, crops=10)
    assert f"{parts} is of other weights, and is removed" in caplog.text
    assert not parts.exists()


def test_a_damaged_part_is_evaluated_again(killed, data, whole, *, caplog):
    damaged = sorted(parts_of(killed).glob("part-*"))[1]
    damaged.write_bytes(damaged.read_bytes()[:-40])
    result = evaluate(killed, data, logits=True)
    assert f"{damaged} is damaged, its images are evaluated again" in caplog.text
    assert result["predictions"] == whole["predictions"]


def test_two_evaluations_of_the_same_do_not_mix(model, data, monkeypatch):
    real = unfinished.PartWriter.add

    def add(self, table):
        monkeypatch.setattr(unfinished.PartWriter, "add", real)
        with pytest.raises(
            ValueError, match="is in use: another process makes the same evaluation"
        ):
            evaluate(model, data)
        real(self, table)

    monkeypatch.setattr(unfinished.PartWriter, "add", add)
    assert evaluate(model, data)["predictions"]["num_rows"] == 41


PROCESSES = """
import sys
from accelerate import PartialState
from tests.support.evaluations import evaluate
evaluate(sys.argv[1], sys.argv[2], batch_size=4, logits=True, num_workers=int(sys.argv[3]))
assert PartialState().num_processes == int(sys.argv[4])
PartialState().destroy_process_group()
"""


@pytest.mark.parametrize(
    ("processes", "workers"), [(2, 2), pytest.param(3, 0, marks=pytest.mark.slow)]
)
def test_several_processes_give_the_bytes_of_one(
    model, data, whole, *, processes, workers, tmp_path
):
    script = tmp_path / "evaluate.py"
    script.write_text(PROCESSES)
    run_warm(script, model, data, workers, processes, processes=processes)
    (result,) = read_results(model)
    assert result["predictions"] == whole["predictions"]
    for part in (*COMPUTED, "intervals_95"):
        assert result[part] == whole[part]


@pytest.fixture
def torn_data(tmp_path):
    """Images of which one is cut off, one is no image, one is long: in three batches of four."""
    images, labels = coloured_images(14, seed=1)
    images[1], images[7] = images[1][:40], b"no image"
    images[10] = encode(np.zeros((2, 900, 3), np.uint8), "PNG")
    write_split(tmp_path / "torn", "test", images, labels, files=1, names=NAMES)
    return tmp_path / "torn", images, labels


@pytest.mark.parametrize("batch_size", [1, 4])
def test_unreadable_images_count_as_wrong_if_asked_and_are_listed(model, torn_data, batch_size):
    data, images, labels = torn_data
    with pytest.raises(ValueError, match="row 1 of .*Leave it out, or count .* --unreadable wrong"):
        evaluate(model, data, batch_size=batch_size)
    result = evaluate(model, data, unreadable="wrong", batch_size=batch_size)
    bad, good = [1, 7, 10], [n for n in range(14) if n not in (1, 7, 10)]
    scores = logits_of(model, [images[n] for n in good]).astype(float)
    hits = (scores.argmax(axis=1) == [labels[n] for n in good]).sum()
    assert result["metrics"]["top1_accuracy"] == hits / 14
    losses = np.log(np.exp(scores).sum(1)) - scores[range(11), [labels[n] for n in good]]
    assert result["metrics"]["loss"] == pytest.approx(losses.mean(), rel=1e-4)
    assert result["dataset"]["num_samples"] == 14
    assert sum(row["num_samples"] for row in result["classes"]) == 14
    assert sum(each["num_samples"] for each in result["calibration"]["bins"]) == 11
    listed = result["unreadable"]
    assert (listed["num_images"], listed["counted_as"]) == (3, "wrong")
    assert [each["row"] for each in listed["images"]] == bad
    assert [each["image"] for each in listed["images"]] == [
        f"data/test-00000-of-00001.parquet, row {n}" for n in bad
    ]
    assert "factor of 100; got (900, 2)" in listed["images"][2]["error"]
    table = read_predictions(model / result["predictions"]["file"])
    assert np.flatnonzero(~table.readable).tolist() == bad
    assert table.fingerprint() == result["dataset"]["fingerprint"]
    said = result_sentence("m", "d", result)
    assert said.endswith("; 3 unreadable images counted as wrong")
    assert math.isfinite(result["metrics"]["loss"])


def test_without_any_readable_image_there_is_no_result(model, tmp_path):
    write_split(tmp_path / "torn", "test", [b"no", b"none"], [0, 1], files=1, names=NAMES)
    with pytest.raises(ValueError, match="at least one of the 2 images of .* must be readable"):
        evaluate(model, tmp_path / "torn", unreadable="wrong")
    assert read_results(model) == []


def test_a_model_that_has_no_folder_keeps_predictions_beside_the_file_of_its_result(
    model, data, *, tmp_path
):
    """As of the Hub; a folder stands for its cache here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifiers.Classifier, "folder", None)
        result = evaluate(model, data, folder=tmp_path / "results of mine")
        nothing = evaluate(model, data)
    file = tmp_path / "results of mine" / result["predictions"]["file"]
    assert file_sha256(file) == result["predictions"]["sha256"]
    assert "predictions" not in nothing and nothing["metrics"] == result["metrics"]
    assert not (model / "predictions").exists() and not (model / "eval_results.json").exists()


def test_a_user_sees_where_the_predictions_are_and_asks_for_what_is_kept(
    model, data, *, capsys, caplog
):
    command = ["evaluate", str(model), "--data", str(data), "--num-workers", "0"]
    assert main([*command, "--top", "2", "--logits", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["predictions"]
    assert (record["top_k"], record["logits"]) == (2, True)
    assert f"predictions: {model / record['file']}" in caplog.text
