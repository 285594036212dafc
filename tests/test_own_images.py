"""From a folder of images to a recipe and a trained model."""

import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from convzoo.cli import main
from convzoo.data.opening import open_split
from convzoo.own_images.launching import launch_command, shown_command
from convzoo.own_images.looking import Findings, look
from convzoo.own_images.presets import FEW, choose
from convzoo.own_images.recipe_text import recipe_path, recipe_text
from convzoo.own_images.starting_point import read_starting_point
from convzoo.recipe.files import load_recipe, recipe_from_tables
from convzoo.training.building import build_model
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.clients import ENVIRONMENT, ROOT, run_warm
from tests.support.documents import result_file
from tests.support.images import COLOURS, coloured_images, write_image_folder, write_split


def findings(num_images=120, side=200, **changes):
    facts = {
        "path": "pets",
        "classes": {"cat": num_images // 2, "dog": num_images - num_images // 2},
        "num_validation": 0,
        "has_test": False,
        "sides": (side, side, side),
        "rotated": False,
    }
    return Findings(**(facts | changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A CNN of two other classes, with a processor of its own."""
    folder = tmp_path_factory.mktemp("models") / "base"
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    CNN(CNNConfig(stem="small", num_labels=2, **sizes)).save_pretrained(folder)
    ConvZooImageProcessor(
        size={"shortest_edge": 20},
        crop_size={"height": 16, "width": 16},
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.1, 0.2, 0.3],
        image_std=[0.4, 0.5, 0.6],
    ).save_pretrained(folder)
    return str(folder)


def resolve(found, start=None, name="pets"):
    """The recipe of a folder as training reads it."""
    text = recipe_text(found, start, file=recipe_path("x", start, output="runs", name=name))
    return recipe_from_tables(tomllib.loads(text))


@pytest.mark.parametrize("num_images", [4, 9, 40, 300, 2_000, 30_000, 1_281_167])
@pytest.mark.parametrize("side", [1, 28, 41, 500])
def test_a_recipe_fits_any_folder(num_images, side):
    recipe = resolve(findings(num_images, side))
    training = num_images * (1 - recipe.data.eval_fraction)
    assert recipe.train.global_batch_size <= max(1, round(training))
    assert recipe.train.epochs / recipe.train.evaluate_every_epochs <= 15
    assert recipe.preprocessing.crop <= max(64, side)
    assert (recipe.model.config["stem"] == "small") == (side <= 40)


def test_more_images_are_seen_less_often():
    epochs = [resolve(findings(count)).train.epochs for count in (50, 500, 5_000, 50_000)]
    assert epochs == sorted(epochs, reverse=True) and epochs[0] > epochs[-1]


@pytest.mark.parametrize(("epochs", "every"), [("8", 1), ("1", 1), ("200", 20)])
def test_evaluations_are_spread_over_the_epochs_that_a_person_asked_for(epochs, every):
    asked = [f"train.epochs={epochs}"]
    text = recipe_text(findings(), None, file=Path("runs/pets.toml"), overrides=asked)
    train = recipe_from_tables(tomllib.loads(text)).train
    assert train.epochs == float(epochs)
    assert train.evaluate_every_epochs == train.checkpoint_every_epochs == every


def test_the_presets_are_rows_of_what_was_measured(trained):
    """And no row of the same images is better by more than the spread of the seeds."""
    measured_network = replace(read_starting_point(trained), num_stages=4)
    rows = result_file("finetune_presets")["summary"]
    for start, images, found in (
        ("fresh", "photographs", findings(112)),
        ("trained", "250 of CIFAR-10", findings(250, num_validation=2_000)),
        ("trained", "2500 of CIFAR-10", findings(2_500, num_validation=2_000)),
    ):
        preset = choose(found, measured_network if start == "trained" else None)
        own = {key: setting.value for keys in preset.values() for key, setting in keys.items()}
        measured = [row for row in rows if (row["start"], row["images"]) == (start, images)]
        (chosen,) = [row for row in measured if row["settings"].items() <= own.items()]
        best = max(measured, key=lambda row: row["top1_accuracy_mean"])
        worse = best["top1_accuracy_mean"] - chosen["top1_accuracy_mean"]
        assert worse <= max(row["top1_accuracy_standard_deviation"] for row in (best, chosen))


def test_a_validation_split_is_used_and_a_test_split_left_alone():
    recipe = resolve(findings(num_validation=30, has_test=True))
    assert recipe.data.eval_split == "validation" and not recipe.data.eval_fraction
    assert resolve(findings(has_test=True)).data.eval_fraction == 0.2


def test_preprocessing_is_that_of_the_pretrained_model(trained):
    start = read_starting_point(trained)
    recipe = resolve(findings(), start)
    assert recipe.finetune.pretrained == trained
    seen = recipe.preprocessing
    assert (seen.resize, seen.crop, seen.interpolation) == (20, 16, "bicubic")
    assert seen.mean == (0.1, 0.2, 0.3) and seen.std == (0.4, 0.5, 0.6)
    assert start.num_stages == 3  # the stem and two stages
    assert recipe.finetune.frozen_stages == 1
    assert resolve(findings(5 * FEW), start).finetune.frozen_stages == 0
    assert recipe.optimizer.learning_rate < resolve(findings()).optimizer.learning_rate


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("conversion.json", '{"license": "cc-by-nc-4.0"}'),
        ("README.md", "---\nlicense: cc-by-nc-4.0\n---\n# A card\n"),
        ("recipe.toml", '[run]\nlicense = "cc-by-nc-4.0"\n'),
    ],
)
def test_the_licence_of_the_weights_goes_with_them(trained, name, *, text, tmp_path, caplog):
    """Without it the card would give away under Apache-2.0 what others gave for no trade."""
    shutil.copytree(trained, tmp_path / "base")
    assert resolve(findings(), read_starting_point(trained)).run.license == "apache-2.0"
    (tmp_path / "base" / name).write_text(text)
    for damaged in {"conversion.json", "README.md"} - {name}:
        (tmp_path / "base" / damaged).write_text("---\nlicense: [\n---\n")
    recipe = resolve(findings(), read_starting_point(str(tmp_path / "base")))
    assert recipe.run.license == "cc-by-nc-4.0"
    build_model(recipe, ["cat", "dog"])
    assert "licence" not in caplog.text
    pretrained = {"pretrained": str(tmp_path / "base")}
    by_hand = recipe_from_tables({"data": {"path": "pets"}, "finetune": pretrained})
    build_model(by_hand, ["cat", "dog"])
    assert "'cc-by-nc-4.0'; the card of this model will name" in caplog.text


def test_a_model_that_is_none_is_refused(tmp_path, capsys):
    write_image_folder(tmp_path / "photos")
    assert main(["finetune", str(tmp_path / "photos"), "--from", str(tmp_path / "photos")]) == 1
    assert "finetune.pretrained must be a model folder or a Hub id" in capsys.readouterr().err


def test_every_value_of_a_preset_is_a_setting():
    for found in (findings(), findings(10 * FEW, 28), findings(rotated=True)):
        tables = {
            section: {key: setting.value for key, setting in keys.items()}
            for section, keys in choose(found, None).items()
        }
        assert recipe_from_tables(tables).data.exif_rotation == found.rotated


def test_names_that_toml_cannot_have_are_written_so_that_it_can():
    text = recipe_text(
        findings(path='my "pets"\t1', classes={"a\nb": 3, "#c": 9_999}),
        None,
        file=recipe_path('my "pets"\t1', None, output="out"),
    )
    assert tomllib.loads(text)["data"]["path"] == 'my "pets"\t1'
    assert tomllib.loads(text)["run"]["name"] == "my-pets-1"
    assert "uneven: 3 to 9,999 images in a class" in text


def write_photos(folder):
    """Images of three classes as a person has them: no splits, copies, other files, one broken."""
    images, labels = coloured_images(36, seed=0)
    for number, (data, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / list(COLOURS)[label] / f"IMG {number}.{('jpg', 'JPG')[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    shutil.copy(folder / "red" / "IMG 0.jpg", folder / "red" / "IMG 0 copy.jpg")
    (folder / "red" / "Thumbs.db").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "blue" / "broken.jpg").write_bytes(images[2][:200])
    return folder


def test_a_folder_is_looked_at_before_a_recipe_is_written(tmp_path, capsys, *, monkeypatch, caplog):
    """tests/test_end_to_end.py goes on from here."""
    photos = write_photos(tmp_path / "my photos")
    monkeypatch.chdir(tmp_path)
    command = ["finetune", "my photos", "--only-recipe", "train.epochs=2"]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "broken.jpg (an image must be" in said and "1 of 38 cannot be" in said
    assert not (tmp_path / "runs").exists()
    (photos / "blue" / "broken.jpg").unlink()
    assert main(command) == 0
    file = tmp_path / "runs" / "my-photos.toml"
    text = file.read_text()
    assert capsys.readouterr().out.startswith(text) and "blue 12, green 12, red 13" in text
    assert "IMG 0 copy.jpg" in caplog.text  # a copy
    assert main(command) == 0  # the same again
    edited = text.replace("epochs = 2 ", "epochs = 3 ")
    file.write_text(edited)
    assert main(command) == 1
    assert "it was edited, or the images" in capsys.readouterr().err
    assert file.read_text() == edited


def test_a_run_is_not_written_among_the_images(tmp_path, capsys):
    photos, link = tmp_path / "photos", tmp_path / "a link"
    write_image_folder(photos)
    link.symlink_to(photos)
    before = sorted(tmp_path.rglob("*"))
    command = ["finetune", str(photos), "--only-recipe", "--quiet", "--output"]
    for output in (tmp_path, photos, link / "runs"):  # the first run would be the folder itself
        assert main([*command, str(output)]) == 1
        said = capsys.readouterr().err
        assert "must not lie among the images of" in said and "another --output" in said
        assert sorted(tmp_path.rglob("*")) == before
    assert main([*command, str(tmp_path), "run.name=photos-run"]) == 0


def test_fine_tuning_starts_from_the_model(trained, tmp_path):
    write_image_folder(tmp_path / "photos")
    overrides = ("train.epochs=1", "run.name=mine", "data.num_workers=0")
    run_warm(
        *("-m", "convzoo", "finetune", "photos", "--from", trained, "--output", "out"),
        *(*overrides, "finetune.frozen_stages=2"),
        cwd=tmp_path,
    )
    before, after = (
        load_file(f"{folder}/model.safetensors")
        for folder in (trained, tmp_path / "out/mine/model")
    )
    frozen = [name for name in before if name.startswith(("stem.", "stages.0."))]
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["stages.1.0.conv1.weight"], after["stages.1.0.conv1.weight"])


def test_only_the_recipe_of_a_table_is_written(tmp_path, capsys):
    write_split(tmp_path / "colours", "train", *coloured_images(61, seed=0))
    write_split(tmp_path / "colours", "test", *coloured_images(9, seed=1))
    arguments = [str(tmp_path / "colours"), "--output", str(tmp_path / "out"), "--only-recipe"]
    assert main(["finetune", *arguments]) == 0
    assert main(["finetune", *arguments]) == 0  # the same again
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["colours.toml"]
    assert "Train with it:" in capsys.readouterr().out
    recipe = load_recipe(tmp_path / "out" / "colours.toml")
    assert recipe.folder == tmp_path / "out" / "colours"
    assert main(["finetune", *arguments, "train.epoch=3"]) == 1
    assert "unknown key 'epoch'" in capsys.readouterr().err


def test_the_example_is_what_the_command_writes():
    """recipes/finetune.toml has the settings for data/fashion-mnist, and more comments."""
    counts = dict.fromkeys("abcdefghij", 1_200)
    found = findings(path="data/fashion-mnist", classes=counts, has_test=True, sides=(28, 28, 28))
    split = open_split(str(ROOT / "data" / "fashion-mnist"), "train")
    assert split.num_rows == found.num_images and len(split.label_names) == len(found.classes)
    written = resolve(found, name="finetune")
    assert load_recipe(ROOT / "recipes" / "finetune.toml") == written


def test_mixed_labels_are_refused(tmp_path, capsys):
    write_image_folder(tmp_path / "photos")
    shutil.copytree(tmp_path / "photos/train/red", tmp_path / "photos/train/red,blue")
    assert main(["finetune", str(tmp_path / "photos")]) == 1
    assert "must be of one class; got the class 'red,blue'. Move" in capsys.readouterr().err


def test_images_on_both_sides_and_in_two_classes_are_named(tmp_path, caplog):
    write_image_folder(tmp_path)
    first = next((tmp_path / "train" / "red").iterdir())
    shutil.copy(first, tmp_path / "train" / "blue" / "wrong.jpg")
    look(str(tmp_path))
    assert "1 image(s) occur in two classes: at least one label is wrong" in caplog.text
    (tmp_path / "validation" / "red").mkdir(parents=True)
    shutil.copy(first, tmp_path / "validation" / "red" / "again.jpg")
    assert look(str(tmp_path)).num_validation == 1
    assert "occur in training and in validation: the accuracy is too good" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_saves_and_resumes(number, tmp_path):
    write_image_folder(tmp_path / "photos")
    arguments = [
        *("-m", "convzoo", "finetune", "photos", "train.epochs=20", "data.num_workers=0"),
        *("train.global_batch_size=8", "train.checkpoint_every_epochs=0.2", "run.name=short"),
    ]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=os.environ | ENVIRONMENT,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/short/checkpoints/step_*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    if number == signal.SIGINT:  # as a terminal does it
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(100) == 0
    said = (tmp_path / "output").read_text()
    assert "The training was stopped. The same command resumes it" in said
    assert "Traceback" not in said and not (tmp_path / "runs/short/model").exists()
    done = run_warm(*arguments, cwd=tmp_path)
    assert "resuming from" in done.stderr and "Next:" in done.stdout


def test_several_processes_are_launched_as_such(tmp_path):
    assert shown_command(tmp_path / "my r.toml").endswith(f"{tmp_path}/my r.toml'")
    assert "--multi_gpu" in launch_command(tmp_path / "r.toml", 2)
    assert launch_command(tmp_path / "r.toml", 1)[1:] == [
        str(ROOT / "train_accelerate.py"),
        str(tmp_path / "r.toml"),
    ]
