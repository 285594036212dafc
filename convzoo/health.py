"""What counts as healthy in a network: one judge for slopes, batch norms and residual branches.

The monitors of a training measure by these rules, its diagnosis and `convzoo inspect MODEL` judge
by them, so a number gets the same verdict everywhere. They are rules of thumb: they tell a layer
that does nothing from one that works, and say nothing about accuracy.
"""

import math
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

FINE = "fine"
NOT_FINITE = "not finite"
AS_AT_THE_START = "as at the start"

# A share of a layer's slopes or channels up to which odd ones are not worth a word.
FEW = 0.05

# The standard deviation over images of what a batch norm gives out, below which a channel is its
# bias, whatever the image shows; a fresh batch norm gives out 1.
DEAD_OUTPUT = 1e-3

START_SLOPE = 0.25  # of PReLU: torch and He et al., arXiv:1502.01852
NEAR = 0.01  # a slope this near to its start has not moved; one this near to 0 makes a ReLU
ALMOST_LINEAR = 0.1  # a slope this near to 1 hardly bends
MOSTLY = 0.95  # share of slopes for a verdict about a layer

# What a residual branch adds, in units of its shortcut. In healthy networks the later blocks only
# refine (Jastrzebski et al., arXiv:1710.04773), and branches of a tenth are common: the limits lie
# below. A block of less than a hundredth could be taken out.
ALMOST_IDENTITY = 0.01
STARVED = 0.05
HIDES_SHORTCUT = 10.0

# The gradient of a shortcut's layer over the largest of its block, below which the block learns
# through its branch alone.
STARVED_GRADIENT = 0.05


class SlopeStatistics(TypedDict):
    """Least, mean and greatest slope of a PReLU, and the share of them not in [0, 1]."""

    min: float
    mean: float
    max: float
    outside: float


def slope_statistics(slopes: Tensor) -> SlopeStatistics:
    """Describe the slopes of a PReLU.

    A slope below 0 folds the negative half over, one above 1 makes it the steeper half: neither is
    what a leaky rectifier is for, and a few of them do no harm.
    """
    return {
        "min": slopes.min().item(),
        "mean": slopes.mean().item(),
        "max": slopes.max().item(),
        "outside": ((slopes < 0) | (slopes > 1)).float().mean().item(),
    }


def many_outside(share: float) -> bool:
    """Judge a share of slopes outside [0, 1]."""
    return share > FEW


def near_share(slopes: Tensor, value: float, *, distance: float = NEAR) -> float:
    """Return the share of slopes at most so far from a value."""
    return ((slopes - value).abs() <= distance).float().mean().item()


def judge_slopes(slopes: Tensor, start: float = START_SLOPE) -> str:
    """Judge the slopes of a PReLU.

    Args:
        slopes: of one layer.
        start: what they were before training.
    """
    if not slopes.isfinite().all():
        return NOT_FINITE
    if near_share(slopes, start) >= MOSTLY:
        return AS_AT_THE_START
    if near_share(slopes, 0) >= MOSTLY:
        return "almost ReLU"
    if near_share(slopes, 1, distance=ALMOST_LINEAR) >= MOSTLY:
        return "almost linear"
    return "many outside [0, 1]" if many_outside(slope_statistics(slopes)["outside"]) else FINE


def normalised_deviation(norm: _BatchNorm) -> Tensor:
    """Return the standard deviation of each channel before a batch norm's gain.

    It is 1 but for channels that vary so little that the norm's epsilon shows.
    """
    variance = _running_variance(norm)
    return (variance / (variance + norm.eps)).sqrt()


def gains(norm: _BatchNorm) -> Tensor:
    """Return the absolute gain of each channel of a batch norm."""
    if norm.weight is None:  # affine=False
        return torch.ones_like(_running_variance(norm))
    return norm.weight.detach().float().abs()


def dead_channels(norm: _BatchNorm) -> Tensor:
    """Tell which channels of a batch norm carry nothing: True where the output hardly deviates."""
    return normalised_deviation(norm) * gains(norm) < DEAD_OUTPUT


def many_dead(share: float) -> bool:
    """Judge a share of dead channels."""
    return share > FEW


def judge_batch_norm(norm: _BatchNorm) -> str:
    """Judge the channels of a batch norm."""
    tensors = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    if not all(each.isfinite().all() for each in tensors if each is not None):
        return NOT_FINITE
    if norm.num_batches_tracked == 0:
        return "never trained"
    dead = int(dead_channels(norm).sum())
    if dead == norm.num_features:
        return "all channels dead"
    return f"dead channels: {dead}" if many_dead(dead / norm.num_features) else FINE


def judge_branch(ratio: float) -> str:
    """Judge a residual branch.

    Args:
        ratio: its output over its shortcut: measured norms in a training, in a finished model the
            gain that the branch, normalised, gets.
    """
    if not math.isfinite(ratio):
        return NOT_FINITE
    if ratio < ALMOST_IDENTITY:
        return "almost identity"
    if ratio < STARVED:
        return "starved branch"
    return "hidden shortcut" if ratio > HIDES_SHORTCUT else FINE


def starved_gradient(share: float) -> bool:
    """Judge the gradient of a shortcut's layer, as a share of the largest of its block."""
    return share < STARVED_GRADIENT


def _running_variance(norm: _BatchNorm) -> Tensor:
    assert norm.running_var is not None, "a norm without running statistics cannot be judged"
    return norm.running_var.detach().float()
