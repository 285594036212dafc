import math

import pytest
import torch
from torch import nn

from convzoo import health
from convzoo.inspection.model import check_batch_norms, check_branches, check_slopes
from convzoo.inspection.monitor_report import diagnose
from convzoo.training.metrics_log import read_metrics
from convzoo.training.monitors import Monitors
from modeling import CNN, CNNConfig


def norm(variance, gain, mean=0.0):
    """A batch norm in evaluation mode with one channel for each variance and gain."""
    module = nn.BatchNorm2d(len(variance)).eval()
    module.running_var.copy_(torch.tensor(variance))
    module.running_mean.fill_(mean)
    module.weight.data.copy_(torch.tensor(gain))
    module.num_batches_tracked.fill_(1)
    return module


def test_a_channel_is_dead_where_its_output_hardly_deviates_over_images():
    """Against the output of the batch norm itself, of inputs as its running statistics say."""
    variance, gain = [1.0, 1e-12, 1.0, 4e-9, 1e-9, 0.25], [1.0, 1.0, 5e-4, 0.02, 1.0, -2.0]
    module = norm(variance, gain)
    inputs = torch.randn(20_000, 6, 1, 1) * torch.tensor(variance).sqrt()[:, None, None]
    with torch.no_grad():
        deviation = module(inputs).std(dim=(0, 2, 3))
    assert health.dead_channels(module).tolist() == (deviation < 1e-3).tolist()
    assert health.dead_channels(module).tolist() == [False, True, True, True, False, False]
    assert health.judge_batch_norm(module) == "dead channels: 3"


@pytest.mark.parametrize(("dead", "verdict"), [(5, "fine"), (6, "dead channels: 6")])
def test_a_few_dead_channels_are_fine(dead, verdict):
    module = norm([1.0] * 100, [0.0] * dead + [1.0] * (100 - dead))
    assert health.judge_batch_norm(module) == verdict
    assert health.many_dead(dead / 100) == (verdict != "fine")


def test_a_norm_without_gain_has_a_gain_of_one():
    module = nn.BatchNorm2d(3, affine=False)
    assert health.gains(module).tolist() == [1, 1, 1]
    assert not health.dead_channels(module).any()


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (0.0, "almost identity"),
        (0.009, "almost identity"),
        (0.01, "starved branch"),
        (0.049, "starved branch"),
        (0.05, "fine"),
        (10.0, "fine"),
        (10.1, "hidden shortcut"),
        (math.nan, "not finite"),
    ],
)
def test_a_branch_is_judged_by_its_share_of_the_shortcut(ratio, verdict):
    assert health.judge_branch(ratio) == verdict


def sick_network():
    """A CNN whose stem has dead channels and slopes outside [0, 1], and a block with no branch."""
    torch.manual_seed(0)
    model = CNN(
        CNNConfig(stem="small", embedding_size=8, hidden_sizes=[8], depths=[2], num_labels=3)
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked.fill_(1)
    with torch.no_grad():
        model.stem.bn.weight[:3] = 0
        model.stem.act.weight[:4] = -0.5
        model.stages[0][1].residual_scale.fill_(-9)
    return model


def test_a_training_and_the_inspection_of_its_model_name_the_same_layers(tmp_path):
    model = sick_network()
    names = ["slopes", "batch_norm", "residual_ratio"]
    monitors = Monitors(model, names, every_steps=1, folder=tmp_path)
    monitors.begin(0)
    with monitors.watching():
        model(torch.randn(4, 3, 32, 32))
    monitors.end()
    told = {
        fault.partition(":")[0] for fault in diagnose(read_metrics(tmp_path / "monitors.jsonl"))
    }
    healthy = {"fine", "as at the start"}
    rows = [*check_slopes(model), *check_batch_norms(model), *check_branches(model)]
    assert {row["name"] for row in rows if row["verdict"] not in healthy} == told
    assert told == {"stem.bn", "stem.act", "stages.0.1"}
