"""How often classes and their images come: against exact fractions and counting."""

import collections
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convzoo.data.class_balance import ClassBalance, samples_per_epoch
from convzoo.data.opening import open_split
from convzoo.data.order import DataOrder
from convzoo.data.share import Share
from convzoo.data.stream import TrainStream, train_batches
from convzoo.images.train_transform import TrainTransform
from convzoo.recipe.files import load_recipe
from convzoo.recipe.settings import Augmentation, Preprocessing
from convzoo.training.progress import Plan
from convzoo.training.run_data import open_run_data
from tests.support.images import coloured_images, write_split


def test_the_classes_of_an_epoch_by_hand():
    counts = np.array([900, 90, 0, 10])
    assert samples_per_epoch(counts, 0.0).tolist() == [900, 90, 0, 10]
    assert samples_per_epoch(counts, 1.0).tolist() == [334, 333, 0, 333]
    # 30 : 9.4868 : 3.1623 of 1000
    assert samples_per_epoch(counts, 0.5).tolist() == [703, 223, 0, 74]


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=30).filter(any),
    st.sampled_from([0, 1]),
)
def test_the_classes_of_an_epoch_are_the_exact_share_rounded(counts, strength):
    total = sum(counts)
    parts = [Fraction(count if strength == 0 else count > 0) for count in counts]
    samples = samples_per_epoch(np.array(counts), float(strength))
    assert samples.sum() == total
    for part, found in zip(parts, samples.tolist(), strict=True):
        assert abs(Fraction(found) - total * part / sum(parts)) < 1
        assert found >= (part > 0)  # no class is lost


@settings(derandomize=True, database=None, deadline=None, max_examples=100)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.floats(0, 1),
    st.integers(0, 2**63 - 1),
)
def test_over_the_epochs_each_image_of_a_class_comes_equally_often(labels, strength, seed):
    labels = np.array(labels)
    balance = ClassBalance(labels, [len(labels)], strength=strength, seed=seed)
    seen = np.zeros(len(labels), np.int64)
    for epoch in range(7):
        times = balance.times(epoch, 0, len(labels))
        assert times.sum() == len(labels)
        assert np.bincount(labels, times).astype(int).tolist() == balance.samples.tolist()
        rows = balance.rows(epoch, 0)
        assert np.bincount(rows, minlength=len(labels)).tolist() == times.tolist()
        seen += times
        for label in set(labels.tolist()):
            number, total = (labels == label).sum(), (epoch + 1) * balance.samples[label]
            assert set(seen[labels == label]) <= {total // number, -(-total // number)}


def test_row_groups_are_counted_in_parts_as_in_one(monkeypatch):
    rng = np.random.default_rng(0)
    group_rows = rng.integers(0, 9, 200)
    labels = rng.integers(0, 5, group_rows.sum()) ** 2
    balance = ClassBalance(labels, group_rows, strength=0.7, seed=3)
    whole = [balance.group_entries(epoch) for epoch in range(3)]
    monkeypatch.setattr("convzoo.data.class_balance.CHUNK", 10)
    again = pickle.loads(pickle.dumps(balance))
    for epoch in range(3):
        assert again.group_entries(epoch).tolist() == whole[epoch].tolist()
        counted = [len(balance.rows(epoch, group)) for group in range(200)]
        assert counted == whole[epoch].tolist() and sum(counted) == len(labels)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A split of 40 red, 12 green and 4 blue images, sorted by class."""
    folder = tmp_path_factory.mktemp("uneven")
    images, labels = coloured_images(120, seed=0)
    chosen = [
        row for label, count in ((0, 40), (1, 12), (2, 4)) for row in range(label, 3 * count, 3)
    ]
    write_split(folder, "train", [images[i] for i in chosen], [labels[i] for i in chosen])
    write_split(folder, "test", *coloured_images(9, seed=1))
    return folder


def batches(folder, share, *, steps, workers=0):
    split = open_split(str(folder), "train")
    balance = ClassBalance(split.read_labels(), split.group_rows, strength=1.0, seed=5)
    order = DataOrder(
        split.group_rows,
        split.group_bytes,
        global_batch_size=12,
        memory_bytes=20_000,
        seed=5,
        balance=balance,
    )
    transform = TrainTransform(Augmentation(), Preprocessing(resize=16, crop=16))
    stream = TrainStream(split, order, transform=transform, share=share, steps=steps)
    return list(train_batches(stream, workers))


@pytest.mark.parametrize(("processes", "workers"), [(1, 2), (3, 0)])
def test_balanced_batches_are_the_same_for_any_readers_and_from_any_step(
    uneven, processes, *, workers
):
    alone = batches(uneven, Share(), steps=range(14))
    labels = torch.cat([batch["labels"] for batch in alone])
    for epoch in range(3):  # 56 images in an epoch of 4 2/3 steps
        counted = collections.Counter(labels[epoch * 56 : (epoch + 1) * 56].tolist())
        assert sorted(counted.values()) == [18, 19, 19]
    shares = [
        batches(uneven, Share(rank, processes), steps=range(6, 14), workers=workers)
        for rank in range(processes)
    ]
    for expected, parts in zip(alone[6:], zip(*shares, strict=True), strict=True):
        for key in ("pixels", "labels", "positions"):
            assert torch.equal(expected[key], torch.cat([part[key] for part in parts]))
    # The few are shown several times, never the same way.
    blue = {
        crop.numpy().tobytes()
        for batch in alone
        for crop, label in zip(batch["pixels"], batch["labels"].tolist(), strict=True)
        if label == 2
    }
    assert len(blue) > 50


def test_a_recipe_balances_what_it_chooses_and_its_epoch_keeps_its_length(uneven, tiny_recipe):
    chosen = [f"data.path={uneven}", "train.global_batch_size=8"]
    recipes = [load_recipe(tiny_recipe, [*chosen, f"data.balance={b}"]) for b in (0.0, 1.0)]
    runs = [open_run_data(recipe) for recipe in recipes]
    assert [run.samples_per_epoch.tolist() for run in runs] == [[40, 12, 4], [19, 19, 18]]
    plans = [Plan.of(recipe, run.train.num_rows) for recipe, run in zip(recipes, runs, strict=True)]
    assert plans[0] == plans[1]
    few = open_run_data(load_recipe(tiny_recipe, [*chosen, "data.balance=1.0", "data.limit=44"]))
    assert few.samples_per_epoch.tolist() == [22, 22, 0]
    said = runs[1].order.balance.describe(runs[1].label_names)
    assert said == (
        "in an epoch each of the 4 images of 'blue' comes 4.50 times, and each of the 40 images of "
        "'red' comes 0.47 times"
    )


@pytest.mark.parametrize(("classes", "size"), [(10, 5), (300, 6)])
def test_the_plan_holds_as_many_bytes_of_an_image_as_the_page_says(classes, size):
    labels = np.arange(3_000) % classes
    balance = ClassBalance(labels, [1_000] * 3, strength=0.5, seed=0)
    arrays = [value for value in vars(balance).values() if len(value) == len(labels)]
    assert sum(array.nbytes for array in arrays) == size * len(labels)
