"""Another size, crop ratio or interpolation than a model's image processor has."""

from dataclasses import dataclass
from typing import Any, TypeVar

from transformers import BaseImageProcessor

from convzoo.evaluation.results import Interpolation

# What Pillow and image processors call them.
FILTERS: dict[Interpolation, int] = {
    "nearest": 0,
    "lanczos": 1,
    "bilinear": 2,
    "bicubic": 3,
    "box": 4,
    "hamming": 5,
}
Processor = TypeVar("Processor", bound=BaseImageProcessor)


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """What is changed of a processor's crop; None leaves it as it is.

    Attributes:
        size: side of the square that the model sees, pixels.
        ratio: of that side to the shorter side of the resized image, in (0, 1].
        interpolation: of the resizing.
    """

    size: int | None = None
    ratio: float | None = None
    interpolation: Interpolation | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1; got {self.size}")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"crop ratio must be in (0, 1]; got {self.ratio}")

    def apply(self, processor: Processor) -> Processor:
        """Return a processor that crops so: as timm does, the resized side is rounded down.

        Without a ratio, that of the processor is kept.

        Raises:
            ValueError: if the processor does not crop a square, or has no such setting.
        """
        if self == CropSettings():
            return processor
        settings = processor.to_dict()
        if self.interpolation is not None:
            if settings.get("resample") is None:
                raise ValueError(_refusal(processor, settings, "an interpolation"))
            settings["resample"] = FILTERS[self.interpolation]
        if self.size is not None or self.ratio is not None:
            settings |= self._sizes(processor, settings)
        changed: Processor = type(processor).from_dict(settings)
        return changed

    def _sizes(self, processor: BaseImageProcessor, settings: dict[str, Any]) -> dict[str, Any]:
        size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
        square = {"height": self.size, "width": self.size}
        short, ratio = size.get("shortest_edge"), settings.get("crop_pct")
        if settings.get("do_resize", True) is False:
            raise ValueError(_refusal(processor, settings, "another size"))
        if short and ratio and not crop:  # ConvNeXT's: `size` is that of the crop
            new = {"size": {"shortest_edge": self.size or short}, "crop_pct": self.ratio or ratio}
        elif size.keys() >= {"height", "width"} and not settings.get("do_center_crop"):
            if self.ratio is not None:
                raise ValueError(_refusal(processor, settings, "a crop ratio"))
            new = {"size": square}
        elif (
            short
            and crop.get("height")
            and crop["height"] == crop.get("width")
            and settings.get("do_center_crop", True)
        ):
            side = self.size or crop["height"]
            resized = side * short // crop["height"]
            if self.ratio is not None:
                resized = int(side / self.ratio + 1e-9)  # 63 / 0.9 is 70
            new = {
                "size": {"shortest_edge": resized},
                "crop_size": {"height": side, "width": side},
            }
        else:
            raise ValueError(_refusal(processor, settings, "another size"))
        return new


def _refusal(processor: BaseImageProcessor, settings: dict[str, Any], what: str) -> str:
    keys = ("do_resize", "size", "do_center_crop", "crop_size", "resample")
    has = ", ".join(f"{key} {settings[key]}" for key in keys if key in settings)
    return (
        f"the image processor must resize the shorter side and crop a square to take {what}; "
        f"{type(processor).__name__} has {has or 'none of these settings'}"
    )
