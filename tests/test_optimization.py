import math

import pytest
import torch

from convzoo.optimization import build_optimizer, learning_rate_at, parameter_groups
from convzoo.recipe import Optimizer, Schedule
from modeling import CNN, CNNConfig


@pytest.fixture(scope="module")
def model():
    return CNN(CNNConfig(hidden_sizes=[8, 8], depths=[1, 1], embedding_size=4, num_labels=3))


def test_only_kernels_are_decayed(model):
    decayed, free = parameter_groups(model, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    free_names = {names[id(parameter)] for parameter in free["params"]}
    kernels = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    }
    assert decayed_names == kernels
    assert decayed_names | free_names == set(names.values())
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_settings_reach_the_optimizer(model, name, kind):
    settings = Optimizer(name=name, learning_rate=0.3, momentum=0.8, betas=(0.7, 0.9), eps=1e-6)
    optimizer = build_optimizer(model, settings)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.3
    if name == "sgd":
        assert group["momentum"] == 0.8
    else:
        assert group["betas"] == (0.7, 0.9) and group["eps"] == 1e-6


def test_cosine_with_warmup_meets_the_published_schedule():
    """chrisjob1021/model-examples, cnn: computed with the scheduler of transformers 4.52.4."""
    schedule = Schedule(warmup_epochs=10, min_learning_rate=8e-6)
    published = {
        0: 0.0,
        1: 6.39488409e-08,
        100: 6.39488409e-06,
        6255: 0.0004,
        12509: 0.000799936051,
        12510: 0.0008,
        50000: 0.000779314431,
        100000: 0.000691682805,
        193905: 0.000404,
        300000: 8.92458862e-05,
        375000: 8.00133628e-06,
        375299: 8.00000001e-06,
    }
    for step, expected in published.items():
        ours = learning_rate_at(step, 0.0008, schedule, 375_300, 12_510)
        assert ours == pytest.approx(expected, rel=1e-7, abs=1e-15)


def test_constant_and_warmup_start_in_closed_form():
    schedule = Schedule(name="constant", warmup_learning_rate=0.1)
    rates = [learning_rate_at(step, 0.5, schedule, 10, 4) for step in range(10)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4] + [0.5] * 6)
    cosine = [learning_rate_at(step, 1.0, Schedule(), 4, 0) for step in range(4)]
    assert cosine == pytest.approx([1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)])
