"""`convzoo compare`: models on the same images, from real evaluations and from made-up tables."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from convzoo.cli import main
from convzoo.comparison.comparing import CompareOptions, compare, compare_models
from convzoo.comparison.comparison_figures import save_scatter
from convzoo.comparison.pairing import Evaluated, pair
from convzoo.comparison.verdicts import comparison_text
from convzoo.evaluation.prediction_file import write_predictions
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.evaluations import evaluate
from tests.support.images import COLOURS, coloured_images, write_split
from tests.support.predictions import prediction_table

NAMES = dict(enumerate(COLOURS))


def evaluated(*tables):
    return [
        Evaluated(name=name, folder=None, result=None, table=table)
        for name, table in zip("ABC", tables, strict=False)
    ]


def renamed(table, names):
    return dataclasses.replace(table, facts=dataclasses.replace(table.facts, names=tuple(names)))


def with_other_order(table, order):
    """The same predictions of a model whose classes stand in another order."""
    number = np.append(np.argsort(order), -1)  # -1, of unreadable images, finds the last
    names = [table.facts.names[n] for n in order]
    moved = dataclasses.replace(
        table,
        label=number[table.label].astype(np.int32),
        top_classes=number[table.top_classes].astype(np.int32),
    )
    return renamed(moved, names)


def test_counts_are_those_of_a_loop():
    one, other = prediction_table(200, seed=1), prediction_table(200, seed=2)
    other = dataclasses.replace(
        prediction_table(200, seed=2),
        label=one.label,
        rank=np.where(other.top_classes[:, 0] == one.label, 0, 3).astype(np.int32),
    )
    (found,) = compare(pair(evaluated(one, other)))["pairs"]
    right = [
        (a == label, b == label)
        for a, b, label in zip(
            one.top_classes[:, 0], other.top_classes[:, 0], one.label, strict=True
        )
    ]
    assert found["both_right"] == right.count((True, True))
    assert found["only_first_right"] == right.count((True, False))
    assert found["only_second_right"] == right.count((False, True))
    assert found["both_wrong"] == right.count((False, False))
    assert found["difference"] == pytest.approx(np.mean([a - b for a, b in np.array(right) * 1]))


def test_rows_and_classes_in_another_order_change_nothing():
    one, other = prediction_table(60, seed=1), prediction_table(60, seed=1, unreadable=[3, 9])
    moved = with_other_order(other, [3, 0, 4, 1, 2]).take(np.random.default_rng(0).permutation(60))
    plain, paired = pair(evaluated(one, other)), pair(evaluated(one, moved))
    for name in ("label", "answers", "hits"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(paired, name))
    report = compare(paired)
    assert report["pairs"] == compare(plain)["pairs"]
    assert report["agreement"][0][1] == 58 / 60
    assert any("B could not read 2 images" in note for note in report["notes"])


def test_classes_of_imagenet_are_matched_by_their_entries_and_nameless_ones_by_number():
    table = prediction_table(20, names=["tench", "goldfish", "ostrich"])
    other = renamed(table, ["tench, Tinca tinca", "n01443537", "ostrich, Struthio camelus"])
    paired = pair(evaluated(table, other))
    assert (paired.answers[0] == paired.answers[1]).all() and len(paired.classes) == 1000
    assert paired.classes[int(paired.label[0])] == table.facts.names[int(table.label[0])]
    nameless = renamed(table, ["LABEL_0", "LABEL_1", "LABEL_2"])
    assert pair(evaluated(nameless, table)).classes == list(table.facts.names)
    with pytest.raises(ValueError, match="matched by number, so all must have the same classes"):
        pair(evaluated(nameless, prediction_table(20, names="ab")))
    with pytest.raises(ValueError, match="B has 'a' twice"):
        pair(evaluated(prediction_table(9, names="ab"), prediction_table(9, names="aa")))


def test_other_images_and_labels_are_refused_and_common_ones_compared():
    table = prediction_table(30)
    part = table.take(np.arange(12))
    with pytest.raises(ValueError, match=r"A has 30 images .* B has 12 images .* 12 are in all"):
        pair(evaluated(table, part))
    paired = pair(evaluated(table, part), common=True)
    assert len(paired.label) == 12 and paired.left_out == [18, 0]
    assert "18 images of A are left out" in compare(paired)["notes"][0]
    other = renamed(table, "abxde")
    with pytest.raises(ValueError, match="images are the same, but only .* same label in all"):
        pair(evaluated(table, other))
    elsewhere = dataclasses.replace(table, digest=table.digest ^ 1)
    with pytest.raises(ValueError, match="0 are in all"):
        pair(evaluated(table, elsewhere), common=True)


def test_copies_of_an_image_are_paired_one_by_one():
    table = prediction_table(10)
    digest, label = table.digest.copy(), table.label.copy()
    digest[7], label[7] = digest[2], label[2]
    table = dataclasses.replace(table, digest=digest, label=label)
    assert len(pair(evaluated(table, table.take(np.arange(10)[::-1]))).label) == 10


def answering(table, right):
    """Predictions that are right on some images only."""
    rank = np.where(right, 0, 1).astype(np.int32)
    tops = np.stack([table.label, (table.label + 1) % 5, (table.label + 2) % 5], axis=1)
    tops[~right, :2] = tops[~right, 1::-1]
    return dataclasses.replace(table, rank=rank, top_classes=tops.astype(np.int32))


def verdict_of(*right, images=100):
    table = prediction_table(images)
    places = np.arange(images)
    return compare(pair(evaluated(*(answering(table, np.isin(places, list(r))) for r in right))))


def test_verdicts_claim_no_more_than_the_images_show():
    better = verdict_of(range(80), range(60))["verdict"]
    assert better.startswith("A is better than B on images like these 100 images (20.00 points")
    assert "other trainings" in better
    flipped = verdict_of(range(60), range(80))["verdict"]
    assert flipped == better.replace("A is better than B", "B is better than A")
    unclear = verdict_of(range(80), range(77))["verdict"]
    assert "do not tell A and B apart (3.00 points" in unclear and "80 % of the cases" in unclear
    alike = verdict_of(range(80), range(80))["verdict"]
    assert "does not show that they are equal" in alike
    three = verdict_of(range(80), range(60), range(79))
    assert "A has the highest accuracy of 3 models" in three["verdict"]
    assert "tell it apart from B, but not from C" in three["verdict"]
    for pair_ in three["pairs"]:
        assert pair_["adjusted_p_value"] >= pair_["p_value"]
    text = comparison_text(three)
    assert "same answer" in text and "Holm p" in text and text.endswith(three["verdict"])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two trainings of each of two recipes, in name: their weights are random."""
    folder = tmp_path_factory.mktemp("a folder")
    write_split(folder / "data", "test", *coloured_images(24, seed=1))
    for seed in range(4):
        model = folder / f"run {seed}" / "model"
        sizes = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1]}
        CNN(CNNConfig(stem="small", num_labels=3, id2label=NAMES, **sizes)).save_pretrained(model)
        ConvZooImageProcessor(18, crop_size=16).save_pretrained(model)
        (model / "recipe.toml").write_text(
            f"[run]\nseed = {seed}\n[model]\nuse_prelu = {'true' if seed < 2 else 'false'}\n"
        )
        evaluate(model, folder / "data", num_workers=0)
    return folder


def test_the_command_writes_numbers_and_figures(models, tmp_path, capsys):
    paths = [str(models / f"run {n}" / "model") for n in range(4)]
    output = tmp_path / "out put"
    command = ["compare", *paths, "--seeds", "--output", str(output), "--quiet"]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((output / "comparison.json").read_text())
    assert [model["name"] for model in report["models"]] == [f"run {n}" for n in range(4)]
    for model in report["models"]:
        (result,) = json.loads(
            (models / model["name"] / "model" / "eval_results.json").read_text()
        )["results"]
        assert model["top1_accuracy"] == result["metrics"]["top1_accuracy"]
        assert model["loss"] == pytest.approx(result["metrics"]["loss"])
        assert model["num_multiply_adds"] == result["model"]["num_multiply_adds"]
        calibration = result["calibration"]["expected_calibration_error"]
        assert model["expected_calibration_error"] == calibration
    seeds = report["seeds"]
    assert [each["name"] for each in seeds["recipes"]] == [
        "model.use_prelu=True",
        "model.use_prelu=False",
    ]
    means = [np.mean([m["top1_accuracy"] for m in report["models"][a : a + 2]]) for a in (0, 2)]
    assert seeds["pairs"][0]["difference"] == pytest.approx(means[0] - means[1])
    alone = {n for n, model in enumerate(report["models"], 1) if model["only_this_right"]}
    sheets = {int(path.name.split("_")[1]) for path in output.glob("only_*.png")}
    assert sheets == alone and not report["notes"]
    for path in output.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 100
    shutil.copy(next(output.glob("only_*.png")), output / "only_9_old.png")
    (output / "only_mine.png").write_bytes(b"of somebody else")
    assert main(command) == 0
    assert {path.name.split("_")[1] for path in output.glob("only_*.png")} == {
        *map(str, alone),
        "mine.png",
    }
    assert report["seeds"]["verdict"] in capsys.readouterr().out


def test_predictions_files_are_models_and_what_is_missing_is_said(models, tmp_path, capsys):
    table = prediction_table(40)
    for name in ("one", "two"):
        write_predictions(tmp_path / f"{name}.parquet", table)
    one, two = (str(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    report = compare_models([one, two], CompareOptions(output=tmp_path / "out"))
    assert [each["name"] for each in report["models"]] == ["one", "two"]
    assert report["notes"] == ["one and two have the same weights"]
    model = str(models / "run 0" / "model")
    for typed, words in (
        ([one], "needs two models at least; got 1"),
        ([one, one], "is named twice"),
        ([one, str(tmp_path / "none")], "there is no folder"),
        ([one, model], "must have been evaluated on the same images"),
        ([one, two, "--seeds"], "--seeds needs the recipe of each model"),
        ([model, str(models / "run 2" / "model"), "--seeds"], "needs two trainings at least"),
    ):
        assert main(["compare", *typed]) == 1
        assert words in capsys.readouterr().err


def test_labels_of_the_scatter_do_not_cover_each_other(tmp_path):
    models = [
        {
            "name": f"model {n} $x^2$ " + "long " * n,
            "top1_accuracy": 0.8 + n / 1e4,
            "interval_95": [0.78, 0.82],
            "num_parameters": 1000 + n,
            "num_multiply_adds": None,
            "images_per_second": 10.0**n,
        }
        for n in range(9)
    ]
    save_scatter(tmp_path / "a.png", models)
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 2 * 572
