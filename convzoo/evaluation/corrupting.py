"""An image processor that corrupts each image between its crop and its normalisation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from transformers import BaseImageProcessor

from convzoo.images.corruptions import corrupt


@dataclass(frozen=True, kw_only=True)
class CorruptingProcessor:
    """Does what another image processor does, and corrupts images on the way.

    Attributes:
        processor: its images are RGB.
        corruption: name of a corruption.
        severity: 1 to 5.
    """

    processor: BaseImageProcessor
    corruption: str
    severity: int

    def __call__(
        self, images: Sequence[Image.Image], return_tensors: str | None = None, **options: Any
    ) -> Any:
        """Make one batch, as the other processor does.

        Args:
            images: each has its digest in `info["digest"]`, as the split gives them.
            return_tensors: see the other processor.
            options: see there.

        Raises:
            ValueError: if an image cannot be processed or corrupted.
        """
        shown = self.processor(
            list(images), return_tensors="pt", do_rescale=False, do_normalize=False, **options
        )
        crops = np.round(shown["pixel_values"].numpy()).clip(0, 255).astype(np.uint8)
        corrupted = [
            Image.fromarray(
                corrupt(
                    np.ascontiguousarray(crop.transpose(1, 2, 0)),
                    self.corruption,
                    self.severity,
                    digest=image.info["digest"],
                )
            )
            for image, crop in zip(images, crops, strict=True)
        ]
        return self.processor(
            corrupted, return_tensors=return_tensors, do_resize=False, do_center_crop=False
        )

    def __getattr__(self, name: str) -> Any:
        """Everything else is that of the other processor."""
        if name.startswith("__") or name == "processor":
            raise AttributeError(name)
        return getattr(self.processor, name)
