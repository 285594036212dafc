"""Time forward passes of several networks in turns."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

LEAST_SECONDS = 0.5  # of a turn, so that the clock's steps do not matter


@dataclass(kw_only=True)
class Times:
    """What was measured of one network at one setting.

    Attributes:
        seconds: of each forward pass, by the clock (on GPUs by its events).
        processor_seconds: of each turn, per forward pass: of all threads; on GPUs the seconds.
    """

    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)

    def percentile(self, share: int) -> float:
        """Milliseconds that this share, in percent, of the passes took at most."""
        return float(np.percentile(self.seconds, share)) * 1000

    @property
    def processor_share(self) -> float:
        """Processor time of a pass over the clock's: 1 for a thread that nobody interrupts."""
        return statistics.median(self.processor_seconds) * 1000 / self.percentile(50)


def time_in_turns(
    networks: Sequence[nn.Module], x: Tensor, *, rounds: int, seconds: float = LEAST_SECONDS
) -> list[Times]:
    """Let each network compute for a while, then the next, and so on for some rounds.

    Args:
        networks: on the device of x.
        x: the batch.
        rounds: turns of each network, after one that is not counted.
        seconds: least length of a turn.
    """
    times = [Times() for _ in networks]
    clock = _gpu_clock if x.is_cuda else _cpu_clock
    with torch.inference_mode():
        for number in range(rounds + 1):
            for network, each in zip(networks, times, strict=True):
                passes, processor = clock(network, x, seconds if number else 0)
                if number:
                    each.seconds += passes
                    each.processor_seconds.append(processor / len(passes))
    return times


def ratios(ours: Times, peer: Times) -> list[float]:
    """Speed over that of a peer, turn by turn: median, least, most."""
    pairs = zip(ours.processor_seconds, peer.processor_seconds, strict=True)
    each = sorted(theirs / own for own, theirs in pairs)
    return [statistics.median(each), each[0], each[-1]]


def peak_bytes(network: nn.Module, x: Tensor) -> int:
    """Bytes of tensors that a forward pass holds at a time, beside weights and images."""
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats(x.device)
        before = torch.cuda.memory_allocated(x.device)
        with torch.inference_mode():
            network(x)
        return torch.cuda.max_memory_allocated(x.device) - before
    with (
        torch.inference_mode(),
        _no_stderr(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run,
    ):
        network(x)
    recorded: Any = run.profiler
    held = most = 0
    for event in recorded.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Send the process's stderr nowhere: PyTorch's profiler writes there whenever it starts."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


Clock = Callable[[nn.Module, Tensor, float], tuple[list[float], float]]


def _cpu_clock(network: nn.Module, x: Tensor, seconds: float) -> tuple[list[float], float]:
    passes: list[float] = []
    start = time.process_time()
    while not passes or sum(passes) < seconds:
        begin = time.perf_counter()
        network(x)
        passes.append(time.perf_counter() - begin)
    return passes, time.process_time() - start


def _gpu_clock(network: nn.Module, x: Tensor, seconds: float) -> tuple[list[float], float]:
    passes: list[float] = []
    while not passes or sum(passes) < seconds:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        network(x)
        end.record()
        end.synchronize()
        passes.append(begin.elapsed_time(end) / 1000)
    return passes, sum(passes)
