"""The training loss."""

import torch.nn.functional as F
from torch import Tensor

from convzoo.recipe.settings import Train
from convzoo.training.class_weights import label_weights


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    settings: Train,
    num_classes: int,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute the cross entropy, or one binary cross entropy per class; the mean over the images.

    Args:
        logits: (N, num_classes), any floating type; the loss is computed in float32.
        labels: class indices, (N,), or class probabilities, (N, num_classes), as MixUp and CutMix
            make them: smoothed already, but not where `weights` are given.
        settings: the recipe's section.
        num_classes: number of classes.
        weights: of each class, (num_classes,) float32; the mean is then weighted, see
            `convzoo.training.class_weights`. All count the same if None.

    Returns:
        A float32 scalar. The binary one is also a mean over the classes.

    Source: Wightman et al., "ResNet strikes back", arXiv:2110.00476, for the binary one; timm
    1.0.31, loss/binary_cross_entropy.py.
    """
    logits = logits.float()
    if weights is not None:
        return _weighted_mean(logits, labels, settings=settings, weights=weights)
    are_indices = labels.ndim == 1
    smoothing = settings.label_smoothing if are_indices else 0.0
    if settings.loss == "cross_entropy":
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    if are_indices:
        labels = F.one_hot(labels, num_classes) * (1 - smoothing) + smoothing / num_classes
    if settings.bce_target_threshold:
        labels = labels > settings.bce_target_threshold
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def _weighted_mean(logits: Tensor, labels: Tensor, *, settings: Train, weights: Tensor) -> Tensor:
    """Compute the mean in which each label share counts with the weight of its class.

    Both losses are linear in the target, so an image of several classes is one target, in which
    weights have moved the shares, and one weight. A threshold looks at the shares as they were.
    """
    num_classes, smoothing = len(weights), settings.label_smoothing
    shares = F.one_hot(labels, num_classes).float() if labels.ndim == 1 else labels
    image_weights = label_weights(labels, weights)
    if not settings.bce_target_threshold or settings.loss == "cross_entropy":
        shares = shares * weights / image_weights[:, None]
    targets = shares * (1 - smoothing) + smoothing / num_classes
    if settings.loss == "cross_entropy":
        losses = F.cross_entropy(logits, targets, reduction="none")
    else:
        if settings.bce_target_threshold:
            targets = (targets > settings.bce_target_threshold).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
    return (losses * image_weights).sum() / image_weights.sum()
