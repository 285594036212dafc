"""Training crops on uint8 pixels, and the normalisation of whole batches on the device.

Images stay uint8 until they are a batch: resizing uint8 is several times faster than float, a
batch is a quarter of the size on its way to the device, and normalisation is one fused pass
there. The randomness of a sample is a function of (seed, sample number), so neither worker count
nor resuming changes a pixel.
"""

from collections.abc import Callable

import numpy as np
import torch

from convzoo.images.color import ColorJitter, PcaColorOffset, PcaColorStretch
from convzoo.images.crops import crop_size_at, random_resized_box, resize, resize_shorter_side
from convzoo.images.decoding import JpegCrops
from convzoo.images.erasing import Box, erasing_boxes
from convzoo.images.policies import parse_policy
from convzoo.recipe.settings import Augmentation, Preprocessing

Operation = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # on RGB uint8


def sample_rng(seed: int, position: int) -> np.random.Generator:
    """Return the random generator of sample number `position` of a run."""
    return np.random.default_rng([seed, position])


class TrainTransform:
    """Turn pixels of any size into an augmented square crop.

    Args:
        augmentation: the recipe's section.
        preprocessing: the recipe's section; for size and resize filter of the crops that
            [augmentation] does not set.
        num_channels: 3 for RGB, 1 for grey.
        growing: steps in which the crops grow from augmentation.first_crop to their full size.

    Raises:
        ValueError: if settings do not fit together.
    """

    def __init__(
        self,
        augmentation: Augmentation,
        preprocessing: Preprocessing,
        *,
        num_channels: int = 3,
        growing: range = range(0),
    ):
        full_crop = augmentation.full_crop or preprocessing.crop
        if augmentation.first_crop > full_crop:
            key = "augmentation.full_crop" if augmentation.full_crop else "preprocessing.crop"
            raise ValueError(
                f"augmentation.first_crop must be at most {key}, {full_crop}; got "
                f"{augmentation.first_crop}"
            )
        self.augmentation = augmentation
        self.size = full_crop
        self.resized_per_crop = preprocessing.resize / preprocessing.crop
        self.num_channels = num_channels
        self.growing = growing
        self.filters = {
            "same": (preprocessing.interpolation,),
            "random": ("bilinear", "bicubic"),
        }.get(augmentation.interpolation, (augmentation.interpolation,))
        self.operations = _operations(augmentation)
        if self.operations and num_channels != 3:
            raise ValueError(
                f"augmentation.color_jitter, policy and pca_noise need images of 3 channels; got "
                f"model.num_channels={num_channels}. Leave them out"
            )

    def size_at(self, step: int) -> int:
        """Return the side of the crops at a step, pixels."""
        return crop_size_at(
            step,
            first_crop=self.augmentation.first_crop,
            full_crop=self.size,
            growing=self.growing,
        )

    def __call__(
        self,
        image: np.ndarray | JpegCrops,
        rng: np.random.Generator,
        *,
        size: int | None = None,
    ) -> np.ndarray:
        """Crop, flip, then jitter colours and apply policy and colour noise as the recipe says.

        Args:
            image: uint8, (height, width, num_channels), or what `open_for_cropping` gives.
            rng: the only source of randomness.
            size: side of the crop, pixels; the full one if None.

        Returns:
            uint8, (size, size, num_channels).
        """
        size = size or self.size
        interpolation = self.filters[0]
        if len(self.filters) > 1:
            interpolation = self.filters[rng.integers(len(self.filters))]
        if self.augmentation.crop == "random_resized":
            crop = self._random_resized_crop(image, rng, size=size, interpolation=interpolation)
        else:
            crop = self._crop_of_resized(image, rng, size=size, interpolation=interpolation)
        if rng.random() < self.augmentation.horizontal_flip:
            # Not crop[:, ::-1]: negative strides make every later copy slow.
            crop = torch.from_numpy(crop).flip(1).numpy()
        for operation in self.operations:
            crop = operation(crop, rng)
        return crop

    def _random_resized_crop(
        self,
        image: np.ndarray | JpegCrops,
        rng: np.random.Generator,
        *,
        size: int,
        interpolation: str,
    ) -> np.ndarray:
        settings = self.augmentation
        top, left, height, width = random_resized_box(
            image.shape[:2], rng, scale=settings.scale, ratio=settings.ratio
        )
        box = image[top : top + height, left : left + width]
        return resize(box, (size, size), interpolation=interpolation)

    def _crop_of_resized(
        self,
        image: np.ndarray | JpegCrops,
        rng: np.random.Generator,
        *,
        size: int,
        interpolation: str,
    ) -> np.ndarray:
        """Resize the shorter side, then crop at the centre or anywhere."""
        settings, shorter = self.augmentation, size
        if settings.crop == "random":
            shorter = round(self.resized_per_crop * size)
        resized = resize_shorter_side(image[:, :], shorter, interpolation=interpolation)
        if settings.crop == "padded":
            pad = settings.padding
            resized = np.pad(resized, ((pad, pad), (pad, pad), (0, 0)))
        if settings.crop == "center":
            top, left = ((side - size) // 2 for side in resized.shape[:2])
        else:
            top, left = (int(rng.integers(side - size + 1)) for side in resized.shape[:2])
        return resized[top : top + size, left : left + size]

    def erasing_boxes(self, rng: np.random.Generator, size: int | None = None) -> list[Box]:
        """Draw the boxes of the crop that are to be erased after normalising."""
        settings, size = self.augmentation, size or self.size
        if not settings.erasing:
            return []
        return erasing_boxes(
            (size, size),
            rng,
            probability=settings.erasing,
            area=settings.erasing_area,
            ratio=settings.erasing_ratio,
            max_count=settings.erasing_max_count,
        )


def _operations(augmentation: Augmentation) -> list[Operation]:
    """List what happens to the finished crop."""
    operations: list[Operation] = []
    if any(augmentation.color_jitter):
        names = ("brightness", "contrast", "saturation", "hue")  # of which the last may be absent
        widths = dict(zip(names, augmentation.color_jitter, strict=False))
        operations.append(ColorJitter(**widths))
    if augmentation.policy:
        operations.append(parse_policy(augmentation.policy))
    if augmentation.pca_noise != "none":
        noises = {"offset": PcaColorOffset, "stretch": PcaColorStretch}
        operations.append(noises[augmentation.pca_noise]())
    return operations
