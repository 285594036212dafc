"""Networks of timm, through Transformers' wrapper: `timm:NAME`, a Hub id timm/NAME, or a folder.

Their images are prepared as pretrained_cfg says, by the image processor of this zoo where that can
do it: its steps are those of timm's evaluation transform, and it knows other crops, too.
"""

import importlib.util
from typing import Any

from transformers import BaseImageProcessor, PreTrainedModel

from convzoo.files import read_json
from convzoo.imagenet_classes import imagenet_names
from convzoo.labels import class_names
from convzoo.model_names import file_of_model, refuse_misfit

PREFIX = "timm:"  # before the name of a network, as in timm.create_model
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


class MissingLibraryError(ValueError):
    """A library must be installed, or be newer, to load a model."""


def hub_name(name: str) -> str:
    """Return the Hub id of `timm:NAME`; any other name as it is."""
    return f"timm/{name.removeprefix(PREFIX)}" if name.startswith(PREFIX) else name


def is_of_timm(name: str) -> bool:
    """Tell whether a folder or a model on the Hub is one of timm.

    Raises:
        OSError: if it is on the Hub, and cannot be read.
    """
    if not (path := file_of_model(name, "config.json")):
        return False
    try:
        return "pretrained_cfg" in read_json(path)
    except (ValueError, TypeError):
        return False  # Transformers says what is wrong with it


def load_timm(name: str) -> tuple[PreTrainedModel, BaseImageProcessor, tuple[str, ...]]:
    """Load a network of timm strictly, what prepares images for it, and its class names.

    Weights come from model.safetensors, all of them and no others.

    Raises:
        OSError: if it cannot be read.
        ValueError: if weights and network do not fit.
        MissingLibraryError: if timm is not installed.
    """
    if importlib.util.find_spec("timm") is None:
        raise MissingLibraryError(
            f"{name} is a network of timm, which must be installed to load it; it is not. Install "
            f"it: pip install timm"
        )
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    from modeling import ConvZooImageProcessor

    config: Any = AutoConfig.from_pretrained(name)
    # Folders that timm saved have it a second time there, which Transformers (5.23) trips over.
    (config.model_args or {}).pop("num_classes", None)
    models: Any = AutoModelForImageClassification
    model, said = models.from_pretrained(
        name,
        config=config,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in what it says, too
    )
    refuse_misfit(said)
    settings = processor_settings(model.timm_model.pretrained_cfg)
    loader: Any = AutoImageProcessor
    processor = ConvZooImageProcessor(**settings) if settings else loader.from_pretrained(name)
    names = tuple(class_names(model.config))
    if len(names) == len(imagenet_names()) and names[0].startswith("tench"):
        names = tuple(imagenet_names())  # timm calls two classes crane, and two maillot
        model.config.id2label = dict(enumerate(names))
    return model, processor, names


def processor_settings(pretrained_cfg: dict[str, Any]) -> dict[str, Any] | None:
    """Return what timm's evaluation transform does, as arguments of ConvZooImageProcessor.

    Args:
        pretrained_cfg: of a network of timm. Its `input_size` is taken, not `test_input_size`,
            as Transformers' wrapper does.

    Returns:
        None where it does something else: another crop than the centre, or no square.
    """
    channels, height, width = pretrained_cfg.get("input_size") or (3, 224, 224)
    interpolation = pretrained_cfg.get("interpolation") or "bicubic"
    as_ours = height == width and channels in (1, 3) and interpolation in FILTERS
    if (pretrained_cfg.get("crop_mode") or "center") != "center" or not as_ours:
        return None
    return {
        "size": int(height / (pretrained_cfg.get("crop_pct") or 0.875)),
        "crop_size": height,
        "resample": FILTERS[interpolation],
        "num_channels": channels,
        "image_mean": list(pretrained_cfg.get("mean") or (0.485, 0.456, 0.406)),
        "image_std": list(pretrained_cfg.get("std") or (0.229, 0.224, 0.225)),
    }
