"""How much each class counts in the loss, and what a weighted mean over a global batch is.

An image counts as if it were there as many times as its class's weight says. After MixUp and CutMix
each share of a label counts with the weight of its class. Only ratios of weights matter: the loss
of a step is the sum over its global batch, each term times its weight, divided by the sum of the
weights.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from convzoo.recipe.settings import Train

logger = logging.getLogger(__name__)


def class_weights(
    settings: Train, label_names: Sequence[str], samples: np.ndarray | None
) -> np.ndarray | None:
    """Compute the weight of each class; None if all count the same.

    "balanced" is N / (C n) for a class of n of N samples in an epoch, C being the classes that have
    any, as scikit-learn's class_weight="balanced". "effective" is (1 - beta) / (1 - beta ** n),
    scaled to a sum of C: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples",
    arXiv:1901.05555, equation 4.

    Args:
        settings: the recipe's section.
        label_names: one name for each class.
        samples: samples of each class in an epoch; needed unless the recipe has a table.

    Returns:
        float64, one for each class; 0 for a class without samples.

    Raises:
        ValueError: if the table has a name that is no class, or that several classes have.
    """
    asked = settings.class_weights
    if asked == "none":
        return None
    if isinstance(asked, dict):
        return _from_table(asked, label_names)
    assert samples is not None, "counted by the caller"
    present = samples > 0
    number = np.where(present, samples, 1).astype(float)
    if asked == "balanced":
        weights = samples.sum() / (present.sum() * number)
    else:
        beta = settings.class_weight_beta
        # 1 - beta ** n, exact for a beta near 1.
        effective = -np.expm1(number * np.log(beta)) if beta else np.ones(len(number))
        weights = (1 - beta) / effective
        weights *= present.sum() / weights[present].sum()
    return np.asarray(np.where(present, weights, 0.0))


def _from_table(table: dict[str, float], label_names: Sequence[str]) -> np.ndarray:
    for name in table:
        if (count := label_names.count(name)) != 1:
            known = ", ".join(label_names[:20]) + (", ..." if len(label_names) > 20 else "")
            raise ValueError(
                f"train.class_weights must name classes; {count} classes are called {name!r}. "
                f"They are: {known}"
            )
    return np.array([table.get(name, 1.0) for name in label_names])


def tell_class_weights(weights: np.ndarray, label_names: Sequence[str]) -> None:
    """Log the weights of the classes that count least and most."""
    used = np.flatnonzero(weights)
    ends = [int(used[np.argmin(weights[used])]), int(used[np.argmax(weights[used])])]
    logger.info(
        "class weights of the loss: %s",
        " to ".join(f"{weights[number]:.4g} ({label_names[number]})" for number in ends),
    )


class LabelWeights:
    """Weighs labels by class, and knows the weight of a step's global batch.

    Args:
        weights: of each class; None if all count the same.
        batch_size: images per step over all processes.
        accelerator: the processes.
    """

    def __init__(self, weights: np.ndarray | None, batch_size: int, *, accelerator: Accelerator):
        self.batch_size, self.accelerator = batch_size, accelerator
        self.weights = (
            None
            if weights is None
            else torch.tensor(weights, dtype=torch.float32, device=accelerator.device)
        )

    def of(self, labels: Tensor) -> Tensor | int:
        """Sum up the weights of labels, class indices (N,) or class shares (N, C)."""
        if self.weights is None:
            return len(labels)
        return label_weights(labels, self.weights).sum()

    def of_global_batch(self, labels: Tensor) -> Any:
        """Sum up the weights of a step; every process calls it with its labels of the step."""
        if self.weights is None:
            return self.batch_size
        return self.accelerator.reduce(self.of(labels), "sum")


def label_weights(labels: Tensor, weights: Tensor) -> Tensor:
    """Return the weight of each image, (N,): of its class, or the mean of its shares' classes."""
    if labels.ndim == 1:
        return weights[labels]
    return (labels * weights).sum(dim=1)  # a product of matrices would round under autocast
