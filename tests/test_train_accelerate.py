"""Training through the real launcher, in processes of their own."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from convzoo.data.opening import open_split
from convzoo.files import file_sha256
from convzoo.recipe.files import load_recipe
from convzoo.training.building import build_model
from convzoo.training.checkpointing import latest_checkpoint, load_state
from convzoo.training.metrics_log import read_metrics
from convzoo.training.run_folder import make_and_lock
from tests.support.clients import (
    ENVIRONMENT,
    ROOT,
    launch_arguments,
    paths_without_spaces,
    run,
    run_warm,
    train,
)
from tests.support.hub_server import HubServer
from tests.support.images import coloured_images, write_split
from train_accelerate import seed_step

A_FEW_STEPS = ("train.epochs=0.2", "schedule.warmup_epochs=0")
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
interpolation = "random"
first_crop = 8
growing_epochs = 5
repeats = 2
policy = "rand-m9-mstd0.5"
color_jitter = [0.4, 0.4, 0.4]
pca_noise = "offset"
erasing = 0.5
erasing_fill = "noise"
mixup_alpha = 0.2
cutmix_alpha = 1.0
"""

EVERYTHING_ELSE = """
evaluate_every_epochs = 7
checkpoint_every_epochs = 0.7
accumulation_steps = 2
ema_decay = 0.9
keep_best = true
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
    script = (ROOT / "train_accelerate.py", tiny_recipe, f"run.output_dir={output}")
    return output / "tiny", run(*launch_arguments(1, *script))


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
        "configuration_convzoo.py",
        "examples",
        "image_processing_convzoo.py",
        "layers_by_hand.py",
        "metrics.jsonl",
        "model.safetensors",
        "modeling_cnn.py",
        "modeling_convzoo.py",
        "preprocessor_config.json",
        "recipe.toml",
        "train_results.json",
        "training_curve.png",
    }
    assert len(list((folder / "model" / "examples").iterdir())) == 2
    assert "images/s" in done.stderr and "loss=" in done.stderr
    shown = done.stdout + done.stderr
    assert "top-1 " in shown and "top-5" not in shown  # of three classes it is always 100 %


def test_the_log_has_every_step_and_evaluation(finished_run):
    lines = read_metrics(finished_run[0] / "metrics.jsonl")
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, 17))  # 3 epochs of 61 images in steps of 12: 15.25, rounded up
    assert [line["step"] for line in lines if "eval_loss" in line] == [6, 11, 16]
    first = next(line for line in lines if "loss" in line)
    assert first["epoch"] == pytest.approx(12 / 61, rel=1e-5)
    assert first["learning_rate"] == 0.0  # step 0 of the warm-up


def test_training_results_agree_with_the_run(finished_run, tiny_recipe, colour_data):
    model = finished_run[0] / "model"
    results = json.loads((model / "train_results.json").read_text())
    assert results["optimizer_steps"] == 16 and results["images_seen"] == 16 * 12
    assert results["num_processes"] == 1
    assert results["model_sha256"] == file_sha256(model / "model.safetensors")
    assert results["dataset"]["fingerprint"] == open_split(str(colour_data), "train").fingerprint
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


def end_after_first_checkpoint(recipe, output, *overrides, processes=1, ends="all", by="kill"):
    """Start a run and, once it has a checkpoint, kill or terminate it.

    Without a launcher, where one process is to end with all that it started; else all processes
    of a launcher, "everyone", or the "launcher" alone. Returns what the run wrote to stderr, after
    all its processes have ended.
    """
    script = (ROOT / "train_accelerate.py", recipe, f"run.output_dir={output}", *overrides)
    alone = processes == 1 and ends == "all"
    output.mkdir(exist_ok=True)
    with (output / "stderr.txt").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, *(script if alone else launch_arguments(processes, *script))],
            cwd=ROOT,
            env=os.environ | ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    deadline = time.monotonic() + 120
    while not list(output.glob("*/checkpoints/step_*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    launcher = psutil.Process(process.pid)
    everyone = [launcher, *launcher.children(recursive=True)]  # workers have sessions of their own
    for each in [launcher] if ends == "launcher" else everyone:
        getattr(each, by)()
    process.wait()
    _, alive = psutil.wait_procs(everyone, timeout=60)
    assert not alive
    assert not list(output.glob("*/model")), "the run ended before it was stopped"
    return (output / "stderr.txt").read_text()


@pytest.mark.parametrize("family", ["cnn", "alexnet"])
def test_a_killed_run_is_resumed_to_the_very_same_weights(
    family, tiny_recipe, *, alexnet_recipe, tmp_path
):
    """With batch norm, drop path, dropout, momentum, averaged weights and all augmentation."""
    recipe = alexnet_recipe(dropout=0.5, log_every=7)  # checkpoints fall between log steps
    if family == "cnn":
        text = tiny_recipe.read_text().replace("epochs = 3", "epochs = 24")
        text = text.replace("scale = [0.5, 1.0]", EVERY_AUGMENTATION)
        text = text.replace("[optimizer]", "[optimizer]\nslope_limits = [0.1, 0.3]")
        recipe.write_text(text + EVERYTHING_ELSE)
    train(recipe, f"run.output_dir={tmp_path / 'whole'}", fresh=True)
    end_after_first_checkpoint(recipe, tmp_path / "killed")
    # Biases that batch norms cancel are not trained, and yet there: older checkpoints have them.
    state = load_state(latest_checkpoint(tmp_path / "killed/alexnet/checkpoints"))["optimizer"]
    count = len(list(build_model(load_recipe(recipe), list("abc")).parameters()))
    assert sum(len(group["params"]) for group in state["param_groups"]) == count
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
    train(recipe, f"run.output_dir={output}", fresh=True)
    return recipe, output / "alexnet"


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_losses_do_not_depend_on_the_number_of_processes(alone, tmp_path, processes):
    recipe, expected = alone
    train(recipe, f"run.output_dir={tmp_path}", processes=processes, fresh=processes == 2)
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


def test_a_run_killed_on_two_processes_is_resumed_on_one(alone, tmp_path):
    recipe, expected = alone
    end_after_first_checkpoint(recipe, tmp_path, processes=2)
    assert "resuming from" in train(recipe, f"run.output_dir={tmp_path}").stderr
    whole, resumed = (
        load_file(folder / "model/model.safetensors") for folder in (expected, tmp_path / "alexnet")
    )
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("ends", ["everyone", "launcher"])
def test_a_terminated_run_saves_and_is_resumed_to_the_same_weights(ends, alone, tmp_path):
    """Data workers get the signal, too; a launcher alone cannot pass it on."""
    recipe, expected = alone
    rare = ("data.num_workers=2", "train.checkpoint_every_epochs=5")
    said = end_after_first_checkpoint(recipe, tmp_path, *rare, ends=ends, by="terminate")
    step = int(re.search(r"stopped by SIGTERM after step (\d+) of 122; the same command", said)[1])
    assert "Traceback" not in said and "error" not in said
    folder = tmp_path / "alexnet"
    assert latest_checkpoint(folder / "checkpoints").name == f"step_{step:08d}"
    assert "resuming from" in train(recipe, f"run.output_dir={tmp_path}", *rare).stderr
    weights = "model/model.safetensors"
    assert file_sha256(folder / weights) == file_sha256(expected / weights)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_evaluation_gives_way_to_a_signal_and_is_made_up_for(processes, alone, tmp_path):
    """The first checkpoint is there before the evaluation, which here takes long."""
    recipe, _ = alone
    write_split(tmp_path / "many", "train", *coloured_images(60, seed=0))
    images, labels = coloured_images(60, seed=1)
    write_split(tmp_path / "many", "test", images * 400, labels * 400, rows_per_group=1000)
    often = [f"data.path={tmp_path / 'many'}", "train.evaluate_every_epochs=1", "train.epochs=2"]
    often += ["train.checkpoint_every_epochs=1", "train.eval_batch_size=100", "run.name=alexnet"]
    output = tmp_path / "runs"
    said = end_after_first_checkpoint(recipe, output, *often, processes=processes, by="terminate")
    assert "stopped by" in said and "after step 5 of 10" in said
    assert "validation loss" not in said
    state = load_state(latest_checkpoint(output / "alexnet/checkpoints"))
    assert state["step"] == 5 and state["evaluation_due"] and not state["eval_history"]
    write_split(tmp_path / "many", "test", images, labels)
    train(recipe, f"run.output_dir={output}", *often, processes=processes)
    lines = read_metrics(output / "alexnet/metrics.jsonl")
    assert [line["step"] for line in lines if "eval_loss" in line] == [5, 10]


def test_a_validation_image_that_cannot_be_read_costs_no_training(alone, tmp_path):
    recipe, expected = alone
    source = load_recipe(recipe).data.path
    broken = shutil.copytree(source, tmp_path / "broken")
    images, labels = coloured_images(23, seed=1)
    write_split(broken, "test", [*images[:-1], b"no image"], labels)
    often = ("train.evaluate_every_epochs=2", "train.epochs=24", f"run.output_dir={tmp_path}")
    done = train(recipe, *often, f"data.path={broken}", check=False)
    assert done.returncode and "Traceback" not in done.stderr
    folder = tmp_path / "alexnet"
    kept = latest_checkpoint(folder / "checkpoints")
    state = load_state(kept)
    assert state["step"] == 11 and state["evaluation_due"]  # 2 epochs of 61 / 12 steps
    done = train(recipe, *often)  # the same training images elsewhere, good ones of validation
    assert "resuming from" in done.stderr
    weights = "model/model.safetensors"
    assert file_sha256(folder / weights) == file_sha256(expected / weights)


def test_a_compiler_chosen_for_accelerate_is_not_used(alone, tmp_path):
    """`accelerate config` asks about it; the recipe decides."""
    recipe, expected = alone
    arguments = (recipe, f"run.output_dir={tmp_path}", "train.ema_decay=0.9", "train.epochs=2")
    run(ROOT / "train_accelerate.py", *arguments, ACCELERATE_DYNAMO_BACKEND="EAGER")
    state = load_state(latest_checkpoint(tmp_path / "alexnet/checkpoints"))
    assert state["raw_model"].keys() == load_file(expected / "model/model.safetensors").keys()


def test_without_a_whole_checkpoint_nothing_starts_over(alone, tmp_path):
    recipe, _ = alone
    end_after_first_checkpoint(recipe, tmp_path)
    folder = tmp_path / "alexnet/checkpoints"
    for path in folder.glob("*/training_state.pt"):
        path.write_bytes(path.read_bytes()[:-100])
    before = sorted(folder.rglob("*"))
    done = train(recipe, f"run.output_dir={tmp_path}", check=False)
    assert done.returncode and "must be whole; got step_" in done.stderr
    assert "to start over" in done.stderr and sorted(folder.rglob("*")) == before


def test_two_terminated_processes_stop_after_the_same_step(alone, tmp_path):
    recipe, _ = alone
    said = end_after_first_checkpoint(recipe, tmp_path, processes=2, by="terminate")
    step = int(re.search(r"after step (\d+) of 122", said)[1])
    folder = tmp_path / "alexnet"
    assert load_state(folder / "checkpoints" / f"step_{step:08d}")["step"] == step


def test_accumulation_gives_the_same_losses(alone, tmp_path):
    recipe, expected = alone
    train(recipe, f"run.output_dir={tmp_path}", "train.accumulation_steps=5")
    ours, theirs = (
        [line["loss"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line][:20]
        for run in (tmp_path / "alexnet", expected)
    )
    assert len(ours) == 20 and ours == pytest.approx(theirs, rel=2e-5)


@pytest.mark.slow
def test_compiled_and_checkpointed_steps_give_the_same_losses(alone, tmp_path):
    recipe, expected = alone
    overrides = ("train.compile=true", "train.gradient_checkpointing=true")
    with paths_without_spaces() as options:
        train(recipe, f"run.output_dir={tmp_path}", *overrides, fresh=True, **options)
    folders = (tmp_path / "alexnet", expected)
    ours, theirs = (
        [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line][:20]
        for folder in folders
    )
    assert ours == pytest.approx(theirs, rel=2e-5)
    keys = [set(load_file(folder / "model/model.safetensors")) for folder in folders]
    assert keys[0] == keys[1]  # no _orig_mod.


def test_a_step_has_the_random_numbers_of_its_run_step_and_process():
    """The seed is NumPy's for the three numbers, on any version of Python."""
    seeds = {}
    for numbers in itertools.product((0, 42), (0, 1, 10**6), (0, 1)):
        seed_step(*numbers)
        seeds[numbers] = torch.initial_seed()
    assert seeds[42, 0, 0] == 11_465_652_750_463_011_511
    assert len(set(seeds.values())) == len(seeds)


FAILS_LATER = """
import runpy, sys, time
import torch
from convzoo.training import losses

count, loss = 0, losses.classification_loss

def failing(*arguments, **settings):
    global count
    count += 1
    if count == 3:
        raise torch.OutOfMemoryError(f"no memory left in step 3 at {time.monotonic()} s")
    return loss(*arguments, **settings)

losses.classification_loss = failing
sys.argv = ["train_accelerate.py", *sys.argv[1:]]
runpy.run_path("train_accelerate.py", run_name="__main__")
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_an_unexpected_error_ends_everything_at_once(alexnet_recipe, tmp_path, processes):
    """Data workers outlive signals for two minutes, but not the training that needs them."""
    script = tmp_path / "fails.py"
    script.write_text(FAILS_LATER)
    settings = (f"run.output_dir={tmp_path}", "data.num_workers=2")
    arguments = launch_arguments(processes, script, alexnet_recipe(0.0), *settings)
    done = run(*arguments, check=False)
    failed = re.search(r"OutOfMemoryError: no memory left in step 3 at (\S+) s", done.stderr)
    assert done.returncode == 1 and time.monotonic() - float(failed[1]) < 60
    assert "Traceback" in done.stderr and "in train\n" in done.stderr
    left = [p for p in psutil.process_iter(["cmdline"]) if str(script) in (p.info["cmdline"] or ())]
    assert not left


def test_an_average_that_never_moves_publishes_the_first_weights(tiny_recipe, tmp_path):
    overrides = (f"run.output_dir={tmp_path}", "train.ema_decay=1.0", "train.ema_warmup=false")
    train(tiny_recipe, *overrides, "train.epochs=1")
    first = build_model(load_recipe(tiny_recipe), ["red", "green", "blue"]).state_dict()
    published = load_file(tmp_path / "tiny/model/model.safetensors")
    for key, value in published.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, first[key]), key
    losses = [
        line["loss"] for line in read_metrics(tmp_path / "tiny/metrics.jsonl") if "loss" in line
    ]
    assert len(set(losses)) == len(losses)


def test_the_best_checkpoint_stays_and_is_a_whole_model(tiny_recipe, colour_data, tmp_path):
    overrides = ("train.keep_best=true", "train.keep_checkpoints=1", "optimizer.learning_rate=0.3")
    train(tiny_recipe, f"run.output_dir={tmp_path}", *overrides, "train.epochs=6")
    folder = tmp_path / "tiny"
    best = json.loads((folder / "model/train_results.json").read_text())["best_evaluation"]
    evaluations = [line for line in read_metrics(folder / "metrics.jsonl") if "eval_loss" in line]
    accuracies = [line["eval_top1_accuracy"] for line in evaluations]
    assert best["top1_accuracy"] == pytest.approx(max(accuracies), rel=1e-5)
    if best["step"] < evaluations[-1]["step"]:  # the last one is in model/
        checkpoint = folder / "checkpoints" / f"step_{best['step']:08d}"
        run_warm("-m", "convzoo", "evaluate", checkpoint, "--data", colour_data, "--split", "test")
        result = json.loads((checkpoint / "eval_results.json").read_text())["results"][0]
        assert result["metrics"]["top1_accuracy"] == pytest.approx(best["top1_accuracy"], rel=1e-5)


# Steps so large that the accuracy goes up and down; it is measured twice an epoch.
EARLY = (
    *("optimizer.learning_rate=0.5", "data.eval_split=", "data.eval_fraction=0.3"),
    *("train.epochs=40", "train.evaluate_every_epochs=0.5", "train.checkpoint_every_epochs=0.7"),
    *("train.early_stopping_patience=5", "train.keep_checkpoints=1", "run.publish=best"),
)


@pytest.fixture(scope="module")
def early(tiny_recipe, tmp_path_factory):
    """A run that ended early and published its best weights."""
    output = tmp_path_factory.mktemp("runs")
    return output / "tiny", train(tiny_recipe, f"run.output_dir={output}", *EARLY, fresh=True)


def test_an_early_end_publishes_the_best_weights(early, colour_data):
    folder, done = early
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "eval_loss" in line]
    accuracies = [line["eval_top1_accuracy"] for line in lines]
    best = accuracies.index(max(accuracies))
    assert len(accuracies) == best + 1 + 5 and "the training ends after step" in done.stderr
    record = json.loads((folder / "model/train_results.json").read_text())
    assert record["stopped_early"] and record["optimizer_steps"] == lines[-1]["step"]
    assert record["published_step"] == lines[best]["step"] == record["best_evaluation"]["step"]
    assert record["images_seen"] == 12 * lines[-1]["step"]
    shown = run_warm(
        *("-m", "convzoo", "evaluate", folder / "model", "--data", colour_data),
        *("--validation-share", "--json"),
    )
    metrics = json.loads(shown.stdout)["metrics"]
    assert metrics["top1_accuracy"] == pytest.approx(accuracies[best], rel=1e-5)
    assert metrics["loss"] == pytest.approx(lines[best]["eval_loss"], rel=1e-3)


def decisions(run_folder):
    """When a run ended, and which weights it published."""
    record = json.loads((run_folder / "model/train_results.json").read_text())
    keys = ("optimizer_steps", "published_step", "stopped_early", "model_sha256", "validation")
    return {key: record[key] for key in keys}


def test_a_killed_run_ends_early_at_the_same_step_with_the_same_weights(
    early, tiny_recipe, *, tmp_path
):
    end_after_first_checkpoint(tiny_recipe, tmp_path, *EARLY)
    done = train(tiny_recipe, f"run.output_dir={tmp_path}", *EARLY)
    assert "resuming from" in done.stderr
    assert decisions(early[0]) == decisions(tmp_path / "tiny")


KILLED_WRITE = """
import os, runpy, signal, sys

count, moment = 0, int(sys.argv[1])

def die(event, arguments):  # of Python's audit: before a file or folder is made, moved or removed
    global count
    if event in ("os.mkdir", "os.rename", "os.remove") and "checkpoints" in str(arguments[0]):
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(die)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_kills_inside_checkpoint_writes_change_no_decision(early, tiny_recipe, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED_WRITE)
    arguments = (ROOT / "train_accelerate.py", tiny_recipe, f"run.output_dir={tmp_path}", *EARLY)
    for moment in (1, 2, 3, 5, 9, 14, 20):  # one process each, which goes on after the last
        done = run(script, moment, *arguments, check=False)
        assert done.returncode == -signal.SIGKILL, (moment, done.stderr)
    train(*arguments[1:])
    assert decisions(tmp_path / "tiny") == decisions(early[0])


@pytest.mark.slow
def test_early_stopping_decides_the_same_after_a_kill_on_another_number_of_processes(
    alexnet_recipe, tmp_path
):
    """Without batch norm, whose statistics depend on the number of processes."""
    recipe = alexnet_recipe(dropout=0.0)
    early = ("train.early_stopping_patience=3", "train.evaluate_every_epochs=1")
    early += ("run.publish=best", "optimizer.learning_rate=0.05")
    train(recipe, f"run.output_dir={tmp_path / 'whole'}", *early)
    end_after_first_checkpoint(recipe, tmp_path / "killed", *early, processes=2)
    train(recipe, f"run.output_dir={tmp_path / 'killed'}", *early)
    whole, killed = (tmp_path / name / "alexnet" for name in ("whole", "killed"))
    keys = {"optimizer_steps", "published_step", "stopped_early"}
    assert {k: decisions(whole)[k] for k in keys} == {k: decisions(killed)[k] for k in keys}
    weights = [load_file(folder / "model/model.safetensors") for folder in (whole, killed)]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-4)


def test_a_best_checkpoint_that_is_damaged_is_not_published(early, tiny_recipe, tmp_path):
    shutil.copytree(early[0], tmp_path / "tiny")
    record = json.loads((early[0] / "model/train_results.json").read_text())
    shutil.rmtree(tmp_path / "tiny" / "model")  # killed before it was published
    best = tmp_path / f"tiny/checkpoints/step_{record['published_step']:08d}"
    (best / "model.safetensors").write_bytes(b"cut off")
    arguments = (tiny_recipe, f"run.output_dir={tmp_path}", *EARLY)
    done = train(*arguments, check=False)
    assert done.returncode and "the checkpoint of the best evaluation" in done.stderr
    shutil.copytree(early[0] / "checkpoints", tmp_path / "tiny/checkpoints", dirs_exist_ok=True)
    train(*arguments)
    again = json.loads((tmp_path / "tiny/model/train_results.json").read_text())
    assert again["model_sha256"] == record["model_sha256"]


def test_a_plateau_lowers_the_learning_rate(tiny_recipe, tmp_path):
    """No loss is a millionth of another one: each evaluation after the first is a plateau."""
    plateau = [f"schedule.{key}" for key in ("name=plateau", "plateau_metric=loss", "factor=0.5")]
    plateau += ["schedule.plateau_patience=0", "schedule.plateau_threshold=0.999999"]
    train(tiny_recipe, f"run.output_dir={tmp_path}", *plateau, "schedule.warmup_epochs=0")
    lines = read_metrics(tmp_path / "tiny/metrics.jsonl")
    rates = {line["step"]: line["learning_rate"] for line in lines if "loss" in line}
    assert [line["step"] for line in lines if "eval_loss" in line] == [6, 11, 16]
    expected = [0.05] * 11 + [0.025] * 5
    assert [rates[step] for step in range(1, 17)] == expected


def test_fine_tuning_of_the_head_leaves_the_rest_as_it_was(finished_run, tiny_recipe, tmp_path):
    pretrained = finished_run[0] / "model"
    text = tiny_recipe.read_text()
    recipe = tmp_path / "tuned.toml"
    finetune = f'[finetune]\npretrained = "{pretrained}"\nfrozen_stages = -1\n'
    recipe.write_text(finetune + text[text.index("[data]") :])
    train(recipe, f"run.output_dir={tmp_path}", 'data.classes=["red", "blue"]')
    before, after = (
        load_file(folder / "model.safetensors") for folder in (pretrained, tmp_path / "tuned/model")
    )
    assert after["classifier.weight"].shape[0] == 2
    for key, value in before.items():
        if not key.startswith("classifier."):
            assert torch.equal(after[key], value), key


def test_changed_data_is_not_resumed(alexnet_recipe, colour_data, tmp_path):
    data = shutil.copytree(colour_data, tmp_path / "data")
    recipe = alexnet_recipe(dropout=0.5)
    recipe.write_text(recipe.read_text().replace(str(colour_data), str(data)))
    end_after_first_checkpoint(recipe, tmp_path / "runs")
    (data / "data" / "train-00001-of-00002.parquet").unlink()
    done = train(recipe, f"run.output_dir={tmp_path / 'runs'}", check=False)
    assert done.returncode and "it has changed. Restore it" in done.stderr


def test_a_diverging_run_stops_and_says_where(alexnet_recipe, tmp_path):
    settings = (f"run.output_dir={tmp_path}", "optimizer.learning_rate=1e30", "train.epochs=2")
    done = train(alexnet_recipe(0.0), *settings, "train.log_every_steps=40", check=False)
    assert done.returncode
    assert "the training loss must be finite; it is nan in step" in done.stderr
    report = json.loads((tmp_path / "alexnet/nonfinite_batch.json").read_text())
    assert len(set(report["images"])) == 12 and "row group" in report["images"][0]
    assert report["loss"] == "nan"
    for path in tmp_path.glob("*/checkpoints/*/model.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values())


def test_weights_that_the_last_step_ruined_are_not_published(alexnet_recipe, tmp_path):
    # One step: its loss is finite, and comes before the weights overflow.
    ruin = ("optimizer.learning_rate=1e30", "optimizer.weight_decay=1e20", "train.epochs=0.01")
    done = train(alexnet_recipe(0.0), f"run.output_dir={tmp_path}", *ruin, check=False)
    assert done.returncode
    assert "error: all weights must be finite; after the last step" in done.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


def test_splits_with_other_classes_are_refused(alexnet_recipe, tmp_path):
    write_split(tmp_path / "data", "train", *coloured_images(24, seed=0))
    names = ("green", "red", "blue")
    write_split(tmp_path / "data", "test", *coloured_images(12, seed=1), names=names)
    settings = (f"data.path={tmp_path / 'data'}", f"run.output_dir={tmp_path}")
    done = train(alexnet_recipe(0.0), *settings, check=False)
    assert done.returncode and "must have the same classes in the same order" in done.stderr


def test_a_push_that_fails_costs_nothing_but_itself(tiny_recipe, tmp_path):
    settings = (f"run.output_dir={tmp_path}", *A_FEW_STEPS, "run.push_to=user/tiny")
    done = train(tiny_recipe, *settings)  # the tests' processes are told to be offline
    assert "not pushed: " in done.stderr and "hub_cards push" in done.stderr
    assert (tmp_path / "tiny/model/model.safetensors").is_file()


def test_a_finished_model_is_pushed(tiny_recipe, tmp_path):
    script = (ROOT / "train_accelerate.py", tiny_recipe, f"run.output_dir={tmp_path / 'runs'}")
    settings = (*A_FEW_STEPS, "run.push_to=user/tiny", "run.push_private=true")
    with HubServer(tmp_path / "hub", {"hf_user": "user"}) as hub:
        done = hub.run(*script, *settings, home=tmp_path / "home", token="hf_user", cwd=ROOT)
    assert "pushed: http" in done.stderr and "hf_user" not in done.stderr
    weights = (tmp_path / "runs/tiny/model/model.safetensors").read_bytes()
    assert any(
        path.read_bytes() == weights for path in (tmp_path / "hub").rglob("*") if path.is_file()
    )


def test_a_folder_in_use_is_not_trained_in(tmp_path):
    descriptor = make_and_lock(tmp_path / "alexnet")
    with pytest.raises(ValueError, match="another process has it"):
        make_and_lock(tmp_path / "alexnet", patience_seconds=0.3)
    os.close(descriptor)
    os.close(make_and_lock(tmp_path / "alexnet", patience_seconds=0.3))


def test_a_corrected_command_starts_in_the_same_folder(alexnet_recipe, tmp_path):
    arguments = (alexnet_recipe(0.0), f"run.output_dir={tmp_path}", "train.epochs=0.2")
    done = train(*arguments, "data.path=/nowhere", check=False)
    assert done.returncode and "data.path must be a folder" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "file").touch()
    done = train(*arguments, f"run.output_dir={tmp_path / 'file'}", check=False)
    assert done.returncode and "run.output_dir must be a folder that can be" in done.stderr
    done = train(*arguments, "augmentation.policy=rand-m99x", check=False)
    assert done.returncode and "policy" in done.stderr
    train(*arguments)
    done = train(*arguments, "run.name=many", "train.global_batch_size=1", processes=2, check=False)
    assert done.returncode and "processes, 2, times augmentation.repeats; got 1" in done.stderr
    large = ("train.global_batch_size=130", "augmentation.repeats=2")
    done = train(*arguments, "run.name=large", *large, check=False)
    assert "images, 61, times augmentation.repeats; got 130" in done.stderr
    assert not (tmp_path / "large").exists()


def test_help_and_wrong_recipes_answer_at_once():
    done = run("train_accelerate.py", "--help")
    assert "section.key=value" in done.stdout
    done = run("train_accelerate.py", "recipes/quickstart.toml", "train.epoch=1", check=False)
    assert done.returncode and "did you mean 'epochs'" in done.stderr
    assert "Traceback" not in done.stderr


STARTED = """
import gc, runpy, sys
sys.argv = ["train_accelerate.py", "--help"]
try:
    runpy.run_path("train_accelerate.py", run_name="__main__")
except SystemExit:
    print(gc.isenabled(), gc.get_freeze_count())
"""


def test_garbage_is_not_searched_for_in_the_libraries():
    """It takes a fifth of a start, and then 0.3 s at any moment."""
    enabled, frozen = run("-c", STARTED).stdout.split()[-2:]
    assert enabled == "True" and int(frozen) > 300_000
