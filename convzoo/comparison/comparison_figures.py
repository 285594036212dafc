"""Figures of a comparison: accuracy against cost, and images that one model alone gets right."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from convzoo.comparison.pairing import Paired
from convzoo.data.opening import DatasetReference
from convzoo.errors import expected_problem
from convzoo.images.decoding import open_rgb
from convzoo.inspection.figures import (
    ORIGIN,
    caption_font,
    fitting_text,
    headless_figure,
    origin_of,
)
from convzoo.report.rereading import open_recorded_data, read_images
from convzoo.report.wording import count, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)
COSTS = {
    "num_parameters": "parameters",
    "num_multiply_adds": "multiply-adds",
    "images_per_second": "images/s, end to end",
}
SCATTER = "accuracy.png"
SHEET = "comparison"  # what contact sheets say of themselves
THUMBNAIL, MARGIN, LINE = 112, 10, 15  # pixels
MOST_COLUMNS = 6
DPI = 110
LABEL_GAP = 15  # pixels between the middles of two labels


def save_comparison_figures(
    folder: Path,
    paired: Paired,
    models: Sequence[dict[str, Any]],
    *,
    data: DatasetReference | None,
    limit: int,
) -> list[str]:
    """Draw accuracy.png, and only_MODEL.png for each model that alone gets images right.

    Args:
        folder: where to; it exists. Contact sheets of an earlier comparison there are removed.
        paired: the predictions.
        models: entries of `models` of the comparison.
        data: where the dataset lies now; None for where it was.
        limit: thumbnails on a sheet, at most.

    Returns:
        What could not be drawn, in sentences.
    """
    save_scatter(folder / SCATTER, models)
    for old in folder.glob("only_*.png"):
        if origin_of(old) == SHEET:
            old.unlink()
        else:
            logger.warning("%s is no contact sheet of a comparison and stays", old)
    alone = paired.hits & (paired.hits.sum(axis=0) == 1)
    chosen = {
        number: _most_confident(paired, number, alone[number], limit=limit)
        for number in np.flatnonzero(alone.any(axis=1)).tolist()
    }
    wanted = np.concatenate([np.zeros(0, np.int64), *chosen.values()])
    if not len(wanted):
        return []
    images: dict[int, Image.Image] = {}
    table = paired.models[0].table
    results = [each.result for each in paired.models if each.result]
    try:
        source = open_recorded_data(table, data, results=results)
        bar = tqdm(read_images(source, table, wanted), total=len(wanted), desc="images")
        for place, encoded in bar:
            images[place] = ImageOps.contain(open_rgb(encoded), (THUMBNAIL, THUMBNAIL))
    except (OSError, ValueError) as error:
        return [
            f"no images are shown: the dataset could not be read ({expected_problem(error)}). "
            f"Where it has moved, --data says where it is"
        ]
    for number, places in chosen.items():
        if shown := {place: images[place] for place in places.tolist() if place in images}:
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", paired.models[number].name).strip("-.")
            path = folder / f"only_{number + 1}_{name[-60:] or 'model'}.png"
            text = PngInfo()
            text.add_text(ORIGIN, SHEET)
            sheet(paired, number, images=shown).save(path, pnginfo=text)
    missing = len(wanted) - len(images)
    return [f"{count(missing, 'image')} not shown: the dataset has changed"] if missing else []


def _most_confident(paired: Paired, number: int, alone: np.ndarray, *, limit: int) -> np.ndarray:
    """Places of the images that a model alone gets right, where it is surest."""
    places = np.flatnonzero(alone)
    confidences = paired.models[number].table.top_probabilities[places, 0]
    return np.asarray(places[np.argsort(-confidences, kind="stable")][:limit])


def sheet(paired: Paired, number: int, *, images: dict[int, Image.Image]) -> Image.Image:
    """Show images that one model alone gets right, with the label and what the others say.

    Args:
        paired: the predictions.
        number: of the model.
        images: thumbnails by their place in the predictions, in the order that they are shown.
    """
    others = [n for n in range(len(paired.models)) if n != number]
    columns = min(MOST_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    lines = 1 + min(len(others), 3)
    width, height = THUMBNAIL + 2 * MARGIN, THUMBNAIL + MARGIN + lines * LINE + MARGIN
    top = 2 * LINE + 2 * MARGIN
    page = Image.new("RGB", (max(columns * width, 440), top + rows * height), "white")
    draw, font = ImageDraw.Draw(page), caption_font(map(visible, paired.classes))
    alone = paired.hits[number] & (paired.hits.sum(axis=0) == 1)
    title = (
        f"only {visible(paired.models[number].name)} is right: {count(int(alone.sum()), 'image')}"
    )
    draw.text((MARGIN, MARGIN), fitting_text(title, font, page.width), "black", font)
    told = ", ".join(visible(paired.models[n].name) for n in others[:3])
    told = f"black: the label; red: what is said by {told}"
    draw.text((MARGIN, MARGIN + LINE), fitting_text(told, font, page.width), "dimgray", font)
    for place, (which, image) in enumerate(images.items()):
        left = place % columns * width + MARGIN
        above = top + place // columns * height
        page.paste(image, (left + (THUMBNAIL - image.width) // 2, above + THUMBNAIL - image.height))
        answers = [int(paired.answers[n, which]) for n in others[:3]]
        texts = [paired.classes[int(paired.label[which])]]
        texts += [paired.classes[each] if each >= 0 else "(unreadable)" for each in answers]
        for line, text in enumerate(texts):
            at = (left, above + THUMBNAIL + 3 + line * LINE)
            shown = fitting_text(visible(text), font, THUMBNAIL + MARGIN)
            draw.text(at, shown, "firebrick" if line else "black", font)
    return page


def save_scatter(path: Path, models: Sequence[dict[str, Any]]) -> None:
    """Draw accuracy against parameters, multiply-adds and images per second, as far as known.

    Args:
        path: the PNG file.
        models: entries of `models` of a comparison.
    """
    known = [key for key in COSTS if sum(bool(model[key]) for model in models) > 1]
    panels = known or ["num_parameters"]
    figure = headless_figure(5.2 * len(panels), max(4.2, 1 + 0.2 * len(models)))
    figure.set_dpi(DPI)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for panel, key in zip(axes, panels, strict=True):
        _draw(panel, models, key)
    axes[0].set_ylabel("top-1 accuracy in %, with 95 % interval")
    figure.draw_without_rendering()  # now it is known where the points are
    figure.set_layout_engine("none")
    for panel, key in zip(axes, panels, strict=True):
        _label(panel, {place: model for place, model in enumerate(models) if model[key]}, key)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _draw(axes: "Axes", models: Sequence[dict[str, Any]], key: str) -> None:
    for place, model in enumerate(models):
        if model[key]:
            low, high = model["interval_95"]
            value = model["top1_accuracy"]
            axes.errorbar(
                model[key],
                100 * value,
                yerr=[[100 * (value - low)], [100 * (high - value)]],
                fmt="o",
                color=f"C{place % 10}",
                capsize=3,
            )
    axes.set_xscale("log")
    axes.set_xlabel(COSTS[key])
    axes.grid(alpha=0.25)
    _widen(axes, [model[key] for model in models if model[key]])


def _widen(axes: "Axes", values: Sequence[float]) -> None:
    """Leave room for labels at the right, and a few ticks with plain numbers."""
    if not values:
        return
    low, high = min(values), max(values)
    spread = max(high / low, 1.5)
    axes.set_xlim(low / spread**0.25, high * spread**0.9)
    ticks = sorted({float(f"{value:.2g}") for value in np.geomspace(low, max(high, low * 1.4), 3)})
    axes.set_xticks(ticks, [_short(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def _short(number: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"


def _label(axes: "Axes", models: Mapping[int, dict[str, Any]], key: str) -> None:
    """Write names to the right of all points, moved up where they would cover each other."""
    places = [(model[key], 100 * model["top1_accuracy"]) for model in models.values()]
    points = axes.transData.transform(places) if places else np.zeros((0, 2))
    bottom, right = -np.inf, max(points[:, 0], default=0.0)
    for number in np.argsort(points[:, 1], kind="stable").tolist():
        x, y = points[number]
        bottom = max(y, bottom + LABEL_GAP)
        place, model = [*models.items()][number]
        name = visible(model["name"]).replace("$", r"\$")
        axes.annotate(
            name if len(name) <= 32 else f"{name[:12]}...{name[-17:]}",
            places[number],
            ((right - x) * 72 / DPI + 14, (bottom - y) * 72 / DPI),
            textcoords="offset points",
            va="center",
            size=8,
            arrowprops={"arrowstyle": "-", "color": f"C{place % 10}", "linewidth": 0.6},
        )
