"""Figures of a split: thumbnails of its classes, and histograms of its images."""

import logging
import math
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from convzoo.inspection.examination import THUMBNAIL
from convzoo.inspection.survey import COLUMNS, Survey, thumbnails_per_class

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)
ORIGIN = "convzoo"  # the text of a PNG that says of what it is; files without it are of others
MOST_THUMBNAILS = 100
CAPTION_SIZE = 11  # pixels; Pillow's own font lacks all letters beyond ASCII


def headless_figure(width: float, height: float) -> "Figure":
    """Make a figure of so many inches that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def origin_of(path: Path) -> str | None:
    """Read what a PNG says under ORIGIN; None if it was not drawn here, or is no PNG."""
    with suppress(Exception), Image.open(path, formats=["PNG"]) as image:  # it may be anything
        text = image.info.get(ORIGIN)
        return text if isinstance(text, str) else None
    return None


def contact_sheet(survey: Survey) -> Image.Image:
    """Show thumbnails with their class: one of each, or a row of each if the classes are few.

    Args:
        survey: a split of which images were read.

    Returns:
        An RGB image; of many classes, 100 spread evenly over those that were met.
    """
    classes = sorted(survey.thumbnails)
    number = min(len(classes), MOST_THUMBNAILS)
    shown = [classes[len(classes) * i // number] for i in range(number)]
    per_class = thumbnails_per_class(len(survey.source.label_names))
    cells = [
        (label, survey.thumbnails[label][i] if i < len(survey.thumbnails[label]) else None)
        for label in shown
        for i in range(per_class)
    ]
    columns = min(COLUMNS, len(cells))
    margin, text = 8, 18
    width, height = THUMBNAIL + margin, THUMBNAIL + margin + text
    lines = math.ceil(len(cells) / columns)
    sheet = Image.new("RGB", (columns * width + margin, lines * height + margin), "white")
    draw = ImageDraw.Draw(sheet)
    font = caption_font(survey.source.label_names[label] for label in shown)
    for number, (label, image) in enumerate(cells):
        left = margin + number % columns * width
        top = margin + number // columns * height
        if image is None:
            continue
        sheet.paste(image, (left + (THUMBNAIL - image.width) // 2, top + THUMBNAIL - image.height))
        name = fitting_text(survey.source.label_names[label], font, THUMBNAIL)
        draw.text((left + THUMBNAIL / 2, top + THUMBNAIL + 2), name, "black", font, anchor="mt")
    return sheet


def caption_font(texts: Iterable[str]) -> ImageFont.FreeTypeFont:
    """Return the font of matplotlib's figures for words below thumbnails.

    It has Latin, Greek and Cyrillic letters; a warning tells of others in the texts.
    """
    file, letters = _dejavu_sans()
    missing = "".join(sorted(set("".join(texts)) - letters))
    if missing:
        logger.warning("the font of captions lacks the letters %r, which are boxes there", missing)
    return ImageFont.truetype(file, CAPTION_SIZE)


@cache
def _dejavu_sans() -> tuple[str, frozenset[str]]:
    """Return the font file of matplotlib's package, and the letters that it has."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    file = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    return file, frozenset(map(chr, FT2Font(file).get_charmap()))


def fitting_text(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The start of a text that fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def save_histograms(survey: Survey, path: Path) -> None:
    """Draw class sizes, image sizes, aspect ratios and bytes of a split into a PNG.

    Args:
        survey: a split of which images were read.
        path: the file.
    """
    figure = headless_figure(11, 7.5)
    (classes, sides), (ratios, kilobytes) = figure.subplots(2, 2)
    width, height, sizes = (
        np.array(survey.sizes[key], float) for key in ("width", "height", "kilobytes")
    )
    number = int(np.clip(2 * len(sizes) ** 0.5, 10, 60))  # of bars
    _draw_class_sizes(classes, survey)
    _draw_sides(sides, width, height=height, number=number)
    ratio = np.log2(width / height).clip(-2, 2)
    ratios.hist(ratio, np.linspace(-2.05, 2.05, 42).tolist())
    ratios.set_xticks([-2, -1, 0, 1, 2], ["1:4", "1:2", "1:1", "2:1", "4:1"])
    ratios.set(xlabel="width : height", ylabel="images", title="Shape")
    _draw_kilobytes(kilobytes, sizes, number=number)
    for axes in (classes, sides, ratios, kilobytes):
        axes.yaxis.get_major_locator().set_params(integer=True)
    source = survey.source
    figure.suptitle(f"{source.path} [{source.name}], {survey.rows_read:,} images read")
    figure.savefig(path, dpi=110)


def _draw_class_sizes(axes: "Axes", survey: Survey) -> None:
    order = np.argsort(-survey.label_counts, kind="stable")
    counts = survey.label_counts[order]
    axes.bar(np.arange(len(counts)), counts, width=1.0 if len(counts) > 40 else 0.8)
    axes.set(xlabel="class, largest first", ylabel="images", title="Images of each class")
    if len(counts) <= 25:
        names = [survey.source.label_names[i][:20] for i in order]
        axes.set_xticks(np.arange(len(counts)), names, rotation=45, ha="right")
        axes.set_xlabel("")


def _draw_sides(axes: "Axes", width: np.ndarray, *, height: np.ndarray, number: int) -> None:
    top = np.quantile(np.maximum(width, height), 0.99) * 1.05
    bins = np.linspace(0, top, number).tolist()
    for values, label in ((width, "width"), (height, "height")):
        axes.hist(values.clip(0, top), bins, alpha=0.6, label=label)
    axes.legend()
    axes.set(xlabel="pixels", ylabel="images", title="Width and height")


def _draw_kilobytes(axes: "Axes", sizes: np.ndarray, *, number: int) -> None:
    axes.hist(sizes, np.geomspace(sizes.min() * 0.99, sizes.max() * 1.01, number).tolist())
    axes.set_xscale("log")
    axes.minorticks_off()
    marks = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]
    marks = [mark for mark in marks if sizes.min() <= mark <= sizes.max()]
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
    axes.set(xlabel="kB of a file", ylabel="images", title="Bytes")
