import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from convzoo.inspection.monitor_report import diagnose, plot_monitors
from convzoo.training.monitors import gradient_statistics


def line(step, **gradients):
    """A look at gradients: name to (shape, how large)."""
    rng = torch.Generator().manual_seed(step)
    statistics = {
        name.replace("__", "."): gradient_statistics(torch.randn(500, generator=rng) * size)
        for name, size in gradients.items()
    }
    return {"step": step, "gradients": statistics}


def looks(**sizes):
    """20 looks; a size is a number or a function of the look's number."""
    return [
        line(n, **{k: size(n) if callable(size) else size for k, size in sizes.items()})
        for n in range(20)
    ]


def test_healthy_layers_of_different_sizes_are_no_faults():
    assert diagnose(looks(a=1e-2, b=1e-3, c=5e-4)) == []
    assert diagnose([]) == []


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"a": 1e-6, "b": 1e-2, "c": 1e-2}, "a: vanishing gradient, 0.0001 of the median layer's"),
        (
            {"a": lambda n: 10.0 ** (-n / 2), "b": 1, "c": 1},
            "a: vanishing gradient, 7e-08 of its first",
        ),
        ({"a": 50.0, "b": 1e-2, "c": 1e-2}, "a: exploding gradient, 5e+03 x the median"),
        ({"a": lambda n: 10.0**n * 1e-3, "b": 1e-2, "c": 1}, "x its first"),
        ({"a": lambda n: 10.0 ** (n % 2), "b": 1, "c": 1}, "a: unstable gradient, x or / 10"),
        (
            {"s__0__shortcut__conv": 1e-3, "s__0__conv3": 0.1, "s__1__conv3": 1e-3},
            "s.0.shortcut.conv: starved shortcut, 0.01 of its block's gradient",
        ),
    ],
)
def test_each_fault_of_gradients_is_named_with_its_layer(sizes, words):
    faults = diagnose(looks(**sizes))
    assert any(words in fault for fault in faults), faults
    named = words.partition(":")[0] if ":" in words else "a"
    assert {fault.partition(":")[0] for fault in faults} == {named}


def test_gradients_of_few_large_entries_or_mostly_zeros_are_named():
    spikes = torch.full((1000,), 1e-3)
    spikes[0] = 1
    zeros = torch.zeros(1000)
    zeros[:400] = torch.randn(400)
    found = {"spikes": gradient_statistics(spikes), "zeros": gradient_statistics(zeros)}
    faults = "\n".join(diagnose([{"step": 1, "gradients": found}]))
    assert "spikes: heavy-tailed gradient, excess kurtosis 995" in faults
    assert "zeros: 60% of the gradient is exactly 0" in faults


def test_one_odd_look_is_no_fault_but_an_infinite_gradient_is():
    lines = looks(a=1, b=1, c=lambda n: 1e-6 if n == 15 else 1)
    assert diagnose(lines) == []
    lines[7]["gradients"]["a"] = gradient_statistics(torch.tensor([math.nan]))
    assert diagnose(lines) == ["step 7: gradient not finite in a"]


def test_dead_channels_slopes_outside_and_useless_branches_are_named():
    norm = {"mean": 0, "var_min": 0, "var_mean": 1, "var_max": 1}
    lines = [
        {
            "step": 1,
            "batch_norm": {"n": norm | {"dead": 0.25}, "ok": norm | {"dead": 0.0}},
            "slopes": {"p": {"min": -1, "mean": 0, "max": 1, "outside": 0.5}},
            "residual_ratio": {"x": {"ratio": 0.001}, "y": {"ratio": 20.0}, "z": {"ratio": 0.7}},
        }
    ]
    assert [fault.partition(":")[0] for fault in diagnose(lines)] == ["n", "p", "x", "y"]


def colours(path):
    """Share of the pixels that are not grey."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return (np.ptp(pixels, axis=2) > 40).mean()


def test_plots_are_drawn_of_what_was_watched(tmp_path):
    lines = looks(a=1e-2, b=lambda n: 1e-3 * n, c=1.0)  # b is all 0 in the first look
    for n, look in enumerate(lines):
        look["residual_ratio"] = {f"block{i}": {"ratio": i + n / 10} for i in range(4)}
        look["slopes"] = {"p": {"min": 0, "mean": 0.2, "max": 0.1 * n, "outside": 0.0}}
    (tmp_path / "monitors.jsonl").write_text("".join(json.dumps(look) + "\n" for look in lines))
    paths = plot_monitors(tmp_path)
    names = ["monitor_gradients.png", "monitor_slopes.png", "monitor_residual_ratio.png"]
    assert [path.name for path in paths] == names
    assert colours(paths[0]) > 0.2
    assert all(colours(path) > 0.002 for path in paths[1:])


def test_a_folder_without_looks_gets_no_plot(tmp_path):
    assert plot_monitors(tmp_path) == []
    zero = {"a": gradient_statistics(torch.zeros(5)), "b": {"finite": False}}
    text = json.dumps({"step": 1, "gradients": zero}) + "\n"
    (tmp_path / "monitors.jsonl").write_text(text)
    assert len(plot_monitors(tmp_path)) == 1


@pytest.mark.parametrize("others", [{}, {"b": 1}])
def test_a_layer_that_was_finite_in_no_look_is_named_and_no_more(others):
    look = line(1, a=math.nan, **others)
    assert diagnose([look]) == ["step 1: gradient not finite in a"]
