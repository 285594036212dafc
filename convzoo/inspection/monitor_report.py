"""What the lines of monitors.jsonl show: images, and a diagnosis in words."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from convzoo.training.metrics_log import read_metrics

# A diagnosis takes the median over the last RECENT looks, so that one odd batch says nothing.
RECENT = 10
VANISHING = 1e-3  # rms of a layer's gradient over the median of all layers; also over its first
EXPLODING = 1e3  # the same, upwards
HEAVY_TAILED = 100  # excess kurtosis; 0 for a normal distribution, 3 for a Laplace distribution
UNSTABLE = 3  # factor by which the norm changes from one look to the next, in the middle
STARVED = 0.05  # rms of a shortcut's gradient over the largest of its block
ZEROS = 0.5  # share of a gradient's entries that are exactly 0
DEAD = 0.05  # share of a batch norm's channels without output
OUTSIDE = 0.05  # share of slopes not in [0, 1]
RATIOS = (0.01, 10)  # of a branch over its shortcut: it adds nothing, or hides the shortcut

SEEN = 0.02  # share of a gradient's entries in a bin from which an image shows it

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


def diagnose(lines: Sequence[dict]) -> list[str]:
    """Say what looks wrong.

    Args:
        lines: of monitors.jsonl, in the order of their steps.

    Returns:
        One sentence for each fault, with layer, number and threshold; [] if nothing is wrong.
    """
    faults = _gradient_faults(lines)
    for layer in _layers(lines, "batch_norm"):
        dead = _recent(lines, "batch_norm", layer, "dead")
        if dead > DEAD:
            faults.append(f"{layer}: {dead:.0%} of the channels are dead (limit {DEAD:.0%})")
    for layer in _layers(lines, "slopes"):
        outside = _recent(lines, "slopes", layer, "outside")
        if outside > OUTSIDE:
            faults.append(f"{layer}: {outside:.0%} of the slopes lie outside [0, 1]")
    for block in _layers(lines, "residual_ratio"):
        ratio = _recent(lines, "residual_ratio", block, "ratio")
        if ratio < RATIOS[0]:
            faults.append(f"{block}: the branch adds next to nothing, {ratio:.2g} of its shortcut")
        elif ratio > RATIOS[1]:
            faults.append(f"{block}: the branch hides its shortcut, {ratio:.2g} times as large")
    return faults


def _gradient_faults(lines):
    layers, faults = _layers(lines, "gradients"), []
    for line in lines:
        broken = [n for n, v in line.get("gradients", {}).items() if v.get("finite") is False]
        if broken:
            faults.append(f"step {line['step']}: gradient not finite in {', '.join(broken)}")
    rms = {layer: _recent(lines, "gradients", layer, "rms") for layer in layers}
    finite = [value for value in rms.values() if not math.isnan(value)]
    middle = median(finite) if finite else math.nan
    for layer in layers:
        series = [value for _, value in _series(lines, "gradients", layer, "rms")]
        if not series:
            continue
        for name, base in (("the median layer's", middle), ("its first", series[0])):
            if base and rms[layer] < VANISHING * base:
                faults.append(f"{layer}: vanishing gradient, {rms[layer] / base:.1g} of {name}")
            elif base and rms[layer] > EXPLODING * base:
                faults.append(f"{layer}: exploding gradient, {rms[layer] / base:.1g} x {name}")
        jumps = [
            abs(math.log(b / a))
            for a, b in zip(series, series[1:], strict=False)
            if a > 0 and b > 0
        ]
        if len(jumps) > 2 and median(jumps) > math.log(UNSTABLE):
            factor = math.exp(median(jumps))
            faults.append(f"{layer}: unstable gradient, x or / {factor:.1f} from look to look")
        kurtosis = _recent(lines, "gradients", layer, "kurtosis")
        if kurtosis > HEAVY_TAILED:
            faults.append(f"{layer}: heavy-tailed gradient, excess kurtosis {kurtosis:.0f}")
        zeros = _recent(lines, "gradients", layer, "zeros")
        if zeros > ZEROS:
            faults.append(f"{layer}: {zeros:.0%} of the gradient is exactly 0")
        block, found, _ = layer.partition(".shortcut.")
        if found:
            largest = max(rms[name] for name in layers if name.startswith(f"{block}."))
            if rms[layer] < STARVED * largest:
                share = rms[layer] / largest
                faults.append(f"{layer}: starved shortcut, {share:.1g} of its block's gradient")
    return faults


def plot_monitors(folder: Path) -> list[Path]:
    """Draw what monitors.jsonl of a folder holds, a PNG for each monitor but mixing.

    Args:
        folder: has monitors.jsonl; gets monitor_<name>.png.

    Returns:
        The images; gradients as histograms over steps, the others as lines, dark at the input.
    """
    lines, paths = read_metrics(folder / "monitors.jsonl"), []
    if _layers(lines, "gradients"):
        paths.append(folder / "monitor_gradients.png")
        _plot_histograms(lines, paths[-1])
    for monitor, panels in LINES.items():
        if _layers(lines, monitor):
            paths.append(folder / f"monitor_{monitor}.png")
            _plot_lines(lines, monitor, panels, paths[-1])
    return paths


def _plot_histograms(lines, path):
    """A heat map a layer: steps to the right, log |gradient| upwards, colour for the share."""
    layers = _layers(lines, "gradients")
    columns = min(6, len(layers))
    rows = math.ceil(len(layers) / columns)
    figure = _figure(2.6 * columns + 1, 1.9 * rows + 0.6)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    looks = [line for line in lines if line.get("gradients")]
    positions = np.arange(len(looks) + 1)
    for axis, layer in zip(axes, layers, strict=False):
        found = [line["gradients"].get(layer, {}) for line in looks]
        filled = [value for value in found if value.get("counts")]
        axis.set_title(layer, fontsize=8)
        if not filled:
            axis.text(0.5, 0.5, "all 0", ha="center", transform=axis.transAxes)
            continue
        low = min(value["low"] for value in filled)
        high = max(value["low"] + len(value["counts"]) for value in filled)
        image = np.zeros((high - low, len(looks)))
        for column, value in enumerate(found):
            if value.get("counts"):
                start, counts = value["low"] - low, np.array(value["counts"])
                image[start : start + len(counts), column] = counts / counts.sum()
        (bulk,) = np.nonzero(image.max(axis=1) > SEEN)
        image = image[bulk[0] : bulk[-1] + 1]
        edges = np.log10(2.0) * (low + np.arange(bulk[0], bulk[-1] + 2))
        mesh = axis.pcolormesh(positions, edges, image, cmap="magma", vmin=0, vmax=0.3)
        ticks = np.unique(np.linspace(0, len(looks) - 1, 4).astype(int))
        axis.set_xticks(ticks + 0.5, [looks[tick]["step"] for tick in ticks])
        axis.tick_params(labelsize=7)
    for axis in axes[len(layers) :]:
        axis.set_axis_off()
    if any(value.get("counts") for line in looks for value in line["gradients"].values()):
        figure.colorbar(mesh, ax=axes, label="share of entries", shrink=0.8, aspect=40)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel("log10 |gradient|", fontsize=9)
    figure.savefig(path, dpi=110)


def _plot_lines(lines, monitor, panels, path):
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    layers = _layers(lines, monitor)
    figure = _figure(3.6 * len(panels) + 1.5, 3.4)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    shades = colormaps["viridis"]
    for axis, (key, title) in zip(axes, panels, strict=True):
        values = []
        for index, layer in enumerate(layers):
            points = _series(lines, monitor, layer, key)
            if points:
                colour = shades(0.9 * index / max(1, len(layers) - 1))
                axis.plot(*zip(*points, strict=True), ".-", color=colour, linewidth=1, markersize=3)
                values += [value for _, value in points]
        above = [value for value in values if value > 0]
        if key in ("outside", "dead"):
            axis.set_ylim(-0.02, max(0.2, 1.05 * max(values, default=0)))
        elif above and min(values) >= 0 and max(above) > 30 * min(above):
            axis.set_yscale("log")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    scale = ScalarMappable(Normalize(0, max(1, len(layers) - 1) / 0.9), shades)
    bar = figure.colorbar(scale, ax=axes, ticks=[0, max(1, len(layers) - 1)])
    bar.ax.set_ylim(0, max(1, len(layers) - 1))
    bar.ax.set_yticklabels([layers[0], layers[-1]], fontsize=7)
    figure.savefig(path, dpi=110)


def _figure(width, height):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _layers(lines, monitor):
    """Names that a monitor saw, in the order of the model."""
    return list(dict.fromkeys(layer for line in lines for layer in line.get(monitor, {})))


def _series(lines, monitor, layer, key):
    """(step, value) of a layer, without missing values."""
    found = [(line["step"], line.get(monitor, {}).get(layer, {}).get(key)) for line in lines]
    return [(step, value) for step, value in found if value is not None]


def _recent(lines, monitor, layer, key):
    """Median of the last values, not a number if there are none."""
    values = [value for _, value in _series(lines, monitor, layer, key)[-RECENT:]]
    return median(values) if values else math.nan
