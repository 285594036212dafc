"""Compute the numbers of a result from its predictions: accuracies, their intervals, calibration.

Everything here is a plain function of a few arrays with one entry per image, so that it can be
checked by hand; the results are what `eval_results.json` holds. An image that could not be read and
was to be counted as wrong is a miss for accuracies and classes, and no part of the rest.
"""

from collections.abc import Sequence

import numpy as np

from convzoo.evaluation.prediction_table import PredictionTable
from convzoo.evaluation.results import (
    MOST_LISTED,
    MOST_WITHOUT_TOP5,
    Breakdown,
    Calibration,
    CalibrationBin,
    ClassAccuracy,
    Confusion,
    Metrics,
    UnreadableFacts,
)

NUM_BINS = 15
MAX_CONFUSIONS = 20


def compute_metrics(table: PredictionTable) -> Metrics:
    """Compute accuracies and loss; among at most MOST_WITHOUT_TOP5 classes no top-5."""
    found = table.summary()
    return {
        "top1_accuracy": found["top1_accuracy"],
        "top5_accuracy": found["top5_accuracy"] if _has_top5(table) else None,
        "loss": found["loss"],
    }


def break_down(table: PredictionTable) -> Breakdown:
    """Compute the rest of this module, as `eval_results.json` holds it."""
    names, labels, predicted = table.facts.names, table.label, table.top_classes[:, 0]
    counts = {"top1_accuracy": int(table.hits().sum())}
    if _has_top5(table):
        counts["top5_accuracy"] = int(table.hits(5).sum())
    read = table.readable
    return {
        "intervals_95": {
            name: list(wilson_interval(count, len(table))) for name, count in counts.items()
        },
        "calibration": calibration(table.top_probabilities[read, 0], table.hits()[read]),
        "classes": accuracy_by_class(labels, predicted, names=names),
        "confusions": most_confused(labels, predicted, names=names),
    }


def unreadable_facts(table: PredictionTable) -> UnreadableFacts | None:
    """List the images that could not be read; None where there are none."""
    bad = np.flatnonzero(~table.readable)
    if not len(bad):
        return None
    return {
        "num_images": len(bad),
        "counted_as": "wrong",
        "images": [
            {"row": int(table.row[n]), "image": table.image[n], "error": table.error[n]}
            for n in bad[:MOST_LISTED].tolist()
        ],
    }


def _has_top5(table: PredictionTable) -> bool:
    matching = table.facts.dataset.get("class_matching") or {}
    among: int = matching.get("num_model_classes", len(table.facts.names))
    return min(among, len(table.facts.names)) > MOST_WITHOUT_TOP5


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
        predicted: the model's first choice, (num_images,); below 0 of an image that could not be
            read, which is an image of its class but no error.
        names: name of each class.
        limit: pairs at most.

    Returns:
        Pairs in falling order of their number of images; `share` is that of the true class.
    """
    wrong = (labels != predicted) & (predicted >= 0)
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
