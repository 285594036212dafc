"""The image processor of converted weights, from what lies beside them or from their project."""

import math
from collections.abc import Mapping
from typing import Any

from PIL import Image

from convzoo.conversion.formats import Format
from convzoo.conversion.sources import Source
from modeling import ConvZooImageProcessor
from modeling.image_processing_convzoo import IMAGENET_MEAN, IMAGENET_STD

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SQUASHED_FROM = 384  # pixels; ConvNext's processor then resizes without keeping the aspect ratio


def processor_of(
    found: Source, fmt: Format, num_channels: int
) -> tuple[ConvZooImageProcessor, str]:
    """Make the image processor of weights.

    Args:
        found: the weights and the settings beside them.
        fmt: their format, whose usual preprocessing is taken where nothing else is known.
        num_channels: 3 for colour, 1 for grey.

    Returns:
        The processor, and where it is from, in words.

    Raises:
        ValueError: if the settings ask for what ConvZooImageProcessor does not do.
    """
    if "pretrained_cfg" in found.settings or "crop_pct" in found.settings:
        settings = found.settings.get("pretrained_cfg") or found.settings
        return _make(_of_timm(settings), num_channels), "timm's settings in config.json"
    if found.processor and "auto_map" not in found.processor:
        return _make(_of_transformers(found.processor), num_channels), "preprocessor_config.json"
    if found.published and found.published.preprocessing:
        settings = found.published.preprocessing
        return _make(settings, num_channels), f"as documented for {found.published.name}"
    processor = ConvZooImageProcessor.from_protocol(fmt.protocol)
    if num_channels != 3:
        # The projects know colour only; for grey, the average of their three values is closest.
        processor = ConvZooImageProcessor.from_protocol(
            fmt.protocol,
            num_channels=num_channels,
            **_grey(processor.image_mean, processor.image_std),
        )
    return processor, fmt.protocol + (
        ", assumed: nothing beside the weights says how they see images" if fmt.added else ""
    )


def describe_processor(processor: ConvZooImageProcessor) -> str:
    """Say what happens to images, as "resize 235 (bicubic), crop 224"."""
    interpolation = Image.Resampling(processor.resample).name.lower()
    size, crop = processor.size["shortest_edge"], processor.crop_size["height"]
    return f"resize {size} ({interpolation}), crop {crop}"


def _make(settings: Mapping[str, Any], num_channels: int) -> ConvZooImageProcessor:
    settings = dict(settings)
    mean = settings.setdefault("image_mean", list(IMAGENET_MEAN))
    std = settings.setdefault("image_std", list(IMAGENET_STD))
    if num_channels == 1 and len(mean) == len(std) == 3:
        settings |= _grey(mean, std)
    return ConvZooImageProcessor(num_channels=num_channels, **settings)


def _grey(mean: Any, std: Any) -> dict[str, list[float]]:
    return {"image_mean": [sum(mean) / 3], "image_std": [sum(std) / 3]}


def _of_timm(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Translate what timm's resolve_model_data_config makes of a pretrained_cfg."""
    height, width = settings.get("input_size", (3, 224, 224))[1:]
    interpolation, mode = settings.get("interpolation"), settings.get("crop_mode") or "center"
    if height != width or interpolation not in FILTERS or mode != "center":
        raise ValueError(
            f"timm's settings must have a square input_size, the interpolation "
            f"{' or '.join(FILTERS)} and the crop_mode center; got {height}x{width}, "
            f"{interpolation} and {mode}"
        )
    return {
        "size": math.floor(height / settings.get("crop_pct", 0.875)),
        "crop_size": height,
        "resample": FILTERS[interpolation],
        "image_mean": list(settings.get("mean", IMAGENET_MEAN)),
        "image_std": list(settings.get("std", IMAGENET_STD)),
    }


def _of_transformers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the processors of ConvNext, and of all that resize and crop from the centre."""
    size, crop = settings.get("size"), settings.get("crop_size")
    edge = size if isinstance(size, int) else (size or {}).get("shortest_edge")
    if settings.get("crop_pct") and edge and edge < SQUASHED_FROM:
        crop, edge = edge, int(edge / settings["crop_pct"])
    if isinstance(crop, Mapping):
        crop = crop["height"] if crop["height"] == crop["width"] else None
    switches = ("do_resize", "do_rescale", "do_normalize", "do_center_crop")
    off = [name for name in switches if settings.get(name) is False]
    if not edge or not crop or off:
        raise ValueError(
            f"preprocessor_config.json must resize to a shortest_edge, crop a square from the "
            f"centre, rescale and normalise; got size {size}, crop_size {settings.get('crop_size')}"
            f"{' and false ' + ', '.join(off) if off else ''}"
        )
    keys = ("resample", "rescale_factor", "image_mean", "image_std")
    return {
        "size": edge,
        "crop_size": crop,
        **{key: settings[key] for key in keys if settings.get(key) is not None},
    }
