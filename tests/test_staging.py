"""What is copied for the Hub, and what stays at home."""

import json
import os
import tomllib
from pathlib import Path

import pytest

from hub_cards.card.rendering import is_generated, render_card, write_card
from hub_cards.evidence.folder import read_evidence
from hub_cards.hub.local_paths import publishable
from hub_cards.hub.push_errors import PushError
from hub_cards.hub.staging import stage_model
from tests.support.model_folders import DATASET, make_bare, put, put_results, result


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def stage(folder, tmp_path, repo_id="someone/tiny", **options):
    target = tmp_path / "stage"
    target.mkdir(parents=True)
    return target, stage_model(folder, target, repo_id, **options)


def test_only_named_files_are_staged(full, tmp_path):
    for name in ("secrets.json", "notes.md", "tokens.toml", "scan.png", "log.jsonl", "server.py"):
        put(full, name, "{}")
    for name in ("LICENSE", "examples/0_cat.png", "examples/CREDITS.md", "examples/data.json"):
        (full / name).parent.mkdir(exist_ok=True)
        put(full, name, "x")
    target, left_out = stage(full, tmp_path)
    assert names(target) == [
        *("LICENSE", "README.md", "config.json", "configuration_cnn.py", "eval_results.json"),
        *("examples/0_cat.png", "examples/CREDITS.md", "image_processing_convzoo.py"),
        *("metrics.jsonl", "model.safetensors", "modeling_cnn.py", "preprocessor_config.json"),
        *("recipe.toml", "reliability_diagram.png", "train_results.json", "training_curve.png"),
    ]
    assert left_out == (
        *("examples/data.json", "log.jsonl", "notes.md", "scan.png", "secrets.json"),
        *("server.py", "tokens.toml"),
    )


def test_a_card_edited_by_hand_tells_no_results_of_before(full, tmp_path, caplog):
    """Of before another evaluation, whose numbers nobody wrote into it."""
    card = render_card(read_evidence(full)).replace("## How to use", "My words.\n\n## How to use")
    put(full, "README.md", card)
    stage(full, tmp_path / "same")
    assert "lacks what" not in caplog.text
    metrics = {"top1_accuracy": 80 / 263, "top5_accuracy": 0.75, "loss": 2.25}
    put_results(full, result(full, metrics=metrics))
    with pytest.raises(PushError, match="the card says 0.30798.*, eval_results.json 0.30418"):
        stage(full, tmp_path / "other")
    before, after = card.split("model-index:")
    put(full, "README.md", f"{before}---\n{after.partition(chr(10) + '---' + chr(10))[2]}")
    stage(full, tmp_path / "without")
    assert "README.md lacks what eval_results.json says: **30.42 % top-1" in caplog.text


def test_code_goes_with_what_it_imports_from_beside_it(full, tmp_path):
    put(full, "modeling_cnn.py", "from .modeling_convzoo import Base\nfrom . import shapes\n")
    put(full, "modeling_convzoo.py", "import torch\nfrom .deeper import x\n")
    for name in ("shapes.py", "deeper.py", "train.py"):
        put(full, name, "")
    target, left_out = stage(full, tmp_path)
    code = {name for name in names(target) if name.endswith(".py")}
    assert {"modeling_convzoo.py", "shapes.py", "deeper.py"} < code and left_out == ("train.py",)


def test_what_a_card_links_goes_with_it(full, tmp_path):
    card = write_card(full, "someone/tiny")
    put(full, "mine.png", "x")
    put(full, "other.png", "x")
    text = card.read_text().replace("## Evaluation", "![mine](mine.png)\n\n## Evaluation", 1)
    card.write_text(text)
    target, left_out = stage(full, tmp_path)
    assert (target / "mine.png").is_file() and left_out == ("other.png",)
    assert (target / "README.md").read_text() == text and not is_generated(text)


def test_predictions_go_only_where_they_are_asked_for(full, tmp_path):
    """They have file names of images, and the card of the folder links them."""
    record = {"file": "predictions/a.parquet", "sha256": "0" * 64, "num_rows": 200}
    put_results(full, result(full, predictions=record | {"top_k": 2, "logits": False}))
    (full / "predictions" / ".b.partial").mkdir(parents=True)
    for name in ("predictions/a.parquet", "predictions/.b.partial/part-0.arrow"):
        put(full, name, "x")
    assert "(predictions/a.parquet)" in write_card(full).read_text()
    target, left_out = stage(full, tmp_path)
    assert not (target / "predictions").exists() and left_out == ("predictions/",)
    card = (target / "README.md").read_text()
    assert f"a file that is not published, SHA-256 `{'0' * 64}`" in card
    target, _ = stage(full, tmp_path / "more", with_predictions=True)
    assert names(target / "predictions") == ["a.parquet"]
    card = (target / "README.md").read_text()
    assert "[predictions/a.parquet](predictions/a.parquet), SHA-256" in card


@pytest.mark.parametrize("name", ["recipe.toml", "LICENSE", "examples", "modeling_cnn.py"])
def test_symbolic_links_are_refused_by_name(full, tmp_path, name):
    secret = tmp_path / "secret"
    secret.mkdir() if name == "examples" else secret.write_text("password")
    (full / name).unlink(missing_ok=True)
    (full / name).symlink_to(secret)
    with pytest.raises(PushError, match=f"{name} must be a file .* symbolic link") as caught:
        stage(full, tmp_path)
    assert caught.value.reason == "folder"


def test_other_links_and_what_is_no_file_stay_at_home(full, tmp_path):
    (full / "passwords.json").symlink_to("/etc/passwd")
    (full / "elsewhere").symlink_to("/etc")
    os.mkfifo(full / "NOTICE")
    target, left_out = stage(full, tmp_path)
    assert left_out == ("elsewhere", "passwords.json") and not (target / "NOTICE").exists()


# Paths


@pytest.fixture
def at_home(full, tmp_path, monkeypatch):
    """A model folder all of whose records name the author's home."""
    home, work = tmp_path / "home" / "alice", tmp_path / "home" / "alice" / "work"
    work.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    data, images = f"{work}/data/my images", f"{home}/pictures/sketches"
    command = f"accelerate launch {work}/train.py '{work}/my recipe.toml' data.path={images}"
    put_results(
        full,
        result(full, dataset=DATASET | {"path": data}, command=f"python -m x --data '{data}'"),
        result(full, dataset=DATASET | {"path": images, "name": "Sketches"}),
    )
    train = json.loads((full / "train_results.json").read_text())
    put(full, "train_results.json", train | {"command": command, "dataset": {"path": images}})
    recipe = f'[run]\nname = "tiny"\noutput_dir = "{home}/runs"\n[data]\npath = \'{data}\' # mine\n'
    put(full, "recipe.toml", recipe + '[finetune]\npretrained = "/models/first"\n')
    config = json.loads((full / "config.json").read_text())
    put(full, "config.json", config | {"_name_or_path": f"{home}/first"})
    return full


def test_no_published_file_names_the_authors_home(at_home, tmp_path):
    before = {name: (at_home / name).read_bytes() for name in names(at_home)}
    target, _ = stage(at_home, tmp_path)
    for name in names(target):
        content = (target / name).read_bytes()
        assert b"alice" not in content and str(tmp_path).encode() not in content, name
    train = json.loads((target / "train_results.json").read_text())
    assert train["command"] == ("accelerate launch train.py 'my recipe.toml' data.path=sketches")
    recipe = tomllib.loads((target / "recipe.toml").read_text())
    assert (
        recipe["data"] == {"path": "data/my images"}
        and "# mine" in (target / "recipe.toml").read_text()
    )
    assert recipe["run"]["output_dir"] == "runs" and recipe["finetune"]["pretrained"] == "first"
    results = json.loads((target / "eval_results.json").read_text())["results"]
    assert [each["dataset"]["path"] for each in results] == ["data/my images", "sketches"]
    assert results[0]["command"] == "python -m x --data 'data/my images'"
    assert {name: (at_home / name).read_bytes() for name in names(at_home)} == before


def test_the_staged_card_is_the_one_of_the_staged_files(at_home, tmp_path):
    target, _ = stage(at_home, tmp_path)
    card = (target / "README.md").read_text()
    assert is_generated(card) and card == render_card(read_evidence(target), "someone/tiny")
    assert "--data 'data/my images' sketches" in card
    # The dataset of the training is still known to be that of an evaluation.
    assert "263 images of Sketches" not in card.partition("### Robustness")[2].partition("###")[0]


def test_records_without_paths_of_this_machine_are_staged_byte_by_byte(full, tmp_path):
    target, _ = stage(full, tmp_path)
    for name in names(full):
        assert (target / name).read_bytes() == (full / name).read_bytes(), name


def test_a_card_edited_by_hand_must_not_name_the_home(full, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    card = write_card(full, "someone/tiny")
    card.write_text(card.read_text().replace("## Evaluation", "In /home/alice/x.\n\n## Evaluation"))
    with pytest.raises(PushError, match="README.md names /home/alice; take that out before others"):
        stage(full, tmp_path)


def test_names_that_look_like_paths_stay(full, tmp_path):
    """Classes of Open Images are called so."""
    config = json.loads((full / "config.json").read_text())
    names = {str(index): f"/m/0{index}" for index in range(9)}
    put(full, "config.json", config | {"id2label": names, "_name_or_path": "/data/first"})
    rows = [row | {"name": f"/m/0{n}"} for n, row in enumerate(result(full)["classes"])]
    put_results(full, result(full, classes=rows, confusions=[]))
    put(full, "recipe.toml", '[data]\nclasses = ["/m/01"]\npath = "/data/second"\n')
    target, _ = stage(full, tmp_path)
    config = json.loads((target / "config.json").read_text())
    assert config["id2label"] == names and config["_name_or_path"] == "first"
    recipe = tomllib.loads((target / "recipe.toml").read_text())
    assert recipe["data"] == {"classes": ["/m/01"], "path": "second"}
    (staged,) = json.loads((target / "eval_results.json").read_text())["results"]
    assert staged["classes"] == rows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/imagenet", "imagenet"),
        ("/data/imagenet/", "imagenet"),
        (r"C:\Users\alice\imagenet", "imagenet"),
        ("data/imagenet", "data/imagenet"),
        ("ILSVRC/imagenet-1k", "ILSVRC/imagenet-1k"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("sha256:0a0a", "sha256:0a0a"),
        ("image/jpeg and 1/255", "image/jpeg and 1/255"),
        ("see /home/alice/x.txt, please", "see x.txt, please"),
        (
            "python -m convzoo evaluate /a/m --data=/b/c d",
            "python -m convzoo evaluate m --data=c d",
        ),
        ("a / b", "a / b"),
        ("<!-- x -->", "<!-- x -->"),
    ],
)
def test_paths_of_machines_are_told_from_other_text(text, expected):
    assert publishable(text) == expected


def test_a_path_below_the_current_folder_never_becomes_an_id_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert publishable(f"{tmp_path}/runs/first") == "./runs/first"
    assert publishable(f"{tmp_path}/runs/first/model") == "runs/first/model"
    assert publishable(f"evaluate --data {tmp_path}/data/colours") == (
        "evaluate --data ./data/colours"
    )


def test_a_folder_without_files_of_a_model_is_refused(tmp_path):
    folder = make_bare(tmp_path / "bare")
    (folder / "config.json").unlink()
    with pytest.raises(PushError, match="config.json is missing in .*bare;.*"):
        stage(folder, tmp_path)
    assert Path(folder).is_dir()
