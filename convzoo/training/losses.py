"""The training loss."""

import torch.nn.functional as F
from torch import Tensor

from convzoo.recipe.settings import Train


def classification_loss(
    logits: Tensor, labels: Tensor, *, settings: Train, num_classes: int
) -> Tensor:
    """Compute the cross entropy, or one binary cross entropy per class; the mean over the images.

    Args:
        logits: (N, num_classes), any floating type; the loss is computed in float32.
        labels: class indices, (N,), or class probabilities, (N, num_classes), as MixUp and CutMix
            make them: smoothed already.
        settings: the recipe's section.
        num_classes: number of classes.

    Returns:
        A float32 scalar. The binary one is also a mean over the classes.

    Source: Wightman et al., "ResNet strikes back", arXiv:2110.00476, for the binary one; timm
    1.0.31, loss/binary_cross_entropy.py.
    """
    logits = logits.float()
    are_indices = labels.ndim == 1
    smoothing = settings.label_smoothing if are_indices else 0.0
    if settings.loss == "cross_entropy":
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    if are_indices:
        labels = F.one_hot(labels, num_classes) * (1 - smoothing) + smoothing / num_classes
    if settings.bce_target_threshold:
        labels = labels > settings.bce_target_threshold
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
