"""What images can say about two classifiers that both saw them.

Only images on which exactly one of the two is right tell them apart. `only_first` and `only_second`
are their numbers throughout, `num_images` that of all images. All of it is about other images of
the same kind, and nothing about other trainings: see `convzoo.comparison.seed_statistics`.
"""

import math
from collections.abc import Sequence

import numpy as np

LEVEL = 0.05  # of tests; intervals are of 95 %
POWER = 0.8  # chance to show a difference that is there
RESAMPLES = 10_000


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test, for any number of images.

    If both classifiers are equally good, each image that one of them alone gets right is the
    first's with a chance of one half: the p-value is binomial, and never too small.

    Source: McNemar, Psychometrika 12 (1947); exact form: Dietterich, Neural Computation 10 (1998).
    """
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several tests, so that the chance of any false alarm stays at the level.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    return [float(value) for value in adjusted[np.argsort(order, kind="stable")]]


def difference_interval(
    only_first: int, only_second: int, *, num_images: int
) -> tuple[float, float]:
    """Return Tango's 95 % score interval of the difference of two paired accuracies.

    It is what Wilson's interval is for one accuracy: never without width, also where the two agree
    on all images; it is then +-z^2 / (n + z^2).

    Returns:
        Lower and upper end of (accuracy of the first - accuracy of the second), in [-1, 1].

    Source: Tango, "Equivalence test and confidence interval for the difference in proportions for
        the paired-sample design", Statistics in Medicine 17 (1998).
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z, n = float(norm.ppf(1 - LEVEL / 2)), num_images

    def score(delta: float, more: int, less: int) -> float:
        """How many deviations the observed difference lies above `delta`, minus -z."""
        b = -more - less + (2 * n - more + less) * delta
        c = -less * delta * (1 - delta)
        share = (math.sqrt(max(b * b - 8 * n * c, 0)) - b) / (4 * n)
        variance = n * (2 * share + delta * (1 - delta))
        return (more - less - n * delta) / math.sqrt(max(variance, 1e-300)) + z

    def upper(more: int, less: int) -> float:
        observed = (more - less) / n
        if observed == 1:
            return 1.0
        return float(brentq(score, observed, 1 - 1e-12, args=(more, less), xtol=1e-12))

    return -upper(only_second, only_first), upper(only_first, only_second)


def bootstrap_interval(
    only_first: int, only_second: int, *, num_images: int, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the paired bootstrap for a difference of accuracies.

    Drawing images with replacement and counting again is one multinomial draw of the counts, so
    that RESAMPLES draws cost nothing, for any number of images.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    shares = np.array([only_first, only_second, num_images - only_first - only_second]) / num_images
    drawn = np.random.default_rng(seed).multinomial(num_images, shares, size=RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / num_images, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def mean_interval(differences: np.ndarray) -> tuple[float, float]:
    """Return Student's 95 % interval of the mean of paired differences; NaN for less than two."""
    from scipy.stats import t

    n = len(differences)
    if n < 2:
        return float("nan"), float("nan")
    values = differences.astype(np.float64)
    half = float(t.ppf(1 - LEVEL / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return float(values.mean()) - half, float(values.mean()) + half


def images_needed(only_first: int, only_second: int, *, num_images: int) -> int | None:
    """Return how many images would show the observed difference in 80 % of the cases.

    The difference and the share of images on which one alone is right are taken as they were seen;
    both are estimates, and a difference that is not there needs more images than any number. None
    if no difference was seen.

    Source: Connor, "Sample size for testing differences in proportions for the paired-sample
        design", Biometrics 43 (1987), equation for McNemar's test.
    """
    from scipy.stats import norm

    difference = (only_first - only_second) / num_images
    if not difference:
        return None
    discordant = (only_first + only_second) / num_images
    z_level, z_power = norm.ppf(1 - LEVEL / 2), norm.ppf(POWER)
    root = z_level * math.sqrt(discordant) + z_power * math.sqrt(discordant - difference**2)
    return math.ceil(float(root / difference) ** 2)
