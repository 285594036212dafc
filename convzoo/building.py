"""A recipe and a dataset to a model and its image processor."""

import itertools
from collections.abc import Sequence

import torch

import modeling
from convzoo.recipe import Preprocessing, Recipe


def build_model(recipe: Recipe, label_names: Sequence[str]):
    """A freshly initialised model for these classes; the seed decides the weights."""
    model_type = recipe.model.model_type
    config_class = next(c for c in modeling.FAMILIES if c.model_type == model_type)
    labels = unique_names(label_names)
    config = config_class(
        **recipe.model.config,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    torch.manual_seed(recipe.run.seed)
    return modeling.FAMILIES[config_class](config)


def build_processor(settings: Preprocessing) -> "modeling.ConvZooImageProcessor":
    """The image processor that is published with the model."""
    from PIL import Image

    return modeling.ConvZooImageProcessor(
        size={"shortest_edge": settings.resize},
        crop_size={"height": settings.crop, "width": settings.crop},
        resample=Image.Resampling[settings.interpolation.upper()],
        rescale_factor=settings.rescale_factor,
        image_mean=list(settings.mean),
        image_std=list(settings.std),
    )


def unique_names(names: Sequence[str]) -> list[str]:
    """Number repeated names ("crane", "crane (2)"), so that label2id has them all."""
    unique: dict[str, None] = {}  # a set that keeps its order
    for name in names:
        candidates = (f"{name} ({count})" for count in itertools.count(2))
        unique[next(c for c in itertools.chain([name], candidates) if c not in unique)] = None
    return list(unique)
