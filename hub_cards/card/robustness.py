"""What a card says of corrupted images: a table, a sentence, and curves over the severities."""

import io
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from hub_cards.card.evaluation_facts import chosen_among
from hub_cards.card.formatting import dataset_link, dataset_name
from hub_cards.evidence.folder import Evidence
from hub_cards.files import Record, replace_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "robustness.png"
GROUPS = {  # of the benchmark, a panel each
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}


def largest_robustness(evidence: Evidence) -> Record | None:
    """The result with most conditions, and of these with most images."""
    results = evidence.robustness_results
    size = {id(r): (len(r["conditions"]), r["dataset"]["num_samples"]) for r in results}
    return max(results, key=lambda result: size[id(result)], default=None)


def robustness_sentence(result: Record) -> str:
    """Say of which images the table is, and what the mean corruption error is."""
    summary, images = result["summary"], result["dataset"]["num_samples"]
    among = chosen_among(result["dataset"].get("class_matching") or {})
    text = (
        f"Top-1 accuracy on {images:,} images of {dataset_link(result['dataset'])} "
        f"[{result['dataset']['split']}]{f' ({among})' if among else ''}: "
        f"{result['clean']['top1_accuracy']:.2%} as they are, and under "
        f"corruptions of severity 1 (weak) to 5. The corruptions: {result['definition']}."
    )
    if "mce" in summary:
        text += (
            f" The mean corruption error is {summary['mce']:.1%}, the relative one "
            f"{summary['relative_mce']:.1%} (AlexNet: 100 %), without "
            f"{', '.join(summary['without'])}."
        )
    return text


def robustness_table(result: Record) -> tuple[list[str], list[list[str]]]:
    """The accuracy under each corruption and severity: the header and the rows."""
    severities = sorted({each["severity"] for each in result["conditions"]})
    rows = []
    for corruption, group in groupby(result["conditions"], key=lambda each: each["corruption"]):
        found = {each["severity"]: f"{each['top1_accuracy']:.2%}" for each in group}
        name = corruption.replace("_", " ")
        rows.append([name, *(found.get(severity, "-") for severity in severities)])
    return ["Corruption", *map(str, severities)], rows


def write_robustness_curves(evidence: Evidence) -> Path | None:
    """Draw accuracy over severity into the model folder, a line for each corruption.

    Args:
        evidence: what the folder holds.

    Returns:
        The PNG; None if no result has several severities, and then there is no such file.
    """
    result, path = largest_robustness(evidence), evidence.folder / FILE
    if not result or len({each["severity"] for each in result["conditions"]}) < 2:
        path.unlink(missing_ok=True)
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(each["corruption"] for each in result["conditions"]))
    known = {name for these in GROUPS.values() for name in these}
    groups = GROUPS | {"other": tuple(name for name in names if name not in known)}
    panels = {group: [n for n in names if n in these] for group, these in groups.items()}
    panels = {group: these for group, these in panels.items() if these}
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.3 * columns, 0.5 + 2.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for panel, (group, these) in zip(axes, panels.items(), strict=False):
        _draw(panel, result, these)
        panel.set_title(group, size=9)
    for panel in list(axes)[len(panels) :]:
        panel.set_visible(False)
    figure.supxlabel("severity; 0 is the image as it is", size=9)
    figure.supylabel("top-1 accuracy in %", size=9)
    dataset = result["dataset"]
    figure.suptitle(f"{dataset_name(dataset)} [{dataset['split']}]".replace("$", r"\$"), size=10)
    drawing = io.BytesIO()
    figure.savefig(drawing, dpi=100, metadata={"Software": None})
    if not path.is_file() or path.read_bytes() != drawing.getvalue():
        replace_bytes(path, drawing.getvalue())
    return path


def _draw(axes: "Axes", result: Record, corruptions: list[str]) -> None:
    """Draw a line for each of some corruptions."""
    clean = result["clean"]["top1_accuracy"]
    for number, name in enumerate(corruptions):
        points = [each for each in result["conditions"] if each["corruption"] == name]
        axes.plot(
            [0, *(each["severity"] for each in points)],
            [100 * clean, *(100 * each["top1_accuracy"] for each in points)],
            linestyle=("-", "--", "-.", ":")[number % 4],
            marker=".",
            label=name.replace("_", " "),
        )
    axes.set_xticks(range(6))
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)
    axes.legend(loc="lower left", fontsize=8)
