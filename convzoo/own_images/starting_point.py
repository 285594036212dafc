"""The pretrained model that a recipe starts from, as far as it decides over the recipe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import modeling
from convzoo.conversion.starting_points import listed_place, weights_license
from convzoo.model_names import load_processor
from convzoo.recipe.settings import Preprocessing
from convzoo.training.finetuning import find_start, pretrained_config, stage_of

INTERPOLATIONS = {"BILINEAR": "bilinear", "BICUBIC": "bicubic"}


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """A trained model.

    Attributes:
        path: folder, Hub id or short name.
        revision: commit of the Hub id, where our list has one; else "".
        num_channels: colour channels of its images.
        num_stages: stages that can be frozen: the stem and all up to the head.
        preprocessing: what its images went through.
        has_processor: whether the model says that; else it is the usual one of ImageNet.
        license: of its weights, as the Hub spells it; "" if its files do not name one.
    """

    path: str
    revision: str
    num_channels: int
    num_stages: int
    preprocessing: Preprocessing
    has_processor: bool
    license: str


def read_starting_point(path: str) -> StartingPoint:
    """Read configuration and image processor of a model.

    Args:
        path: folder, Hub id, or short name of `convzoo models`.

    Raises:
        OSError: if there is no such model.
        ValueError: if it is of no family of ours, or its processor does what no recipe can say.
    """
    path, revision = listed_place(path)
    folder, _ = find_start(path, revision)
    config = pretrained_config(folder)
    with torch.device("meta"):
        model = modeling.FAMILIES[type(config)](config)
    preprocessing = _preprocessing(folder)
    return StartingPoint(
        path=path,
        revision=revision,
        num_channels=config.num_channels,
        num_stages=max(stage_of(model).values()),
        preprocessing=preprocessing or Preprocessing(),
        has_processor=preprocessing is not None,
        license=weights_license(folder, "" if Path(folder).is_dir() else revision),
    )


def _preprocessing(path: str) -> Preprocessing | None:
    """Read the settings of a processor; None where there is none."""
    processor: Any = load_processor(path)
    if processor is None:
        return None
    size, crop = dict(processor.size), dict(processor.crop_size or {})
    interpolation = INTERPOLATIONS.get(Image.Resampling(processor.resample).name)
    resize = size.get("shortest_edge") or size.get("height")
    side = crop.get("height") or resize
    if not (interpolation and resize and side):
        raise ValueError(
            f"the image processor of {path} must resize by bilinear or bicubic interpolation to a "
            f"shortest_edge; got size {size} and resample {processor.resample}. Write a recipe by "
            f"hand: recipes/finetune.toml"
        )
    return Preprocessing.model_validate(
        {
            "resize": resize,
            "crop": side,
            "interpolation": interpolation,
            "rescale_factor": processor.rescale_factor,
            "mean": list(processor.image_mean),
            "std": list(processor.image_std),
        }
    )
