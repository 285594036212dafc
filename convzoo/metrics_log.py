"""The metrics log of a run (one JSON object a line) and the picture of its training curves."""

import json
import math
from pathlib import Path

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
        """Append one line; floats are rounded to 6 significant digits."""
        if not self.enabled:
            return
        rounded = {
            key: float(f"{value:.6g}") if isinstance(value, float) else value
            for key, value in values.items()
        }
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(rounded) + "\n")


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


def plot_curves(metrics: list[dict], title: str, path: Path) -> None:
    """Draw loss, accuracy and learning rate against epochs into a PNG.

    Args:
        metrics: lines of a metrics log.
        title: above the picture.
        path: the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    train = [line for line in metrics if "loss" in line]
    held_out = [line for line in metrics if "eval_loss" in line]
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, rate = figure.subplots(1, 3)

    def draw(axis, lines, key, label, style="-", scale=1.0):
        epochs = [line["epoch"] for line in lines]
        axis.plot(epochs, [line[key] * scale for line in lines], style, label=label)

    draw(loss, train, "loss", "training")
    if held_out:
        draw(loss, held_out, "eval_loss", "held-out", "o-")
        draw(accuracy, held_out, "eval_top1_accuracy", "top-1", "o-", 100)
        best = max(line["eval_top1_accuracy"] for line in held_out) * 100
        accuracy.set_ylim(max(0, best - 40), min(100, math.ceil(best) + 2))
        accuracy.legend(loc="lower right")
    loss.legend()
    loss.set_title("loss (cross entropy)")
    accuracy.set_title("held-out accuracy, %")
    draw(rate, train, "learning_rate", "learning rate")
    rate.set_title("learning rate")
    for axis in (loss, accuracy, rate):
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
