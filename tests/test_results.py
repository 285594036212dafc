import json

import pytest

from convzoo.evaluation.results import check_result, read_results, readable_json, record_result
from convzoo.files import file_sha256
from hub_cards.evidence.folder import read_evidence
from modeling import CNN, CNNConfig, ConvZooImageProcessor


def result(weights, data, accuracy):
    """The least that an entry must have."""
    return {
        "task": "image-classification",
        "dataset": {"name": "Data", "split": "test", "fingerprint": data, "num_samples": 10},
        "protocol": {"views": 1, "image_processor": {}},
        "metrics": {"top1_accuracy": accuracy},
        "model": {"sha256": weights, "num_parameters": 1},
    }


def test_a_newer_result_replaces_its_own_and_drops_those_of_other_weights(tmp_path):
    for entry in [("a", "x", 0.1), ("a", "y", 0.2), ("a", "x", 0.3)]:
        record_result(tmp_path, result(*entry))
    stored = json.loads((tmp_path / "eval_results.json").read_text())["results"]
    assert stored == [result("a", "y", 0.2), result("a", "x", 0.3)]
    record_result(tmp_path, result("b", "x", 0.4))
    stored = json.loads((tmp_path / "eval_results.json").read_text())["results"]
    assert stored == [result("b", "x", 0.4)]


def test_a_thousand_classes_are_a_thousand_short_lines():
    classes = [
        {"name": f'"[{n}],  {{', "num_samples": 50, "top1_accuracy": n / 1000} for n in range(1000)
    ]
    content = {"short": [1, 2], "classes": classes, "empty": {}, "none": None}
    text = readable_json(content)
    assert json.loads(text) == content
    assert len(text.splitlines()) == 1000 + 7
    assert max(map(len, text.splitlines())) <= 110
    assert text.splitlines()[1] == '  "short": [1, 2],'


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("task", None, "task: Input should be a valid string"),
        ("dataset.num_samples", "10", "dataset.num_samples: Input should be a valid integer"),
        ("metrics.top1_accuracy", True, "metrics.top1_accuracy: Input should be a valid number"),
        ("dataset.subset", {"of": 3}, "dataset.subset.taken: Field required"),
    ],
)
def test_an_entry_of_another_form_is_neither_written_nor_read(path, value, *, said, tmp_path):
    entry = result("a", "x", 0.5)
    *parents, key = path.split(".")
    (entry[parents[0]] if parents else entry)[key] = value
    with pytest.raises(ValueError, match=f"the result must be as .*; {said}"):
        record_result(tmp_path, entry)
    (tmp_path / "eval_results.json").write_text(json.dumps({"results": [entry]}))
    with pytest.raises(ValueError, match=rf"results\[0\] of .*; {said}.*Move the file away"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "AttributeError"),
        ("{}", "KeyError"),
        ('{"schema_version": 2, "results": []}', "schema_version .* must be 1; got 2"),
    ],
)
def test_a_damaged_file_is_named_and_left_alone(text, said, tmp_path):
    (tmp_path / "eval_results.json").write_text(text)
    with pytest.raises(ValueError, match=rf"eval_results\.json must be .*{said}|{said}"):
        record_result(tmp_path, result("a", "x", 0.5))
    assert (tmp_path / "eval_results.json").read_text() == text


def test_what_is_not_in_the_schema_is_kept():
    entry = result("a", "x", 0.5) | {"note": "by somebody"}
    assert check_result(entry, "it") is entry and entry["note"] == "by somebody"


def test_cards_need_nothing_that_the_schema_does_not_require(tmp_path):
    """The least that this side takes is read by hub_cards, which has a reader of its own."""
    stages = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "stem": "small"}
    model = CNN(CNNConfig(num_labels=3, **stages))
    model.save_pretrained(tmp_path)
    ConvZooImageProcessor(size=18, crop_size=16).save_pretrained(tmp_path)
    entry = result(file_sha256(tmp_path / "model.safetensors"), "x", 0.5)
    entry["model"]["num_parameters"] = model.num_parameters()
    record_result(tmp_path, entry)
    assert list(read_evidence(tmp_path).eval_results) == [entry] == read_results(tmp_path)
    for part in ("task", "dataset", "metrics", "model"):  # and it needs these, too
        lacking = {key: value for key, value in entry.items() if key != part}
        (tmp_path / "eval_results.json").write_text(json.dumps({"results": [lacking]}))
        for read in (read_evidence, read_results):
            with pytest.raises(ValueError, match=part):
                read(tmp_path)
