"""Training on GPUs: losses of a CPU, each precision, the same bits again. Run with -m gpu."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from convzoo.files import file_sha256
from convzoo.training.checkpointing import load_state
from convzoo.training.metrics_log import read_metrics
from tests.support.clients import train

pytestmark = pytest.mark.gpu

WEIGHTS = "tiny/model/model.safetensors"


def train_on_gpu(recipe, output, *overrides, processes=1):
    arguments = (recipe, f"run.output_dir={output}", *overrides)
    train(*arguments, processes=processes, ACCELERATE_USE_CPU="false")
    results = json.loads((output / "tiny/model/train_results.json").read_text())
    assert results["environment"]["accelerator"] and results["num_processes"] == processes
    lines = read_metrics(output / "tiny/metrics.jsonl")
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def cpu_losses(tiny_recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("cpu")
    train(tiny_recipe, f"run.output_dir={output}", "model.drop_path_rate=0.0")
    return [line["loss"] for line in read_metrics(output / "tiny/metrics.jsonl") if "loss" in line]


@pytest.mark.parametrize(
    ("precision", "compiled", "tolerance"),
    [
        ("no", False, 0.01),
        ("bf16", False, 0.05),
        ("fp16", False, 0.02),
        ("no", True, 0.01),
        ("bf16", True, 0.05),
    ],
)
def test_the_first_losses_are_those_of_a_cpu(
    precision, compiled, *, tolerance, cpu_losses, tiny_recipe, tmp_path
):
    overrides = (f"train.mixed_precision={precision}", f"train.compile={str(compiled).lower()}")
    losses = train_on_gpu(tiny_recipe, tmp_path, "model.drop_path_rate=0.0", *overrides)
    assert len(losses) == len(cpu_losses)
    assert losses[:5] == pytest.approx(cpu_losses[:5], rel=tolerance)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_deterministic_run_is_resumed_to_the_very_same_weights(precision, tiny_recipe, tmp_path):
    overrides = ("train.deterministic=true", f"train.mixed_precision={precision}")
    overrides += ("train.keep_checkpoints=9", "train.ema_decay=0.9", "data.num_workers=2")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    expected = train_on_gpu(tiny_recipe, whole, *overrides)
    first = min((whole / "tiny/checkpoints").glob("step_*"))
    state = load_state(first)
    assert bool(state["scaler"]) == (precision == "fp16")
    shutil.copytree(first, resumed / "tiny/checkpoints" / first.name)
    losses = train_on_gpu(tiny_recipe, resumed, *overrides)
    assert losses == expected[state["step"] :]
    assert file_sha256(resumed / WEIGHTS) == file_sha256(whole / WEIGHTS)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("statistics", ["average", "sync"])
def test_two_gpus_train(statistics, tiny_recipe, tmp_path):
    """With synchronised batch norm as one does; with averaged statistics about as well."""
    overrides = ("model.drop_path_rate=0.0", f"train.batch_norm_statistics={statistics}")
    one, two = tmp_path / "one", tmp_path / "two"
    losses = [
        train_on_gpu(tiny_recipe, output, *overrides, processes=processes)
        for output, processes in ((one, 1), (two, 2))
    ]
    assert losses[1][:5] == pytest.approx(losses[0][:5], rel=0.01 if statistics == "sync" else 0.5)
    assert load_file(one / WEIGHTS).keys() == load_file(two / WEIGHTS).keys()
