"""Diagnosis and plots of the lines of monitors.jsonl; `convzoo.health` is the judge.

A diagnosis takes the median over the last looks, so that one odd batch says nothing.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from convzoo import health
from convzoo.inspection.figures import headless_figure
from convzoo.training.metrics_log import read_metrics

Line = dict[str, Any]  # of monitors.jsonl

RECENT = 10  # looks
VANISHING = 1e-3  # rms of a layer's gradient over the median of all layers; also over its first
EXPLODING = 1e3  # the same, upwards
HEAVY_TAILED = 100  # excess kurtosis; 0 for a normal distribution, 3 for a Laplace distribution
UNSTABLE = 3  # factor by which the norm changes from one look to the next, in the middle
ZEROS = 0.5  # share of a gradient's entries that are exactly 0

SEEN = 0.02  # share of a gradient's entries in a bin from which a plot shows it

LINES = {  # monitor -> its (key, title of the panel)
    "slopes": [
        ("min", "least slope"),
        ("mean", "mean slope"),
        ("max", "greatest slope"),
        ("outside", "share outside [0, 1]"),
    ],
    "residual_scales": [("scale", "residual scale, softplus")],
    "residual_ratio": [("ratio", "branch / shortcut, norms")],
    "weight_change": [("relative", "relative change since the last look")],
    "batch_norm": [
        ("mean", "mean |running mean|"),
        ("var_mean", "mean running variance"),
        ("dead", "share of dead channels"),
    ],
}


def diagnose(lines: Sequence[Line]) -> list[str]:
    """Say what looks wrong.

    Args:
        lines: of monitors.jsonl, in the order of their steps.

    Returns:
        One sentence for each fault, with layer, number and threshold; [] if nothing is wrong.
    """
    return [*_gradient_faults(lines), *_layer_faults(lines)]


def _layer_faults(lines: Sequence[Line]) -> Iterator[str]:
    """Faults of batch norms, slopes and residual branches."""
    for layer in _layers(lines, "batch_norm"):
        dead = _recent(lines, "batch_norm", layer=layer, key="dead")
        if health.many_dead(dead):
            yield f"{layer}: {dead:.0%} of the channels are dead (limit {health.FEW:.0%})"
    for layer in _layers(lines, "slopes"):
        outside = _recent(lines, "slopes", layer=layer, key="outside")
        if health.many_outside(outside):
            yield f"{layer}: {outside:.0%} of the slopes lie outside [0, 1]"
    for block in _layers(lines, "residual_ratio"):
        ratio = _recent(lines, "residual_ratio", layer=block, key="ratio")
        verdict = health.FINE if math.isnan(ratio) else health.judge_branch(ratio)
        if verdict != health.FINE:
            yield f"{block}: {verdict}, the branch is {ratio:.2g} of its shortcut"


def _gradient_faults(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        broken = [n for n, v in line.get("gradients", {}).items() if v.get("finite") is False]
        if broken:
            yield f"step {line['step']}: gradient not finite in {', '.join(broken)}"
    rms = {
        layer: _recent(lines, "gradients", layer=layer, key="rms")
        for layer in _layers(lines, "gradients")
    }
    finite = [value for value in rms.values() if not math.isnan(value)]
    middle = median(finite) if finite else math.nan
    for layer in rms:
        norms = [value for _, value in _series(lines, "gradients", layer=layer, key="rms")]
        if norms:
            yield from _size_faults(layer, norms, recent=rms[layer], middle=middle)
            yield from _shape_faults(lines, layer)
            yield from _shortcut_faults(layer, rms)


def _size_faults(
    layer: str, norms: Sequence[float], *, recent: float, middle: float
) -> Iterator[str]:
    """Gradients that vanish, explode or jump."""
    for name, base in (("the median layer's", middle), ("its first", norms[0])):
        if base and recent < VANISHING * base:
            yield f"{layer}: vanishing gradient, {recent / base:.1g} of {name}"
        elif base and recent > EXPLODING * base:
            yield f"{layer}: exploding gradient, {recent / base:.1g} x {name}"
    jumps = [abs(math.log(b / a)) for a, b in pairwise(norms) if a > 0 and b > 0]
    if len(jumps) > 2 and median(jumps) > math.log(UNSTABLE):
        factor = math.exp(median(jumps))
        yield f"{layer}: unstable gradient, x or / {factor:.1f} from look to look"


def _shape_faults(lines: Sequence[Line], layer: str) -> Iterator[str]:
    """Gradients of few large entries, or mostly of zeros."""
    kurtosis = _recent(lines, "gradients", layer=layer, key="kurtosis")
    if kurtosis > HEAVY_TAILED:
        yield f"{layer}: heavy-tailed gradient, excess kurtosis {kurtosis:.0f}"
    zeros = _recent(lines, "gradients", layer=layer, key="zeros")
    if zeros > ZEROS:
        yield f"{layer}: {zeros:.0%} of the gradient is exactly 0"


def _shortcut_faults(layer: str, rms: dict[str, float]) -> Iterator[str]:
    block, found, _ = layer.partition(".shortcut.")
    largest = max(rms[name] for name in rms if name.startswith(f"{block}.")) if found else 0.0
    if largest and health.starved_gradient(rms[layer] / largest):
        share = rms[layer] / largest
        yield f"{layer}: starved shortcut, {share:.1g} of its block's gradient"


def plot_monitors(folder: Path) -> list[Path]:
    """Plot what monitors.jsonl of a folder holds, a PNG for each monitor but mixing.

    Args:
        folder: has monitors.jsonl; gets monitor_<name>.png.

    Returns:
        The plots; gradients as histograms over steps, the others as lines, dark at the input.
    """
    lines = read_metrics(folder / "monitors.jsonl")
    paths: list[Path] = []
    if _layers(lines, "gradients"):
        paths.append(folder / "monitor_gradients.png")
        _plot_histograms(lines, paths[-1])
    for monitor in LINES:
        if _layers(lines, monitor):
            paths.append(folder / f"monitor_{monitor}.png")
            _plot_lines(lines, monitor, path=paths[-1])
    return paths


def _plot_histograms(lines: Sequence[Line], path: Path) -> None:
    """Plot a heat map a layer: steps to the right, log |gradient| upwards, colour for the share."""
    layers = _layers(lines, "gradients")
    columns = min(6, len(layers))
    rows = math.ceil(len(layers) / columns)
    figure = headless_figure(2.6 * columns + 1, 1.9 * rows + 0.6)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    looks = [line for line in lines if line.get("gradients")]
    mesh = None
    for axis, layer in zip(axes, layers, strict=False):
        found = [line["gradients"].get(layer, {}) for line in looks]
        axis.set_title(layer, fontsize=8)
        if not any(value.get("counts") for value in found):
            axis.text(0.5, 0.5, "all 0", ha="center", transform=axis.transAxes)
            continue
        edges, shares = _heat_map(found)
        positions = np.arange(len(looks) + 1)
        mesh = axis.pcolormesh(positions, edges, shares, cmap="magma", vmin=0, vmax=0.3)
        ticks = np.unique(np.linspace(0, len(looks) - 1, 4).astype(int))
        axis.set_xticks(ticks + 0.5, [looks[tick]["step"] for tick in ticks])
        axis.tick_params(labelsize=7)
    for axis in axes[len(layers) :]:
        axis.set_axis_off()
    if mesh is not None:
        figure.colorbar(mesh, ax=axes, label="share of entries", shrink=0.8, aspect=40)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel("log10 |gradient|", fontsize=9)
    figure.savefig(path, dpi=110)


def _heat_map(found: Sequence[Line]) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the bins, log10 |gradient|, and the share of entries in each bin and look."""
    filled = [value for value in found if value.get("counts")]
    low = min(value["low"] for value in filled)
    high = max(value["low"] + len(value["counts"]) for value in filled)
    shares = np.zeros((high - low, len(found)))
    for column, value in enumerate(found):
        if value.get("counts"):
            start, counts = value["low"] - low, np.array(value["counts"])
            shares[start : start + len(counts), column] = counts / counts.sum()
    (bulk,) = np.nonzero(shares.max(axis=1) > SEEN)
    edges = np.log10(2.0) * (low + np.arange(bulk[0], bulk[-1] + 2))
    return edges, shares[bulk[0] : bulk[-1] + 1]


def _plot_lines(lines: Sequence[Line], monitor: str, *, path: Path) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    layers, panels = _layers(lines, monitor), LINES[monitor]
    last = max(1, len(layers) - 1)
    figure = headless_figure(3.6 * len(panels) + 1.5, 3.4)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    shades = colormaps["viridis"]
    for axis, (key, title) in zip(axes, panels, strict=True):
        values: list[float] = []
        for index, layer in enumerate(layers):
            steps_and_values = _series(lines, monitor, layer=layer, key=key)
            if steps_and_values:
                steps, points = zip(*steps_and_values, strict=True)
                colour = shades(0.9 * index / last)
                axis.plot(steps, points, ".-", color=colour, linewidth=1, markersize=3)
                values += points
        above = [value for value in values if value > 0]
        if key in ("outside", "dead"):
            axis.set_ylim(-0.02, max(0.2, 1.05 * max(values, default=0)))
        elif above and min(values) >= 0 and max(above) > 30 * min(above):
            axis.set_yscale("log")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, last / 0.9), shades), ax=axes, ticks=[0, last]
    )
    bar.ax.set_ylim(0, last)
    bar.ax.set_yticklabels([layers[0], layers[-1]], fontsize=7)
    figure.savefig(path, dpi=110)


def _layers(lines: Sequence[Line], monitor: str) -> list[str]:
    """Names that a monitor saw, in the order of the model."""
    return list(dict.fromkeys(layer for line in lines for layer in line.get(monitor, {})))


def _series(
    lines: Sequence[Line], monitor: str, *, layer: str, key: str
) -> list[tuple[int, float]]:
    """(step, value) of a layer, without missing values."""
    found = [(line["step"], line.get(monitor, {}).get(layer, {}).get(key)) for line in lines]
    return [(step, value) for step, value in found if value is not None]


def _recent(lines: Sequence[Line], monitor: str, *, layer: str, key: str) -> float:
    """Median of the last values, not a number if there are none."""
    series = _series(lines, monitor, layer=layer, key=key)
    return median(value for _, value in series[-RECENT:]) if series else math.nan
