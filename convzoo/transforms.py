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
from convzoo.decoding import JpegCrops
from convzoo.recipe import Augmentation, Preprocessing


def sample_rng(seed: int, position: int) -> np.random.Generator:
    """The random generator of sample number `position` of a run."""
    return np.random.default_rng([seed, position])


def crop_size_at(step: int, first_crop: int, full_crop: int, growing_steps: int) -> int:
    """Side of the training crops at a step, pixels: a straight line from first to full.

    It is a multiple of 32, as the strides of most networks want it, or of 4 where the full crop is
    smaller than 64.

    Args:
        step: 0-based.
        first_crop: side at step 0, before rounding; 0 for the full side at every step.
        full_crop: side from step `growing_steps` on.
        growing_steps: length of the line.
    """
    if not first_crop or step >= growing_steps:
        return full_crop
    multiple = 32 if full_crop >= 64 else 4
    side = first_crop + (full_crop - first_crop) * step / growing_steps
    return min(full_crop, max(1, round(side / multiple)) * multiple)


class TrainTransform:
    """Pixels of any size to an augmented square crop.

    Args:
        augmentation: the recipe's section.
        preprocessing: the recipe's section; for the size and resize filter of the crops.
        num_channels: 3 for RGB, 1 for grey.
        growing_steps: steps until the crops have grown from augmentation.first_crop to their size.

    Raises:
        ValueError: if settings do not fit together.
    """

    def __init__(
        self,
        augmentation: Augmentation,
        preprocessing: Preprocessing,
        num_channels: int = 3,
        growing_steps: int = 0,
    ):
        if augmentation.first_crop > preprocessing.crop:
            raise ValueError(
                f"augmentation.first_crop must be at most preprocessing.crop, "
                f"{preprocessing.crop}; got {augmentation.first_crop}"
            )
        self.augmentation = augmentation
        self.size = preprocessing.crop
        self.resized = preprocessing.resize
        self.num_channels = num_channels
        self.growing_steps = growing_steps
        self.filters = {
            "same": (preprocessing.interpolation,),
            "random": ("bilinear", "bicubic"),
        }.get(augmentation.interpolation, (augmentation.interpolation,))
        self.operations = []  # on the finished crop
        if any(augmentation.color_jitter):
            self.operations.append(ColorJitter(*augmentation.color_jitter))
        if augmentation.policy:
            self.operations.append(parse_policy(augmentation.policy))
        if augmentation.pca_noise != "none":
            noises = {"offset": PcaColorOffset, "stretch": PcaColorStretch}
            self.operations.append(noises[augmentation.pca_noise]())
        if self.operations and num_channels != 3:
            raise ValueError(
                f"augmentation.color_jitter, policy and pca_noise need pictures of 3 channels; got "
                f"model.num_channels={num_channels}. Leave them out"
            )

    def size_at(self, step: int) -> int:
        """Side of the crops at a step, pixels."""
        return crop_size_at(step, self.augmentation.first_crop, self.size, self.growing_steps)

    def __call__(
        self,
        image: np.ndarray | JpegCrops,
        rng: np.random.Generator,
        size: int | None = None,
    ) -> np.ndarray:
        """Crop, flip, then colour jitter, policy and colour noise where the recipe has them.

        Args:
            image: uint8, (height, width, num_channels), or what `open_for_cropping` gives.
            rng: the only source of randomness.
            size: side of the crop, pixels; preprocessing.crop if None.

        Returns:
            uint8, (size, size, num_channels).
        """
        settings, size = self.augmentation, size or self.size
        interpolation = self.filters[0]
        if len(self.filters) > 1:
            interpolation = self.filters[rng.integers(len(self.filters))]
        if settings.crop == "random_resized":
            box = random_resized_box(image.shape[:2], settings.scale, settings.ratio, rng)
            top, left, height, width = box
            image = image[top : top + height, left : left + width]
            image = resize(image, size, size, interpolation)
        else:
            shorter = size
            if settings.crop == "random":
                shorter = round(self.resized * size / self.size)
            image = _resize_shorter_side(image[:, :], shorter, interpolation)
            if settings.crop == "padded":
                pad = settings.padding
                image = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
            if settings.crop == "center":
                top, left = ((side - size) // 2 for side in image.shape[:2])
            else:
                top, left = (int(rng.integers(side - size + 1)) for side in image.shape[:2])
            image = image[top : top + size, left : left + size]
        if rng.random() < settings.horizontal_flip:
            # Not image[:, ::-1]: negative strides make every later copy slow.
            image = torch.from_numpy(image).flip(1).numpy()
        for operation in self.operations:
            image = operation(image, rng)
        return image

    def erasing_boxes(
        self, rng: np.random.Generator, size: int | None = None
    ) -> list[tuple[int, int, int, int]]:
        """Boxes (top, left, height, width) of the crop that are to be erased after normalising."""
        settings, size = self.augmentation, size or self.size
        if not settings.erasing:
            return []
        return erasing_boxes(
            (size, size),
            rng,
            settings.erasing,
            settings.erasing_area,
            settings.erasing_ratio,
            settings.erasing_max_count,
        )


def _resize_shorter_side(image, side, interpolation):
    height, width = image.shape[:2]
    short = min(height, width)
    if short == side:
        return image
    return resize(image, int(height * side / short), int(width * side / short), interpolation)


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
    """Antialiased resize of uint8 pixels, (H, W, C) to (height, width, C)."""
    if image.shape[:2] == (height, width):
        return image
    # The new axis first: torch sees channels-last memory only in this order of the two.
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # (1, C, H, W), channels last
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
