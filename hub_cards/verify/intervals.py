"""Bound what all images give by a random part of them, and what two machines may differ by.

The images are drawn without replacement from a known number of them, so nothing is approximated for
accuracies: a part of nearly all images gives a short interval, and all of them a single number.
"""

import math
from statistics import NormalDist

# Other kernels, TF32 on a GPU or another JPEG decoder turn the answer to an image whose two best
# classes are nearly equal. That is rarer than one in a thousand, and errors in both directions
# partly cancel; a claim that is off by more than this is off for another reason.
TOLERATED_SHARE = 0.001
TOLERATED_LOSS = 0.001  # absolute, or as a share of the loss where that is more
MIN_IMAGES_OF_MEAN = 100  # below, the mean of a skewed quantity is not normally distributed


def tolerated_images(num_images: int) -> int:
    """Say how many correct answers of `num_images` may differ between two machines, at least 1."""
    return max(1, math.ceil(TOLERATED_SHARE * num_images))


def tolerated_loss(loss: float) -> float:
    """Say how far a mean loss may differ between two machines."""
    return max(TOLERATED_LOSS, TOLERATED_SHARE * abs(loss))


def hits_interval(hits: int, seen: int, *, num_images: int, alpha: float) -> tuple[int, int]:
    """Bound how many of all images may be hits, if so many of those drawn at random are.

    Args:
        hits: hits among the drawn ones, 0 to `seen`.
        seen: images drawn without replacement, 1 to `num_images`.
        num_images: all images.
        alpha: bound for the probability that the interval misses the truth, half of it on each
            side, in (0, 1).

    Returns:
        The least and the largest number, both included.

    Source: the exact interval by inverting two one-sided hypergeometric tests, as Clopper and
        Pearson (Biometrika 26, 1934) do with binomial ones.
    """
    from scipy.stats import hypergeom

    def least(hits: int) -> int:
        """The least number of hits with which drawing `hits` or more is not too improbable."""
        low, high = hits, num_images - (seen - hits)
        while low < high:
            middle = (low + high) // 2
            if hypergeom.sf(hits - 1, num_images, middle, seen) > alpha / 2:
                high = middle
            else:
                low = middle + 1
        return low

    return least(hits), num_images - least(seen - hits)


def mean_interval(
    mean: float, deviation: float, *, seen: int, num_images: int, alpha: float
) -> tuple[float, float]:
    """Bound the mean over all images, approximately.

    Args:
        mean: over the drawn images.
        deviation: their standard deviation.
        seen: images drawn without replacement.
        num_images: all images.
        alpha: probability that the interval misses the truth, if means are normally distributed.
    """
    error = deviation * math.sqrt((1 - seen / num_images) / seen)
    half = NormalDist().inv_cdf(1 - alpha / 2) * error
    return mean - half, mean + half
