"""The plot of the zoo's tables: names at their points, round sizes, panels that compare."""

import random

import pytest
from matplotlib.text import Text

from hub_cards.cli import main
from hub_cards.index.plot import draw_plot
from hub_cards.index.rows import Accuracy, Row
from tests.support.model_folders import make_model


def make_row(name, num_parameters, accuracy, *, family="cnn", multiply_adds=None):
    return Row(
        model=name,
        name=name,
        family=family,
        num_parameters=num_parameters,
        multiply_adds=multiply_adds,
        image_size="224",
        top1=Accuracy(accuracy, low=accuracy - 0.01, high=accuracy + 0.01),
        top5=None,
        measured=True,
        license="mit",
        setting="here",
    )


def many(count, num_parameters=lambda rng: int(10 ** rng.uniform(5.5, 8))):
    rng = random.Random(count)
    names = [f"somebody-{i}/a-long-name-of-a-network-for-imagenet-{i}" for i in range(count)]
    families = rng.choices(["cnn", "alexnet", "qlnet"], k=count)
    return [
        make_row(name, num_parameters(rng), rng.uniform(0.5, 0.85), family=family)
        for name, family in zip(names, families, strict=True)
    ]


PLOTTED = {
    "two": many(2),
    "three": many(3),
    "twelve": many(12),
    "forty": many(40),
    "of one size": many(12, num_parameters=lambda rng: 25_557_032),
}


@pytest.mark.parametrize("case", PLOTTED)
def test_names_stand_at_their_points_and_cover_nothing(case):
    rows = PLOTTED[case]
    figure = draw_plot([("Here", rows), ("A table of one result", rows[:1])])
    (axes,) = figure.axes  # one result compares nothing
    figure.draw_without_rendering()
    texts = [text for text in axes.texts if text.get_text()]
    assert len({text.get_text() for text in texts}) == len(rows)
    boxes = [Text.get_window_extent(text) for text in texts]
    points = [axes.transData.transform((row.num_parameters, 100 * row.top1.value)) for row in rows]
    for number, box in enumerate(boxes):
        assert axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert not any(box.contains(*point) for point in points)


def test_sizes_on_the_axis_are_round_and_have_a_unit():
    rows = [make_row("a", 10_000_000, 0.7), make_row("b", 61_100_840, 0.8)]
    (axes,) = draw_plot([("Here", rows)]).axes
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert ticks == ["10 M", "20 M", "50 M"] and axes.get_xlabel() == "parameters"
    rows = [make_row(n, 9, 0.7, multiply_adds=m * 10**9) for n, m in (("a", 1), ("b", 4))]
    (axes,) = draw_plot([("Here", rows)]).axes
    assert "2 G" in [tick.get_text() for tick in axes.get_xticklabels()]
    assert axes.get_xlabel() == "multiply-adds"


def test_a_plot_of_single_results_is_refused(tmp_path, capsys):
    model = make_model(tmp_path, "only", 81)
    assert main(["index", str(model), "--plot", str(tmp_path / "zoo.png")]) == 1
    assert "a table must have two at least" in capsys.readouterr().err
    assert not (tmp_path / "zoo.png").exists()
