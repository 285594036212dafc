import json

from convzoo.evaluation.results import readable_json, record_result


def result(weights, data, accuracy):
    return {
        "dataset": {"fingerprint": data, "split": "test"},
        "protocol": {"views": 1},
        "metrics": {"top1_accuracy": accuracy},
        "model": {"sha256": weights},
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
