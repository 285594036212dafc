"""Which class of a model a class of the data is: by file, by number, restricted, of several."""

import json
import logging

import numpy as np
import pytest
import torch

from convzoo.cli import main
from convzoo.data.opening import open_split
from convzoo.evaluation.chosen_images import Choice
from convzoo.evaluation.class_matching import ChosenClasses, match_classes
from convzoo.evaluation.label_maps import (
    LabelMap,
    read_label_map,
    record_classes,
    recorded_classes,
    resolve,
)
from convzoo.evaluation.prediction_file import read_recorded_predictions
from convzoo.evaluation.results import read_results
from convzoo.files import file_sha256
from convzoo.imagenet_classes import imagenet_classes, imagenet_names
from tests.support.evaluations import evaluate
from tests.support.exported_files import describe, write_onnx
from tests.support.images import COLOURS, coloured_images, encode, write_split

IDS = [each.wordnet_id for each in imagenet_classes()]


def numbers(text, theirs, names):
    label_map = LabelMap(file="map.json", sha256="", classes=text)
    return resolve(label_map, theirs, names).classes


def test_classes_are_named_by_name_wordnet_id_or_number():
    found = numbers(
        {"kitty": ("n02123045",), "1": ("tench",), "ant": ("3",), "other": ()},
        ["kitty", "dog", "ant", "other", "goldfish"],
        imagenet_names(),
    )
    assert found == {"kitty": (281,), "dog": (0,), "ant": (3,), "other": (), "goldfish": (1,)}
    # A name goes before a number, and several data classes may be one of the model.
    assert numbers({"a": ("1",)}, ["a", "1"], ["0", "1"]) == {"a": (1,), "1": (1,)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"cat": ("red",)}, "must name classes of the data, .*got 'cat'"),
        ({"kitty": ("pink",)}, "must name classes of the model, .*got 'pink'; near to 'ink'"),
        ({"kitty": ("red",)}, "must say what class 'puppy' of the data is"),
        ({"kitty": ("red",), "0": ("ink",), "puppy": ("red",)}, "each class once; got '0' again"),
        ({"kitty": ("red",), "puppy": ("red", "ink")}, "'red' is part of several lists"),
    ],
)
def test_a_map_that_cannot_be_meant_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        numbers(text, ["kitty", "puppy"], ["red", "ink", "black"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.json", '{"a b": 5, "c": ["x", "7"], "d": null}'),
        ("m.csv", "data,model\na b,5\nc,x\nc,7\nd,\n"),
        ("m.CSV", '\ufeff"a b",5\r\nc,x\r\n\r\nc,7\r\nd,\r\n'),
    ],
)
def test_json_and_csv_say_the_same(name, content, tmp_path):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    found = read_label_map(path)
    assert found.classes == {"a b": ("5",), "c": ("x", "7"), "d": ()}
    assert found.sha256 == file_sha256(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.json", "[1]"),
        ("m.json", "5"),
        ("m.json", "{}"),
        ("m.json", '{"a": 1.5}'),
        ("m.json", '{"a": true}'),
        ("m.json", '{"a": "x", "a": "y"}'),
        ("m.json", "{"),
        ("m.csv", "a,b,c\n"),
        ("m.csv", "data,model\n"),
    ],
)
def test_other_files_are_refused(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="must say which class of the model each class of the dat"):
        read_label_map(tmp_path / name)


def test_probabilities_of_an_answer_are_added_and_others_are_impossible():
    torch.manual_seed(0)
    logits = torch.randn(5, 6)

    class Model(torch.nn.Module):
        def forward(self, pixel_values):
            return type("Output", (), {"logits": pixel_values})

    chosen = ChosenClasses(Model(), {1: (1, 4), 2: (2,)})(logits).logits
    p = logits.softmax(-1)
    total = p[:, [1, 4, 2]].sum(-1)
    assert torch.allclose(chosen.softmax(-1)[:, 1], (p[:, 1] + p[:, 4]) / total)
    assert torch.allclose(chosen.softmax(-1)[:, 2], p[:, 2] / total)
    assert (chosen.softmax(-1)[:, [0, 3, 5]] == 0).all()


def folders(path, names, images):
    """Class folders of some images."""
    for number, image in enumerate(images):
        place = path / "test" / names[number % len(names)]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(image)
    return path


def test_folders_called_by_numbers_mean_these_numbers_and_not_their_order(tmp_path, caplog):
    """ImageNet-V2 has folders 0 to 999, which are sorted 0, 1, 10, 100, 101, ..."""
    caplog.set_level(logging.INFO, "convzoo")
    count = len(imagenet_names())
    grey = encode(np.full((4, 4, 3), 128, np.uint8), "PNG")
    folders(tmp_path / "v2", [*map(str, range(count))], [grey] * count)
    source = open_split(str(tmp_path / "v2"), "test")
    assert source.label_names[:4] == ("0", "1", "10", "100")
    for by in ("name", "number"):
        for names in (imagenet_names(), IDS, [f"LABEL_{n}" for n in range(count)]):
            matched = match_classes(source, names, by=by)
            labels = matched.source.read_labels()
            folder = [matched.source.image_name(row).split("/")[-2] for row in range(count)]
            assert labels.tolist() == [*map(int, folder)]
            assert matched.facts["by"] == "number"
    assert "v2 are taken as the numbers of the model's classes" in caplog.text
    with pytest.raises(ValueError, match="called by numbers, which must be .* 0 to 98, each once"):
        match_classes(source, IDS[:99])


@pytest.mark.parametrize("model", ["abcd", [f"LABEL_{n}" for n in range(4)]])
@pytest.mark.parametrize("called", ["123", "02", ["01", "02", "03"]])
def test_numbers_that_may_count_otherwise_are_taken_only_if_told(called, model, tmp_path):
    """Data that counts from 1 would have all labels shifted by one."""
    grey = encode(np.full((4, 4, 3), 128, np.uint8), "PNG")
    source = open_split(str(folders(tmp_path / "some", called, [grey] * len(called))), "test")
    missing = min({0, 1} - {*map(int, called)})
    with pytest.raises(ValueError, match=f"{missing} is missing: .*--match-classes number; else"):
        match_classes(source, model)
    matched = match_classes(source, model, by="number")
    assert matched.source.read_labels().tolist() == [*map(int, called)]
    assert matched.facts["by"] == "number"


def test_a_number_that_is_there_twice_is_named(tmp_path):
    grey = encode(np.full((4, 4, 3), 128, np.uint8), "PNG")
    source = open_split(str(folders(tmp_path / "some", ["0", "01", "1"], [grey] * 3)), "test")
    for by in ("name", "number"):
        with pytest.raises(ValueError, match="each once; got 1 twice"):
            match_classes(source, "abcd", by=by)


def test_some_classes_of_data_that_is_called_by_numbers(network, tmp_path):
    """What was chosen has a gap, the data has none; a name of the model is no number."""
    images, labels = coloured_images(24, seed=3)
    data = tmp_path / "numbered"
    write_split(data, "test", images, labels, names="012")
    for restricted in (False, True):
        result = evaluate(network, data, classes=["1", "2"], restricted=restricted)
        assert result["dataset"]["class_matching"]["by"] == "number"
        assert [row["class"] for row in result["classes"]] == [1, 2]
    with pytest.raises(ValueError, match="1 of the 3 classes of .* as '0'"):
        match_classes(open_split(str(data), "test"), "123")


def test_data_of_some_wordnet_ids_restricts_the_logits(tmp_path):
    """As ImageNet-A and -R: 200 of the classes, in folders called by WordNet id."""
    grey = encode(np.full((4, 4, 3), 128, np.uint8), "PNG")
    some = IDS[3::5]
    source = open_split(str(folders(tmp_path / "a", some, [grey] * 200)), "test")
    matched = match_classes(source, imagenet_names(), restricted=True)
    assert sorted(matched.answers) == [*range(3, 1000, 5)]
    assert matched.facts == {
        "by": "name",
        "num_model_classes": 200,
        "num_data_classes": 200,
        "restricted": True,
    }
    assert match_classes(source, imagenet_names()).answers is None


@pytest.fixture
def network(tmp_path):
    write_onnx(tmp_path / "model.onnx")
    describe(tmp_path, file="model.onnx")
    return tmp_path


def test_a_restricted_model_chooses_among_the_classes_of_the_data(network, tmp_path):
    images, labels = coloured_images(24, seed=3)
    kept = [n for n in range(24) if labels[n] != 0]
    data = tmp_path / "two of three"
    write_split(
        data,
        "test",
        [images[n] for n in kept],
        [labels[n] - 1 for n in kept],
        names=["green", "blue"],
    )
    whole = evaluate(network, data, logits=True)
    restricted = evaluate(network, data, restricted=True)
    table = read_recorded_predictions(network, whole["predictions"])
    scores = table.logits[:, 1:].astype(np.float64)
    answers = 1 + scores.argmax(axis=1)
    assert restricted["metrics"]["top1_accuracy"] == (answers == table.label).mean()
    assert restricted["metrics"]["top1_accuracy"] > whole["metrics"]["top1_accuracy"]
    own = np.take_along_axis(scores, table.label[:, None] - 1, axis=1)[:, 0]
    losses = np.log(np.exp(scores).sum(axis=1)) - own
    assert restricted["metrics"]["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert restricted["dataset"]["class_matching"]["num_model_classes"] == 2
    assert len(read_results(network)) == 2  # neither replaces the other
    by_name = evaluate(network, data, classes=["green"], restricted=True)
    assert by_name["metrics"]["top1_accuracy"] == 1


def test_restricting_to_all_classes_is_refused(network, colour_data):
    with pytest.raises(ValueError, match="needs data with a part of the model's classes"):
        evaluate(network, colour_data, restricted=True)
    part = evaluate(network, colour_data, classes=["red", "blue"], restricted=True)
    assert part["dataset"]["num_samples"] == 15
    assert part["dataset"]["class_matching"]["num_model_classes"] == 2


def test_a_map_is_used_recorded_and_leaves_classes_out(network, tmp_path, capsys):
    images, labels = coloured_images(24, seed=3)
    theirs = ["warm", "cold", "nothing"]  # red; green or blue; left out
    data = tmp_path / "their data"
    write_split(data, "test", images, [int(n > 0) for n in labels], names=theirs)
    path = tmp_path / "my map.json"
    path.write_text(json.dumps({"warm": "red", "cold": ["green", "blue"], "nothing": None}))
    arguments = [
        "evaluate",
        str(network),
        "--data",
        str(data),
        "--label-map",
        str(path),
        "--logits",
    ]
    assert main(arguments) == 0
    assert "among 2 classes" in capsys.readouterr().out
    (result,) = read_results(network)
    table = read_recorded_predictions(network, result["predictions"])
    assert result["dataset"]["class_matching"] == {
        "by": "file",
        "num_model_classes": 2,
        "num_data_classes": 2,
        "file": "my map.json",
        "sha256": file_sha256(path),
        "map": {"warm": ["red"], "cold": ["green", "blue"]},
    }
    plain = evaluate(network, _with_colours(tmp_path / "plain", images, labels), logits=True)
    scores = read_recorded_predictions(network, plain["predictions"]).logits.astype(np.float64)
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    p = np.stack([p[:, 0], p[:, 1] + p[:, 2]], axis=1)
    assert result["metrics"]["top1_accuracy"] == (p.argmax(axis=1) == (table.label > 0)).mean()
    own = p[np.arange(24), (table.label > 0).astype(int)]
    assert result["metrics"]["loss"] == pytest.approx(-np.log(own).mean(), rel=1e-4)
    again = recorded_classes(result["dataset"]["class_matching"], [*COLOURS])
    assert again.classes == {"warm": (0,), "cold": (1, 2)}


def _with_colours(path, images, labels):
    write_split(path, "test", images, labels)
    return path


def test_a_map_and_numbers_exclude_each_other(tmp_path):
    label_map = LabelMap(file="m", sha256="", classes={})
    with pytest.raises(ValueError, match="by number or by --label-map; got both"):
        Choice(label_map=label_map, match_by="number")


def test_classes_that_share_a_name_are_recorded_by_number():
    """As crane, the bird and the machine, where a model calls both so."""
    names = ["crane", "tench", "crane", "2"]
    label_map = LabelMap(file="m", sha256="", classes={"machine": ("2",), "bird": ("0", "tench")})
    same = resolve(label_map, ["machine", "bird", "two"], [*names[:3], "two"])
    assert same.classes == {"machine": (2,), "bird": (0, 1), "two": (3,)}
    record = record_classes(same, names)
    assert record == {"machine": [2], "bird": [0, "tench"], "two": ["2"]}  # a name, no number
    recorded = {"map": json.loads(json.dumps(record)), "file": "m", "sha256": ""}
    assert recorded_classes(recorded, names).classes == same.classes
    for wrong in ("crane", "carp", 4):
        with pytest.raises(ValueError, match=f"must name one class of the model; got {wrong!r}"):
            recorded_classes(recorded | {"map": {"bird": [wrong]}}, names)
