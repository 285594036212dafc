"""LAMB, for batches of thousands of images: Adam's step, scaled to the size of each tensor.

Written here because no installed library has the variant of the recipes: NVIDIA's and timm's
corrects both moments' bias, decays inside the trust ratio and leaves undecayed tensors to Adam.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lamb(torch.optim.Optimizer):
    """Adam whose step is multiplied by |weights| / |step|, tensor by tensor.

    Tensors without weight decay (gains, biases, slopes) keep Adam's step. Clipping by the global
    norm, which other implementations include, is left to the training loop.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: of the averages of the gradient and of its square.
        eps: added to the root of the averaged square.
        weight_decay: factor of the weights in the step.

    Source: You et al., "Large Batch Optimization for Deep Learning", arXiv:1904.00962, algorithm 2;
    timm 1.0.31, optim/lamb.py.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(  # type: ignore[override]  # torch.no_grad hides the overloads of Optimizer.step
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Take one step over all parameters that have a gradient.

        Args:
            closure: computes the loss again; None as in most training loops.

        Returns:
            The closure's loss, or None.
        """
        loss = torch.enable_grad()(closure)() if closure else None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                group["step"] = group.get("step", 0) + 1
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        for parameter in parameters:
            if not self.state[parameter]:
                for key in ("exp_avg", "exp_avg_sq"):
                    self.state[parameter][key] = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]  # which none is
        averages = [self.state[parameter]["exp_avg"] for parameter in parameters]
        squares = [self.state[parameter]["exp_avg_sq"] for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)

        roots = torch._foreach_div(squares, 1 - beta2 ** group["step"])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        updates = torch._foreach_div(averages, 1 - beta1 ** group["step"])
        torch._foreach_div_(updates, roots)
        if group["weight_decay"]:
            torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])
            weight, update = (torch.stack(torch._foreach_norm(x)) for x in (parameters, updates))
            ratios = torch.where((weight > 0) & (update > 0), weight / update, 1.0)
            torch._foreach_mul_(updates, ratios.unbind())
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])
