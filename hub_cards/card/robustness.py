"""What a card says of corrupted images: a table, a sentence, and curves over the severities."""

import io
from itertools import groupby
from pathlib import Path

from hub_cards.card.formatting import dataset_link, dataset_name
from hub_cards.evidence.folder import Evidence
from hub_cards.files import Record, replace_bytes

FILE = "robustness.png"


def largest_robustness(evidence: Evidence) -> Record | None:
    """The result with most conditions, and of these with most images."""
    results = evidence.robustness_results
    size = {id(r): (len(r["conditions"]), r["dataset"]["num_samples"]) for r in results}
    return max(results, key=lambda result: size[id(result)], default=None)


def robustness_sentence(result: Record) -> str:
    """Say of which images the table is, and what the mean corruption error is."""
    summary, images = result["summary"], result["dataset"]["num_samples"]
    text = (
        f"Top-1 accuracy on {images:,} images of {dataset_link(result['dataset'])} "
        f"[{result['dataset']['split']}]: {result['clean']['top1_accuracy']:.2%} as they are, and "
        f"under corruptions of severity 1 (weak) to 5. The corruptions: {result['definition']}."
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

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    clean = result["clean"]["top1_accuracy"]
    names = list(dict.fromkeys(each["corruption"] for each in result["conditions"]))
    for number, name in enumerate(names):
        points = [each for each in result["conditions"] if each["corruption"] == name]
        axes.plot(
            [0, *(each["severity"] for each in points)],
            [clean, *(each["top1_accuracy"] for each in points)],
            color=f"C{number % 10}",
            linestyle=("-", "--")[number // 10 % 2],
            marker=".",
            label=name.replace("_", " "),
        )
    axes.set(xlabel="severity; 0 is the image as it is", ylabel="top-1 accuracy", ylim=(0, None))
    axes.set_xticks(range(6))
    axes.grid(alpha=0.3)
    axes.set_title(f"{dataset_name(result['dataset'])} [{result['dataset']['split']}]", size=10)
    figure.legend(loc="outside right upper", fontsize=8)
    drawing = io.BytesIO()
    figure.savefig(drawing, dpi=100, metadata={"Software": None})
    if not path.is_file() or path.read_bytes() != drawing.getvalue():
        replace_bytes(path, drawing.getvalue())
    return path
