"""Layers by hand: what convolution, pooling, batch norm and PReLU compute, written out.

PyTorch runs such layers as kernels that nobody can read. Here each is a few additions,
multiplications and comparisons of tensors; the gradients follow from them. Values and gradients
equal PyTorch's to rounding, in every floating-point type: sums are taken in float32 or wider, and
the result has the type of the input. The weights are the same under the same names, so a
configuration chooses freely: layer_implementation is "builtin" or "by_hand". These layers are for
reading and checking; they take several times as long.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]  # for the height and for the width


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Convolve: each output pixel is a weighted sum over a window of the input.

    output[n, o, i, j] = bias[o] + sum over c, u, v of weight[o, c, u, v] * padded[n, c,
    i * stride + u * dilation, j * stride + v * dilation], where c runs over the channels of o's
    group. For one place (u, v) in the window that is a product of matrices, for all i and j.

    Args:
        x: maps, (N, C, H, W).
        weight: (O, C / groups, height, width).
        bias: (O,).
        stride: steps between windows.
        padding: rows and columns of zeros on each side.
        dilation: steps between the pixels of a window.
        groups: parts of the channels that do not see each other.

    Returns:
        (N, O, H', W') in the type of x.
    """
    wide = accumulation_type(x)
    height, width = padding
    padded = F.pad(x.to(wide), (width, width, height, height))
    weight_of_group = weight.to(wide).unflatten(0, (groups, -1))  # (groups, O / groups, ...)
    window = (weight.shape[2], weight.shape[3])
    total: Tensor | None = None
    for u, v, pixels in pixels_of_windows(padded, window, stride=stride, dilation=dilation):
        pixels_of_group = pixels.unflatten(1, (groups, -1))  # (N, groups, C / groups, H', W')
        product = torch.einsum("ngchw,goc->ngohw", pixels_of_group, weight_of_group[..., u, v])
        total = product if total is None else total + product
    assert total is not None
    output = total.flatten(1, 2)  # (N, O, H', W')
    if bias is not None:
        output = output + bias.to(wide).view(-1, 1, 1)
    return output.to(x.dtype)


def max_pool(
    x: Tensor, window: Pair, *, stride: Pair, padding: Pair = (0, 0), dilation: Pair = (1, 1)
) -> Tensor:
    """Take the largest pixel of each window, (N, C, H, W) -> (N, C, H', W').

    Among equal ones it is the first, row by row: that one gets the gradient. Padding never wins.
    """
    height, width = padding
    padded = F.pad(x, (width, width, height, height), value=-torch.inf)
    largest: Tensor | None = None
    for _, _, pixels in pixels_of_windows(padded, window, stride=stride, dilation=dilation):
        if largest is None:
            largest = pixels
        else:
            largest = torch.where((pixels > largest) | pixels.isnan(), pixels, largest)
    assert largest is not None
    return largest


def adaptive_average_pool(x: Tensor, size: Pair) -> Tensor:
    """Average over the cells of a grid, (N, C, H, W) -> (N, C, *size)."""
    return pool_cells(x.to(accumulation_type(x)), size, lambda cell, dim: cell.mean(dim)).to(
        x.dtype
    )


def adaptive_max_pool(x: Tensor, size: Pair) -> Tensor:
    """Take the largest pixel of each cell of a grid, (N, C, H, W) -> (N, C, *size)."""
    return pool_cells(x, size, lambda cell, dim: cell.max(dim).values)


def normalize_batch(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Give each channel mean 0 and variance 1, then its own gain and bias: weight * z + bias."""
    wide = accumulation_type(x)

    def of_channels(values: Tensor) -> Tensor:
        return values.to(wide).view(-1, 1, 1)

    z = (x.to(wide) - of_channels(mean)) / (of_channels(variance) + eps).sqrt()
    if weight is not None:
        z = z * of_channels(weight)
    if bias is not None:
        z = z + of_channels(bias)
    return z.to(x.dtype)


def prelu(x: Tensor, slopes: Tensor) -> Tensor:
    """Keep what is positive, multiply the rest by the slope of its channel (or of all)."""
    wide = x.to(accumulation_type(x))
    slope = slopes.to(wide.dtype).view(-1, *[1] * (x.ndim - 2))
    return torch.where(wide > 0, wide, slope * wide).to(x.dtype)


# What they are made of -------------------------------------------------------------------------


def accumulation_type(x: Tensor) -> torch.dtype:
    """Return the type to add up in: half-precision sums would lose digits with each term."""
    return torch.promote_types(x.dtype, torch.float32)


def pixels_of_windows(
    padded: Tensor, window: Pair, *, stride: Pair, dilation: Pair
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield, for each place (u, v) in a window, the pixels there of all windows at once.

    Raises:
        ValueError: if the image is smaller than the window.
    """
    counts = []
    for size, places, step, gap in zip(padded.shape[2:], window, stride, dilation, strict=True):
        reach = (places - 1) * gap + 1
        if size < reach:
            raise ValueError(
                f"maps with their padding must be at least as large as the window, {reach} pixels; "
                f"got {tuple(padded.shape[2:])}. Enlarge the images."
            )
        counts.append((size - reach) // step + 1)
    for u in range(window[0]):
        for v in range(window[1]):
            first_row, first_column = u * dilation[0], v * dilation[1]
            rows = slice(first_row, first_row + (counts[0] - 1) * stride[0] + 1, stride[0])
            columns = slice(first_column, first_column + (counts[1] - 1) * stride[1] + 1, stride[1])
            yield u, v, padded[:, :, rows, columns]


def pool_cells(x: Tensor, size: Pair, reduce: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Reduce the columns of each cell of a grid, then its rows; cells may overlap by a pixel.

    Cell i of n on a side of s pixels reaches from floor(i * s / n) to ceil((i + 1) * s / n).
    """
    for dim, count in ((3, size[1]), (2, size[0])):
        length = x.shape[dim]
        cells = []
        for i in range(count):
            start, end = i * length // count, -((i + 1) * length // -count)
            cells.append(reduce(x.narrow(dim, start, end - start), dim))
        x = torch.stack(cells, dim)
    return x


# As modules with the weights of PyTorch's ------------------------------------------------------


class Conv2dByHand(nn.Conv2d):
    """Convolution by `convolve`; under autocast in its type, as PyTorch's."""

    def forward(self, x: Tensor) -> Tensor:
        kind, dtype = x.device.type, x.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        weight = self.weight.to(dtype)
        with torch.autocast(kind, enabled=False):
            return convolve(
                x.to(dtype),
                weight,
                None if self.bias is None else self.bias.to(dtype),
                stride=_pair(self.stride),
                padding=_pair(self.padding),
                dilation=_pair(self.dilation),
                groups=self.groups,
            )


class MaxPool2dByHand(nn.MaxPool2d):
    """Max pooling by `max_pool`."""

    def forward(self, x: Tensor) -> Tensor:
        window = _pair(self.kernel_size)
        return max_pool(
            x,
            window,
            stride=_pair(self.stride),
            padding=_pair(self.padding),
            dilation=_pair(self.dilation),
        )


class AdaptiveAvgPool2dByHand(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling by `adaptive_average_pool`."""

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_average_pool(x, _pair(self.output_size))


class AdaptiveMaxPool2dByHand(nn.AdaptiveMaxPool2d):
    """Adaptive max pooling by `adaptive_max_pool`."""

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_max_pool(x, _pair(self.output_size))


class BatchNorm2dByHand(nn.BatchNorm2d):
    """Batch norm by `normalize_batch`, with the statistics of the batch or the running ones."""

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        if self.training or mean is None or variance is None:
            wide = x.to(accumulation_type(x))
            mean = wide.mean((0, 2, 3))
            variance = (wide - mean.view(-1, 1, 1)).square().mean((0, 2, 3))
            if self.training:
                self.update_statistics(mean.detach(), variance.detach(), count=x[:, 0].numel())
        return normalize_batch(x, mean, variance, weight=self.weight, bias=self.bias, eps=self.eps)

    def update_statistics(self, mean: Tensor, variance: Tensor, *, count: int) -> None:
        """Move the running statistics towards those of a batch of `count` pixels a channel.

        Raises:
            ValueError: if there is only one pixel, which has no variance.
        """
        if count == 1:
            raise ValueError(
                "training batches must have more than one pixel a channel where a batch norm is; "
                "got one. Take more or larger images."
            )
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:  # the average over all batches
            share = 1 / float(self.num_batches_tracked)
        # The mean is known from the same batch; one pixel less makes the variance unbiased.
        unbiased = variance * (count / (count - 1))
        for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.mul_(1 - share).add_(value.to(running.dtype), alpha=share)


class PReLUByHand(nn.PReLU):
    """PReLU by `prelu`; under autocast in its type, as PyTorch's."""

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        return prelu(x, self.weight.to(x.dtype))


BY_HAND: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Conv2dByHand,
    nn.MaxPool2d: MaxPool2dByHand,
    nn.AdaptiveAvgPool2d: AdaptiveAvgPool2dByHand,
    nn.AdaptiveMaxPool2d: AdaptiveMaxPool2dByHand,
    nn.BatchNorm2d: BatchNorm2dByHand,
    nn.PReLU: PReLUByHand,
}


def use_layers_by_hand(model: nn.Module) -> None:
    """Replace the layers inside a model that are written out here; weights stay the same."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            for builtin, by_hand in BY_HAND.items():
                if isinstance(layer, builtin):
                    twin = by_hand.__new__(by_hand)
                    twin.__dict__.update(layer.__dict__)  # settings, weights and marks
                    setattr(parent, name, twin)


def _pair(value: Any) -> Pair:
    """Give what PyTorch keeps as one number or two as two."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


__all__ = [
    "adaptive_average_pool",
    "adaptive_max_pool",
    "convolve",
    "max_pool",
    "normalize_batch",
    "prelu",
    "use_layers_by_hand",
]
