"""Parameter groups, optimizer, and the learning rate as a pure function of the step."""

import math
from collections.abc import Mapping, Sequence

import torch

from convzoo.lamb import Lamb
from convzoo.recipe import Optimizer, Schedule

# Who is decayed: parameter name and tensor -> yes or no.
DECAYED = {
    # The number of dimensions decides: it exempts norm gains, biases, residual scales and PReLU
    # slopes (He et al., "Delving Deep into Rectifiers", arXiv:1502.01852, section 2: decay drives
    # slopes to 0).
    "kernels": lambda name, parameter: parameter.ndim > 1,
    "not_bias": lambda name, parameter: "bias" not in name,
    "all": lambda name, parameter: True,
}


def parameter_groups(
    model: torch.nn.Module,
    weight_decay: float,
    weight_decay_on: str = "kernels",
    layer_decay: float = 1.0,
    stage_of: Mapping[str, int] | None = None,
) -> list[dict]:
    """The trainable parameters by weight decay and stage; frozen ones are left out.

    Args:
        model: any module.
        weight_decay: of those who are decayed; 0 for the others.
        weight_decay_on: a key of DECAYED.
        layer_decay: learning rate of a stage over that of the one after it.
        stage_of: parameter name -> stage: 0 for the stem, the highest for the head; None where all
            shall have the same learning rate.

    Returns:
        Groups for a torch optimizer, each with `lr_scale`: its learning rate over the head's.
    """
    groups: dict[tuple[bool, float], list] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            later = max(stage_of.values()) - stage_of[name] if stage_of else 0
            key = (DECAYED[weight_decay_on](name, parameter), layer_decay**later)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay * decayed, "lr_scale": scale}
        for (decayed, scale), parameters in groups.items()
    ]


def build_optimizer(
    model: torch.nn.Module,
    settings: Optimizer,
    layer_decay: float = 1.0,
    stage_of: Mapping[str, int] | None = None,
) -> torch.optim.Optimizer:
    """The recipe's optimizer over `parameter_groups`.

    Before each step, a group's `lr` is to be set to the learning rate times its `lr_scale`.
    """
    groups = parameter_groups(
        model, settings.weight_decay, settings.weight_decay_on, layer_decay, stage_of
    )
    if settings.name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
        )
    kind = {"adamw": torch.optim.AdamW, "lamb": Lamb}[settings.name]
    return kind(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps)


@torch.no_grad()
def clamp_slopes(model: torch.nn.Module, limits: tuple[float, float]) -> None:
    """Clamp the PReLU slopes that are trained to [low, high]; to be called after each step."""
    low, high = limits
    prelus = [module for module in model.modules() if isinstance(module, torch.nn.PReLU)]
    slopes = [prelu.weight for prelu in prelus if prelu.weight.requires_grad]
    if slopes:
        torch._foreach_clamp_min_(slopes, low)
        torch._foreach_clamp_max_(slopes, high)


def learning_rate_at(
    step: int,
    peak: float,
    schedule: Schedule,
    total_steps: int,
    steps_per_epoch: float,
    plateau_history: Sequence[float] = (),
) -> float:
    """Learning rate of an optimizer step; a function of its arguments alone, so resuming is exact.

    Args:
        step: in [0, total_steps).
        peak: where the warm-up ends.
        schedule: the recipe's section.
        total_steps: steps of the whole run; cosine and one_cycle reach their end there.
        steps_per_epoch: images / global batch; need not be an integer.
        plateau_history: the metric of each evaluation before this step, in order; lower is better.

    Source: for the shapes, torch.optim.lr_scheduler (StepLR, ReduceLROnPlateau, OneCycleLR and
    CosineAnnealingWarmRestarts); for the warm-up, warmup_first and cycle_decay, timm 1.0.31,
    scheduler/cosine_lr.py.
    """
    position, warmup = step, round(schedule.warmup_epochs * steps_per_epoch)
    if schedule.per_epoch:  # where the epoch began, maybe within a step
        position = int(step / steps_per_epoch + 1e-9) * steps_per_epoch
        warmup = schedule.warmup_epochs * steps_per_epoch
    if position < warmup:
        start = schedule.warmup_learning_rate
        return start + (peak - start) * position / warmup
    if schedule.warmup_first:
        position, total_steps = position - warmup, total_steps - warmup
    floor = schedule.min_learning_rate
    match schedule.name:
        case "constant":
            return peak
        case "cosine":
            return _cosine(peak, floor, position / max(1, total_steps))
        case "step":
            count = int(position / (schedule.step_epochs * steps_per_epoch) + 1e-9)
            return peak * schedule.factor**count
        case "plateau":
            return peak * schedule.factor ** _plateaus(schedule, plateau_history)
        case "one_cycle":
            top = schedule.rise * total_steps - 1
            if position < top:
                return _cosine(peak * schedule.start_factor, peak, position / top)
            fall = (position - top) / max(1e-9, total_steps - 1 - top)
            return _cosine(peak, peak * schedule.end_factor, fall)
        case "restarts":
            length = schedule.cycle_epochs * steps_per_epoch
            while position > length - 1e-6:
                position, length = position - length, length * schedule.cycle_growth
                peak *= schedule.cycle_decay
            return _cosine(peak, floor, max(0, position) / length)


def _cosine(start, end, progress):
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def _plateaus(schedule, history):
    """How often ReduceLROnPlateau would have reduced the learning rate."""
    best, waited, count = math.inf, 0, 0
    for value in history:
        if value < best * (1 - schedule.plateau_threshold):
            best, waited = value, 0
        else:
            waited += 1
        if waited > schedule.plateau_patience:
            waited, count = 0, count + 1
    return count
