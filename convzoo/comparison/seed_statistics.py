"""What several trainings of one recipe say about the recipe, and not only about their weights.

An accuracy over S seeds and N images would be another one with other seeds and with other images.
Seeds and images are crossed: every training answers the same images. That is the analysis of
several readers of the same cases, as radiology has it.
"""

import math
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval over seeds and images.

    Attributes:
        value: the mean.
        low: lower end.
        high: upper end.
        seed_variance: part of the variance of the mean that comes from the seeds.
        image_variance: part that comes from the images.
        degrees_of_freedom: of Student's distribution.
        p_value: two-sided, of the mean being 0.
    """

    value: float
    low: float
    high: float
    seed_variance: float
    image_variance: float
    degrees_of_freedom: float
    p_value: float


def accuracy_over_seeds(hits: np.ndarray) -> Estimate:
    """Estimate the accuracy of a recipe.

    Args:
        hits: whether each training was right, bool (seeds, images), two of each at least.

    Source: as `difference_over_seeds`.
    """
    seeds, both = _components(hits)
    return _estimate(float(hits.mean()), [seeds], images=_of_mean(hits.mean(0)), both=both)


def difference_over_seeds(first: np.ndarray, second: np.ndarray) -> Estimate:
    """Estimate how much more accurate one recipe is than another.

    The variance of the difference of means is that between the seeds of either recipe, plus that
    of the images, minus what was counted in both. Seeds of the two are taken as independent, also
    where they have the same numbers.

    Args:
        first: whether each training of one recipe was right, bool (seeds, images).
        second: the same of the other, on the same images; the number of seeds may differ.

    Source: Hillis, "A comparison of denominator degrees of freedom methods for multiple observer
        ROC analysis", Statistics in Medicine 26 (2007), with readers as seeds and cases as images;
        degrees of freedom: Satterthwaite, Biometrics Bulletin 2 (1946).
    """
    (seeds_1, both_1), (seeds_2, both_2) = _components(first), _components(second)
    per_image = first.mean(0) - second.mean(0)
    return _estimate(
        float(per_image.mean()),
        [seeds_1, seeds_2],
        images=_of_mean(per_image),
        both=both_1 + both_2,
    )


def _of_mean(values: np.ndarray) -> tuple[float, int]:
    """The variance of a mean, and its degrees of freedom."""
    return float(values.var(ddof=1)) / len(values), len(values) - 1


def _components(hits: np.ndarray) -> tuple[tuple[float, int], float]:
    """The variance of the mean from seeds, with its degrees of freedom; and what images share."""
    seeds, images = hits.shape
    if seeds < 2 or images < 2:
        raise ValueError(
            f"an interval over seeds needs two trainings and two images at least; got {seeds} and "
            f"{images}"
        )
    values = hits.astype(np.float64)
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    residual = float((rest**2).sum()) / ((seeds - 1) * (images - 1))
    return _of_mean(values.mean(1)), residual / (seeds * images)


def _estimate(
    value: float, seeds: list[tuple[float, int]], *, images: tuple[float, int], both: float
) -> Estimate:
    from scipy.stats import t

    of_seeds = sum(variance for variance, _ in seeds)
    # What is left of either part cannot be below 0: the whole is at least the larger one.
    variance = max(of_seeds + images[0] - both, of_seeds, images[0])
    parts = [*seeds, images]
    weights = sum(part**2 / freedom for part, freedom in parts)
    freedom = max(variance**2 / weights, 1.0) if weights else float(images[1])
    half = float(t.ppf(1 - LEVEL / 2, freedom)) * math.sqrt(variance)
    p_value = float(2 * t.sf(abs(value) / math.sqrt(variance), freedom)) if variance else 1.0
    if not variance and value:
        p_value = 0.0
    return Estimate(
        value=value,
        low=value - half,
        high=value + half,
        seed_variance=of_seeds,
        image_variance=images[0],
        degrees_of_freedom=freedom,
        p_value=p_value,
    )
