"""Groups against counts of the originals, schedules against torch, timm and golden numbers."""

import itertools
import math

import pytest
import torch
from torch.optim import lr_scheduler

from convzoo.recipe.settings import Optimizer, Schedule
from convzoo.training.finetuning import stage_of
from convzoo.training.optimization import build_optimizer, clamp_slopes, parameter_groups
from convzoo.training.schedule import learning_rate_at
from modeling import CNN, AlexNet, AlexNetConfig, CNNConfig, QLNet, QLNetConfig
from tests.support.golden_weights import golden


@pytest.fixture(scope="module")
def model():
    return CNN(CNNConfig(hidden_sizes=[8, 8], depths=[1, 1], embedding_size=4, num_labels=3))


def on_meta(model_class, config):
    with torch.device("meta"):
        return model_class(config)


def kinds(model):
    """Parameter -> what it is."""
    owners = dict(model.named_modules())
    names = {}
    for name, parameter in model.named_parameters():
        owner, _, last = name.rpartition(".")
        module = owners[owner]
        if isinstance(module, torch.nn.PReLU):
            names[parameter] = "slope"
        elif isinstance(module, torch.nn.BatchNorm2d):
            names[parameter] = "gain" if last == "weight" else "bias"
        elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            names[parameter] = "kernel" if last == "weight" else "bias"
        else:
            names[parameter] = last
    return names


@pytest.mark.parametrize(
    ("rule", "decayed"),
    [
        ("kernels", {"kernel": 54}),
        ("not_bias", {"kernel": 54, "gain": 53, "slope": 49, "residual_scale": 16}),
        ("all", {"kernel": 54, "gain": 53, "slope": 49, "residual_scale": 16, "bias": 103}),
    ],
)
def test_who_is_decayed_in_the_prelu_network(rule, decayed):
    """not_bias decays 172 tensors: what the original decayed. Biases: 53 + 49 + 1."""
    model = on_meta(CNN, CNNConfig())
    kind = kinds(model)
    counts = {0.0: {}, 0.02: {}}
    for group in parameter_groups(model, 0.02, weight_decay_on=rule):
        for parameter in group["params"]:
            bag = counts[group["weight_decay"]]
            bag[kind[parameter]] = bag.get(kind[parameter], 0) + 1
    assert counts[0.02] == decayed
    assert sum(itertools.chain(*(bag.values() for bag in counts.values()))) == len(kind)


def test_qlnet_decays_its_53_kernels_and_not_the_other_105_tensors():
    groups = parameter_groups(on_meta(QLNet, QLNetConfig()), 1e-4)
    assert {g["weight_decay"]: len(g["params"]) for g in groups} == {1e-4: 53, 0.0: 105}


def test_alexnet_after_2012_decays_everything():
    (group,) = parameter_groups(on_meta(AlexNet, AlexNetConfig()), 5e-4, weight_decay_on="all")
    assert group["weight_decay"] == 5e-4 and len(group["params"]) == 16


def test_frozen_parameters_are_left_out(model):
    frozen = model.classifier.weight
    frozen.requires_grad_(False)
    groups = parameter_groups(model, 0.1)
    frozen.requires_grad_(True)
    given = [parameter for group in groups for parameter in group["params"]]
    assert len(given) == len(list(model.parameters())) - 1
    assert all(parameter is not frozen for parameter in given)


def test_the_learning_rate_falls_from_stage_to_stage_towards_the_input():
    model = on_meta(CNN, CNNConfig())
    groups = parameter_groups(model, 0.1, layer_decay=0.5, stage_of=stage_of(model))
    scale = {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}
    expected = {"embedder": 1 / 32, "stages.0": 1 / 16, "stages.3": 1 / 2, "classifier": 1.0}
    for name, parameter in model.named_parameters():
        for prefix, value in expected.items():
            if name.startswith(prefix):
                assert scale[parameter] == value, name
    assert len(groups) == 2 * 6  # stem, four stages, head; with and without weight decay
    assert {group["lr_scale"] for group in parameter_groups(model, 0.1)} == {1.0}


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_settings_reach_the_optimizer(model, name):
    settings = Optimizer(name=name, learning_rate=0.3, momentum=0.8, betas=(0.7, 0.9), eps=1e-6)
    optimizer = build_optimizer(model, settings)
    assert type(optimizer).__name__.lower() == name
    for group in optimizer.param_groups:
        assert group["lr"] == 0.3
        if name == "sgd":
            assert group["momentum"] == 0.8
        else:
            assert group["betas"] == (0.7, 0.9) and group["eps"] == 1e-6


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_an_optimizer_is_resumed_bit_for_bit(name, tmp_path):
    """Ten steps, or four, a saved state in a new optimizer, and six."""

    def start():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.PReLU(5), torch.nn.Linear(5, 2))
        return model, build_optimizer(model, Optimizer(name=name, learning_rate=0.01))

    def steps(model, optimizer, numbers):
        for number in numbers:
            torch.manual_seed(number)
            model(torch.randn(3, 6)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    whole, optimizer = start()
    steps(whole, optimizer, range(10))
    first, optimizer = start()
    steps(first, optimizer, range(4))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    second, optimizer = start()
    second.load_state_dict(first.state_dict())
    optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    steps(second, optimizer, range(4, 10))
    assert all(map(torch.equal, second.parameters(), whole.parameters()))
    assert not torch.equal(next(first.parameters()), next(whole.parameters()))


def test_slopes_are_clamped_and_nothing_else(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    slopes = [module.weight for module in model.modules() if isinstance(module, torch.nn.PReLU)]
    with torch.no_grad():
        for slope in slopes:
            slope.copy_(torch.linspace(-0.5, 1.5, slope.numel()))
    clamp_slopes(model, (0.0, 1.0))
    for slope in slopes:
        assert torch.equal(slope, torch.linspace(-0.5, 1.5, slope.numel()).clamp(0, 1))
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert len(changed) == len(slopes) == 7
    clamp_slopes(torch.nn.Linear(2, 2), (0.0, 1.0))  # a model without slopes
    slopes[0].requires_grad_(False)  # of a frozen stage
    clamp_slopes(model, (0.4, 0.5))
    assert slopes[0].min().item() == 0 and slopes[1].min().item() == pytest.approx(0.4)
    slopes[0].requires_grad_(True)


def test_cosine_with_warmup_meets_the_prelu_networks_schedule():
    published = golden("schedules")["seed000"]
    schedule = Schedule(warmup_epochs=10, min_learning_rate=published["floor"])
    length = {
        "total_steps": published["total_steps"],
        "steps_per_epoch": published["optimizer_steps_per_epoch"],
    }
    for step, expected in published["learning_rate_by_step"].items():
        ours = learning_rate_at(int(step), published["peak"], schedule, **length)
        assert ours == pytest.approx(expected, rel=1e-7, abs=1e-15)


@pytest.mark.parametrize("images", [1_281_167, 192 * 6672])
def test_cosine_by_epochs_meets_qlnets_schedule(images):
    """Also where an epoch ends within a step, as it does with ImageNet's 1,281,167 images."""
    published = golden("schedules")["qlnet50_v0"]
    schedule = Schedule(
        warmup_epochs=published["warmup_epochs"],
        warmup_learning_rate=published["warmup_start"],
        warmup_first=False,
        per_epoch=True,
    )
    per_epoch = images / 192
    length = {"total_steps": math.ceil(240 * per_epoch), "steps_per_epoch": per_epoch}
    for epoch, expected in published["learning_rate_by_epoch"].items():
        first, last = math.ceil(int(epoch) * per_epoch), math.ceil((int(epoch) + 1) * per_epoch) - 1
        for step in (first, last):
            ours = learning_rate_at(step, published["peak"], schedule, **length)
            assert ours == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    ("schedule", "total", "expected"),
    [
        (
            Schedule(
                warmup_epochs=5,
                warmup_learning_rate=1e-5,
                min_learning_rate=1e-4,
            ),
            105,
            {2: 0.040006, 5: 0.1, 60: 0.04223609847124048, 104: 0.0001246473097317066},
        ),
        (
            Schedule(name="restarts", cycle_growth=2.0, cycle_decay=0.5, min_learning_rate=0.001),
            1000,
            {9: 0.0034227024433899, 10: 0.05, 29: 0.0013016356554191, 100: 0.0089504297360993},
        ),
        (
            Schedule(
                name="restarts",
                cycle_decay=0.5,
                min_learning_rate=0.0025,
                warmup_epochs=2,
            ),
            1000,
            {1: 0.05, 2: 0.1, 5: 0.0799045310492581, 11: 0.0048859948306113, 32: 0.0125},
        ),
    ],
    ids=["cosine after the warm-up", "growing restarts", "restarts after a warm-up"],
)
def test_schedules_meet_timm(schedule, total, expected):
    """Recorded from CosineLRScheduler of timm 1.0.31."""
    for step, rate in expected.items():
        assert learning_rate_at(
            step, 0.1, schedule, total_steps=total, steps_per_epoch=1
        ) == pytest.approx(rate, rel=1e-9)


def torch_rates(count, scheduler_class, **settings):
    """The learning rates of `count` steps of a torch scheduler from 0.1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = scheduler_class(optimizer, **settings)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (
            Schedule(name="step", step_epochs=3, factor=0.2),
            (lr_scheduler.StepLR, {"step_size": 21, "gamma": 0.2}),
        ),
        (
            Schedule(name="one_cycle"),
            (lr_scheduler.OneCycleLR, {"max_lr": 0.1, "total_steps": 140, "cycle_momentum": False}),
        ),
        (
            Schedule(name="one_cycle", rise=0.5, start_factor=0.1, end_factor=1e-3),
            (
                lr_scheduler.OneCycleLR,
                {
                    "max_lr": 0.1,
                    "total_steps": 140,
                    "cycle_momentum": False,
                    "pct_start": 0.5,
                    "div_factor": 10,
                    "final_div_factor": 100,
                },
            ),
        ),
        (
            Schedule(name="restarts", cycle_epochs=2, cycle_growth=2, min_learning_rate=0.01),
            (lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 14, "T_mult": 2, "eta_min": 0.01}),
        ),
        (
            Schedule(min_learning_rate=0.01),
            (lr_scheduler.CosineAnnealingLR, {"T_max": 140, "eta_min": 0.01}),
        ),
    ],
    ids=["step", "one_cycle", "steep one_cycle", "restarts", "cosine"],
)
def test_schedules_meet_torch(schedule, theirs):
    scheduler_class, settings = theirs
    expected = torch_rates(140, scheduler_class, **settings)
    ours = [
        learning_rate_at(step, 0.1, schedule, total_steps=140, steps_per_epoch=7)
        for step in range(140)
    ]
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_a_plateau_meets_torch(seed):
    schedule = Schedule(name="plateau", plateau_patience=2, plateau_threshold=1e-2, factor=0.5)
    generator = torch.Generator().manual_seed(seed)
    history = [
        0.9 * math.exp(-0.05 * i) + 0.05 * torch.rand(1, generator=generator).item()
        for i in range(60)
    ]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2, threshold=1e-2)
    for count in range(1, len(history) + 1):
        scheduler.step(history[count - 1])
        ours = learning_rate_at(
            count * 7,
            0.1,
            schedule,
            total_steps=420,
            steps_per_epoch=7,
            plateau_history=history[:count],
        )
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert ours < 0.05  # it was reduced more than once


def test_constant_and_warmup_start_in_closed_form():
    schedule = Schedule(name="constant", warmup_learning_rate=0.1, warmup_epochs=2)
    rates = [
        learning_rate_at(step, 0.5, schedule, total_steps=10, steps_per_epoch=2)
        for step in range(10)
    ]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4] + [0.5] * 6)
    cosine = [
        learning_rate_at(step, 1.0, Schedule(), total_steps=4, steps_per_epoch=1)
        for step in range(4)
    ]
    assert cosine == pytest.approx([1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)])


@pytest.mark.parametrize("name", ["cosine", "constant", "step", "plateau", "one_cycle", "restarts"])
def test_every_schedule_is_finite_and_below_the_peak_in_short_and_uneven_runs(name):
    for total, per_epoch in itertools.product((1, 2, 3, 50), (0.4, 1.0, 7.3)):
        length = {"total_steps": total, "steps_per_epoch": per_epoch}
        for warmup, first in itertools.product((0, 2.5), (True, False)):
            schedule = Schedule(name=name, warmup_epochs=warmup, warmup_first=first, cycle_epochs=1)
            for step in range(total):
                rate = learning_rate_at(step, 0.1, schedule, **length)
                assert 0 <= rate <= 0.1 + 1e-12
