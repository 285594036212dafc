"""Training crops on uint8 pixels, and the normalisation of whole batches on the device.

Images stay uint8 until they are a batch: resizing uint8 is several times faster than float, a
batch is a quarter of the size on its way to the device, and normalisation is one fused pass
there. The randomness of a sample is a function of (seed, sample number), so neither worker count
nor resuming changes a pixel.
"""

import numpy as np
import torch

from convzoo.images.color import ColorJitter, PcaColorOffset, PcaColorStretch
from convzoo.images.crops import crop_size_at, random_resized_box, resize, resize_shorter_side
from convzoo.images.decoding import JpegCrops
from convzoo.images.erasing import erasing_boxes
from convzoo.images.policies import parse_policy
from convzoo.recipe.settings import Augmentation, Preprocessing


def sample_rng(seed: int, position: int) -> np.random.Generator:
    """The random generator of sample number `position` of a run."""
    return np.random.default_rng([seed, position])


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
                f"augmentation.color_jitter, policy and pca_noise need images of 3 channels; got "
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
            image = resize_shorter_side(image[:, :], shorter, interpolation)
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
