"""The metrics log of a run (one JSON object a line) and the picture of its training curves."""

import json
import math
from pathlib import Path

import torch

from convzoo.environment import write_text


class MetricsLog:
    """Append-only JSON lines.

    Args:
        path: the file; lines after step `keep_until` are dropped first, so that a resumed run
            does not log a step twice.
        keep_until: last step whose lines stay.
        enabled: False on all processes but one.
    """

    def __init__(self, path: Path, keep_until: int, enabled: bool = True):
        self.path = path
        self.enabled = enabled
        if enabled:
            lines = [json.dumps(line) for line in read_metrics(path) if line["step"] <= keep_until]
            write_text(path, "".join(line + "\n" for line in lines))

    def write(self, **values) -> None:
        """Append one line; floats are rounded to 6 significant digits, null if not finite."""
        if not self.enabled:
            return
        try:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(_rounded(values)) + "\n")
        except OSError as error:
            raise OSError(f"{self.path} could not be written; {error}") from error


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def read_metrics(path: Path) -> list[dict]:
    """All whole lines of a metrics log, [] if there is none; a half-written line is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def memory_gb() -> float:
    """Memory of this process, GB: the peak of its GPU's tensors, or without GPU what it holds."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import psutil  # comes with accelerate

    return psutil.Process().memory_info().rss / 1e9


def plot_curves(metrics: list[dict], title: str, path: Path) -> None:
    """Draw what a metrics log holds against epochs into a PNG.

    Args:
        metrics: lines of a metrics log; panels without values stay away.
        title: above the picture.
        path: the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [  # title, its curves as (key, label, factor)
        ("loss", [("loss", "training", 1), ("eval_loss", "held-out", 1)]),
        (
            "held-out accuracy, %",
            [("eval_top1_accuracy", "top-1", 100), ("eval_top5_accuracy", "top-5", 100)],
        ),
        ("learning rate", [("learning_rate", "", 1)]),
        ("images per second", [("images_per_second", "", 1)]),
        ("waiting for data, % of the time", [("data_wait_fraction", "", 100)]),
        ("memory, GB", [("memory_gb", "", 1)]),
    ]
    logged = {key for line in metrics for key in line}
    panels = [panel for panel in panels if logged & {key for key, *_ in panel[1]}]
    rows = math.ceil(len(panels) / 3)
    figure = Figure(figsize=(11, 0.5 + 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 3, squeeze=False).flatten()
    for axis, (name, curves) in zip(axes, panels, strict=False):
        for key, label, factor in curves:
            having = [line for line in metrics if line.get(key) is not None]
            points = [(line["epoch"], line[key] * factor) for line in having]
            if points:
                style = "o-" if key.startswith("eval") else "-"
                axis.plot(*zip(*points, strict=True), style, markersize=3, label=label)
        if curves[0][1]:
            axis.legend()
        if name != "loss" and not name.startswith("held-out"):
            axis.set_ylim(0, 1.05 * axis.dataLim.ymax or 1)
        axis.set_title(name, fontsize=11)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
