"""Plot the zoo's tables: accuracy against size, one panel for each table of several results."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_cards.index.rows import Accuracy, Row
from hub_cards.index.tables import Table

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

INK = "#808080"  # on white and on near-black alike
MARKERS = "os^Dv<>P*"  # one less than there are colours, so that pairs repeat late
MOST_LETTERS = 36  # of a name; longer ones lose their middle
MARKER_POINTS = 5  # from the middle of a marker to where nothing of it is
LEADER_POINTS = 16  # a label that is farther away has a line to its point
LEAST_RANGE = 4  # of the largest size on an axis to the smallest
# Ticks within a factor of ten, coarse to fine: the first that give at least three are taken.
TICKS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))


def write_plot(path: str | Path, tables: Sequence[Table]) -> None:
    """Write `draw_plot` to a file, whose suffix says the format."""
    metadata = {".png": {"Software": None}, ".svg": {"Date": None}}.get(Path(path).suffix)
    draw_plot(tables).savefig(path, transparent=True, metadata=metadata)


def draw_plot(tables: Sequence[Table]) -> "Figure":
    """Draw top-1 accuracy against multiply-adds, or against parameters where these are not known.

    Vertical bars are 95 % intervals, or the standard deviation over seeds. The background is
    transparent and the ink grey, for light and dark pages. Tables of one result are left out.

    Args:
        tables: as `make_tables` gives them; panels share no axis, as tables are not comparable.

    Raises:
        ValueError: if no table has two results.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [(title, rows) for title, rows in tables if len(rows) > 1]
    if not shown:
        raise ValueError(
            f"a plot compares results of the same images, so a table must have two at least; got "
            f"{len(tables)} of one. Name more models that were evaluated on the same split."
        )
    families = list(dict.fromkeys(row.family for _, rows in shown for row in rows))
    heights = [max(3.0, 1.2 + 0.2 * len(rows)) for _, rows in shown]
    coloured = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = {**dict.fromkeys(coloured, INK), "font.size": 9}
    with rc_context(style):
        figure = Figure(figsize=(8.4, sum(heights)), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        ratios = {"height_ratios": heights}
        panels = figure.subplots(len(shown), squeeze=False, gridspec_kw=ratios).flat
        for axes, (title, rows) in zip(panels, shown, strict=True):
            _draw(axes, title, rows, families=families)
        if len(families) > 1:
            handles: dict[str, Any] = {}
            for axes in figure.axes:
                found, names = axes.get_legend_handles_labels()
                handles |= dict(zip(names, found, strict=True))
            figure.legend(
                handles.values(), handles, loc="outside lower center", ncols=6, frameon=False
            )
        figure.draw_without_rendering()  # now it is known where the points are
        for axes, (_, rows) in zip(figure.axes, shown, strict=True):
            _label(axes, rows)
    return figure


def _draw(axes: "Axes", title: str, rows: Sequence[Row], *, families: Sequence[str]) -> None:
    for row in rows:
        number = families.index(row.family)
        axes.errorbar(
            *_place(row, rows),
            yerr=_bars(row.top1),
            color=f"C{number}",
            fmt=MARKERS[number % len(MARKERS)],
            markerfacecolor="none",  # models of almost the same size stay visible
            capsize=3,
            label=_plain(row.family),
        )
    axes.set_xscale("log")
    axes.margins(0.25, 0.15)
    low, high = axes.get_xlim()
    if high < LEAST_RANGE * low:  # room for the names of models of one size
        middle = math.sqrt(low * high)
        axes.set_xlim(middle / math.sqrt(LEAST_RANGE), middle * math.sqrt(LEAST_RANGE))
    ticks = _ticks(*axes.get_xlim())
    axes.set_xticks(ticks, [_count(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    label = "multiply-adds" if _are_counted(rows) else "parameters"
    axes.set(xlabel=label, ylabel="top-1 accuracy in %")
    title = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title).replace("`", "")
    axes.set_title(_plain(title), loc="left", size=9)


def _place(row: Row, rows: Sequence[Row]) -> tuple[float, float]:
    """Size and accuracy in percent."""
    size = row.multiply_adds if _are_counted(rows) else None
    return size or row.num_parameters, 100 * row.top1.value


def _are_counted(rows: Sequence[Row]) -> bool:
    return all(row.multiply_adds for row in rows)


def _ticks(low: float, high: float) -> list[float]:
    """Round sizes from low to high."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for factors in TICKS:
        found = [factor * 10.0**power for power in powers for factor in factors]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) >= 3:
            break
    return found


def _count(number: float) -> str:
    """Write a size as 25 M or 4.1 G."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"


def _label(axes: "Axes", rows: Sequence[Row]) -> None:
    """Write the names beside the points, where they cover neither points, bars nor each other."""
    pixels = axes.figure.dpi / 72
    points = [axes.transData.transform(_place(row, rows)) for row in rows]
    marks = [box for row, xy in zip(rows, points, strict=True) for box in _marks(axes, row, xy)]
    labels: list[Bbox] = []
    about: dict[str, Any] = {"textcoords": "offset points", "in_layout": False}
    for row in rows:
        place = _place(row, rows)
        text = axes.annotate(
            _plain(_shortened(row.name)), place, (0, 0), va="center", size=8, **about
        )
        size = text.get_window_extent()
        width = size.width / pixels
        offsets = list(_offsets(width, axes.bbox.height / pixels))
        boxes = [size.translated(across * pixels, up * pixels) for across, up in offsets]
        free = [
            number
            for number, box in enumerate(boxes)
            if _inside(box, axes.bbox) and not any(map(box.overlaps, labels))
        ]
        clear = (number for number in free if not any(map(boxes[number].overlaps, marks)))
        chosen = next(clear, free[0] if free else 0)
        across, up = offsets[chosen]
        labels.append(boxes[chosen])
        text.set_position((across, up))
        near = min(max(0.0, across), across + width)  # the end of the label, or 0 within it
        if math.hypot(near, up) > LEADER_POINTS:
            line = {"arrowstyle": "-", "color": INK, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4}
            axes.annotate("", place, (near, up), arrowprops=line, **about)


def _marks(axes: "Axes", row: Row, point: "np.ndarray") -> "Iterator[Bbox]":
    """Give the boxes of a marker and of its bar, in pixels."""
    from matplotlib.transforms import Bbox

    half = MARKER_POINTS * axes.figure.dpi / 72
    x, y = point
    yield Bbox.from_extents(x - half, y - half, x + half, y + half)
    if bars := _bars(row.top1):
        low, high = bars[0][0], bars[-1][0]
        value = 100 * row.top1.value
        ends = (value - low, value + high)
        bottom, top = (axes.transData.transform((1, end))[1] for end in ends)
        yield Bbox.from_extents(x - half, bottom, x + half, top)


def _offsets(width: float, height: float) -> Iterator[tuple[float, float]]:
    """Give places for a label, from its left end and middle to its point, the nearest first.

    Args:
        width: of the label, in points.
        height: of the panel, in points.
    """
    gap, line = MARKER_POINTS + 2, 11
    for number in range(int(height / line)):
        for up in dict.fromkeys((number * line, -number * line)):
            yield gap + number, up
            yield -gap - number - width, up
            if number:
                yield -width / 2, up
    for number in range(1, int(height / line)):  # far away, but free
        for up in (number * line, -number * line):
            for step in range(1, 12):
                yield 40.0 * step, up
                yield -40.0 * step - width, up


def _inside(box: "Bbox", panel: "Bbox") -> bool:
    corners: list[bool] = [panel.contains(*corner) for corner in box.corners()]
    return all(corners)


def _shortened(name: str) -> str:
    if len(name) <= MOST_LETTERS:
        return name
    half = MOST_LETTERS // 2
    return f"{name[:half]}\u2026{name[-half + 1 :]}"


def _plain(text: str) -> str:
    """Give a text in which matplotlib finds no formulas."""
    return text.replace("$", r"\$")


def _bars(accuracy: Accuracy) -> list[list[float]] | None:
    """Lengths below and above, in percent; None without any."""
    if accuracy.low is not None and accuracy.high is not None:
        ends = accuracy.value - accuracy.low, accuracy.high - accuracy.value
    elif accuracy.deviation is not None:
        ends = accuracy.deviation, accuracy.deviation
    else:
        return None
    return [[100 * end] for end in ends]
