"""Boxes in images, as random erasing fills them and CutMix replaces them."""

import torch


def inside_boxes(
    *,
    top: torch.Tensor,
    bottom: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    size: tuple[int, int],
) -> torch.Tensor:
    """Tell which pixels lie in each box, (..., height, width), on the device of the boxes.

    Args:
        top: first row of each box, (...); an empty box has no pixel.
        bottom: one past its last row.
        left: its first column.
        right: one past its last column.
        size: height, width of the images in pixels.
    """
    y, x = (torch.arange(side, device=top.device) for side in size)
    rows = (top[..., None] <= y) & (y < bottom[..., None])
    columns = (left[..., None] <= x) & (x < right[..., None])
    return rows[..., :, None] & columns[..., None, :]
