import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convzoo.images.mixing import MixupCutmix
from convzoo.recipe.settings import MONITORS
from convzoo.training.metrics_log import read_metrics
from convzoo.training.monitors import Monitors, gradient_statistics
from modeling import CNN, AlexNet, AlexNetConfig, CNNConfig, QLNet, QLNetConfig

TINY = {
    "num_labels": 3,
    "num_channels": 1,
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 2],
}
QLNET_NAMES = ("gradients", "batch_norm", "residual_ratio", "weight_change")


def cnn(**fields):
    torch.manual_seed(0)
    return CNN(CNNConfig(**TINY, stem="small", **fields)).train()


def qlnet():
    torch.manual_seed(0)
    return QLNet(QLNetConfig(**TINY, stem="small")).train()


def batch(step):
    rng = torch.Generator().manual_seed(step)
    return torch.randn(6, 1, 12, 12, generator=rng), torch.randint(0, 3, (6,), generator=rng)


def train(model, monitors, steps, *, count=1, called=None):
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    torch.manual_seed(1)
    for step in steps:
        pixels, labels = batch(step)
        monitors.begin(step - 1)
        with monitors.watching():
            for x, y in zip(pixels.chunk(count), labels.chunk(count), strict=True):
                loss = F.cross_entropy((called or model)(x).logits, y) / count
                loss.backward()
        monitors.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        monitors.end()


def look(folder):
    return read_metrics(folder / "monitors.jsonl")


@pytest.mark.parametrize(("build", "names"), [(cnn, MONITORS), (qlnet, QLNET_NAMES)])
def test_a_watched_run_has_the_weights_and_random_numbers_of_one_without(tmp_path, build, names):
    results = []
    for chosen in ((), names):
        model = build(drop_path_rate=0.5) if build is cnn else build()
        train(model, Monitors(model, chosen, every_steps=2, folder=tmp_path), range(1, 6))
        results.append((model.state_dict(), torch.rand(3)))
    (plain, random), (watched, random_watched) = results
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    assert torch.equal(random, random_watched)
    assert [line["step"] for line in look(tmp_path)] == [1, 2, 4]
    assert set(look(tmp_path)[0]) == {"step", "since_step", *names} - {"mixing"}


def test_nothing_is_hooked_or_written_when_nothing_is_chosen_or_between_looks(tmp_path):
    model = cnn()

    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    none = Monitors(model, (), every_steps=1, folder=tmp_path)
    other_process = Monitors(model, MONITORS, every_steps=1, folder=tmp_path, enabled=False)
    for monitors in (none, other_process):
        monitors.begin(0)
        with monitors.watching():
            assert hooks() == 0
        monitors.after_backward()
        monitors.end()
    assert list(tmp_path.iterdir()) == []
    monitors = Monitors(model, ["residual_ratio"], every_steps=10, folder=tmp_path)
    monitors.begin(9)
    with monitors.watching():
        assert hooks() > 0
    monitors.begin(10)
    with monitors.watching():
        assert hooks() == 0
    monitors.begin(19)
    with pytest.raises(ZeroDivisionError), monitors.watching():
        1 / 0  # noqa: B018
    assert hooks() == 0


def test_gradient_statistics_are_those_of_numpy():
    rng = np.random.default_rng(0)
    values = (rng.laplace(size=(40, 30)) * 1e-4).astype(np.float32)
    values[:3] = 0
    found = gradient_statistics(torch.from_numpy(values * 1024), loss_scale=1024)
    flat = values.astype(np.float64).ravel()
    centred = flat - flat.mean()
    assert found["norm"] == pytest.approx(np.linalg.norm(flat), rel=1e-5)
    assert found["rms"] == pytest.approx(np.sqrt((flat**2).mean()), rel=1e-5)
    assert found["zeros"] == pytest.approx(3 / 40)
    kurtosis = (centred**4).mean() / (centred**2).mean() ** 2 - 3
    assert found["kurtosis"] == pytest.approx(kurtosis, rel=1e-4)
    edges = 2.0 ** np.arange(found["low"], found["low"] + len(found["counts"]) + 1)
    counts, _ = np.histogram(np.abs(flat[flat != 0]), edges)
    assert found["counts"] == counts.tolist()
    assert found["counts"][0] > 0 and found["counts"][-1] > 0
    assert sum(found["counts"]) == 37 * 30


def test_a_bin_holds_its_lower_edge_and_layers_have_bins_of_their_own():
    found = gradient_statistics(torch.tensor([1.0, 1.5, -2.0, 7.9]))
    assert (found["low"], found["counts"]) == (0, [2, 1, 1])
    tiny = gradient_statistics(torch.tensor([2.0**-120, 0.0]))
    assert (tiny["low"], tiny["counts"]) == (-120, [1])
    assert gradient_statistics(torch.zeros(5))["zeros"] == 1
    assert gradient_statistics(torch.tensor([1.0, math.inf])) == {"finite": False}


def ratios_by_hand(model, pixels):
    """Norm of scaled branch over norm of shortcut, computed from the blocks' own layers."""
    inputs = {}
    x = model.stem(pixels)
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage):
            inputs[f"stages.{i}.{j}"] = (block, x)
            x = block(x)
    ratios = {}
    for name, (block, x) in inputs.items():
        if isinstance(model, QLNet):
            first, second = block.bn1(block.conv1(x)).chunk(2, dim=1)
            branch = block.bn3(block.conv3(block.bn2(block.conv2(first * second))))
        else:
            branch = block.act1(block.bn1(block.conv1(x)))
            branch = block.act2(block.bn2(block.conv2(branch)))
            branch = block.bn3(block.conv3(branch)) * F.softplus(block.residual_scale)
        ratios[name] = (branch.norm() / block.shortcut(x).norm()).item()
    return ratios


@pytest.mark.parametrize("build", [cnn, qlnet])
def test_the_residual_ratio_is_that_of_the_blocks_computed_by_hand(tmp_path, build):
    model = build()
    for block in model.modules():
        if hasattr(block, "bn3"):  # QLNet's starts at 0
            nn.init.constant_(block.bn3.weight, 0.7)
    with torch.no_grad():
        expected = ratios_by_hand(model, batch(1)[0])
    train(model, Monitors(model, ["residual_ratio"], every_steps=1, folder=tmp_path), [1])
    (line,) = look(tmp_path)
    found = {name: value["ratio"] for name, value in line["residual_ratio"].items()}
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("build", [cnn, qlnet])
def test_activation_checkpointing_and_micro_batches_give_the_same_ratios(tmp_path, build):
    found = []
    for number, (checkpointing, count) in enumerate([(False, 1), (True, 1), (True, 3)]):
        model = build().eval()  # batch norms see no difference between micro-batches and the whole
        for block in model.modules():
            block.training = hasattr(block, "shortcut")  # which checkpointing asks for
            if block.training:
                nn.init.constant_(block.bn3.weight, 0.7)
        if checkpointing:
            model.activation_checkpointing_enable()
        folder = tmp_path / str(number)
        folder.mkdir()
        train(
            model,
            Monitors(model, ["residual_ratio"], every_steps=1, folder=folder),
            [1],
            count=count,
        )
        found.append({n: v["ratio"] for n, v in look(folder)[0]["residual_ratio"].items()})
    assert found[1] == found[0]
    assert found[2] == pytest.approx(found[0], rel=1e-5)


def test_a_model_inside_ddp_is_watched(tmp_path):
    found = []
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        for name in ("bare", "ddp"):
            model, folder = cnn(), tmp_path / name
            folder.mkdir()
            wrapped = nn.parallel.DistributedDataParallel(model) if name == "ddp" else model
            monitors = Monitors(
                model, ["gradients", "residual_ratio"], every_steps=1, folder=folder
            )
            train(model, monitors, [1, 2], called=wrapped)
            found.append(look(folder))
    finally:
        torch.distributed.destroy_process_group()
    assert found[0] == found[1]
    assert found[0][1]["residual_ratio"]["stages.1.1"]["ratio"] > 0


def test_slopes_scales_and_batch_norms_are_described(tmp_path):
    model = cnn()
    block = model.stages[0][0]
    with torch.no_grad():
        model.stem.act.weight.copy_(torch.tensor([-0.5, 0, 0.25, 1, 1.5, 0.5, 0.5, 0.75]))
        block.residual_scale.fill_(2)
        model.stem.bn.running_var.copy_(torch.tensor([1, 4, 1, 1, 1e-20, 1, 1, 1]))
        model.stem.bn.running_mean.fill_(-2)
        model.stem.bn.weight[0] = 0
    names = ["slopes", "residual_scales", "batch_norm"]
    monitors = Monitors(model, names, every_steps=1, folder=tmp_path)
    monitors.begin(0)
    monitors.end()
    (line,) = look(tmp_path)
    assert line["slopes"]["stem.act"] == {"min": -0.5, "mean": 0.5, "max": 1.5, "outside": 0.25}
    assert line["residual_scales"]["stages.0.0"]["scale"] == pytest.approx(math.log(1 + math.e**2))
    norm = line["batch_norm"]["stem.bn"]
    assert (norm["mean"], norm["var_min"], norm["var_max"]) == (2, 1e-20, 4)
    assert norm["dead"] == 2 / 8  # one has no gain, one no variance


def test_weight_change_is_relative_to_the_larger_norm_and_counts_from_the_last_look(tmp_path):
    model = cnn()
    monitors = Monitors(model, ["weight_change"], every_steps=5, folder=tmp_path, start_step=7)
    with torch.no_grad():
        model.classifier.weight.mul_(1.25)
        model.stem.conv.weight.mul_(0.5)
        model.stem.conv.bias.fill_(3)  # from 0
    for step in (9, 14):
        monitors.begin(step)
        monitors.end()
    first, second = look(tmp_path)
    assert (first["since_step"], second["since_step"]) == (7, 10)
    change = {name: value["relative"] for name, value in first["weight_change"].items()}
    assert change["classifier.weight"] == pytest.approx(0.2)
    assert change["stem.conv.weight"] == pytest.approx(0.5)
    assert change["stem.conv.bias"] == 1
    assert change["stages.0.0.conv1.weight"] == 0
    assert change["classifier.bias"] == 0 or change["classifier.bias"] is None
    assert second["weight_change"]["classifier.weight"]["relative"] == 0


@pytest.mark.parametrize(("mode", "draws"), [("batch", 1), ("elem", 6)])
def test_mixing_tells_what_the_labels_show(tmp_path, mode, draws):
    monitors = Monitors(cnn(), ["mixing"], every_steps=1, folder=tmp_path)
    mix = MixupCutmix(
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
        probability=0.7,
        switch_probability=0.5,
        label_smoothing=0.0,
        num_labels=6,
        mode=mode,
    )
    labels = torch.arange(6)  # row i meets row 5 - i: all differ
    for step in range(1, 21):
        _, targets = mix(torch.zeros(6, 1, 12, 12), labels, np.random.default_rng(step))
        monitors.begin(step - 1)
        monitors.mixing(mix.drawn)
        monitors.end()
        noted = look(tmp_path)[-1]["mixing"]
        own = targets[range(6), labels][:draws].tolist()
        assert noted["share"] == pytest.approx(own, abs=1e-5)
        for kind, share, box in zip(noted["kind"], noted["share"], noted["box"], strict=True):
            assert (kind == "none") == (share == 1)
            if kind == "cutmix":
                top, bottom, left, right = box
                assert 1 - (bottom - top) * (right - left) / 144 == pytest.approx(share, abs=1e-5)
    kinds = {kind for line in look(tmp_path) for kind in line["mixing"]["kind"]}
    assert kinds == {"none", "mixup", "cutmix"}


def test_a_resumed_run_looks_at_each_step_once(tmp_path):
    model = cnn()
    train(model, Monitors(model, ["gradients"], every_steps=2, folder=tmp_path), range(1, 9))
    train(
        model,
        Monitors(model, ["gradients"], every_steps=2, folder=tmp_path, start_step=5),
        range(6, 9),
    )
    assert [line["step"] for line in look(tmp_path)] == [1, 2, 4, 6, 8]


def test_broken_gradients_are_valid_json(tmp_path):
    model = cnn()
    monitors = Monitors(model, ["gradients"], every_steps=1, folder=tmp_path)
    model(batch(1)[0]).logits.sum().backward()
    model.classifier.weight.grad[0, 0] = math.nan
    model.stem.conv.weight.grad = None  # as of a frozen layer
    monitors.begin(0)
    monitors.after_backward()
    monitors.end()
    text = (tmp_path / "monitors.jsonl").read_text()
    strict = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert strict["gradients"]["classifier"] == {"finite": False}
    assert "stem.conv" not in strict["gradients"]


@pytest.mark.parametrize("name", ["batch_norm", "slopes", "residual_scales", "residual_ratio"])
def test_a_monitor_that_finds_nothing_in_the_model_is_an_error(tmp_path, name):
    model = AlexNet(AlexNetConfig(stem="small", num_labels=3, classifier_hidden_size=8))
    with pytest.raises(ValueError, match=f"monitor '{name}' looks at .*; AlexNet has none"):
        Monitors(model, [name], every_steps=1, folder=tmp_path)
