import json
import shutil
import typing
from typing import NotRequired

import pytest
from typing_extensions import is_typeddict

from convzoo.evaluation.prediction_file import schema_of, write_predictions
from convzoo.evaluation.results import (
    EvalResult,
    check_result,
    read_results,
    readable_json,
    record_result,
)
from convzoo.evaluation.robustness_results import RobustnessResult
from convzoo.files import file_sha256
from hub_cards.evidence.folder import read_evidence
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.clients import ROOT
from tests.support.documents import Page
from tests.support.predictions import prediction_table


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


RESULT_FILES = Page("docs/result-files.md")


def keys_of(table, part="the entry"):
    """(part, key) of everything in a TypedDict, with ? where it may be absent; parts are nested."""
    for key, kind in typing.get_type_hints(table, include_extras=True).items():
        absent = "?" * (typing.get_origin(kind) is NotRequired)
        inner = [each for each in (kind, *arguments(kind)) if is_typeddict(each)]
        if not inner:
            yield part.removesuffix("?"), f"`{key}`{absent}"
        for each in inner:
            below = key if part == "the entry" else f"{part.strip('`?')}/{key}"
            yield f"`{below}`{absent}", ""
            yield from keys_of(each, f"`{below}`{absent}")


def arguments(kind):
    """What a type is made of, at any depth."""
    for each in typing.get_args(kind):
        yield from (each, *arguments(each))


def documented_keys(header):
    """(part, key) of a table, as of `keys_of`."""
    for part, keys, _ in RESULT_FILES.table(header):
        yield from [(part, "")] * (part != "the entry")
        yield from ((part.removesuffix("?"), key) for key in keys.split(", "))


def test_the_documentation_has_every_key_of_the_schema_and_no_other():
    documented = documented_keys("| part | keys | what they hold |")
    assert sorted(documented) == sorted(keys_of(EvalResult))


def test_the_documentation_has_every_key_of_robustness_and_no_other():
    shared = ("`dataset", "`protocol", "`unreadable", "`model")
    own = [pair for pair in keys_of(RobustnessResult) if not pair[0].startswith(shared)]
    documented = documented_keys("| part of a robustness result | keys | what they hold |")
    assert sorted(documented) == sorted(own)


def test_the_documentation_has_every_column_of_the_predictions():
    rows = RESULT_FILES.table("| column | what it holds |")
    documented = [key for row in rows for key in row[0].split(", ")]
    columns = schema_of(3, 2, logits=True).names
    assert documented == [f"`{name}`" for name in columns]


def test_the_lines_of_the_documentation_read_a_predictions_file(tmp_path, capsys):
    (block,) = RESULT_FILES.blocks("python")
    table = prediction_table(9)
    write_predictions(tmp_path / "p.parquet", table)
    exec(block, {"path": tmp_path / "p.parquet"})
    expected = [table.hits().mean(), table.hits(3).mean(), table.loss.mean()]
    assert capsys.readouterr().out == " ".join(map(str, expected)) + "\n"


@pytest.mark.parametrize("name", ["../config.json", "predictions/../a.parquet", "/a.parquet", 1])
def test_a_result_names_no_file_outside_its_predictions(name, tmp_path):
    """It would be removed with the result."""
    entry = result("a", "x", 0.5)
    entry["predictions"] = {"file": name, "sha256": "", "num_rows": 1, "top_k": 1, "logits": False}
    with pytest.raises(ValueError, match=r"predictions\.file"):
        record_result(tmp_path, entry)


def test_a_file_of_an_older_version_is_read_and_added_to(tmp_path):
    golden = ROOT / "tests" / "golden" / "eval_results_before_predictions.json"
    shutil.copy(golden, tmp_path / "eval_results.json")
    before = json.loads(golden.read_text())["results"]
    assert len(before) == 2 and read_results(tmp_path) == before
    record_result(tmp_path, result(before[0]["model"]["sha256"], "x", 0.5))
    assert read_results(tmp_path)[:2] == before


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
