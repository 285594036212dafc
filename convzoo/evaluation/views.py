"""The views of an image that a model is shown: made by its processor, then cut and mirrored."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BaseImageProcessor

from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.images.ten_crop import ten_crop


class Views:
    """Makes the views of images.

    Data workers call `show`; where the model is, `cut` makes more views of what was shown.

    Args:
        processor: the model's image processor, with the protocol's crop.
        protocol: which views.

    Raises:
        ValueError: if the processor cannot make them.
    """

    def __init__(self, processor: BaseImageProcessor, protocol: EvaluationProtocol):
        self.processor = processor
        self.flip = protocol.flip
        self.logits = protocol.averaged == "logits"
        self.whole = protocol.crops_of == "image"
        self.crop: int | None = None  # side of ten crops
        self.options: list[dict[str, Any]] = [{}]  # of the processor, for each scale
        if protocol.crops == 10 or protocol.scales != (1.0,):
            short, crop = _sizes(processor)
            self.crop = crop if protocol.crops == 10 else None
            self.options = [self._options(short, crop, scale) for scale in protocol.scales]

    def _options(self, short: int, crop: int, scale: float) -> dict[str, Any]:
        resized = round(short * scale)
        if resized < crop:
            raise ValueError(
                f"scales must leave the shorter side at least as long as the crop, {crop} pixels; "
                f"{scale} makes it {resized}"
            )
        options: dict[str, Any] = {} if scale == 1 else {"size": {"shortest_edge": resized}}
        if self.whole:
            options["do_center_crop"] = False
        elif self.crop:
            options["crop_size"] = resized  # ten crops are cut later, from the square
        return options

    def show(self, images: list[Any]) -> list[Tensor]:
        """Return for each scale pixel values (N, C, H, W), or (N, 10, C, H, W) of whole images.

        Args:
            images: as the processor takes them.
        """
        return [self._at_scale(images, options) for options in self.options]

    def _at_scale(self, images: list[Any], options: dict[str, Any]) -> Tensor:
        if not self.whole:
            return self._process(images, options)
        assert self.crop is not None
        # One by one: whole images have several sizes.
        return torch.cat([ten_crop(self._process([each], options), self.crop) for each in images])

    def _process(self, images: list[Any], options: dict[str, Any]) -> Tensor:
        shown: Tensor = self.processor(images, return_tensors="pt", **options)["pixel_values"]
        return shown

    def cut(self, shown: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield views (N, C, H, W) of what `show` returned."""
        for pixel_values in shown:
            if self.crop and not self.whole:
                pixel_values = ten_crop(pixel_values, self.crop)
            for view in pixel_values.unbind(1) if self.crop else [pixel_values]:
                yield view
                if self.flip:
                    yield view.flip(-1)

    def average(self, logits: list[Tensor]) -> Tensor:
        """Return scores (N, C) whose softmax is that of the image, from the logits of its views."""
        if len(logits) == 1:
            return logits[0]
        if self.logits:
            return torch.stack(logits).mean(0)
        views = torch.stack([each.log_softmax(-1) for each in logits])
        return views.logsumexp(0) - math.log(len(logits))


def _sizes(processor: BaseImageProcessor) -> tuple[int, int]:
    """Shorter side of the resized image, and side of the crop, pixels."""
    square = (getattr(processor, "size", None) or {}).get("shortest_edge")
    crop = getattr(processor, "crop_size", None) or {}
    height, width = crop.get("height"), crop.get("width")
    if not square or not height or height != width:
        raise ValueError(
            f"ten crops and scales need an image processor with size.shortest_edge and a square "
            f"crop_size; {type(processor).__name__} has {square} and {crop}"
        )
    return square, height
