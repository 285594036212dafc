"""Draw the curves of a robustness result: accuracy over severity, a panel for each corruption."""

import logging
import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from convzoo.evaluation.robustness_results import ConditionHits, Hits, RobustnessResult
from convzoo.inspection.figures import ORIGIN, headless_figure, origin_of
from convzoo.report.wording import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUPS = {  # of the benchmark, a row each
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
SEVERITIES = range(6)  # 0 is the image as it is
DPI = 110
logger = logging.getLogger(__name__)


def save_robustness_curves(results: Sequence[RobustnessResult], beside: Path) -> list[Path]:
    """Draw each result into a PNG beside its file: NAME.png, NAME_2.png and so on.

    Names that files of others have are passed over; figures say in the file whose they are.

    Args:
        results: with conditions.
        beside: the file of the results, NAME.json. Figures of results that it has no more are
            removed.

    Returns:
        The PNG files, in the order of the results.
    """
    origin = f"robustness {beside.name!a}"
    written: list[Path] = []
    for number in count(1):
        path = beside.with_name(f"{beside.stem}{f'_{number}' if number > 1 else ''}.png")
        taken = os.path.lexists(path)
        if taken and origin_of(path) != origin:
            logger.warning("%s is no figure of %s and stays as it is", path, beside.name)
        elif len(written) < len(results):
            aside = path.with_name(f".{path.name}.tmp.png")
            metadata = {"Software": None, ORIGIN: origin}
            draw_robustness(results[len(written)]).savefig(aside, dpi=DPI, metadata=metadata)
            aside.replace(path)
            written.append(path)
        elif taken:
            path.unlink()
        else:
            break
    return written


def draw_robustness(result: RobustnessResult) -> "Figure":
    """Draw a row of panels for each group of corruptions."""
    curves: dict[str, list[ConditionHits]] = {}
    for each in result["conditions"]:
        curves.setdefault(each["corruption"], []).append(each)
    rows = {group: [n for n in names if n in curves] for group, names in GROUPS.items()}
    rows = {group: names for group, names in rows.items() if names}
    columns = max(map(len, rows.values()))
    figure = headless_figure(1 + 2.3 * columns, 1.1 + 1.9 * len(rows))
    panels = figure.subplots(len(rows), columns, squeeze=False, sharex=True, sharey=True)
    for line, (group, names) in zip(panels, rows.items(), strict=True):
        line[0].set_ylabel(group, fontsize=10)
        for panel in line[len(names) :]:
            panel.set_axis_off()
        for panel, name in zip(line, names, strict=False):
            _draw_panel(panel, name, clean=result["clean"], curves=curves)
    figure.supxlabel("severity; 0 is the image as it is", fontsize=9)
    figure.supylabel("top-1 accuracy in %", fontsize=9)
    dataset = result["dataset"]
    text = f"{visible(dataset['name'])} [{visible(dataset['split'])}], "
    figure.suptitle(
        f"{text}{dataset['num_samples']:,} images; grey: the other corruptions".replace("$", r"\$"),
        fontsize=10,
    )
    return figure


def _draw_panel(
    panel: "Axes", name: str, *, clean: Hits, curves: dict[str, list[ConditionHits]]
) -> None:
    """Draw one corruption with its 95 % intervals, and all others in grey behind it."""
    for other, points in curves.items():
        shown = other == name
        severities = [0, *(each["severity"] for each in points)]
        panel.plot(
            severities,
            [100 * each["top1_accuracy"] for each in (clean, *points)],
            color="tab:blue" if shown else "0.85",
            marker="." if shown else None,
            linewidth=1.6 if shown else 0.8,
            zorder=3 if shown else 1,
        )
        if shown:
            ends = [[100 * end for end in each["interval_95"]] for each in (clean, *points)]
            low, high = zip(*ends, strict=True)
            panel.fill_between(severities, low, high, color="tab:blue", alpha=0.2, linewidth=0)
    panel.set(ylim=(0, 100), xlim=(SEVERITIES[0], SEVERITIES[-1]))
    panel.set_xticks(SEVERITIES)
    panel.set_title(name.replace("_", " "), fontsize=9)
    panel.grid(alpha=0.3)
    panel.tick_params(labelsize=8)
