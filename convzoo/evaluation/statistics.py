"""Statistics beyond one accuracy: its interval, classes, confusions and calibration.

Everything here is a plain function of a few arrays with one entry per image, so that it can be
checked by hand; the results are what `eval_results.json` holds.
"""

from collections.abc import Sequence

import numpy as np

from convzoo.evaluation.results import (
    MOST_WITHOUT_TOP5,
    Breakdown,
    Calibration,
    CalibrationBin,
    ClassAccuracy,
    Confusion,
)

NUM_BINS = 15
MAX_CONFUSIONS = 20


def break_down(
    labels: np.ndarray, ranked: np.ndarray, *, confidences: np.ndarray, names: Sequence[str]
) -> Breakdown:
    """Compute all of this module, as `eval_results.json` holds it.

    Args:
        labels: true classes, (num_images,).
        ranked: up to five classes in falling order of score, (num_images, k).
        confidences: probability of the first of them, (num_images,).
        names: name of each class; of at most MOST_WITHOUT_TOP5, top-5 says nothing.
    """
    predicted, hits = ranked[:, 0], ranked == labels[:, None]
    counts = {"top1_accuracy": int(hits[:, 0].sum())}
    if len(names) > MOST_WITHOUT_TOP5:
        counts["top5_accuracy"] = int(hits.any(axis=1).sum())
    return {
        "intervals_95": {
            name: list(wilson_interval(count, len(labels))) for name, count in counts.items()
        },
        "calibration": calibration(confidences, hits[:, 0]),
        "classes": accuracy_by_class(labels, predicted, names=names),
        "confusions": most_confused(labels, predicted, names=names),
    }


def wilson_interval(num_hits: int, num_samples: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion.

    Args:
        num_hits: samples that were hits, 0 to `num_samples`.
        num_samples: independent samples, at least 1.

    Returns:
        Lower and upper end, in [0, 1]: exactly 0 without hits, exactly 1 without misses.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
        Journal of the American Statistical Association 22 (1927).
    """
    from scipy.stats import binomtest

    interval = binomtest(num_hits, num_samples).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def accuracy_by_class(
    labels: np.ndarray, predicted: np.ndarray, *, names: Sequence[str]
) -> list[ClassAccuracy]:
    """Count images and top-1 accuracy of each class that has images, in the order of the classes.

    Args:
        labels: true classes, (num_images,).
        predicted: the model's first choice, (num_images,).
        names: name of each class.
    """
    totals = np.bincount(labels, minlength=len(names)).tolist()
    hits = np.bincount(labels[labels == predicted], minlength=len(names)).tolist()
    return [
        {
            "class": number,
            "name": names[number],
            "num_samples": total,
            "num_correct": hits[number],
            "top1_accuracy": hits[number] / total,
        }
        for number, total in enumerate(totals)
        if total
    ]


def most_confused(
    labels: np.ndarray, predicted: np.ndarray, *, names: Sequence[str], limit: int = MAX_CONFUSIONS
) -> list[Confusion]:
    """List the most frequent errors, as pairs of a true and a predicted class.

    Args:
        labels: true classes, (num_images,).
        predicted: the model's first choice, (num_images,).
        names: name of each class.
        limit: pairs at most.

    Returns:
        Pairs in falling order of their number of images; `share` is that of the true class.
    """
    wrong = labels != predicted
    pairs = labels[wrong].astype(np.int64) * len(names) + predicted[wrong]
    pairs, counts = np.unique(pairs, return_counts=True)
    totals = np.bincount(labels, minlength=len(names))
    errors: list[Confusion] = []
    for place in np.argsort(-counts, kind="stable")[:limit].tolist():
        true, chosen = divmod(int(pairs[place]), len(names))
        count = int(counts[place])
        share = count / int(totals[true])
        errors.append(
            {"name": names[true], "predicted": names[chosen], "count": count, "share": share}
        )
    return errors


def calibration(confidences: np.ndarray, correct: np.ndarray) -> Calibration:
    """Compare probabilities with the chance of being right.

    Args:
        confidences: probability of the predicted class, in [0, 1], (num_images,).
        correct: True where it is the true class, (num_images,).

    Returns:
        The expected calibration error (the mean of |accuracy - confidence| over the bins, weighted
        by their images), the mean confidence, and the bins that hold images. A bin is (low, high];
        the 15 bins have equal width.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599,
        section 2.
    """
    confidences = confidences.astype(np.float64)
    inner_edges = np.arange(1, NUM_BINS) / NUM_BINS
    bin_of = np.digitize(confidences, inner_edges, right=True)
    bins: list[CalibrationBin] = []
    error = 0.0
    for number in np.unique(bin_of).tolist():
        inside = bin_of == number
        count = int(inside.sum())
        hits, confidence = int(correct[inside].sum()), float(confidences[inside].mean())
        error += abs(hits / count - confidence) * count / len(confidences)
        bins.append(
            {
                "low": round(number / NUM_BINS, 4),
                "high": round((number + 1) / NUM_BINS, 4),
                "num_samples": count,
                "num_correct": hits,
                "mean_confidence": round(confidence, 6),
            }
        )
    return {
        "expected_calibration_error": error,
        "mean_confidence": float(confidences.mean()),
        "definition": f"{NUM_BINS} equal-width bins of the top-1 probability, arXiv:1706.04599",
        "bins": bins,
    }
