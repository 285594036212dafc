"""Normalise whole batches of uint8 pixels on the device."""

import torch


class Normalize(torch.nn.Module):
    """Turn uint8 batches into what the model expects: (pixel * rescale_factor - mean) / std.

    Args:
        rescale_factor: 1 / 255 for values on [0, 1], 1 to keep 0..255.
        mean: per channel, after rescaling.
        std: per channel, after rescaling.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, *, rescale_factor: float, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        means = torch.tensor(mean, dtype=torch.float64)
        stds = torch.tensor(std, dtype=torch.float64)
        self.register_buffer("weight", (rescale_factor / stds).float())
        self.register_buffer("bias", (-means / stds).float())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise (N, H, W, C) uint8 to (N, C, H, W) float32 in channels-last memory."""
        num_images, height, width, channels = pixels.shape
        # In rows of width * channels: a CPU is slow to broadcast over an axis of three.
        rows = pixels.reshape(num_images * height, width * channels).float()
        torch.addcmul(self.bias.repeat(width), rows, self.weight.repeat(width), out=rows)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)
