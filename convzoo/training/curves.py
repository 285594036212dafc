"""Draw the training curves of a metrics log."""

import math
from pathlib import Path
from typing import Any


def plot_curves(metrics: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw what a metrics log holds against epochs into a PNG.

    Args:
        metrics: lines of a metrics log; panels without values stay away.
        title: above the plot.
        path: the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [  # title, its curves as (key, label, factor)
        ("loss", [("loss", "training", 1), ("eval_loss", "validation", 1)]),
        (
            "validation accuracy, %",
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
            of_few_classes = key == "eval_top5_accuracy" and all(y == 100 for _, y in points)
            if points and not of_few_classes:
                style = "o-" if key.startswith("eval") else "-"
                axis.plot(*zip(*points, strict=True), style, markersize=3, label=label)
        if curves[0][1]:
            axis.legend()
        if name != "loss" and not name.startswith("validation"):
            axis.set_ylim(0, 1.05 * axis.dataLim.ymax or 1)
        axis.set_title(name, fontsize=11)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
