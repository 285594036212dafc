"""The plot of a calibration."""

import numpy as np
from PIL import Image

from hub_cards.card.rendering import write_card
from tests.support.model_folders import BREAKDOWN, put_results, result, section


def blue(path):
    """Height of the blue in each column of an image, rows."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return ((pixels[..., 2] > 120) & (pixels[..., 0] < 60)).sum(axis=0)


def test_the_reliability_diagram_is_drawn_from_the_bins_and_goes_with_them(full):
    diagram = full / "reliability_diagram.png"
    assert f"]({diagram.name})" in section(write_card(full).read_text(), "Calibration")
    before, drawn = blue(diagram), diagram.read_bytes()
    write_card(full)
    assert diagram.read_bytes() == drawn
    bins = BREAKDOWN["calibration"]["bins"]
    swapped = [bins[0] | {"num_correct": 0}, bins[1] | {"num_correct": 81}]
    put_results(full, result(full, calibration=BREAKDOWN["calibration"] | {"bins": swapped}))
    write_card(full)
    after, middle = blue(diagram), len(before) // 2
    assert after[:middle].sum() < before[:middle].sum()
    assert after[middle:].sum() > before[middle:].sum()
    put_results(full, result(full, metrics={"top1_accuracy": 0.5}))
    assert section(write_card(full).read_text(), "Calibration") == "Not measured."
    assert not diagram.exists()
