"""Show runs side by side: as a table, as JSON, and as curves."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convzoo.experiments.reading_runs import RunFacts, differing_settings
from convzoo.text_table import text_table
from convzoo.training.metrics_log import read_metrics

MOST_COLUMNS = 8  # of settings that differ; more are unreadable side by side
MOST_NAMES = 20  # in the legend of a plot
# What `--sort` takes besides settings -> field, and whether the greatest comes first.
ORDERS = {
    "best": ("best_top1_accuracy", True),
    "top1": ("top1_accuracy", True),
    "loss": ("eval_loss", False),
    "train_loss": ("train_loss", False),
    "epochs": ("epochs", True),
    "images_per_second": ("images_per_second", True),
    "name": ("name", False),
    "state": ("state", False),
}


def sort_runs(runs: Sequence[RunFacts], by: str) -> list[RunFacts]:
    """Sort runs; those without a value come last.

    Args:
        runs: to sort.
        by: a key of ORDERS, or a setting such as optimizer.learning_rate.

    Raises:
        ValueError: if it is none of these.
    """
    settings = {key for run in runs for key in run.settings}
    if by not in ORDERS and by not in settings:
        raise ValueError(
            f"--sort must be one of {', '.join(ORDERS)}, or a setting such as "
            f"optimizer.learning_rate; got {by!r}"
        )
    field, descending = ORDERS.get(by, ("", False))

    def value(run: RunFacts) -> Any:
        return getattr(run, field) if field else run.settings.get(by)

    having = [run for run in runs if value(run) is not None]
    mixed = len({isinstance(value(run), int | float) for run in having}) > 1
    key: Callable[[RunFacts], Any] = (lambda run: json.dumps(value(run))) if mixed else value
    without = [run for run in runs if value(run) is None]
    return sorted(having, key=key, reverse=descending) + without


def runs_as_json(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """Return plain values; settings are those that differ."""
    keys = differing_settings(runs)
    return [
        asdict(run)
        | {"folder": str(run.folder), "settings": {key: run.settings.get(key) for key in keys}}
        for run in runs
    ]


def runs_as_text(runs: Sequence[RunFacts]) -> str:
    """Return a table, a line for each run, with a column for each setting that differs."""
    keys = differing_settings(runs)
    shown = keys if len(keys) <= MOST_COLUMNS else []
    header = ["run", "state", "best", "top-1", "loss", "train loss", "epochs", "images/s"]
    rows = [[*header, *shown]]
    rows += [[*_cells(run), *(_setting(run.settings.get(key)) for key in shown)] for run in runs]
    lines = [text_table(rows, left=(0, 1, *range(len(header), len(rows[0]))))]
    lines += [f"{run.name}: {run.note}" for run in runs if run.note]
    if len(keys) > len(shown):
        lines.append(
            f"{len(keys)} settings differ, too many for columns: {', '.join(keys[:MOST_COLUMNS])}, "
            f"... --json has all; fewer runs may differ in fewer"
        )
    return "\n".join(lines)


def plot_runs(runs: Sequence[RunFacts], path: Path) -> None:
    """Draw accuracy and losses of runs against epochs into a PNG.

    Args:
        runs: their metrics are read again.
        path: the PNG.
    """
    from matplotlib import colormaps

    from convzoo.inspection.figures import headless_figure

    panels = [
        ("validation top-1, %", "eval_top1_accuracy", 100),
        ("validation loss", "eval_loss", 1),
        ("training loss", "loss", 1),
    ]
    figure = headless_figure(15, 4.5)
    axes = figure.subplots(1, len(panels))
    few = colormaps["tab10"] if len(runs) <= 10 else colormaps["viridis"]
    for number, run in enumerate(runs):
        lines = read_metrics(run.folder / "metrics.jsonl")
        colour = few(number if len(runs) <= 10 else number / (len(runs) - 1))
        for axis, (_, key, factor) in zip(axes, panels, strict=True):
            having = [line for line in lines if line.get(key) is not None and "epoch" in line]
            points = [(line["epoch"], factor * line[key]) for line in having]
            style = ".-" if key.startswith("eval") else "-"
            axis.plot(
                [epoch for epoch, _ in points],
                [value for _, value in points],
                style,
                color=colour,
                linewidth=1.2,
                label=run.name if axis is axes[0] and number < MOST_NAMES else None,
            )
    for axis, (title, _, _) in zip(axes, panels, strict=True):
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    note = f"the first {MOST_NAMES} of {len(runs)}" if len(runs) > MOST_NAMES else None
    figure.legend(loc="outside right center", fontsize=8, title=note)
    figure.savefig(path, dpi=110)


def _cells(run: RunFacts) -> list[str]:
    planned = "" if run.planned_epochs is None else f"/{run.planned_epochs:g}"
    return [
        run.name,
        run.state,
        _number(run.best_top1_accuracy, "{:.2%}"),
        _number(run.top1_accuracy, "{:.2%}"),
        _number(run.eval_loss, "{:.4f}"),
        _number(run.train_loss, "{:.4f}"),
        _number(run.epochs, "{:.4g}") + planned,
        _number(run.images_per_second, "{:,.0f}"),
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _setting(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
