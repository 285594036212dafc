"""What one does before a training: the range test of the learning rate, a look at the batches."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from convzoo.data.share import Share
from convzoo.inspection.batches import draw_batches, label_shares, undo_normalisation
from convzoo.recipe.files import load_recipe
from convzoo.training.lr_range import follow, plot_range, rates, run_range, suggest
from convzoo.training.run_data import open_run_data


def test_rates_grow_by_the_same_factor():
    assert rates(1e-4, 1.0, 5) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])


def test_a_test_ends_where_the_loss_diverges_and_suggests_a_tenth_of_the_best_rate():
    learning_rates = rates(1e-5, 10, 100)
    losses = [2.0 - 10 * rate if rate < 0.1 else 1 + 50 * (rate - 0.1) for rate in learning_rates]
    points = follow(iter(losses).__next__, learning_rates)
    assert len(points) < 100
    best = min(points, key=lambda point: point.smoothed_loss)
    assert suggest(points) == best.learning_rate / 10
    keep, mean = 0.95, 0.0  # the smoothing, by its formula
    for number, point in enumerate(points, 1):
        mean = keep * mean + (1 - keep) * point.loss
        assert point.smoothed_loss == pytest.approx(mean / (1 - keep**number))
    falling = follow(iter(np.linspace(3, 1, 20).tolist()).__next__, rates(1e-5, 1, 20))
    assert suggest(falling) is None  # the range ends too early
    with pytest.raises(FloatingPointError, match="the first loss must be finite; it is nan"):
        follow(lambda: float("nan"), learning_rates)


def test_a_range_test_repeats_itself_and_leaves_no_run(tiny_recipe, tmp_path):
    overrides = [f"run.output_dir={tmp_path / 'runs'}", "train.accumulation_steps=2"]
    recipe = load_recipe(tiny_recipe, [*overrides, "train.class_weights=balanced"])
    first, again = (run_range(recipe, rates(1e-4, 1.0, 6)) for _ in range(2))
    assert first == again and first[0].loss != first[1].loss
    plot_range(first, "tiny", tmp_path / "range.png")
    with Image.open(tmp_path / "range.png") as figure:
        assert figure.size == (960, 540)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("mixed", [False, True])
def test_drawn_batches_are_those_of_the_run(mixed, tiny_recipe, tmp_path):
    overrides = [f"run.output_dir={tmp_path / 'runs'}", "train.label_smoothing=0.1"]
    if mixed:
        overrides.append("augmentation.mixup_alpha=0.4")
    recipe = load_recipe(tiny_recipe, overrides)
    report = json.loads(json.dumps(draw_batches(recipe, tmp_path / "a b", limit=20)))
    assert [each["step"] for each in report["images"]] == [0] * 12 + [1] * 8
    data = open_run_data(recipe)
    positions = [p for step in (0, 1) for p in data.order.positions(step, Share()).tolist()][:20]
    rows = [data.order.row(position) for position in positions]
    assert [each["image"] for each in report["images"]] == [data.train.where(*row) for row in rows]
    labels = [int(data.train.read_group(group).labels[row]) for group, row in rows]
    for number, each in enumerate(report["images"]):
        assert data.label_names[labels[number]] in each["labels"] or mixed
        assert sum(each["labels"].values()) == pytest.approx(1, abs=1e-3)
        assert len(each["labels"]) <= (2 if mixed else 1)
    with Image.open(tmp_path / "a b/batches.png") as figure:
        assert figure.size == (8 * 136 + 8, 3 * 170 + 8)
    assert not (tmp_path / "runs").exists()


def test_what_is_shown_is_what_was_normalised(tiny_recipe):
    recipe = load_recipe(tiny_recipe, ["train.label_smoothing=0.2"])
    settings = recipe.preprocessing
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    normalised = (pixels * settings.rescale_factor - np.array(settings.mean)) / settings.std
    values = torch.from_numpy(normalised).float().permute(0, 3, 1, 2)
    assert np.array_equal(undo_normalisation(values, settings), pixels)
    smoothed = torch.tensor([[0.8 * 0.7 + 0.05, 0.8 * 0.3 + 0.05, 0.05, 0.05]])
    shares = label_shares(smoothed, recipe, num_classes=4)
    assert shares[0] == pytest.approx([0.7, 0.3, 0, 0], abs=1e-6)
