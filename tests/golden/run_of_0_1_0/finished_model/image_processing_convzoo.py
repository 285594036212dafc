"""Image processor of the zoo: the evaluation protocol of each model, in numbers.

Its steps are those of torchvision's evaluation transforms on Pillow images: convert the colours,
resize the shorter side, crop the centre, rescale and normalise. No stock image processor of
Transformers can express them: its centre crop rounds down where torchvision rounds to nearest,
which moves the 235 -> 224 crop of QLNet by one pixel. Pillow does the work whether or not
torchvision is installed, so a model sees the same pixels everywhere. Pictures are taken as they are
stored: an EXIF orientation is not applied (`pipeline` applies it before it calls the processor).
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB on [0, 1] pixels
IMAGENET_STD = (0.229, 0.224, 0.225)

PROTOCOLS = {
    # CNN and the one-tower AlexNet; torchvision's classic.
    "imagenet_bilinear_256": {"size": 256, "resample": Image.Resampling.BILINEAR},
    # QLNet: the ResNet-50 settings of the timm release it was trained with, 224 / 0.95 = 235.
    "imagenet_bicubic_235": {"size": 235, "resample": Image.Resampling.BICUBIC},
    # The reimplementation of the 2012 AlexNet: 0-255 pixels minus the mean. It resizes by OpenCV's
    # cubic filter, which does not antialias: single pixels differ by up to about 20 grey levels,
    # channel means by 0.2 (measured on four synthetic pictures).
    "mean_subtracted_bicubic_256": {
        "size": 256,
        "resample": Image.Resampling.BICUBIC,
        "rescale_factor": 1.0,
        "image_mean": (123.675, 116.28, 103.53),
        "image_std": (1.0, 1.0, 1.0),
    },
}


class ConvZooImageKwargs(TypedDict, total=False):
    """The parameters of ConvZooImageProcessor, which `from_pretrained` and calls may replace."""

    size: dict[str, int] | int
    resample: int
    crop_size: dict[str, int] | int
    num_channels: int
    rescale_factor: float
    image_mean: Sequence[float]
    image_std: Sequence[float]


class ConvZooImageProcessor(BaseImageProcessor):
    """Turns images into the `pixel_values` of a model of the zoo.

    Args:
        size: length of the shorter side after resizing, in pixels, or {"shortest_edge": length};
            the longer side keeps the aspect ratio, rounded down.
        resample: filter of `PIL.Image.Resampling`: 2 is bilinear, 3 bicubic, both antialiased.
        crop_size: side of the central square, or {"height": ..., "width": ...}; at most `size`.
        num_channels: 3 for RGB, 1 for grey.
        rescale_factor: multiplies pixels (0 to 255) before the mean is subtracted.
        image_mean: mean of each channel, after rescaling.
        image_std: divides each channel, after the mean was subtracted.
        kwargs: what else a preprocessor_config.json holds (`auto_map`).

    Raises:
        ValueError: if a parameter breaks its rule.
    """

    valid_kwargs = ConvZooImageKwargs
    model_input_names = ["pixel_values"]

    def __init__(
        self,
        size: dict[str, int] | int = 256,
        resample: int = Image.Resampling.BILINEAR,
        crop_size: dict[str, int] | int = 224,
        num_channels: int = 3,
        rescale_factor: float = 1 / 255,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size = {"shortest_edge": size} if isinstance(size, int) else dict(size)
        if isinstance(crop_size, int):
            crop_size = {"height": crop_size, "width": crop_size}
        self.crop_size = dict(crop_size)
        self.resample = int(resample)
        self.num_channels = num_channels
        self.rescale_factor = rescale_factor
        self.image_mean = [float(value) for value in image_mean]
        self.image_std = [float(value) for value in image_std]
        if self.size.keys() != {"shortest_edge"}:
            raise ValueError(f'size must be a number or {{"shortest_edge": number}}; got {size}')
        if self.crop_size.keys() != {"height", "width"}:
            raise ValueError(
                f'crop_size must be a number or have "height" and "width"; got {crop_size}'
            )
        if not 0 < max(self.crop_size.values()) <= self.size["shortest_edge"]:
            raise ValueError(f"crop_size must be at most size ({self.size}); got {self.crop_size}")
        if num_channels not in (1, 3):
            raise ValueError(f"num_channels must be 1 (grey) or 3 (RGB); got {num_channels}")
        if not len(self.image_mean) == len(self.image_std) == num_channels:
            raise ValueError(
                f"image_mean and image_std must have num_channels ({num_channels}) values; got "
                f"{self.image_mean} and {self.image_std}"
            )

    @classmethod
    def from_protocol(cls, name: str, **kwargs) -> "ConvZooImageProcessor":
        """Make the processor of a published evaluation protocol.

        Args:
            name: a key of PROTOCOLS.
            kwargs: parameters that replace those of the protocol.

        Returns:
            The processor.

        Raises:
            ValueError: if the name is unknown.
        """
        if name not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}; got {name}")
        return cls(**{**PROTOCOLS[name], **kwargs})

    def preprocess(self, images: Any, return_tensors: str | None = None, **kwargs) -> BatchFeature:
        """Make one batch of any number of images of any size.

        Args:
            images: a Pillow image, a uint8 NumPy array or PyTorch tensor ((H, W), (H, W, C),
                (C, H, W), or a batch of one of the latter two), or a list of these.
            return_tensors: "pt" for PyTorch tensors, "np" or nothing for NumPy arrays.
            kwargs: parameters of the processor to replace for this call.

        Returns:
            pixel_values, float32, (N, num_channels, crop height, crop width).

        Raises:
            ValueError: if an image cannot be read, or is of no supported kind.
        """
        if unknown := kwargs.keys() - ConvZooImageKwargs.__annotations__.keys():
            raise ValueError(
                f"parameters must be among {', '.join(ConvZooImageKwargs.__annotations__)}; got "
                f"{', '.join(sorted(unknown))}"
            )
        if kwargs:
            return type(self)(**{**self.to_dict(), **kwargs}).preprocess(images, return_tensors)
        if not isinstance(images, (list, tuple)):
            images = list(images) if getattr(images, "ndim", 0) == 4 else [images]
        height, width = self.crop_size["height"], self.crop_size["width"]
        std = np.array(self.image_std, np.float32)[:, None, None]
        scale = np.float32(self.rescale_factor) / std
        offset = -np.array(self.image_mean, np.float32)[:, None, None] / std
        batch = np.empty((len(images), self.num_channels, height, width), np.float32)
        for index, (image, pixels) in enumerate(zip(images, batch, strict=True)):
            try:
                crop = self._resize_and_crop(to_pillow(image, self.num_channels))
            except (OSError, TypeError, ValueError) as error:
                raise ValueError(f"images[{index}] cannot be processed: {error}") from error
            channels_last = np.asarray(crop).reshape(height, width, self.num_channels)
            np.multiply(channels_last.transpose(2, 0, 1), scale, out=pixels)
            pixels += offset
        return BatchFeature({"pixel_values": batch}, tensor_type=return_tensors)

    def _resize_and_crop(self, image: Image.Image) -> Image.Image:
        short, long = sorted(image.size)
        if long > 100 * short:  # the resized picture could fill the memory
            raise ValueError(f"sides must differ at most by a factor of 100; got {image.size}")
        new_short = self.size["shortest_edge"]
        new_long = int(new_short * long / short)
        is_wide = image.width > image.height
        new_width, new_height = (new_long, new_short) if is_wide else (new_short, new_long)
        height, width = self.crop_size["height"], self.crop_size["width"]
        left, top = round((new_width - width) / 2), round((new_height - height) / 2)
        # resize(box=...) would skip what is cut off here, but moves pixels by a grey level or two.
        image = image.resize((new_width, new_height), self.resample)
        return image.crop((left, top, left + width, top + height))


def to_pillow(image: Any, num_channels: int) -> Image.Image:
    """A Pillow image in mode RGB (three channels) or L (one channel)."""
    if not isinstance(image, Image.Image):
        is_tensor = hasattr(image, "detach")
        image = np.asarray(image.detach().cpu() if is_tensor else image)
        counts = (1, 3, 4)
        if (
            image.ndim == 3
            and image.shape[0] in counts
            and (is_tensor or image.shape[2] not in counts)
        ):
            image = image.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[..., 0]
        colour = image.ndim == 3 and image.shape[2] in counts and image.dtype == np.uint8
        grey = image.ndim == 2 and image.dtype in (np.uint8, np.uint16)
        if not (colour or grey) or image.size == 0:
            raise ValueError(
                "arrays must be uint8 with 1, 3 or 4 channels; got "
                f"{image.dtype} of shape {image.shape}"
            )
        image = Image.fromarray(np.ascontiguousarray(image))
    if image.mode.startswith("I;16"):
        # Pillow would cut 16-bit greys off at 255; their upper byte is the same picture in 8 bits.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"images must have 8 or 16 bits; got mode {image.mode}. Scale to 0..255.")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the direct way to RGB warns about the alpha it drops
    return image.convert("RGB" if num_channels == 3 else "L")


__all__ = ["ConvZooImageProcessor"]
