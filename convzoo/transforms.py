"""Training crops on uint8 pixels, and the normalisation of whole batches on the device.

Pictures stay uint8 until they are a batch: resizing uint8 is several times faster than float, a
batch is a quarter of the size on its way to the device, and normalisation is one fused pass
there. The randomness of a sample is a function of (seed, sample number), so neither worker count
nor resuming changes a pixel.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from convzoo.augmentation import ColorJitter, PcaColorOffset, PcaColorStretch, parse_policy
from convzoo.batch_augmentation import erasing_boxes
from convzoo.recipe import Augmentation


def sample_rng(seed: int, position: int) -> np.random.Generator:
    """The random generator of sample number `position` of a run."""
    return np.random.default_rng([seed, position])


class TrainTransform:
    """RGB pixels of any size to an augmented square crop.

    Args:
        augmentation: the recipe's section.
        size: side of the crop, pixels.
        interpolation: "bilinear" or "bicubic", antialiased.
    """

    def __init__(self, augmentation: Augmentation, size: int, interpolation: str):
        if interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                f"interpolation of training crops must be bilinear or bicubic; got "
                f"{interpolation!r}"
            )
        self.augmentation = augmentation
        self.size = size
        self.interpolation = interpolation
        self.operations = []  # on the finished crop
        if any(augmentation.color_jitter):
            self.operations.append(ColorJitter(*augmentation.color_jitter))
        if augmentation.policy:
            self.operations.append(parse_policy(augmentation.policy))
        if augmentation.pca_noise != "none":
            noises = {"offset": PcaColorOffset, "stretch": PcaColorStretch}
            self.operations.append(noises[augmentation.pca_noise]())

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Crop, flip, then colour jitter, policy and colour noise where the recipe has them.

        Args:
            image: RGB uint8, (height, width, 3).
            rng: the only source of randomness.

        Returns:
            RGB uint8, (size, size, 3).
        """
        settings = self.augmentation
        if settings.crop == "random_resized":
            box = random_resized_box(image.shape[:2], settings.scale, settings.ratio, rng)
            top, left, height, width = box
            image = image[top : top + height, left : left + width]
            image = resize(image, self.size, self.size, self.interpolation)
        else:
            image = self._shortest_side_to_size(image)
            if settings.crop == "padded":
                pad = settings.padding
                image = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
                top = int(rng.integers(image.shape[0] - self.size + 1))
                left = int(rng.integers(image.shape[1] - self.size + 1))
            else:
                top, left = ((side - self.size) // 2 for side in image.shape[:2])
            image = image[top : top + self.size, left : left + self.size]
        if rng.random() < settings.horizontal_flip:
            # Not image[:, ::-1]: negative strides make every later copy slow.
            image = torch.from_numpy(image).flip(1).numpy()
        for operation in self.operations:
            image = operation(image, rng)
        return image

    def erasing_boxes(self, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
        """Boxes (top, left, height, width) of the crop that are to be erased after normalising."""
        settings = self.augmentation
        if not settings.erasing:
            return []
        return erasing_boxes(
            (self.size, self.size),
            rng,
            settings.erasing,
            settings.erasing_area,
            settings.erasing_ratio,
            settings.erasing_max_count,
        )

    def _shortest_side_to_size(self, image):
        height, width = image.shape[:2]
        short = min(height, width)
        if short == self.size:
            return image
        height, width = (int(side * self.size / short) for side in (height, width))
        return resize(image, height, width, self.interpolation)


def random_resized_box(
    image_size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """A box of random area and shape, the Inception crop.

    Args:
        image_size: height, width in pixels.
        scale: smallest and largest share of the picture's area.
        ratio: smallest and largest width / height, drawn uniformly in its logarithm.
        rng: the only source of randomness.

    Returns:
        top, left, height, width; the largest centred box of an allowed ratio when ten draws do not
        fit, as torchvision does.

    Source: Szegedy et al., "Going Deeper with Convolutions", arXiv:1409.4842, section 6;
    torchvision.transforms.RandomResizedCrop.
    """
    image_height, image_width = image_size
    area = image_height * image_width
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        target = area * rng.uniform(*scale)
        shape = math.exp(rng.uniform(low, high))
        width, height = round(math.sqrt(target * shape)), round(math.sqrt(target / shape))
        if 0 < width <= image_width and 0 < height <= image_height:
            top = int(rng.integers(image_height - height + 1))
            left = int(rng.integers(image_width - width + 1))
            return top, left, height, width
    shape = min(max(image_width / image_height, ratio[0]), ratio[1])
    width = min(image_width, round(image_height * shape))
    height = min(image_height, round(image_width / shape))
    return (image_height - height) // 2, (image_width - width) // 2, height, width


def resize(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """Antialiased resize of uint8 pixels, (H, W, 3) to (height, width, 3)."""
    if image.shape[:2] == (height, width):
        return image
    # The new axis first: torch sees channels-last memory only in this order of the two.
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # (1, 3, H, W), channels last
    pixels = F.interpolate(pixels, size=(height, width), mode=interpolation, antialias=True)
    return pixels[0].permute(1, 2, 0).numpy()


class Normalize(torch.nn.Module):
    """uint8 batches to what the model expects: (pixel * rescale_factor - mean) / std.

    Args:
        rescale_factor: 1 / 255 for values on [0, 1], 1 to keep 0..255.
        mean: per channel, after rescaling.
        std: per channel, after rescaling.
    """

    def __init__(self, rescale_factor: float, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
        self.register_buffer("weight", (rescale_factor / std).float())
        self.register_buffer("bias", (-mean / std).float())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) uint8 to (N, C, H, W) float32 in channels-last memory."""
        num_images, height, width, channels = pixels.shape
        # In rows of width * channels: a CPU is slow to broadcast over an axis of three.
        rows = pixels.reshape(num_images * height, width * channels).float()
        torch.addcmul(self.bias.repeat(width), rows, self.weight.repeat(width), out=rows)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)
