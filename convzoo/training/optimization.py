"""Group the parameters, build the optimizer, and keep PReLU slopes within limits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from convzoo.recipe.settings import Optimizer
from convzoo.training.lamb import Lamb

# Weight-decay rules: (name, parameter) -> bool.
DECAYED: dict[str, Callable[[str, torch.Tensor], bool]] = {
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
    *,
    weight_decay_on: str = "kernels",
    layer_decay: float = 1.0,
    stage_of: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """Group the trainable parameters by weight decay and stage; frozen ones are left out.

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
    groups: dict[tuple[bool, float], list[torch.nn.Parameter]] = {}
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
    *,
    layer_decay: float = 1.0,
    stage_of: Mapping[str, int] | None = None,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """Build the recipe's optimizer over `parameter_groups`.

    Before each step, a group's `lr` is to be set to the learning rate times its `lr_scale`.

    Args:
        model: any module.
        settings: the recipe's section.
        layer_decay: see `parameter_groups`.
        stage_of: see `parameter_groups`.
        fused: PyTorch's argument of SGD and AdamW: one kernel for all of a step; None leaves the
            choice to PyTorch, which takes several.
    """
    groups = parameter_groups(
        model,
        settings.weight_decay,
        weight_decay_on=settings.weight_decay_on,
        layer_decay=layer_decay,
        stage_of=stage_of,
    )
    if settings.name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            fused=fused,
        )
    rate, (first, second), eps = settings.learning_rate, settings.betas, settings.eps
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(first, second), eps=eps, fused=fused)
    return Lamb(groups, lr=rate, betas=(first, second), eps=eps)


@torch.no_grad()
def clamp_slopes(model: torch.nn.Module, limits: Sequence[float]) -> None:
    """Clamp the PReLU slopes that are trained to [low, high]; to be called after each step."""
    low, high = limits
    prelus = [module for module in model.modules() if isinstance(module, torch.nn.PReLU)]
    slopes: list[torch.Tensor] = [prelu.weight for prelu in prelus if prelu.weight.requires_grad]
    if slopes:
        torch._foreach_clamp_min_(slopes, low)
        torch._foreach_clamp_max_(slopes, high)
