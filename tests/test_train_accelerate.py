"""Training through the real launcher, in processes of their own."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from convzoo.checkpointing import lock_folder
from convzoo.environment import file_sha256
from convzoo.metrics_log import read_metrics
from convzoo.recipe import load_recipe
from convzoo.sources import open_source
from tests.conftest import ENVIRONMENT, ROOT, launch_arguments, run, train

# Without batch norm a training step is the same for any number of processes, up to rounding.
ALEXNET = """
[model]
model_type = "alexnet"
stem = "small"
hidden_sizes = [8, 8, 8, 8, 8]
classifier_hidden_size = 16
pooled_size = 2
dropout_rate = {dropout}
[data]
path = "{data}"
eval_split = "test"
num_workers = 0
[preprocessing]
resize = 32
crop = 32
[optimizer]
learning_rate = 0.02
[train]
epochs = 24
global_batch_size = 12
log_every_steps = {log_every}
evaluate_every_epochs = 30
checkpoint_every_epochs = 0.7
"""


EVERY_AUGMENTATION = """
scale = [0.5, 1.0]
repeats = 2
policy = "rand-m9-mstd0.5"
color_jitter = [0.4, 0.4, 0.4]
pca_noise = "offset"
erasing = 0.5
erasing_fill = "noise"
mixup_alpha = 0.2
cutmix_alpha = 1.0
"""


@pytest.fixture(scope="module")
def alexnet_recipe(tmp_path_factory, colour_data):
    def write(dropout, log_every=1):
        path = tmp_path_factory.mktemp("recipes") / "alexnet.toml"
        path.write_text(ALEXNET.format(data=colour_data, dropout=dropout, log_every=log_every))
        return path

    return write


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, tiny_recipe):
    output = tmp_path_factory.mktemp("runs")
    done = train(tiny_recipe, f"run.output_dir={output}")
    return output / "tiny", done


def test_a_run_leaves_a_complete_model_folder(finished_run):
    folder, done = finished_run
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints",
        "metrics.jsonl",
        "model",
        "recipe.toml",
        "training_curve.png",
    }
    assert {path.name for path in (folder / "model").iterdir()} == {
        "config.json",
        "configuration_cnn.py",
        "examples",
        "image_processing_convzoo.py",
        "metrics.jsonl",
        "model.safetensors",
        "modeling_cnn.py",
        "preprocessor_config.json",
        "recipe.toml",
        "train_results.json",
        "training_curve.png",
    }
    assert len(list((folder / "model" / "examples").iterdir())) == 2
    assert "images/s" in done.stderr and "loss=" in done.stderr


def test_the_log_has_every_step_and_evaluation(finished_run):
    lines = read_metrics(finished_run[0] / "metrics.jsonl")
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, 17))  # 3 epochs of 61 images in steps of 12: 15.25, rounded up
    assert [line["step"] for line in lines if "eval_loss" in line] == [5, 10, 15, 16]
    first = next(line for line in lines if "loss" in line)
    assert first["epoch"] == pytest.approx(12 / 61, rel=1e-5)
    assert first["learning_rate"] == 0.0  # step 0 of the warm-up


def test_training_results_agree_with_the_run(finished_run, tiny_recipe, colour_data):
    model = finished_run[0] / "model"
    results = json.loads((model / "train_results.json").read_text())
    assert results["optimizer_steps"] == 16 and results["images_seen"] == 16 * 12
    assert results["num_processes"] == 1
    assert results["model_sha256"] == file_sha256(model / "model.safetensors")
    assert results["dataset"]["fingerprint"] == open_source(str(colour_data), "train").fingerprint
    state = load_file(model / "model.safetensors")
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    counted = sum(value.numel() for key, value in state.items() if not key.endswith(buffers))
    assert results["num_parameters"] == counted
    assert load_recipe(model / "recipe.toml").model == load_recipe(tiny_recipe).model


def test_training_learns(finished_run):
    lines = [
        line for line in read_metrics(finished_run[0] / "metrics.jsonl") if "eval_loss" in line
    ]
    assert lines[-1]["eval_loss"] < np.log(3)  # better than guessing among three classes


def test_a_finished_run_is_not_trained_again(finished_run, tiny_recipe):
    folder, _ = finished_run
    before = file_sha256(folder / "model" / "model.safetensors")
    done = train(tiny_recipe, f"run.output_dir={folder.parent}")
    assert "is finished" in done.stderr
    assert file_sha256(folder / "model" / "model.safetensors") == before


def test_another_recipe_in_the_same_folder_is_refused(finished_run, tiny_recipe):
    folder, _ = finished_run
    arguments = (tiny_recipe, f"run.output_dir={folder.parent}", "train.epochs=4")
    done = train(*arguments, check=False)
    assert done.returncode and "train.epochs: 3.0 -> 4.0" in done.stderr
    done = train(*arguments[:2], "run.resume=never", check=False)
    assert done.returncode and "needs an empty run folder" in done.stderr


def kill_after_first_checkpoint(recipe, output, processes=1):
    """Start a run and kill all its processes with SIGKILL once a checkpoint is there."""
    script = (ROOT / "train_accelerate.py", recipe, f"run.output_dir={output}")
    process = subprocess.Popen(
        [sys.executable, *launch_arguments(processes, *script)],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(output.glob("*/checkpoints/step_*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    launcher = psutil.Process(process.pid)
    everyone = [launcher, *launcher.children(recursive=True)]  # workers have sessions of their own
    for each in everyone:
        each.kill()
    process.wait()
    psutil.wait_procs(everyone)
    assert not list(output.glob("*/model")), "the run ended before it was killed"


@pytest.mark.parametrize("family", ["cnn", "alexnet"])
def test_a_killed_run_goes_on_to_the_very_same_weights(
    family, tiny_recipe, alexnet_recipe, tmp_path
):
    """Batch norm, drop path, dropout, momentum, data and all augmentation continue exactly."""
    recipe = alexnet_recipe(dropout=0.5, log_every=7)  # checkpoints fall between log steps
    if family == "cnn":
        text = tiny_recipe.read_text().replace("epochs = 3", "epochs = 24")
        text = text.replace("scale = [0.5, 1.0]", EVERY_AUGMENTATION)
        recipe.write_text(text + "\nevaluate_every_epochs = 30\ncheckpoint_every_epochs = 0.7\n")
    train(recipe, f"run.output_dir={tmp_path / 'whole'}")
    kill_after_first_checkpoint(recipe, tmp_path / "killed")
    done = train(recipe, f"run.output_dir={tmp_path / 'killed'}")
    assert "resuming from" in done.stderr
    weights = "alexnet/model/model.safetensors"
    assert file_sha256(tmp_path / "killed" / weights) == file_sha256(tmp_path / "whole" / weights)
    logs = [read_metrics(tmp_path / name / "alexnet/metrics.jsonl") for name in ("whole", "killed")]
    losses = [[(line["step"], line["loss"]) for line in log if "loss" in line] for log in logs]
    assert losses[0] == losses[1]


@pytest.fixture(scope="module")
def alone(alexnet_recipe, tmp_path_factory):
    """A recipe without dropout, and the folder of its run on one process."""
    recipe, output = alexnet_recipe(dropout=0.0), tmp_path_factory.mktemp("alone")
    train(recipe, f"run.output_dir={output}")
    return recipe, output / "alexnet"


@pytest.mark.parametrize("processes", [2, 4])
def test_losses_do_not_depend_on_the_number_of_processes(alone, tmp_path, processes):
    recipe, expected = alone
    train(recipe, f"run.output_dir={tmp_path}", processes=processes)
    folder = tmp_path / "alexnet"
    assert (
        json.loads((folder / "model/train_results.json").read_text())["num_processes"] == processes
    )
    ours, theirs = (
        [line.get("loss", line.get("eval_loss")) for line in read_metrics(run / "metrics.jsonl")]
        for run in (folder, expected)
    )
    assert ours[:20] == pytest.approx(theirs[:20], rel=2e-5)
    assert ours == pytest.approx(theirs, rel=2e-2, abs=1e-4)  # rounding adds up over the steps


def test_a_run_killed_on_two_processes_goes_on_with_one(alone, tmp_path):
    recipe, expected = alone
    kill_after_first_checkpoint(recipe, tmp_path, processes=2)
    assert "resuming from" in train(recipe, f"run.output_dir={tmp_path}").stderr
    whole, resumed = (
        load_file(folder / "model/model.safetensors") for folder in (expected, tmp_path / "alexnet")
    )
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, rtol=1e-3, atol=1e-5)


def test_changed_data_is_not_resumed(alexnet_recipe, colour_data, tmp_path):
    data = shutil.copytree(colour_data, tmp_path / "data")
    recipe = alexnet_recipe(dropout=0.5)
    recipe.write_text(recipe.read_text().replace(str(colour_data), str(data)))
    kill_after_first_checkpoint(recipe, tmp_path / "runs")
    (data / "data" / "train-00001-of-00002.parquet").unlink()
    done = train(recipe, f"run.output_dir={tmp_path / 'runs'}", check=False)
    assert done.returncode and "it has changed. Restore it" in done.stderr


def test_a_diverging_run_stops_and_says_where(alexnet_recipe, tmp_path):
    settings = (f"run.output_dir={tmp_path}", "optimizer.learning_rate=1e30", "train.epochs=2")
    done = train(alexnet_recipe(0.0), *settings, "train.log_every_steps=40", check=False)
    assert done.returncode
    assert "the training loss must be finite; it is nan within steps" in done.stderr
    for path in tmp_path.glob("*/checkpoints/*/model.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values())


def test_a_folder_in_use_is_not_trained_in(alexnet_recipe, tmp_path, monkeypatch):
    descriptor = lock_folder(tmp_path / "alexnet")
    with pytest.raises(ValueError, match="another process has it"):
        lock_folder(tmp_path / "alexnet", patience_seconds=0.3)
    os.close(descriptor)
    os.close(lock_folder(tmp_path / "alexnet", patience_seconds=0.3))


def test_a_corrected_command_starts_in_the_same_folder(alexnet_recipe, tmp_path):
    arguments = (alexnet_recipe(0.0), f"run.output_dir={tmp_path}", "train.epochs=0.2")
    done = train(*arguments, "data.path=/nowhere", check=False)
    assert done.returncode and "data.path must be a folder" in done.stderr
    assert "Traceback" not in done.stderr
    train(*arguments)
    done = train(*arguments, "run.name=many", "train.global_batch_size=1", processes=2, check=False)
    assert done.returncode and "must be at least the number of processes, 2; got 1" in done.stderr


def test_help_and_wrong_recipes_answer_at_once():
    done = run("train_accelerate.py", "--help")
    assert "section.key=value" in done.stdout
    done = run("train_accelerate.py", "recipes/quickstart.toml", "train.epoch=1", check=False)
    assert done.returncode and "did you mean 'epochs'" in done.stderr
    assert "Traceback" not in done.stderr
