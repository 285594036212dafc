import dataclasses
import math

import numpy as np
import pytest

from convzoo.evaluation.statistics import (
    accuracy_by_class,
    break_down,
    calibration,
    compute_metrics,
    most_confused,
    unreadable_facts,
    wilson_interval,
)
from tests.support.predictions import prediction_table

NAMES = ["cat", "dog", "newt", "owl"]
LABELS = np.array([0, 0, 0, 0, 1, 1, 3, 3, 3, 3, 3])
PREDICTED = np.array([0, 1, 1, 3, 1, 1, 0, 1, 0, 3, 3])


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_newcombes_table(hits, trials, *, low, high):
    # Newcombe, Statistics in Medicine 17 (1998), Table I, method 3.
    assert wilson_interval(hits, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("hits", "n"), [(1, 2), (1753, 2000), (0, 7), (50000, 50000)])
def test_wilson_interval_solves_its_equation(hits, n):
    p = hits / n
    for end in wilson_interval(hits, n):
        assert n * (p - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end), abs=1e-6)


def test_wilson_interval_ends_exactly_at_none_and_all_for_every_number_of_images():
    for n in (*range(1, 3001), 10_000, 50_000):
        low, high = wilson_interval(0, n)
        assert low == 0.0 < high < 1, n
        low, high = wilson_interval(n, n)
        assert 0 < low < high == 1.0, n


@pytest.mark.parametrize("n", [1, 2, 17, 101])
def test_wilson_interval_contains_the_share_of_hits(n):
    for hits in range(n + 1):
        low, high = wilson_interval(hits, n)
        assert 0 <= low <= hits / n <= high <= 1
        mirrored = wilson_interval(n - hits, n)
        assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]), abs=1e-12)


def test_classes_are_counted_and_those_without_images_left_out():
    found = accuracy_by_class(LABELS, PREDICTED, names=NAMES)
    assert [tuple(row.values()) for row in found] == [
        (0, "cat", 4, 1, 0.25),
        (1, "dog", 2, 2, 1.0),
        (3, "owl", 5, 2, 0.4),
    ]


def test_errors_are_counted_by_pair_and_the_most_frequent_come_first():
    found = most_confused(LABELS, PREDICTED, names=NAMES)
    assert [tuple(row.values()) for row in found] == [
        ("cat", "dog", 2, 0.5),
        ("owl", "cat", 2, 0.4),
        ("cat", "owl", 1, 0.25),
        ("owl", "dog", 1, 0.2),
    ]
    assert most_confused(LABELS, PREDICTED, names=NAMES, limit=1) == found[:1]
    assert most_confused(LABELS, LABELS, names=NAMES) == []


def test_calibration_of_two_bins_is_what_one_computes_on_paper():
    """0.9 three times with two right, 0.7 once and wrong: 3/4 |2/3 - 0.9| + 1/4 |0 - 0.7|."""
    found = calibration(np.array([0.9, 0.7, 0.9, 0.9]), np.array([1, 0, 0, 1], bool))
    assert found["expected_calibration_error"] == pytest.approx(0.35, abs=1e-12)
    assert found["mean_confidence"] == pytest.approx(0.85)
    assert [list(one.values()) for one in found["bins"]] == [
        [0.6667, 0.7333, 1, 0, 0.7],
        [0.8667, 0.9333, 3, 2, 0.9],
    ]


def test_a_bin_includes_its_upper_edge_and_all_of_zero_to_one_is_covered():
    edges = np.arange(16) / 15
    found = calibration(edges, np.ones(16, bool))
    assert [one["num_samples"] for one in found["bins"]] == [2, *[1] * 14]
    assert found["bins"][0]["low"] == 0 and found["bins"][-1]["high"] == 1


@pytest.mark.parametrize("truth", [0.0, 0.5, 1.0])
def test_a_constant_probability_errs_by_its_distance_from_the_accuracy(truth):
    correct = np.arange(1000) < 1000 * truth
    error = calibration(np.full(1000, 0.8, np.float32), correct)["expected_calibration_error"]
    assert error == pytest.approx(abs(0.8 - truth), abs=1e-7)


def test_calibration_equals_a_loop_over_the_images():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.2, 1, 5000).astype(np.float32)
    correct = rng.uniform(size=5000) < confidences**2
    sums = {}
    for confidence, hit in zip(confidences.tolist(), correct.tolist(), strict=True):
        place = math.ceil(confidence * 15)
        old = sums.get(place, (0, 0.0))
        sums[place] = (old[0] + hit, old[1] + confidence)
    expected = sum(abs(hits - total) for hits, total in sums.values()) / 5000
    found = calibration(confidences, correct)
    assert found["expected_calibration_error"] == pytest.approx(expected, abs=1e-9)
    # The integral of p - p^2, for p in [0.2, 1]: what such an overconfident model errs by.
    exact = ((1 - 0.2**2) / 2 - (1 - 0.2**3) / 3) / 0.8
    assert expected == pytest.approx(exact, abs=0.02)


def table_of(labels, ranked, *, names, confidences):
    """The table in which each image has these first classes."""
    table = prediction_table(len(labels), names=names, top_k=ranked.shape[1])
    found = ranked == labels[:, None]
    rank = np.where(found.any(axis=1), found.argmax(axis=1), len(names) - 1)
    probabilities = np.repeat(confidences[:, None], ranked.shape[1], axis=1)
    columns = {"label": labels, "top_classes": ranked, "rank": rank}
    return dataclasses.replace(table, top_probabilities=probabilities, **columns)


def test_all_parts_come_together():
    ranked, names = np.stack([PREDICTED, (PREDICTED + 1) % 4], axis=1), [*NAMES, "pig", "yak"]
    table = table_of(LABELS, ranked, names=names, confidences=np.full(11, 0.5))
    found = break_down(table)
    assert list(found) == ["intervals_95", "calibration", "classes", "confusions"]
    assert found["intervals_95"]["top1_accuracy"] == list(wilson_interval(5, 11))
    # The cat that was called owl is the only error with the true class in the second place.
    assert found["intervals_95"]["top5_accuracy"] == list(wilson_interval(6, 11))
    assert compute_metrics(table)["top5_accuracy"] == 6 / 11
    few = table_of(LABELS, ranked, names=names[:5], confidences=np.full(11, 0.5))
    assert break_down(few)["intervals_95"].keys() == {"top1_accuracy"}  # all are among five
    assert compute_metrics(few)["top5_accuracy"] is None


def test_unreadable_images_are_misses_and_no_part_of_loss_and_calibration():
    table = prediction_table(200, names="abcdefg", unreadable=[3, 77])
    read = table.take(table.readable)
    found, of_read = compute_metrics(table), compute_metrics(read)
    for name in ("top1_accuracy", "top5_accuracy"):
        assert found[name] == pytest.approx(of_read[name] * 198 / 200)
        interval = break_down(table)["intervals_95"][name]
        assert interval == list(wilson_interval(round(found[name] * 200), 200))
    assert found["loss"] == of_read["loss"]
    details, of_read = break_down(table), break_down(read)
    assert details["calibration"] == of_read["calibration"]
    assert sum(row["num_samples"] for row in details["classes"]) == 200
    hits = [sum(row["num_correct"] for row in each["classes"]) for each in (details, of_read)]
    assert hits[0] == hits[1] == table.hits().sum()
    sizes = {row["name"]: row["num_samples"] for row in details["classes"]}
    assert all(row["share"] == row["count"] / sizes[row["name"]] for row in details["confusions"])
    assert unreadable_facts(read) is None
    rows = [{"row": n * 2, "image": table.image[n], "error": "cut off"} for n in (3, 77)]
    facts = {"num_images": 2, "counted_as": "wrong", "images": rows}
    assert unreadable_facts(table) == facts
