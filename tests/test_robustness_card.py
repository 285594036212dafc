"""Corruptions on a card: their table, their curves, and files that contradict themselves."""

import json

import numpy as np
import pytest
from PIL import Image

from convzoo.evaluation.robustness_results import FILE, read_robustness, summarize
from convzoo.evaluation.statistics import wilson_interval
from convzoo.images.corruptions import CORRUPTIONS, SEVERITIES
from hub_cards.card.rendering import write_card
from hub_cards.evidence.folder import read_evidence
from hub_cards.hub.staging import stage_model
from tests.support.model_folders import result, section


def hits(correct, images):
    low, high = wilson_interval(correct, images)
    return {"num_correct": correct, "top1_accuracy": correct / images, "interval_95": [low, high]}


def put(folder, **changes):
    """A result as `convzoo robustness` writes it: each severity costs 10 of 200 hits."""
    clean = hits(180, 200)
    conditions = [
        {"corruption": name, "severity": severity, **hits(170 - 10 * severity - number, 200)}
        for number, name in enumerate(CORRUPTIONS)
        for severity in SEVERITIES
    ]
    evaluated = result(folder)
    entry = {
        "task": "corruption-robustness",
        "dataset": evaluated["dataset"] | {"num_samples": 200, "fingerprint": "sha256:0"},
        "protocol": {"views": 1, "image_processor": {}},
        "definition": "those of the test",
        "complete": True,
        "clean": clean,
        "conditions": conditions,
        "summary": summarize(clean, conditions, comparable=True),
        "model": evaluated["model"],
        "identity": "",
        "command": "python -m convzoo robustness MODEL --data here",
        "date": "",
        "duration_seconds": 1.0,
        "environment": {},
    } | changes
    (folder / FILE).write_text(json.dumps({"schema_version": 1, "results": [entry]}))
    return entry


def test_the_card_has_accuracies_mean_errors_and_curves(full, tmp_path):
    entry = put(full)
    assert read_robustness(full / FILE) == [entry]  # both readers take it
    text = write_card(full).read_text()
    part = section(text, "Robustness")
    assert "200 images" in part and "90.00% as they are" in part and "those of the test" in part
    assert "| Corruption | 1 | 2 | 3 | 4 | 5 |" in part
    assert "| gaussian noise | 80.00% | 75.00% | 70.00% | 65.00% | 60.00% |" in part
    mean = f"{entry['summary']['mce']:.1%}, the relative one {entry['summary']['relative_mce']:.1%}"
    assert mean in part and "without frost" in part
    assert part.count("\n| ") == 1 + 1 + 15  # header, line, corruptions
    assert "](robustness.png)" in part and entry["command"] in section(text, "Reproduce")
    with Image.open(full / "robustness.png") as curves:
        assert len(np.unique(np.asarray(curves.convert("RGB")).reshape(-1, 3), axis=0)) > 15
    (stage := tmp_path / "stage").mkdir()
    stage_model(full, stage, None)
    assert {FILE, "robustness.png"} <= {path.name for path in stage.iterdir()}
    (full / FILE).unlink()
    assert "robustness.png" not in write_card(full).read_text()
    assert not (full / "robustness.png").exists()


def test_the_card_says_among_how_few_classes_the_model_chose(full):
    assert "among" not in section(render_with(full), "Robustness")
    matching = {"by": "name", "num_model_classes": 1200, "num_data_classes": 1200}
    matching["restricted"] = True
    dataset = put(full)["dataset"]
    part = section(render_with(full, dataset=dataset | {"class_matching": matching}), "Robustness")
    assert "(among 1,200 classes, those of the data only): 90.00% as they are" in part


def render_with(folder, **changes):
    put(folder, **changes)
    return write_card(folder).read_text()


def test_an_unfinished_measurement_is_not_shown(full):
    put(full, complete=False)
    assert read_evidence(full).robustness_results == ()
    assert "as they are" not in write_card(full).read_text()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"clean": hits(180, 200) | {"num_correct": 179}}, "clean of .* must agree"),
        ({"clean": hits(180, 200) | {"interval_95": [0.1, 0.9]}}, "clean of .* must agree"),
        ({"summary": {"corruptions": [], "without": [], "mce": 0.7}}, "must be whole"),
        ({"conditions": [{"corruption": "fog"}]}, "must be whole; KeyError"),
        ({"model": {"sha256": "0" * 64, "num_parameters": 1}}, "is stale"),
        ({"complete": "yes"}, "complete of .* must be of type bool"),
    ],
)
def test_what_contradicts_itself_is_refused(full, changes, sentence):
    put(full, **changes)
    with pytest.raises(ValueError, match=sentence):
        read_evidence(full)


def test_means_must_be_those_of_the_conditions(full):
    entry = put(full)
    entry["summary"]["corruptions"][3]["error"] += 0.01
    put(full, summary=entry["summary"])
    with pytest.raises(ValueError, match=r"summary\.corruptions of .* must agree"):
        read_evidence(full)
