"""Time on a device, and what a network would have to move in the best case."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def timed(call: Callable[[], object], device: torch.device, *, count: int) -> float:
    """Return the seconds of one call, from `count` calls in a row.

    On a GPU by its own events: what the CPU does beside it does not count unless the GPU waits.
    """
    if device.type != "cuda":
        start_time = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start_time) / count
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / count


def repeated(
    call: Callable[[], object], device: torch.device, *, count: int, repeats: int = 5
) -> list[float]:
    """Return the seconds of one call, of each repeat, after a warm-up."""
    timed(call, device, count=2)
    return [timed(call, device, count=count) for _ in range(repeats)]


def spread(images: int, seconds: list[float]) -> dict[str, Any]:
    """Return images per second and milliseconds: median, and least and most of the repeats."""
    rates = sorted(images / each for each in seconds)
    return {
        "images_per_second": round(statistics.median(rates), 1),
        "images_per_second_least": round(rates[0], 1),
        "images_per_second_most": round(rates[-1], 1),
        "milliseconds": round(1000 * statistics.median(seconds), 4),
        "repeats": len(seconds),
    }


LAYERS = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)


def bytes_of_a_step(
    model: nn.Module, pixels: int, *, batch: int, width: int, training: bool
) -> float:
    """Estimate the bytes that a step must move between memory and processor, in the best case.

    The best case: no tensor is kept near the processor from one layer to the next, and everything
    between two convolutions but the statistics of batch norm (normalising, activation, residual
    addition, pooling) is part of a neighbour's pass. Elements of `width` bytes:

    - convolution or linear layer: forward, the input is read and the output written; backward, the
      gradient of the output is read twice and the input once, the gradient of the input written;
    - batch norm: forward, its input is read once more for the statistics (in training); backward,
      input and gradient are read once more for its sums, and once for its gradient, which is
      written;
    - parameters: forward and backward read them in `width` bytes; the optimizer, SGD with momentum
      in float32, reads and writes weight and momentum and reads the gradient, which was written
      (24 bytes).

    A program that recomputes or fuses more can move less: the floor is one of this execution.

    Args:
        model: a copy on the meta device.
        pixels: side of the images.
        batch: number of images.
        width: bytes of an activation.
        training: forward, backward and optimizer, or forward only.
    """
    elements = 0.0

    def count(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        nonlocal elements
        read, written = inputs[0].numel(), output.numel()
        if isinstance(module, nn.Conv2d | nn.Linear):
            elements += read + written + (2 * written + 2 * read if training else 0)
        elif training:
            elements += read + 5 * read

    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    handles = [module.register_forward_hook(count) for module in layers]
    model.train(training)
    with torch.no_grad():
        model(torch.empty(1, 3, pixels, pixels, device="meta"))
    for handle in handles:
        handle.remove()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    weights = parameters * ((2 * width + 24) if training else width)
    return elements * batch * width + weights


def flops_of_a_step(model: nn.Module, pixels: int, *, batch: int, training: bool) -> float:
    """Return multiplications and additions of a step's convolutions; backward counts as two."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    model.train(training)
    with torch.no_grad(), counter:
        model(torch.empty(1, 3, pixels, pixels, device="meta"))
    return float(counter.get_total_flops() * batch * (3 if training else 1))
