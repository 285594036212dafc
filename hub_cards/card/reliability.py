"""Draw a model's calibration: accuracy against probability, bin by bin."""

import io
from pathlib import Path

from hub_cards.card.evaluation_facts import largest_with
from hub_cards.card.formatting import dataset_name
from hub_cards.evidence.folder import Evidence
from hub_cards.files import replace_bytes

FILE = "reliability_diagram.png"


def write_reliability_diagram(evidence: Evidence) -> Path | None:
    """Draw the reliability diagram of the largest calibrated result into the model folder.

    Args:
        evidence: what the folder holds.

    Returns:
        The PNG; None if there is nothing to draw, and then there is no such file.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, figure 1.
    """
    result, path = largest_with(evidence, "calibration"), evidence.folder / FILE
    if not result:
        path.unlink(missing_ok=True)
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bins = result["calibration"]["bins"]
    left = [one["low"] for one in bins]
    bars = {"width": [one["high"] - one["low"] for one in bins], "align": "edge", "ec": "white"}
    figure = Figure(figsize=(4.6, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    top.bar(left, [one["num_correct"] / one["num_samples"] for one in bins], **bars)
    top.plot((0, 1), (0, 1), "--", color="black", linewidth=1, label="perfectly calibrated")
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    top.set_title(f"{dataset_name(result['dataset'])} [{result['dataset']['split']}]", size=10)
    figure.legend(loc="outside lower center", fontsize=8)
    bottom.bar(left, [one["num_samples"] for one in bins], **bars)
    bottom.set(xlabel="probability of the answer", ylabel="images")
    drawing = io.BytesIO()
    figure.savefig(drawing, dpi=100, metadata={"Software": None})
    if not path.is_file() or path.read_bytes() != drawing.getvalue():
        replace_bytes(path, drawing.getvalue())
    return path
