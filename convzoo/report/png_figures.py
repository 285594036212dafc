"""Figures of a report as PNG files, also for the card: confusion matrix and calibration.

The files say which weights and images they are of, so that a card can leave out those of others.
"""

import json
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convzoo.evaluation.prediction_table import PredictionTable
from convzoo.evaluation.results import EvalResult
from convzoo.evaluation.statistics import wilson_interval
from convzoo.files import SCHEMA_VERSION
from convzoo.inspection.figures import ORIGIN, headless_figure, origin_of
from convzoo.report.mistakes import confusion_matrix
from convzoo.report.wording import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)
CONFUSION, CALIBRATION = "confusion_matrix.png", "calibration.png"
MOST_IN_FIGURE = 40  # classes; of more, no name can be read
LONGEST_NAME = 20


def save_figures(folder: Path, result: EvalResult, table: PredictionTable) -> list[Path]:
    """Draw confusion matrix and calibration, as far as the result has them.

    Args:
        folder: where to; created.
        result: the entry of `eval_results.json`.
        table: its predictions.

    Returns:
        The files. A confusion matrix of more than MOST_IN_FIGURE classes is not drawn; files that
        an earlier call left are removed then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawings = {
        CONFUSION: _confusion(table, result) if _occurring(table).size <= MOST_IN_FIGURE else None,
        CALIBRATION: _calibration(result) if result.get("calibration") else None,
    }
    written = []
    for name, figure in drawings.items():
        path = folder / name
        if figure is None:
            if origin_of(path) is not None:
                path.unlink()
            continue
        aside = path.with_name(f".{name}.tmp.png")
        with warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", "Glyph .* missing from font")
            figure.savefig(aside, dpi=110, metadata={"Software": None, ORIGIN: origin(result)})
        aside.replace(path)
        if caught:
            logger.warning("%s: the font lacks letters of the names, which are boxes there", path)
        written.append(path)
    return written


def origin(result: EvalResult) -> str:
    """Say in JSON of which weights, images and protocol a figure is."""
    dataset = result["dataset"]
    return json.dumps(
        {
            "schema_version": SCHEMA_VERSION,
            "weights": result["model"]["sha256"],
            "fingerprint": dataset["fingerprint"],
            "split": dataset["split"],
            "views": result["protocol"]["views"],
        }
    )


def _occurring(table: PredictionTable) -> np.ndarray:
    """Numbers of the classes that are a label or an answer."""
    answers = table.top_classes[table.readable, 0]
    return np.unique(np.concatenate([table.label, answers]))


def _short(name: str) -> str:
    """A name that fits beside a figure, taken literally: in matplotlib, $ begins a formula."""
    name = visible(name)
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\u2026"
    return name.replace("$", r"\$")


def _title(result: EvalResult) -> str:
    dataset = result["dataset"]
    return (
        f"{_short(dataset['name'])} [{_short(dataset['split'])}], {dataset['num_samples']:,} images"
    )


def _confusion(table: PredictionTable, result: EvalResult) -> "Figure":
    occurring = _occurring(table)
    counts = confusion_matrix(table)[np.ix_(occurring, occurring)]
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    names = [_short(table.facts.names[number]) for number in occurring]
    side = 4 + 0.42 * len(names)
    figure = headless_figure(side + 1, side)
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = np.arange(len(names))
    axes.set_xticks(places, names, rotation=90, fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    axes.set(xlabel="answer of the model", ylabel="true class")
    axes.set_title(_title(result), fontsize=10)
    size = 8 if counts.max(initial=0) < 1000 else 6
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{counts[row, column]}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    figure.colorbar(drawn, ax=axes, shrink=0.7, label="share of the true class")
    return figure


def _calibration(result: EvalResult) -> "Figure":
    """Accuracy of each bin with its interval, and its images."""
    bins = result["calibration"]["bins"]
    left = np.array([one["low"] for one in bins])
    width = np.array([one["high"] for one in bins]) - left
    images = np.array([one["num_samples"] for one in bins])
    accuracy = np.array([one["num_correct"] for one in bins]) / images
    ends = np.array([wilson_interval(one["num_correct"], one["num_samples"]) for one in bins])
    figure = headless_figure(5, 5)
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    top.bar(left, accuracy, width, align="edge", edgecolor="white")
    reach = np.stack([accuracy - ends[:, 0], ends[:, 1] - accuracy]).clip(min=0)
    top.errorbar(left + width / 2, accuracy, reach, fmt="none", ecolor="black", elinewidth=1)
    top.plot((0, 1), (0, 1), "--", color="black", linewidth=1, label="perfectly calibrated")
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy, 95 % interval")
    top.set_title(_title(result), fontsize=10)
    figure.legend(loc="outside lower center", fontsize=8)
    bottom.bar(left, images, width, align="edge", edgecolor="white")
    bottom.set(xlabel="probability of the answer", ylabel="images")
    return figure
