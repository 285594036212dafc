"""Handle the signals that end a run: SIGTERM from a scheduler, Ctrl-C from a person.

A process that is told to end finishes its step, saves a checkpoint and exits with status 0; a
second Ctrl-C ends it at once. The data workers, which get the same signals, live on until it has
saved. A process that ends by an error takes its workers with it at once.
"""

import atexit
import ctypes
import multiprocessing
import os
import signal
import sys
from types import FrameType

import torch
from accelerate import Accelerator

AGREE_EVERY_STEPS = 10  # several processes ask each other that often whether one was told to end
WORKER_SECONDS = 120  # how long a data worker outlives a signal; a slow disk takes long to save


class StopRequest:
    """Remembers that this process was told to end.

    Args:
        accelerator: the processes that must stop after the same step.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.signal: str | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)
        if "ACCELERATE_MIXED_PRECISION" in os.environ:  # set by `accelerate launch`
            follow_parent()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        if number == signal.SIGINT:  # SIGTERM may come twice: from a scheduler, and follow_parent
            signal.signal(number, signal.SIG_DFL)

    def agreed(self, steps_done: int) -> bool:
        """Tell whether all processes stop now; all must ask after each step."""
        if self.accelerator.num_processes == 1:
            return self.signal is not None
        if steps_done % AGREE_EVERY_STEPS:
            return False
        told = torch.tensor(float(self.signal is not None), device=self.accelerator.device)
        return bool(self.accelerator.reduce(told, "sum").item())


def follow_parent() -> None:
    """Send this process SIGTERM when its parent ends (Linux only).

    `accelerate launch` with one process passes no signal on: killed alone, it would leave the
    training running.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def outlive_signals(worker_id: int) -> None:
    """Let a data worker live on when the processes are told to end; a `worker_init_fn`.

    The training process ends its workers when it has saved, or, with `_end_workers`, when it ends
    in any other way.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(WORKER_SECONDS))


def _end_workers() -> None:
    """Kill data workers that are left when this process ends.

    Else multiprocessing would send them SIGTERM, which they outlive, and wait for them. Registered
    after its own handler, this one runs before it.
    """
    if left := [child for child in multiprocessing.active_children() if child.daemon]:
        if hasattr(signal, "SIGCHLD"):  # PyTorch's handler would raise an error about their end
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for child in left:
            child.kill()


atexit.register(_end_workers)
