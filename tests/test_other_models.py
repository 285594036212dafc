"""Exports and baselines in verifications, indexes and cards."""

import json

import pytest

from convzoo.cli import main
from hub_cards.cli import main as hub_cards
from hub_cards.evidence.folder import read_evidence
from hub_cards.evidence.other_models import read_export
from hub_cards.hub.staging import stage_model
from hub_cards.index.rows import read_rows
from hub_cards.verify.verifying import Measuring, verify
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.evaluations import evaluate
from tests.support.exported_files import describe, write_onnx
from tests.support.images import COLOURS


@pytest.fixture
def export(tmp_path, colour_data):
    """An export that was evaluated."""
    folder = tmp_path / "an export"
    folder.mkdir()
    write_onnx(folder / "model.onnx")
    about = {"model_type": "cnn", "sha256": "ab" * 32}
    describe(folder, file="model.onnx", format="onnx", model=about)
    evaluate(folder, colour_data)
    return folder


@pytest.fixture
def model(tmp_path, colour_data):
    """A model folder, and in it the result of another network on the same images."""
    folder = tmp_path / "mine"
    names = dict(enumerate(COLOURS))
    sizes = {"stem": "small", "embedding_size": 4, "hidden_sizes": [4, 4], "depths": [1, 1]}
    CNN(CNNConfig(id2label=names, **sizes)).save_pretrained(folder)
    ConvZooImageProcessor(18, crop_size=16).save_pretrained(folder)
    evaluate(folder, colour_data)
    return folder


def baseline(model, network, data, *options, name="colours"):
    path = model / "baselines" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    words = [str(network), "--data", str(data), "--output", str(path), *options]
    assert main(["evaluate", *words]) == 0
    return path


@pytest.mark.slow
def test_an_export_is_verified_by_measuring_it_again(export, colour_data):
    found = verify(str(export), Measuring(data=[str(colour_data)], num_workers=0))
    verdicts = {check.name: check.verdict for check in found.checks}
    assert verdicts.pop("card") == "not checked"
    assert {*verdicts.values()} == {"holds"}
    assert {"evidence", "weights", "predictions", "top-1", "loss"} <= verdicts.keys()
    write_onnx(export / "model.onnx", softmax=True)
    with pytest.raises(ValueError, match=r"results\[0\] .*must be of model.onnx, whose SHA-256 is"):
        read_export(export)


def test_an_export_without_its_file_does_not_hold(export):
    (export / "eval_results.json").unlink()
    (export / "model.onnx").unlink()
    evidence, *_ = verify(str(export), Measuring()).checks
    assert (evidence.name, evidence.verdict) == ("evidence", "does not hold")
    assert "model.onnx, which export.json names, does not exist" in evidence.detail


def test_exports_and_baselines_have_rows_in_an_index(export, model, colour_data):
    path = baseline(model, export, colour_data, "--size", "14", name="at 14")
    rows = read_rows([str(export), str(path), str(model)])
    assert [row.name for row in rows] == ["an export", "an export", "at 14", "mine"]
    assert [row.family for row in rows] == ["cnn, onnx", "cnn, onnx", "onnx", "cnn"]
    assert [row.num_parameters for row in rows][:3] == [12, 12, 12]
    assert rows[0].setting == rows[3].setting  # they stand in one table
    assert "`size = 14`" in rows[1].setting and rows[1].setting == rows[2].setting
    assert [row.image_size for row in rows] == ["16 of 18", "14 of 15", "14 of 15", "16 of 18"]


def test_a_card_shows_baselines_of_the_same_images_and_a_push_takes_them(
    export, model, colour_data, *, tmp_path
):
    path = baseline(model, export, colour_data)
    assert hub_cards(["render", str(model)]) == 0
    card = (model / "README.md").read_text()
    section = card.partition("### Other models on the same images")[2].partition("###")[0]
    result = json.loads(path.read_text())
    assert f"{100 * result['metrics']['top1_accuracy']:.2f} %" in section
    assert f"`{result['model']['sha256'][:12]}`" in section and "| colours |" in section
    (path.parent / "predictions").mkdir()
    (path.parent / "predictions" / "of files.parquet").touch()
    (tmp_path / "stage").mkdir()
    stage_model(model, tmp_path / "stage", "user/name")
    staged = [each.name for each in (tmp_path / "stage" / "baselines").rglob("*")]
    assert staged == ["colours.json"]


@pytest.mark.slow
def test_a_verification_says_that_it_trusts_baselines(export, model, colour_data):
    baseline(model, export, colour_data)
    found = verify(str(model), Measuring(data=[str(colour_data)], num_workers=0))
    (check,) = [check for check in found.checks if check.name == "baseline"]
    assert check.about.startswith("colours on") and check.detail.startswith("trusted: ")
    assert found.basis["trusted"] == [check.about]


def test_a_baseline_of_other_images_is_refused(export, model, colour_data):
    baseline(model, export, colour_data, "--limit", "9")
    with pytest.raises(ValueError, match=r"colours.json must be of images that the model was eval"):
        read_evidence(model)
    (model / "baselines" / "colours.json").write_text("[]")
    with pytest.raises(ValueError, match="must have one result"):
        read_evidence(model)
