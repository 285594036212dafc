"""A moving average of the weights, which is evaluated and published instead of the last ones."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch


class ModelEma:
    """Exponential moving average of a model's parameters and batch-norm statistics, in float32.

    Integer buffers (batch counters) are not averaged: the model's own stay in place. The statistics
    are those of this process.

    Args:
        model: where the average starts, on its device; without a wrapper of DDP or torch.compile.
        decay: of the average in one update, on [0, 1].
        warmup: let the decay rise from 0.1, as (1 + n) / (10 + n) after n updates, so that the
            first weights are soon forgotten.

    Source: torch.optim.swa_utils for the average, TensorFlow's ExponentialMovingAverage for the
    warm-up.
    """

    def __init__(self, model: torch.nn.Module, decay: float, *, warmup: bool = True):
        self.decay = decay
        self.warmup = warmup
        self.num_updates = 0
        self.averages = {
            name: tensor.detach().to(torch.float32, copy=True)
            for name, tensor in _floating(model).items()
        }

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Move the average towards the model's weights; to be called after an optimizer step."""
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.num_updates) / (10 + self.num_updates))
        values = [tensor.float() for tensor in _floating(model).values()]
        torch._foreach_lerp_(list(self.averages.values()), values, 1 - decay)
        self.num_updates += 1

    @contextmanager
    def applied_to(self, model: torch.nn.Module) -> Iterator[None]:
        """Give the model the averaged weights in this block, and its own bits back after it.

        What the block changes, such as batch-norm statistics, is changed in the average.
        """
        tensors = list(_floating(model).values())
        own = [tensor.detach().clone() for tensor in tensors]
        _copy(tensors, self.averages.values())
        try:
            yield
        finally:
            _copy(self.averages.values(), tensors)
            _copy(tensors, own)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates, and the averages by name (not copies)."""
        return {"num_updates": self.num_updates, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a saved state, wherever its tensors are.

        Raises:
            ValueError: if it is of another model.
        """
        averages = state["averages"]
        if averages.keys() != self.averages.keys():
            differing = sorted(averages.keys() ^ self.averages.keys())
            raise ValueError(
                f"averaged weights must have the model's names; these are on one side only: "
                f"{', '.join(differing[:5])}. Load the state that was saved with this model"
            )
        self.num_updates = state["num_updates"]
        _copy(self.averages.values(), [averages[name] for name in self.averages])


def _floating(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Collect parameters and floating buffers by name."""
    named = chain(model.named_parameters(), model.named_buffers())
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}


@torch.no_grad()
def _copy(targets: Iterable[torch.Tensor], sources: Iterable[torch.Tensor]) -> None:
    torch._foreach_copy_(list(targets), list(sources))
