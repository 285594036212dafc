"""Preprocess images of an evaluation as training does: libjpeg-turbo, and a resize of bytes.

It takes half the processor time of the image processor, whose pixels it meets to a level or two.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import BaseImageProcessor
from transformers.image_processing_base import BatchFeature

from convzoo.data.split import Split
from convzoo.data.subset import subset
from convzoo.evaluation.crop_settings import FILTERS
from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.evaluation.views import Views
from convzoo.images.crops import resize
from convzoo.images.decoding import decode_rgb, open_rgb
from convzoo.images.normalize import Normalize
from modeling import ConvZooImageProcessor

CHECKED = 16  # images of a split
MOST_LEVELS = 2  # that a pixel may differ by
MOST_PIXELS = 1e-4  # share that may differ by more than one
RESIZES = {FILTERS[name]: name for name in ("bilinear", "bicubic")}  # of bytes, antialiased


class FastImageProcessor(ConvZooImageProcessor):
    """Takes pixels, uint8 (height, width, num_channels), in place of Pillow images."""

    def preprocess(
        self, images: Any, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Make one batch.

        Args:
            images: a list of arrays.
            return_tensors: tensors are returned in any case.
            kwargs: parameters of the processor to replace for this call.

        Returns:
            pixel_values, float32, (N, num_channels, height, width), in channels-last memory.

        Raises:
            ValueError: as the image processor.
        """
        if kwargs := {key: value for key, value in kwargs.items() if value is not None}:
            return type(self)(**{**self.to_dict(), **kwargs}).preprocess(images, return_tensors)
        normalize = Normalize(
            rescale_factor=self.rescale_factor if self.do_rescale else 1,
            mean=tuple(self.image_mean if self.do_normalize else [0] * self.num_channels),
            std=tuple(self.image_std if self.do_normalize else [1] * self.num_channels),
        )
        crops = np.stack([self._crop(image) for image in images])
        return BatchFeature({"pixel_values": normalize(torch.from_numpy(crops))})

    def _crop(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        width, height = self._resized((width, height))
        resized = resize(image, (height, width), interpolation=RESIZES[self.resample])
        if not self.do_center_crop:
            return resized
        rows, columns = self.crop_size["height"], self.crop_size["width"]
        top, left = round((height - rows) / 2), round((width - columns) / 2)
        return resized[top : top + rows, left : left + columns]


def fast_processor(processor: BaseImageProcessor) -> FastImageProcessor:
    """Return a processor of pixels for an image processor.

    Raises:
        ValueError: if it does other things, or resizes by another filter.
    """
    settings = processor.to_dict()
    name = type(processor).__name__
    if name != ConvZooImageProcessor.__name__:
        raise ValueError(
            f"fast decoding needs a ConvZooImageProcessor, whose steps it repeats; got {name}. "
            f"Leave out --fast-decoding"
        )
    if settings.get("do_resize", True) is False or settings["resample"] not in RESIZES:
        names = {number: name for name, number in FILTERS.items()}
        got = names[settings["resample"]] if settings.get("do_resize", True) else "no resizing"
        raise ValueError(
            f"fast decoding needs an image processor that resizes by the filter "
            f"{' or '.join(RESIZES.values())}; got {got}. Leave out --fast-decoding"
        )
    fast: FastImageProcessor = FastImageProcessor.from_dict(settings)
    return fast


def check_fast_decoding(
    source: Split, processor: BaseImageProcessor, protocol: EvaluationProtocol
) -> None:
    """Compare the pixels of some images of a split, evenly spaced, with those of the processor.

    Raises:
        ValueError: if they differ too much, fast decoding fails, none of the images can be read,
            or as `fast_processor`. Single images that cannot be read are passed over.
    """
    exact, fast = Views(processor, protocol), Views(fast_processor(processor), protocol)
    assert isinstance(fast.processor, FastImageProcessor)
    scale, _ = fast.processor._scale_and_offset()
    few = subset(source, limit=min(CHECKED, source.num_rows), spaced=True)
    compared = 0
    for row in range(few.num_rows):
        data, num_channels = few.read_row(row)[0], fast.processor.num_channels
        turned = {"exif_rotation": protocol.exif_rotation}
        try:
            opened = open_rgb(data, num_channels, **turned)
            opened.info.clear()
            expected = exact.show([opened])
        except ValueError:
            continue
        try:
            found = fast.show([decode_rgb(data, num_channels, **turned)])
        except ValueError as error:
            raise ValueError(
                f"fast decoding must show what the image processor shows; {few.where_is(row)}: "
                f"{error}. Leave out --fast-decoding"
            ) from error
        _compare(expected, found, torch.from_numpy(scale), where=few.where_is(row))
        compared += 1
    if not compared:
        raise ValueError(
            f"fast decoding is compared with the image processor on {few.num_rows} images of "
            f"{source.path} [{source.name}] first, of which one at least must be readable; none "
            f"is. Leave out --fast-decoding"
        )


def _compare(
    expected: Sequence[torch.Tensor],
    found: Sequence[torch.Tensor],
    scale: torch.Tensor,
    *,
    where: str,
) -> None:
    for one, other in zip(expected, found, strict=True):
        levels = ((one - other).abs() / scale).round()
        share = (levels > 1).float().mean().item()
        if levels.max() > MOST_LEVELS or share > MOST_PIXELS:
            raise ValueError(
                f"pixels of fast decoding must be those of the image processor to a level of 255, "
                f"and {1 - MOST_PIXELS:.2%} of them are; in {where} they differ by up to "
                f"{int(levels.max())}, {share:.2%} of them by more than one. Leave out "
                f"--fast-decoding"
            )
