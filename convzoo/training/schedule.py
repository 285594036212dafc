"""The learning rate as a pure function of the optimizer step."""

import math
from collections.abc import Sequence

from convzoo.recipe.settings import Schedule


def learning_rate_at(
    step: int,
    peak: float,
    schedule: Schedule,
    *,
    total_steps: int,
    steps_per_epoch: float,
    plateau_history: Sequence[float] = (),
) -> float:
    """Compute the learning rate of a step, from its arguments alone: resuming is exact.

    Args:
        step: its number, in [0, total_steps).
        peak: where the warm-up ends.
        schedule: the recipe's section.
        total_steps: steps of the whole run; cosine, linear and one_cycle reach their end there.
        steps_per_epoch: images / global batch; need not be an integer.
        plateau_history: the metric of each evaluation before this step, in order; lower is better.

    Source: for the shapes, torch.optim.lr_scheduler (StepLR, ReduceLROnPlateau, OneCycleLR and
    CosineAnnealingWarmRestarts); for the warm-up, warmup_first and cycle_decay, timm 1.0.31,
    scheduler/cosine_lr.py.
    """
    position, warmup = float(step), float(round(schedule.warmup_epochs * steps_per_epoch))
    if schedule.per_epoch:  # where the epoch began, maybe within a step
        position = int(step / steps_per_epoch + 1e-9) * steps_per_epoch
        warmup = schedule.warmup_epochs * steps_per_epoch
    if position < warmup:
        start = schedule.warmup_learning_rate
        return start + (peak - start) * position / warmup
    end = float(total_steps)
    if schedule.warmup_first:
        position, end = position - warmup, end - warmup
    floor = schedule.min_learning_rate
    match schedule.name:
        case "constant":
            return peak
        case "cosine":
            return _cosine(peak, floor, position / max(1, end))
        case "linear":
            return peak + (floor - peak) * position / max(1, end)
        case "step":
            count = int(position / (schedule.step_epochs * steps_per_epoch) + 1e-9)
            return peak * schedule.factor**count
        case "plateau":
            return peak * schedule.factor ** _plateaus(schedule, plateau_history)
        case "one_cycle":
            return _one_cycle(peak, schedule, position=position, end=end)
        case "restarts":
            length = schedule.cycle_epochs * steps_per_epoch
            while position > length - 1e-6:
                position, length = position - length, length * schedule.cycle_growth
                peak *= schedule.cycle_decay
            return _cosine(peak, floor, max(0, position) / length)
    raise AssertionError(f"the recipe lets no schedule {schedule.name!r} pass")


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def _one_cycle(peak: float, schedule: Schedule, *, position: float, end: float) -> float:
    top = schedule.rise * end - 1
    if position < top:
        return _cosine(peak * schedule.start_factor, peak, position / top)
    fall = (position - top) / max(1e-9, end - 1 - top)
    return _cosine(peak, peak * schedule.end_factor, fall)


def _plateaus(schedule: Schedule, history: Sequence[float]) -> int:
    """Count how often ReduceLROnPlateau would have reduced the learning rate."""
    best, waited, count = math.inf, 0, 0
    for value in history:
        if value < best * (1 - schedule.plateau_threshold):
            best, waited = value, 0
        else:
            waited += 1
        if waited > schedule.plateau_patience:
            waited, count = 0, count + 1
    return count
