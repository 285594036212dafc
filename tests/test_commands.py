"""The command line of the engine, as a user types it."""

import time

from tests.conftest import ROOT, run


def test_help_answers_without_loading_torch():
    done = run("-X", "importtime", "-m", "convzoo", "--help")
    for command in ("evaluate", "predict", "convert", "recipe", "preprocess", "inspect"):
        assert command in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "transformers", "datasets", "evaluate", "gradio", "numpy"}


def test_importing_the_models_costs_no_more_than_torch_and_transformers_do():
    """Measured side by side, best of three, because machines are noisy."""
    model_class = "from transformers import PreTrainedModel, AutoModelForImageClassification"

    def seconds(statement):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run("-c", statement)
            times.append(time.perf_counter() - start)
        return min(times)

    assert seconds("import modeling") < 1.5 * seconds(f"import torch; {model_class}")
    done = run("-c", "import sys, modeling; print(*sys.modules)")
    heavy = {"datasets", "evaluate", "gradio", "accelerate", "matplotlib", "transformers.pipelines"}
    assert not heavy & set(done.stdout.split()) - {"accelerate"}


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
