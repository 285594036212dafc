"""The Hub's own files of results: the same numbers as the card's, and only what may rank."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from hub_cards.cli import main
from tests.support.hub_server import HubServer
from tests.support.model_folders import DATASET, PREPROCESSOR, make_bare, put_results, result

REVISION = "0123456789abcdef0123456789abcdef01234567"
ON_THE_HUB = DATASET | {"id": "user/colours", "name": "Colours", "revision": REVISION}
TEN_CROPS = {"views": 10, "averaged": "probabilities", "image_processor": PREPROCESSOR}


@pytest.fixture
def folder(tmp_path):
    return make_bare(tmp_path / "model")


def test_a_file_has_the_numbers_of_the_cards_model_index(folder):
    results = [result(folder, dataset=ON_THE_HUB)]
    results.append(result(folder, dataset=ON_THE_HUB, protocol=TEN_CROPS))
    put_results(folder, *results)
    assert main(["render", str(folder), "--eval-results"]) == 0
    (path,) = (folder / ".eval_results").iterdir()
    assert path.name == "user_colours.yaml"
    entries = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    index = ModelCard.load(folder / "README.md").data.eval_results
    assert [(e.dataset_id, e.dataset_revision, e.value) for e in entries] == [
        (e.dataset_type, e.dataset_revision, e.metric_value) for e in index
    ]
    first, *_, last = entries
    assert (first.task_id, first.value) == ("image-classification", 81 / 263)
    assert first.date == "2026-11-22T10:11:12+00:00"
    sha256 = results[0]["model"]["sha256"]
    begin = "Top-1 accuracy, a fraction, split test, 263 images, one view"
    assert first.notes == f"{begin}, weights sha256:{sha256}"
    assert "10 views, mean of the probabilities" in last.notes


def test_parts_of_a_split_and_data_from_elsewhere_do_not_rank(folder):
    part = ON_THE_HUB | {"subset": {"of": 1000, "taken": []}}
    put_results(folder, result(folder), result(folder, dataset=part))
    assert main(["render", str(folder), "--eval-results"]) == 0
    assert not (folder / ".eval_results").exists()


def test_they_are_written_on_demand_and_then_kept_up_to_date(folder):
    put_results(folder, result(folder, dataset=ON_THE_HUB))
    assert main(["render", str(folder)]) == 0 and not (folder / ".eval_results").exists()
    main(["render", str(folder), "--eval-results"])
    old = (folder / ".eval_results" / "user_colours.yaml").read_text()
    better = result(folder, dataset=ON_THE_HUB, metrics={"top1_accuracy": 100 / 263})
    put_results(folder, better)
    main(["render", str(folder)])
    new = (folder / ".eval_results" / "user_colours.yaml").read_text()
    assert str(100 / 263) in new and new != old
    put_results(folder, result(folder))  # no longer measured on that dataset
    main(["render", str(folder)])
    assert list((folder / ".eval_results").iterdir()) == []


def test_a_file_of_somebody_else_is_left_alone(folder, capsys):
    put_results(folder, result(folder, dataset=ON_THE_HUB))
    (folder / ".eval_results").mkdir()
    path = folder / ".eval_results" / "user_colours.yaml"
    path.write_text("[]\n")
    assert main(["render", str(folder), "--eval-results"]) == 1
    assert "was not written by hub_cards" in capsys.readouterr().err
    assert path.read_text() == "[]\n"


def test_a_push_takes_them_along_as_they_are_true_then(folder, tmp_path):
    put_results(folder, result(folder, dataset=ON_THE_HUB))
    main(["render", str(folder), "--eval-results"])
    better = result(folder, dataset=ON_THE_HUB, metrics={"top1_accuracy": 100 / 263})
    put_results(folder, better)  # evaluated again, and not rendered
    with HubServer(tmp_path / "hub", {"hf_user": "user"}) as hub:
        command = ["-m", "hub_cards", "push", folder, "user/model"]
        hub.run(*command, home=tmp_path / "home", token="hf_user", cwd=tmp_path)
        file = hub.files("models", "user/model")[".eval_results/user_colours.yaml"]
        (entry, *_) = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    assert (
        entry.value
        == json.loads((folder / "eval_results.json").read_text())["results"][0]["metrics"][
            "top1_accuracy"
        ]
    )
    assert entry.value == 100 / 263
