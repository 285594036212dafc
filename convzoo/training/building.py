"""Build the model and the image processor of a recipe.

A fresh model needs the recipe only. A fine-tuned one starts from `finetune.pretrained`: its
configuration and weights stay, but for the fields that [model] gives, for the classifier where the
classes differ, and for the first convolution where the number of colour channels does.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

import modeling
from convzoo.labels import unique_names
from convzoo.recipe.settings import Preprocessing, Recipe
from convzoo.training.finetuning import family_of, freeze, pretrained_model
from modeling import ConvZooModel

logger = logging.getLogger(__name__)


def build_model(
    recipe: Recipe, label_names: Sequence[str], checkpoint: Path | None = None
) -> PreTrainedModel:
    """Build the model that a recipe starts from.

    Args:
        recipe: the sections run, model and finetune are read, and preprocessing for a warning.
        label_names: one name for each class; repeated ones are numbered.
        checkpoint: of a run to resume; its configuration then stands for the recipe's, and for
            that of a pretrained model, which need not be there any more. Its weights are not read.

    Returns:
        A model in training mode. What is not taken from `finetune.pretrained` is initialised from
        the seed; the classifier is taken if its label names are these, in this order.

    Raises:
        OSError: if `finetune.pretrained` cannot be found or read.
        ValueError: if the pretrained model is of another family, or a field in [model] does not fit
            its weights, or `finetune.frozen_stages` leaves nothing to train.
    """
    labels = unique_names(label_names)
    names: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    if checkpoint:
        config = AutoConfig.from_pretrained(checkpoint)
        model: ConvZooModel = modeling.FAMILIES[type(config)](config)
    elif recipe.finetune.pretrained:
        model = pretrained_model(recipe, names)
    else:
        family = family_of(recipe.model.model_type)
        torch.manual_seed(recipe.run.seed)
        model = modeling.FAMILIES[family](family(**recipe.model.config, **names))
    freeze(model, recipe.finetune.frozen_stages)
    return model


def build_processor(
    settings: Preprocessing, num_channels: int = 3, *, exif_rotation: bool | None = None
) -> "modeling.ConvZooImageProcessor":
    """Build the image processor that is published with the model.

    Args:
        settings: the evaluation protocol.
        num_channels: 3 for colour, 1 for grey.
        exif_rotation: the recipe's data.exif_rotation.

    Raises:
        ValueError: if the number of channels is another, or not that of mean and std.
    """
    from PIL import Image

    return modeling.ConvZooImageProcessor(
        size={"shortest_edge": settings.resize},
        crop_size={"height": settings.crop, "width": settings.crop},
        resample=Image.Resampling[settings.interpolation.upper()],
        num_channels=num_channels,
        rescale_factor=settings.rescale_factor,
        image_mean=list(settings.mean),
        image_std=list(settings.std),
        exif_rotation=exif_rotation,
    )
