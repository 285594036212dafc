"""Curves of robustness results: a panel for each corruption, with what the file has."""

import copy

import numpy as np
import pytest
from PIL import Image

from convzoo.images.corruptions import CORRUPTIONS
from convzoo.report.robustness_curves import GROUPS, draw_robustness, save_robustness_curves


def hits(accuracy):
    return {"top1_accuracy": accuracy, "interval_95": [accuracy - 0.05, accuracy + 0.04]}


def result(names=tuple(CORRUPTIONS), severities=(1, 2, 3, 4, 5)):
    conditions = [
        {"corruption": name, "severity": level, **hits(0.8 - level * (number + 1) / 100)}
        for number, name in enumerate(names)
        for level in severities
    ]
    dataset = {"name": "dollars $1 and $2", "split": "test", "num_samples": 240}
    return {"dataset": dataset, "clean": hits(0.8), "conditions": conditions}


def test_every_corruption_has_a_panel_with_its_numbers():
    assert {name for names in GROUPS.values() for name in names} == {*CORRUPTIONS}
    figure = draw_robustness(result())
    panels = {panel.get_title(): panel for panel in figure.axes if panel.get_title()}
    assert {*panels} == {name.replace("_", " ") for name in CORRUPTIONS}
    for number, name in enumerate(CORRUPTIONS):
        panel = panels[name.replace("_", " ")]
        (line,) = [line for line in panel.lines if line.get_marker() == "."]
        expected = [80 - level * (number + 1) for level in range(6)]
        assert [*line.get_xdata()] == [*range(6)]
        assert line.get_ydata() == pytest.approx(expected)
        (band,) = panel.collections
        low, high = np.array(band.get_paths()[0].vertices)[:, 1].min(), 84
        assert low == pytest.approx(expected[-1] - 5) and high == pytest.approx(
            band.get_paths()[0].vertices[:, 1].max()
        )


def test_each_result_has_a_file_and_those_of_results_that_are_gone_go(tmp_path):
    beside = tmp_path / "my results.json"
    one, two = result(("fog",), (3,)), result(("fog", "snow", "contrast"), (1, 5))
    before = copy.deepcopy(two)
    names = [path.name for path in save_robustness_curves([one, two], beside)]
    assert names == ["my results.png", "my results_2.png"] and two == before
    first, second = (np.asarray(Image.open(tmp_path / name)) for name in names)
    assert second.shape[0] > first.shape[0] and second.shape[1] > first.shape[1]
    save_robustness_curves([two], beside)
    assert [path.name for path in tmp_path.iterdir()] == ["my results.png"]
    assert (np.asarray(Image.open(tmp_path / names[0])) == second).all()


def test_figures_and_files_of_others_stay_as_they_are(tmp_path, caplog):
    beside, one, two = tmp_path / "cat.json", result(("fog",), (3,)), result(("snow",), (1, 5))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "cat.png")
    (tmp_path / "cat_3.png").write_text("notes, no image")
    save_robustness_curves([one], tmp_path / "cat_4.json")  # a figure of other results
    foreign = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(foreign) == ["cat.png", "cat_3.png", "cat_4.png"]
    names = [path.name for path in save_robustness_curves([one, two], beside)]
    assert names == ["cat_2.png", "cat_5.png"]
    assert "cat.png is no figure of cat.json and stays as it is" in caplog.text
    assert [path.name for path in save_robustness_curves([two], beside)] == ["cat_2.png"]
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "cat_2.png"} == foreign
