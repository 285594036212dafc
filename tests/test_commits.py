"""A run stays on the commits of the Hub that it began with, and notices other labels on a disk."""

import json
import shutil

import pytest

from convzoo.recipe.files import load_recipe
from convzoo.training.commits import note_commits, stay_on_commits
from convzoo.training.run_data import open_run_data
from tests.support.clients import ROOT, train
from tests.support.hub_server import HubServer
from tests.support.images import COLOURS, coloured_images, write_split

SHORT = "train.epochs=1"


def write_colours(folder, turn=0):
    """colour_data with its labels moved on by a class or two: sizes and images stay."""
    for split, count, seed in (("train", 61, 0), ("test", 23, 1)):
        images, labels = coloured_images(count, seed=seed)
        write_split(folder, split, images, [(label + turn) % 3 for label in labels])
    return folder


def results(folder):
    return json.loads((folder / "model" / "train_results.json").read_text())


def test_a_run_from_the_hub_stays_on_the_commits_of_its_start(tiny_recipe, tmp_path):
    """Of data and of the weights it starts from, although both repositories move on."""
    runs = tmp_path / "runs"
    train(tiny_recipe, f"run.output_dir={runs}", "run.name=base", SHORT)
    with HubServer(tmp_path / "hub", {"hf_user": "user"}) as hub:
        data = hub.add_repo("datasets", "user/colours", write_colours(tmp_path / "first"))
        base = hub.add_repo("models", "user/base", runs / "base" / "model")
        overrides = ("data.path=user/colours", "finetune.pretrained=user/base", SHORT)
        folder = runs / "hub"

        def start(run=hub.run_warm):
            command = (tiny_recipe, *overrides, f"run.output_dir={runs}", "run.name=hub")
            home = {"home": tmp_path / "home", "token": "hf_user", "cwd": tmp_path}
            return run(ROOT / "train_accelerate.py", *command, **home).stderr

        assert "stays on commit" not in start(hub.run)
        assert results(folder)["dataset"]["revision"] == data
        asked = {"revision": ""}
        assert json.loads((folder / "commits.json").read_text()) == {
            "data": {"id": "user/colours", "commit": data, **asked},
            "finetune": {"id": "user/base", "commit": base, **asked},
        }
        weights = (folder / "model" / "model.safetensors").read_bytes()

        hub.add_commit("datasets", "user/colours", write_colours(tmp_path / "second", turn=1))
        (runs / "base" / "model" / "notes.txt").write_text("another commit")
        hub.add_commit("models", "user/base", runs / "base" / "model")
        shutil.rmtree(folder / "model")  # the run is as after a kill before it was published
        said = start()
        assert f"data.path: user/colours stays on commit {data}, with which" in said
        assert "finetune.pretrained" not in said and "resuming from" in said
        assert results(folder)["dataset"]["revision"] == data

        shutil.rmtree(folder / "model")
        shutil.rmtree(folder / "checkpoints")  # as after a kill before the first checkpoint
        said = start()
        assert f"finetune.pretrained: user/base stays on commit {base}, with which" in said
        assert results(folder)["dataset"]["revision"] == data
        assert (folder / "model" / "model.safetensors").read_bytes() == weights


def recipe_in(folder, tiny_recipe, *overrides):
    (folder / "tiny").mkdir(exist_ok=True)
    return load_recipe(tiny_recipe, [f"run.output_dir={folder}", *overrides])


def test_what_the_recipe_names_anew_is_not_held(tiny_recipe, tmp_path, caplog):
    ours = ("data.path=user/a", "data.revision=main")
    begun = recipe_in(tmp_path, tiny_recipe, *ours)
    note_commits(begun, {"data": "a" * 40, "finetune": None})
    assert stay_on_commits(begun, ("data", "finetune")).data.revision == "a" * 40
    other = recipe_in(tmp_path, tiny_recipe, "data.path=user/a", "data.revision=v2")
    assert stay_on_commits(other, ("data",)) == other
    note_commits(other, {"data": "b" * 40})
    assert f"data.revision: this run began with commit {'a' * 40} of user/a and resumes" in (
        caplog.text
    )
    assert stay_on_commits(other, ("data",)).data.revision == "b" * 40
    elsewhere = recipe_in(tmp_path, tiny_recipe, "data.path=user/copy", "data.revision=v2")
    assert stay_on_commits(elsewhere, ("data",)) == elsewhere
    assert stay_on_commits(elsewhere, ()) == elsewhere


@pytest.mark.parametrize("content", ["", '{"data": {"id": "user/a"}}', "[1]"])
def test_a_damaged_file_is_named(content, tiny_recipe, *, tmp_path):
    recipe = recipe_in(tmp_path, tiny_recipe)
    (tmp_path / "tiny" / "commits.json").write_text(content)
    with pytest.raises(ValueError, match=r"commits\.json must have the commits .* Delete it, and"):
        stay_on_commits(recipe, ("data",))


def test_a_resume_notices_labels_that_changed(tiny_recipe, tmp_path):
    """The images, their sizes and the names of the files are those of before."""
    data = write_colours(tmp_path / "data")
    overrides = (f"data.path={data}", f"run.output_dir={tmp_path}", SHORT)
    train(tiny_recipe, *overrides)
    shutil.rmtree(tmp_path / "tiny" / "model")
    write_colours(data, turn=1)
    done = train(tiny_recipe, *overrides, check=False)
    assert done.returncode and "must have the labels that " in done.stderr
    assert "labels or names of classes have changed. Restore them, or set run.name" in done.stderr
    write_colours(data)
    (tmp_path / "tiny" / "metrics.jsonl").unlink()  # which costs the curves, not the model
    train(tiny_recipe, *overrides)
    assert results(tmp_path / "tiny")["final_train_loss"] is None


def test_labels_and_names_make_the_fingerprint_of_labels(tiny_recipe, tmp_path):
    def fingerprint(folder, *overrides):
        recipe = load_recipe(tiny_recipe, [f"data.path={folder}", *overrides])
        return open_run_data(recipe).label_fingerprint

    first = fingerprint(write_colours(tmp_path / "a"))
    assert fingerprint(write_colours(tmp_path / "b")) == first
    assert fingerprint(write_colours(tmp_path / "b", turn=1)) != first
    assert fingerprint(tmp_path / "a", "data.limit=50") != first
    for split, count in (("train", 61), ("test", 23)):
        names = list(reversed(COLOURS))
        write_split(tmp_path / "c", split, *coloured_images(count, seed=0), names=names)
    assert fingerprint(tmp_path / "c") != first


@pytest.mark.parametrize("overrides", [["data.limit=20"], ["data.classes=['green']"]])
def test_training_images_of_one_class_are_refused(overrides, tiny_recipe, *, tmp_path):
    for split, count in (("train", 61), ("test", 23)):
        images, labels = coloured_images(count, seed=0)
        pairs = sorted(zip(labels, images, strict=True), key=lambda pair: pair[0])  # by class
        write_split(tmp_path / "data", split, [i for _, i in pairs], [label for label, _ in pairs])
    recipe = load_recipe(tiny_recipe, [f"data.path={tmp_path / 'data'}", *overrides])
    with pytest.raises(
        ValueError, match=r"at least two classes; the 20 of .*\[train\] are all of '"
    ):
        open_run_data(recipe)
    everything = load_recipe(tiny_recipe, [f"data.path={tmp_path / 'data'}"])
    assert len(open_run_data(everything).label_names) == 3
