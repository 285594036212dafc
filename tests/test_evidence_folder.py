"""Evidence that is refused."""

import json
import math
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import binomtest

from hub_cards.cli import main
from hub_cards.evidence.eval_results import wilson_interval
from hub_cards.evidence.folder import read_evidence
from tests.support.model_folders import (
    BREAKDOWN,
    DATASET,
    NAMES,
    NUM_PARAMETERS,
    make_full,
    put,
    put_results,
    render,
    result,
    weights_hash,
)


def change_json(name, **changes):
    def change(folder):
        put(folder, name, json.loads((folder / name).read_text()) | changes)

    return change


def change_result(**changes):
    return lambda folder: put_results(folder, result(folder, **changes))


def new_weights(folder):
    save_file({"classifier.weight": torch.ones(NUM_PARAMETERS)}, folder / "model.safetensors")


def drop_depths(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["depths"]
    put(folder, "config.json", config)


METRICS = {"top1_accuracy": 0.5}


def make_run_of(folder):
    """Put the model where trainings put it."""
    (folder / "model").mkdir()
    (folder / "config.json").rename(folder / "model" / "config.json")


REFUSED = {
    "no folder": (shutil.rmtree, "model folder .* does not exist"),
    "folder of a run": (make_run_of, r"the folder of a run; its model is in .*model\. Give that"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "broken config": (lambda f: put(f, "config.json", "{"), "config.json must be valid JSON"),
    "list as config": (lambda f: put(f, "config.json", []), "must hold a JSON object; got list"),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\xff"), "must be UTF-8 text"),
    "no family": (
        change_json("config.json", model_type="../x"),
        "model_type .* must be the name of a family, as cnn; got '../x'",
    ),
    "no labels": (change_json("config.json", id2label=None), "id2label .* must name the classes"),
    "no field": (drop_depths, "must have all fields of a cnn configuration; .*'depths'"),
    "no auto_map": (change_json("config.json", auto_map=None), "must have an auto_map"),
    "no code": (lambda f: (f / "modeling_cnn.py").unlink(), "missing in .*: modeling_cnn.py"),
    "no imported code": (
        lambda f: put(f, "modeling_cnn.py", "from .modeling_convzoo import ConvZooModel\n"),
        "missing in .*: modeling_convzoo.py",
    ),
    "no preprocessor": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        "preprocessor_config.json is missing",
    ),
    "no crop": (
        change_json("preprocessor_config.json", crop_size={}),
        "crop_size.height of .* must be of type int; got None",
    ),
    "no filter": (change_json("preprocessor_config.json", resample=9), "resample .* 0 to 5"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "cut weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{"),
        "must be a safetensors file",
    ),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "safetensors file"),
    "stale results": (new_weights, r"results\[0\] of eval_results.json .* is stale"),
    "other count": (
        change_result(model={"sha256": "", "num_parameters": 1}),
        r"results\[0\] of eval_results.json .* is stale",
    ),
    "other trained count": (
        change_json("train_results.json", num_parameters=7),
        f"num_parameters of train_results.json .* {NUM_PARAMETERS}; got 7",
    ),
    "other trained weights": (
        change_json("train_results.json", model_sha256="0" * 64),
        r"train_results.json .* is of other weights, 000000000000...; model.safetensors is now",
    ),
    "newer schema": (change_json("eval_results.json", schema_version=2), "schema_version .* be 1"),
    "no list": (change_json("eval_results.json", results=None), "results in .* must be a list"),
    "no split": (
        change_result(dataset=DATASET | {"split": None}),
        r"dataset.split of results\[0\] in .* must be of type str; got None",
    ),
    "no images": (change_result(dataset=DATASET | {"num_samples": 0}), "num_samples .* at least 1"),
    "no top-1": (change_result(metrics={}), "metrics.top1_accuracy of .* must be of type float"),
    "percent": (change_result(metrics={"top1_accuracy": 87.6}), r"in \[0, 1\]; got 87.6"),
    "text as top-5": (
        change_result(metrics=METRICS | {"top5_accuracy": "high"}),
        "top5_accuracy of .* must be of type float; got 'high'",
    ),
    "other interval": (
        change_result(intervals_95={"top1_accuracy": [0.4, 0.5]}),
        r"intervals_95.top1_accuracy of results\[0\] .* must agree",
    ),
    "other classes": (change_result(classes=BREAKDOWN["classes"][:3]), "classes of .* must agree"),
    "other class": (
        change_result(
            classes=[BREAKDOWN["classes"][0] | {"top1_accuracy": 1.0}, *BREAKDOWN["classes"][1:]]
        ),
        "classes of .* must agree",
    ),
    "no counts": (change_result(classes=[{"name": "a"}]), "the breakdown of .*'num_samples'"),
    "other bins": (
        change_result(
            calibration=BREAKDOWN["calibration"] | {"bins": BREAKDOWN["calibration"]["bins"][:1]}
        ),
        "calibration.bins of .* must agree",
    ),
    "sure": (
        change_result(calibration=BREAKDOWN["calibration"] | {"mean_confidence": 35.1}),
        "mean_confidence of .* must agree",
    ),
    "no share": (
        change_result(confusions=[BREAKDOWN["confusions"][0] | {"share": 50}]),
        "confusions of .* must agree",
    ),
    "no emissions": (
        lambda f: put(f, "emissions.csv", "run_id,duration\na,1\n"),
        "emissions.csv must be as CodeCarbon writes it; .*'emissions'",
    ),
    "nan": (
        change_result(metrics=METRICS | {"loss": math.nan}),
        "eval_results.json must be valid JSON; NaN is no finite number",
    ),
    "broken recipe": (lambda f: put(f, "recipe.toml", "[run"), "recipe.toml must be valid TOML"),
    "flat recipe": (lambda f: put(f, "recipe.toml", "seed = 1"), "seed in .* must be a section"),
    "other recipe": (
        lambda f: put(f, "recipe.toml", "[model]\nhidden_sizes = [8, 8]"),
        r"\[model\] hidden_sizes in .* \[8, 16\]; got \[8, 8\]",
    ),
    "broken metrics": (
        lambda f: put(f, "metrics.jsonl", '{"step": 1}\n{"step"'),
        "line 2 of .*metrics.jsonl must be valid JSON",
    ),
    "unknown license": (
        lambda f: put(f, "recipe.toml", '[run]\nlicense = "Apache"'),
        r"breaks 1 rule\(s\), and was not written:\n- license must be an identifier",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_evidence_is_refused_and_nothing_written(full, capsys, case):
    spoil, message = REFUSED[case]
    spoil(full)
    assert main(["render", str(full)]) == 1
    assert not (full / "README.md").exists()
    error = capsys.readouterr().err
    assert error.startswith("error: ") and re.search(message, error)


def test_a_card_names_imported_code_too(full):
    put(full, "modeling_cnn.py", "from .modeling_convzoo import ConvZooModel\n")
    put(full, "modeling_convzoo.py", "from .configuration_convzoo import ConvZooConfig\n")
    put(full, "configuration_convzoo.py", "import torch\n")
    for file in sorted(full.glob("*.py")):
        assert f"[{file.name}]({file.name})" in render(full)


def test_a_result_with_the_right_hash_and_another_count_is_refused(full):
    model = {"sha256": weights_hash(full), "num_parameters": NUM_PARAMETERS + 1}
    put_results(full, result(full, model=model))
    with pytest.raises(ValueError, match=r"num_parameters of results\[0\] of eval_results.json"):
        render(full)


# What is derived again


@pytest.mark.parametrize("images", [1, 7, 263, 2000, 50_000, 123_457])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 1.0])
def test_intervals_are_wilsons(images, share):
    hits = round(share * images)
    interval = binomtest(hits, images).proportion_ci(0.95, method="wilson")
    assert wilson_interval(hits / images, images) == pytest.approx(interval, abs=1e-12)


def test_a_model_that_is_always_right_has_a_card(tmp_path):
    """Results of before 2026-12 have upper ends of 0.9999999999999999 for 31 % of all sizes."""
    for images in (3, 263, 2000, 50_000):
        folder = make_full(tmp_path / str(images), labels=NAMES[:5])
        low = binomtest(images, images).proportion_ci(0.95, method="wilson").low
        metrics = {"top1_accuracy": 1.0, "top5_accuracy": 1.0}
        intervals = {key: [low, 0.9999999999999999] for key in metrics}
        dataset = DATASET | {"num_samples": images}
        put_results(
            folder, result(folder, dataset=dataset, metrics=metrics, intervals_95=intervals)
        )
        card = render(folder)
        assert f"100.00 % [{100 * low:.2f}, 100.00]" in card
        assert "op-5" not in card and "op5" not in card


FORGED = {
    "interval": {"intervals_95": {"top1_accuracy": [0.3070, 0.3090]}},
    "one-sided interval": {"intervals_95": {"top1_accuracy": [0.2553, 0.9]}},
    "confusions beyond errors": {
        "confusions": [{"name": "Sandal", "predicted": "Bag", "count": 60, "share": 60 / 63}]
    },
    "share": {"confusions": [{"name": "Sandal", "predicted": "Bag", "count": 6, "share": 0.9}]},
    "class without errors": {
        "confusions": [{"name": "Bag", "predicted": "Sandal", "count": 1, "share": 0.1}]
    },
}


@pytest.mark.parametrize("case", FORGED)
def test_what_does_not_follow_from_the_counts_is_refused(full, case):
    put_results(full, result(full, **FORGED[case]))
    with pytest.raises(ValueError, match="must agree with its metrics"):
        read_evidence(full)


def test_class_names_in_another_order_than_measured_are_refused(full):
    numbered = [row | {"class": NAMES.index(row["name"])} for row in result(full)["classes"]]
    put_results(full, result(full, classes=numbered))
    read_evidence(full)
    config = json.loads((full / "config.json").read_text())
    reversed_names = {str(index): name for index, name in enumerate(NAMES[::-1])}
    put(full, "config.json", config | {"id2label": reversed_names})
    with pytest.raises(ValueError, match="class 0 is 'T-shirt/top' there; got 'Bag'"):
        read_evidence(full)
