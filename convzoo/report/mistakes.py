"""Which images of an evaluation are worth a look, and what is taken for what.

Plain functions of a `PredictionTable`. Where images are equal, those of earlier rows come first, so
that the same predictions give the same page.
"""

from dataclasses import dataclass

import numpy as np

from convzoo.evaluation.prediction_table import PredictionTable


def confident_errors(table: PredictionTable) -> np.ndarray:
    """Return the places of wrong answers, the most probable answers first."""
    wrong = np.flatnonzero(table.readable & ~table.hits())
    return wrong[np.argsort(-table.top_probabilities[wrong, 0], kind="stable")]


def ambiguous(table: PredictionTable) -> np.ndarray:
    """Return the places of images whose second answer is at least half as probable as the first.

    They come by the margin between the two, rising. A model of one class has no second answer:
    then there are none.
    """
    if table.top_k < 2:
        return np.array([], np.int64)
    likely = table.top_probabilities[:, 1] >= table.top_probabilities[:, 0] / 2
    places = np.flatnonzero(table.readable & likely)
    margin = table.top_probabilities[places, 0] - table.top_probabilities[places, 1]
    return places[np.argsort(margin, kind="stable")]


@dataclass(frozen=True)
class LabelDoubts:
    """Images whose label may be wrong, the greatest doubt first.

    Attributes:
        places: of the images in the table.
        suggested: the class that the model is confident of instead, for each.
    """

    places: np.ndarray
    suggested: np.ndarray


def doubtful_labels(table: PredictionTable) -> LabelDoubts:
    """Find images that confident learning counts as mislabelled.

    The threshold of a class is the mean probability that the model gives it on the images that are
    labelled so. An image is in doubt where the likeliest of the classes whose threshold its
    probability reaches is not its label. It is looked for among the kept classes: one behind them
    has a probability of 1 / (k + 1) at most. The order is that of the label's probability minus
    that of the suggested class.

    Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset
        Labels", Journal of Artificial Intelligence Research 70 (2021), arXiv:1911.00068, equations
        1 and 2 (the confident joint) and section 3.2 (images off its diagonal; the margin).
    """
    readable = np.flatnonzero(table.readable)
    labels, of_label = table.label[readable], np.exp(-table.loss[readable].astype(np.float64))
    count = len(table.facts.names)
    images = np.bincount(labels, minlength=count)
    thresholds = np.full(count, np.inf)  # nobody is confident of a class without images
    sums = np.bincount(labels, of_label, minlength=count)
    np.divide(sums, images, out=thresholds, where=images > 0)

    classes = table.top_classes[readable]
    probabilities = table.top_probabilities[readable].astype(np.float64)
    # An image alone in its class is its own threshold: rounding must not decide.
    reaches = probabilities >= thresholds[classes] - 1e-6
    first = reaches.argmax(1)  # they fall, so the first that reaches is the likeliest
    each = np.arange(len(readable))
    suggested = classes[each, first]
    doubt = np.flatnonzero(reaches.any(1) & (suggested != labels))
    margin = of_label[doubt] - probabilities[doubt, first[doubt]]
    doubt = doubt[np.argsort(margin, kind="stable")]
    return LabelDoubts(readable[doubt], suggested[doubt])


def confusion_matrix(table: PredictionTable) -> np.ndarray:
    """Count the readable images of each true class (rows) by the predicted one, (C, C)."""
    readable, count = table.readable, len(table.facts.names)
    pairs = table.label[readable].astype(np.int64) * count + table.top_classes[readable, 0]
    return np.bincount(pairs, minlength=count * count).reshape(count, count)
