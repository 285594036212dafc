"""Image processor of the zoo: the evaluation protocol of each model, in numbers.

Its steps are those of torchvision's evaluation transforms on Pillow images: convert the colours,
resize the shorter side, crop the centre, rescale and normalise. No stock image processor of
Transformers can express them: its centre crop rounds down where torchvision rounds to nearest,
which moves the 235 -> 224 crop of QLNet by one pixel. Pillow does the work whether or not
torchvision is installed, so a model sees the same pixels everywhere. Images are taken as they are
stored unless `exif_rotation` is True (`pipeline` turns each image by its EXIF orientation before it
calls the processor).
"""

import difflib
from collections.abc import Sequence
from typing import Any, Self, TypedDict

import numpy as np
from PIL import Image, ImageOps
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB on [0, 1] pixels
IMAGENET_STD = (0.229, 0.224, 0.225)

PROTOCOLS: dict[str, dict[str, Any]] = {
    # CNN and the one-tower AlexNet; torchvision's classic.
    "imagenet_bilinear_256": {"size": 256, "resample": Image.Resampling.BILINEAR},
    # QLNet: the ResNet-50 settings of the timm release it was trained with, 224 / 0.95 = 235.
    "imagenet_bicubic_235": {"size": 235, "resample": Image.Resampling.BICUBIC},
    # The reimplementation of the 2012 AlexNet: 0-255 pixels minus the mean. It resizes by OpenCV's
    # cubic filter, which does not antialias: single pixels differ by up to about 20 grey levels,
    # channel means by 0.2 (measured on four synthetic images).
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
    do_resize: bool
    do_center_crop: bool
    do_rescale: bool
    do_normalize: bool
    crop_pct: float
    exif_rotation: bool | None


SWITCHES = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
# What saved files hold beside the parameters, and what loading and pipelines pass on.
KEYS_OF_FILES = ("auto_map", "image_processor_type", "feature_extractor_type", "processor_class")
KEYS_OF_LOADING = (
    "trust_remote_code",
    "code_revision",
    "use_fast",
    "backend",
    "dtype",
    "torch_dtype",
)


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
        do_resize: False takes images in the size that they have.
        do_center_crop: False takes whole images; those of one call must then have one size.
        do_rescale: False leaves pixels in 0 to 255.
        do_normalize: False neither subtracts the mean nor divides.
        crop_pct: side of the crop / shorter side of the resized image; replaces `size`.
        exif_rotation: True turns Pillow images by their EXIF orientation. Training writes what it
            did; older files hold None.
        kwargs: what else a preprocessor_config.json holds (`auto_map`), and parameters of other
            processors where they are None.

    Raises:
        ValueError: if a parameter breaks its rule.
    """

    # Transformers would have all the keywords of its own processors.
    valid_kwargs = ConvZooImageKwargs  # type: ignore[assignment]
    model_input_names = ["pixel_values"]  # noqa: RUF012 - a list in Transformers

    do_resize: bool
    do_center_crop: bool
    do_rescale: bool
    do_normalize: bool
    exif_rotation: bool | None

    def __init__(
        self,
        size: dict[str, int] | int = 256,
        resample: int = Image.Resampling.BILINEAR,
        *,
        crop_size: dict[str, int] | int = 224,
        num_channels: int = 3,
        rescale_factor: float = 1 / 255,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        **kwargs: Any,
    ):
        # Eight named parameters are many; these four are switches, True unless they are False.
        switches = {name: kwargs.pop(name, None) for name in (*SWITCHES, "exif_rotation")}
        crop_pct = kwargs.pop("crop_pct", None)
        super().__init__(**_known(kwargs))
        for name, value in switches.items():
            if value not in (None, True, False):
                raise ValueError(f"{name} must be True or False; got {value!r}")
            setattr(self, name, True if value is None and name in SWITCHES else value)
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
        if crop_pct is not None:
            self.size = {"shortest_edge": self._size_before_crop(crop_pct)}
        both = self.do_resize and self.do_center_crop
        if both and not 0 < max(self.crop_size.values()) <= self.size["shortest_edge"]:
            raise ValueError(f"crop_size must be at most size ({self.size}); got {self.crop_size}")
        if num_channels not in (1, 3):
            raise ValueError(f"num_channels must be 1 (grey) or 3 (RGB); got {num_channels}")
        if not len(self.image_mean) == len(self.image_std) == num_channels:
            raise ValueError(
                f"image_mean and image_std must have num_channels ({num_channels}) values; got "
                f"{self.image_mean} and {self.image_std}"
            )

    def _size_before_crop(self, crop_pct: float) -> int:
        """Return the length of the shorter side, rounded down as timm does."""
        height, width = self.crop_size["height"], self.crop_size["width"]
        if not 0 < crop_pct <= 1 or height != width:
            raise ValueError(
                f"crop_pct must be in (0, 1], and crop_size a square; got {crop_pct} and "
                f"{self.crop_size}"
            )
        return int(height / crop_pct)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a processor of a file's contents and of the parameters among the keywords.

        Args:
            image_processor_dict: the contents of a preprocessor_config.json.
            kwargs: parameters to replace, and what loading passes on. With `return_unused_kwargs`
                unknown keywords are returned, else they are refused.

        Returns:
            The processor; with `return_unused_kwargs` a pair of it and the unused keywords.

        Raises:
            ValueError: if a keyword is unknown or a parameter breaks its rule.
        """
        if not kwargs.get("return_unused_kwargs"):
            _known({k: v for k, v in kwargs.items() if k not in cls.valid_kwargs.__annotations__})
        return super().from_dict(image_processor_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return what the file holds: of the switches those that are not as usual."""
        usual = {**dict.fromkeys(SWITCHES, True), "exif_rotation": None}
        fields = super().to_dict().items()
        return {k: v for k, v in fields if k not in usual or v is not usual[k]}

    @classmethod
    def from_protocol(cls, name: str, **kwargs: Any) -> Self:
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

    def preprocess(
        self, images: Any, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Make one batch of any number of images of any size.

        Args:
            images: a Pillow image, a uint8 NumPy array or PyTorch tensor ((H, W), (H, W, C),
                (C, H, W), or a batch of one of the latter two), or a list of these.
            return_tensors: "pt" for PyTorch tensors, "np" or nothing for NumPy arrays.
            kwargs: parameters of the processor to replace for this call.

        Returns:
            pixel_values, float32, (N, num_channels, height, width), of the size of the crop.

        Raises:
            ValueError: if an image cannot be read or is of no supported kind, images have several
                sizes where they are not cropped, or a parameter is unknown or breaks its rule.
        """
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        if kwargs:
            return type(self)(**{**self.to_dict(), **kwargs}).preprocess(images, return_tensors)
        if not isinstance(images, (list, tuple)):
            images = list(images) if getattr(images, "ndim", 0) == 4 else [images]
        crops = []
        for index, image in enumerate(images):
            try:
                crops.append(self._resize_and_crop(self._to_pillow(image)))
            except (OSError, TypeError, ValueError) as error:
                raise ValueError(f"images[{index}] cannot be processed: {error}") from error
        sizes = {crop.size for crop in crops}
        if len(sizes) > 1:
            raise ValueError(
                "images must have one size where do_center_crop is False; got (width, height) "
                f"{', '.join(map(str, sorted(sizes)))}. Give them one by one, or in equal sizes."
            )
        width, height = sizes.pop() if sizes else (0, 0)
        scale, offset = self._scale_and_offset()
        batch = np.empty((len(crops), self.num_channels, height, width), np.float32)
        for crop, pixels in zip(crops, batch, strict=True):
            channels_last = np.asarray(crop).reshape(height, width, self.num_channels)
            np.multiply(channels_last.transpose(2, 0, 1), scale, out=pixels)
            pixels += offset
        return BatchFeature({"pixel_values": batch}, tensor_type=return_tensors)

    def _scale_and_offset(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what pixels are multiplied by, and what is added then, for each channel."""
        channels = np.ones((self.num_channels, 1, 1), np.float32)
        factor = np.float32(self.rescale_factor if self.do_rescale else 1)
        if not self.do_normalize:
            return factor * channels, 0 * channels
        std = np.array(self.image_std, np.float32)[:, None, None]
        return factor / std, -np.array(self.image_mean, np.float32)[:, None, None] / std

    def _to_pillow(self, image: Any) -> Image.Image:
        if self.exif_rotation and isinstance(image, Image.Image):
            image = ImageOps.exif_transpose(image)
        return to_pillow(image, self.num_channels)

    def _resize_and_crop(self, image: Image.Image) -> Image.Image:
        if self.do_resize:
            # resize(box=...) would skip what is cut off below, but moves pixels by a level or two.
            image = image.resize(self._resized(image.size), self.resample)
        if not self.do_center_crop:
            return image
        height, width = self.crop_size["height"], self.crop_size["width"]
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))  # black beyond the image

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return width and height after resizing."""
        short, long = sorted(size)
        if long > 100 * short:  # the resized image could fill the memory
            raise ValueError(f"sides must differ at most by a factor of 100; got {size}")
        new_short = self.size["shortest_edge"]
        new_long = int(new_short * long / short)
        return (new_long, new_short) if size[0] > size[1] else (new_short, new_long)


def _known(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keep what belongs to the file, leave out what loading passes on, refuse all else."""
    for key, value in kwargs.items():
        passed_on = key in (*KEYS_OF_FILES, *KEYS_OF_LOADING) or key.startswith("_")
        if passed_on or value is None or (key, value) == ("do_convert_rgb", True):
            continue
        names = ConvZooImageKwargs.__annotations__
        near = difflib.get_close_matches(key, names, 1)
        hint = f". Did you mean {near[0]}?" if near else ""
        raise ValueError(f"parameters must be among {', '.join(names)}; got {key}{hint}")
    return {key: value for key, value in kwargs.items() if key in KEYS_OF_FILES}


def to_pillow(image: Any, num_channels: int) -> Image.Image:
    """Convert a Pillow image, array or tensor to mode RGB (three channels) or L (one channel)."""
    opened = image if isinstance(image, Image.Image) else _from_array(image)
    if opened.mode.startswith("I;16"):
        # Pillow would cut 16-bit greys off at 255; their upper byte is the same image in 8 bits.
        opened = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8))
    if opened.mode in ("I", "F"):
        raise ValueError(f"images must have 8 or 16 bits; got mode {opened.mode}. Scale to 0..255.")
    if opened.mode == "P" and "transparency" in opened.info:
        opened = opened.convert("RGBA")  # the direct way to RGB warns about the alpha it drops
    return opened.convert("RGB" if num_channels == 3 else "L")


def _from_array(image: Any) -> Image.Image:
    is_tensor = hasattr(image, "detach")
    array = np.asarray(image.detach().cpu() if is_tensor else image)
    counts = (1, 3, 4)
    if array.ndim == 3 and array.shape[0] in counts and (is_tensor or array.shape[2] not in counts):
        array = array.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    colour = array.ndim == 3 and array.shape[2] in counts and array.dtype == np.uint8
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if not (colour or grey) or array.size == 0:
        raise ValueError(
            "arrays must be uint8 with 1, 3 or 4 channels; got "
            f"{array.dtype} of shape {array.shape}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


__all__ = ["ConvZooImageProcessor"]
