"""Plot the zoo's tables: accuracy against size, one panel for each table."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_cards.index.rows import Accuracy, Row
from hub_cards.index.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#808080"  # on white and on near-black alike
MARKERS = "os^Dv<>P*"  # one less than there are colours, so that pairs repeat late


def write_plot(path: str | Path, tables: Sequence[Table]) -> None:
    """Draw top-1 accuracy against multiply-adds, or against parameters where these are not known.

    Vertical bars are 95 % intervals, or the standard deviation over seeds. The background is
    transparent and the ink grey, for light and dark pages.

    Args:
        path: the plot; its suffix says the format.
        tables: as `make_tables` gives them; panels share no axis, as tables are not comparable.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    coloured = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = {**dict.fromkeys(coloured, INK), "font.size": 9}
    with rc_context(style):
        figure = Figure(figsize=(8.4, 3.2 * len(tables)), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(tables), squeeze=False).flat
        for axes, table in zip(panels, tables, strict=True):
            title, rows = table
            _draw(axes, title, rows)
        metadata = {"Software": None} if Path(path).suffix == ".png" else None
        figure.savefig(path, dpi=120, transparent=True, metadata=metadata)


def _draw(axes: "Axes", title: str, rows: Sequence[Row]) -> None:
    counted = all(row.multiply_adds for row in rows)
    for number, row in enumerate(rows):
        axes.errorbar(
            (counted and row.multiply_adds) or row.num_parameters,
            100 * row.top1.value,
            yerr=_bars(row.top1),
            fmt=MARKERS[number % len(MARKERS)],
            markerfacecolor="none",  # models of almost the same size stay visible
            capsize=3,
            label=_plain(f"{row.name} ({row.family})"),
        )
    axes.set_xscale("log")
    axes.margins(0.2)
    axes.set(xlabel="multiply-adds" if counted else "parameters", ylabel="top-1 accuracy in %")
    title = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title).replace("`", "")
    axes.set_title(_plain(title), loc="left", size=9)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


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
