"""Intervals over seeds and images, against closed forms and a simulation."""

import numpy as np
import pytest
from scipy.stats import norm, ttest_ind

from convzoo.comparison.seed_statistics import accuracy_over_seeds, difference_over_seeds


def trainings(rng, *, seeds, images, spread, difficulty, shift=0.0):
    """Hits of trainings: some images are harder than others, some seeds better."""
    luck = rng.normal(0, spread, (seeds, 1))
    return rng.normal(1 + shift + luck, 1, (seeds, images)) + difficulty > 0


def test_without_images_that_differ_it_is_students_test_of_the_accuracies():
    """All images are alike where each seed is right on all or on none of them."""
    first = np.repeat([[1], [1], [0], [1]], 50, axis=1).astype(bool)
    second = np.repeat([[0], [1], [0], [0]], 50, axis=1).astype(bool)
    found = difference_over_seeds(first, second)
    expected = ttest_ind(first.mean(1), second.mean(1), equal_var=False)
    assert found.value == 0.5 and found.image_variance == 0
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-9)
    assert found.degrees_of_freedom == pytest.approx(expected.df)
    low, high = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high))


def test_seeds_that_agree_on_every_image_leave_the_images_alone():
    hits = np.tile(np.arange(400) % 4 > 0, (5, 1))
    found = accuracy_over_seeds(hits)
    assert found.value == 0.75 and found.seed_variance == 0
    assert found.image_variance == pytest.approx(0.75 * 0.25 / 399)
    assert difference_over_seeds(hits, hits).p_value == 1


def test_two_trainings_and_two_images_are_the_least():
    with pytest.raises(
        ValueError, match="needs two trainings and two images at least; got 1 and 9"
    ):
        accuracy_over_seeds(np.ones((1, 9), bool))


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.15), (5, 0.15), (5, 0.0)])
def test_coverage_and_false_alarms_are_what_they_claim(seeds, spread):
    rng = np.random.default_rng(3)
    times, images = 500, 200
    truth = norm.cdf(1 / np.sqrt(1 + 1.5**2 + spread**2))
    covered, alarms = [], []
    for _ in range(times):
        about = {"seeds": seeds, "images": images, "spread": spread}
        difficulty = rng.normal(0, 1.5, images)
        first = trainings(rng, **about, difficulty=difficulty)
        second = trainings(rng, **about, difficulty=difficulty)
        accuracy = accuracy_over_seeds(first)
        covered.append(accuracy.low <= truth <= accuracy.high)
        alarms.append(difference_over_seeds(first, second).p_value < 0.05)
    assert 0.92 <= np.mean(covered) <= 0.99
    assert np.mean(alarms) <= 0.07


def test_one_number_of_images_would_be_too_sure_of_a_recipe():
    """Treating the images of all seeds as independent, as is often done, alarms far too often."""
    rng = np.random.default_rng(4)
    naive, ours = [], []
    for _ in range(200):
        difficulty = rng.normal(0, 1.5, 1000)
        about = {"seeds": 3, "images": 1000, "spread": 0.15, "difficulty": difficulty}
        first, second = trainings(rng, **about), trainings(rng, **about)
        variance = (first.var() + second.var()) / first.size
        naive.append(abs(first.mean() - second.mean()) > 1.96 * np.sqrt(variance))
        ours.append(difference_over_seeds(first, second).p_value < 0.05)
    assert np.mean(naive) > 0.3 and np.mean(ours) <= 0.08
