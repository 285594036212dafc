"""Share batch-norm statistics between processes.

Each process normalises with the statistics of its own share of a batch, and its running statistics
follow those. Running statistics are linear in the batches' statistics, so the mean over processes
of the running values is the running value of the mean, whenever it is taken.
"""

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn


def share_statistics(model: nn.Module, accelerator: Accelerator, how: str) -> None:
    """Give running means and variances the same values on all processes, in place.

    Args:
        model: the module inside DistributedDataParallel.
        accelerator: the processes; all must call this.
        how: "average", their mean (timm's `--dist-bn reduce`); "first", those of process 0 (what
            DistributedDataParallel keeps); "sync", nothing, because they are the same already.
    """
    if accelerator.num_processes == 1 or how == "sync":
        return
    running = [
        buffer
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        if any(parameter.requires_grad for parameter in module.parameters())  # not frozen
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
    if running:
        flat = torch.cat(running)  # one message for all layers
        flat = broadcast(flat) if how == "first" else accelerator.reduce(flat, "mean")
        for buffer, values in zip(running, flat.split([len(b) for b in running]), strict=True):
            buffer.copy_(values)
