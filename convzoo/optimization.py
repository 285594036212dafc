"""Parameter groups, optimizer, and the learning rate as a pure function of the step."""

import math

import torch

from convzoo.recipe import Optimizer, Schedule


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Decay kernels, and nothing with one dimension or none.

    The number of dimensions decides: it exempts norm gains, biases, residual scales and PReLU
    slopes (He et al., "Delving Deep into Rectifiers", arXiv:1502.01852, section 2: decay drives
    slopes to 0).
    """
    decayed, free = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 else free).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def build_optimizer(model: torch.nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """The recipe's optimizer over `parameter_groups`."""
    groups = parameter_groups(model, settings.weight_decay)
    if settings.name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
        )
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps
    )


def learning_rate_at(
    step: int, peak: float, schedule: Schedule, total_steps: int, warmup_steps: int
) -> float:
    """Learning rate of an optimizer step, 0-based.

    Args:
        step: in [0, total_steps).
        peak: where the warm-up ends.
        schedule: the recipe's section.
        total_steps: steps of the whole run; a cosine reaches its end there.
        warmup_steps: steps of the linear rise.
    """
    if step < warmup_steps:
        start = schedule.warmup_learning_rate
        return start + (peak - start) * step / warmup_steps
    if schedule.name == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    floor = schedule.min_learning_rate
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))
