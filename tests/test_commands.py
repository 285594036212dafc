"""The command line of the engine, as a user types it."""

from tests.conftest import ROOT, run


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


def test_predict_refuses_what_is_no_picture(tmp_path):
    done = run("-m", "convzoo", "predict", tmp_path, ROOT / "README.md", check=False)
    assert done.returncode == 1 and "README.md: an image must be a readable JPEG" in done.stderr
