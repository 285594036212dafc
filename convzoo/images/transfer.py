"""Copy what was drawn on the CPU to the device of a batch, without waiting for that device."""

import torch


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy small CPU values to a device.

    A copy from ordinary memory to a GPU makes the CPU wait until the GPU has done all that was
    asked of it so far. From pinned memory the copy only takes its place in that queue.
    """
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
