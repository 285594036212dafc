"""Tests and intervals of two models on the same images, against closed forms and simulations."""

import numpy as np
import pytest
from scipy.stats import binom

from convzoo.comparison.paired_statistics import (
    bootstrap_interval,
    difference_interval,
    holm,
    images_needed,
    mcnemar_p_value,
    mean_interval,
)

Z = 1.959964


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (5, 0), (9, 2), (2, 9), (30, 31), (700, 600)])
def test_mcnemar_is_the_tail_of_a_binomial(counts):
    few, n = min(counts), sum(counts)
    expected = min(1, 2 * binom.cdf(few, n, 0.5)) if n else 1
    assert mcnemar_p_value(*counts) == pytest.approx(expected, abs=1e-12)


def test_mcnemar_of_a_published_table():
    # Agresti, Categorical Data Analysis: 150 and 86 of 1,600 changed their mind; z = 4.16.
    assert mcnemar_p_value(150, 86) == pytest.approx(3.7e-5, abs=2e-6)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1] and holm([0.02]) == [0.02]


@pytest.mark.parametrize("n", [1, 10, 2000, 50_000])
def test_the_interval_of_models_that_agree_on_all_images_has_its_closed_form(n):
    low, high = difference_interval(0, 0, num_images=n)
    assert high == pytest.approx(Z**2 / (n + Z**2), abs=1e-6) and low == -high


@pytest.mark.parametrize(
    ("counts", "n"), [((12, 2), 50), ((1, 0), 44), ((0, 7), 7), ((60, 80), 900)]
)
def test_the_ends_of_tangos_interval_solve_its_equation(counts, n):
    """At an end, the likeliest table of this difference lies z deviations from the observed."""
    more, less = counts
    for end in difference_interval(more, less, num_images=n):
        assert -1 <= end <= 1
        if abs(end) == 1:
            continue
        share = np.linspace(max(0, -end), (1 - end) / 2, 200_001)[1:-1]  # only the second right
        both = np.log(share + end) * more + np.log(share) * less
        rest = np.log1p(-2 * share - end) * (n - more - less)
        likeliest = share[np.argmax(both + rest)]
        deviation = np.sqrt((2 * likeliest + end - end**2) / n)
        assert abs((more - less) / n - end) == pytest.approx(Z * deviation, rel=2e-3)
    mirrored = difference_interval(less, more, num_images=n)
    assert mirrored == pytest.approx(
        tuple(-x for x in difference_interval(more, less, num_images=n)[::-1])
    )


def test_the_bootstrap_of_counts_is_the_bootstrap_of_images():
    rng = np.random.default_rng(1)
    differences = np.repeat([1, -1, 0], [40, 25, 335])
    drawn = rng.choice(differences, (4000, 400)).mean(axis=1)
    expected = np.quantile(drawn, [0.025, 0.975])
    assert bootstrap_interval(40, 25, num_images=400) == pytest.approx(expected, abs=0.0051)


def test_the_interval_of_a_mean_by_hand():
    assert mean_interval(np.array([1.0, 2, 3])) == pytest.approx((2 - 2.484138, 2 + 2.484138))
    assert np.isnan(mean_interval(np.array([1.0]))).all()


def simulated(first, second, *, images, times, seed=0):
    """How many images only one of two models gets right, in many repetitions."""
    shares = [first, second, 1 - first - second]
    return np.random.default_rng(seed).multinomial(images, shares, size=times)


@pytest.mark.parametrize(("share", "images"), [(0.01, 300), (0.05, 1000), (0.2, 2000)])
def test_models_that_are_equally_good_are_told_apart_in_5_percent_of_the_cases_at_most(
    share, images
):
    times = 2000
    drawn, times_drawn = np.unique(
        simulated(share, share, images=images, times=times)[:, :2], axis=0, return_counts=True
    )
    alarms = np.array([mcnemar_p_value(*counts) < 0.05 for counts in drawn.tolist()])
    rate = alarms @ times_drawn / times
    assert rate < 0.05 + 3 * np.sqrt(0.05 * 0.95 / times)
    assert rate > (0.03 if images == 2000 else 0)


@pytest.mark.parametrize(
    ("first", "second", "images"), [(0.1, 0.06, 400), (0.02, 0.02, 200), (0.01, 0.002, 300)]
)
def test_tangos_interval_has_the_difference_in_95_percent_of_the_cases(first, second, *, images):
    times = 2000
    drawn, times_drawn = np.unique(
        simulated(first, second, images=images, times=times)[:, :2], axis=0, return_counts=True
    )
    inside = []
    for counts in drawn.tolist():
        low, high = difference_interval(*counts, num_images=images)
        inside.append(low <= first - second <= high)
    assert 0.935 <= np.array(inside) @ times_drawn / times <= 0.985


def test_so_many_images_show_the_difference_in_80_percent_of_the_cases():
    needed = images_needed(10, 6, num_images=100)
    drawn = simulated(0.1, 0.06, images=needed, times=1000)
    shown = [mcnemar_p_value(*counts) < 0.05 for counts in drawn[:, :2].tolist()]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.045)
    assert images_needed(5, 5, num_images=100) is None
