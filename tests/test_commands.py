"""The command line of the engine, as a user types it."""

import pytest

from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.clients import ROOT, run
from tests.support.images import COLOURS, coloured_images, write_split


def test_help_answers_without_loading_torch():
    done = run("-X", "importtime", "-m", "convzoo", "--help")
    for command in ("evaluate", "predict", "convert", "recipe", "preprocess", "inspect"):
        assert command in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "transformers", "datasets", "evaluate", "gradio", "numpy"}


def test_importing_the_models_loads_no_training_library():
    """benchmarks/import_time.py measures the time."""
    done = run("-c", "import sys, modeling; print(*sys.modules)")
    heavy = {"datasets", "evaluate", "gradio", "matplotlib", "transformers.pipelines"}
    assert not heavy & set(done.stdout.split())


def test_recipe_prints_every_key_or_a_resolved_file(tmp_path):
    explained = run("-m", "convzoo", "recipe").stdout
    assert "learning_rate = 0.1  # peak" in explained
    resolved = run("-m", "convzoo", "recipe", "recipes/quickstart.toml", "train.epochs=3").stdout
    assert "epochs = 3.0" in resolved and "momentum = 0.9" in resolved


def test_a_wrong_command_names_the_right_ones():
    done = run("-m", "convzoo", "evalute", check=False)
    assert done.returncode == 2 and "evaluate" in done.stderr


def test_predict_refuses_what_is_no_image(tmp_path):
    done = run("-m", "convzoo", "predict", tmp_path, ROOT / "README.md", check=False)
    assert done.returncode == 1 and "README.md: an image must be a readable JPEG" in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("--batch-size", 0, 1), ("--num-workers", -1, 0), ("--limit", -3, 0)],
)
def test_numbers_out_of_range_are_refused_at_once(option, value, least):
    done = run("-m", "convzoo", "evaluate", "m", "--data", "d", option, value, check=False)
    assert done.returncode == 2
    assert f"{option}: must be a whole number of at least {least}; got '{value}'" in done.stderr


def test_evaluation_shows_neither_bars_of_loading_nor_missing_cards(tmp_path):
    write_split(tmp_path / "data", "test", *coloured_images(9, seed=0))
    (tmp_path / "data" / "README.md").write_text("Three colours.\n")  # a card without front matter
    names = dict(enumerate(COLOURS))
    sizes = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1]}
    model = CNN(CNNConfig(stem="small", num_labels=3, id2label=names, **sizes))
    model.save_pretrained(tmp_path / "model")
    ConvZooImageProcessor(18, crop_size=16).save_pretrained(tmp_path / "model")
    command = ("evaluate", tmp_path / "model", "--data", tmp_path / "data", "--num-workers", 0)
    done = run("-m", "convzoo", *command)
    assert "top-1" in done.stdout
    assert "Loading weights" not in done.stderr and "metadata block" not in done.stderr
