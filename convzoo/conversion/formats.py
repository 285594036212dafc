"""Formats of other projects' weights: how to recognise each, and its names here."""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from modeling import AlexNetConfig, CNNConfig, ConvZooConfig, QLNetConfig

Shapes = Mapping[str, torch.Size]  # of the tensors, by the project's names
Fields = Mapping[str, Any]  # num_channels and num_labels

IDENTITY_SCALE = math.log(math.e - 1)  # softplus of it is 1
# What a ResNet has not: a scale of its branches, and slopes where PReLU takes the place of ReLU.
RESNET_HAS_NOT = {r"\.residual_scale$": IDENTITY_SCALE, r"(^|\.)(final_)?act\d?\.weight$": 0.0}
GREY_NOTE = ", with the average of its colours for grey pixels: check whether that is right"


@dataclass(frozen=True)
class Format:
    """A project that published weights, and the way from its network to ours.

    Args:
        name: name in reports and errors.
        project: address of its code.
        protocol: its evaluation, a key of modeling.image_processing_convzoo.PROTOCOLS.
        names: patterns in our names of tensors and what the project has there, applied in order.
        config: makes the configuration from the shapes of its tensors, by the project's names, and
            from the fields that are the same for every format.
        added: patterns in our names of tensors that the project does not have, and the value that
            makes them do nothing.
    """

    name: str
    project: str
    protocol: str
    names: Mapping[str, str | Callable[[re.Match[str]], str]]
    config: Callable[[Shapes, Fields], ConvZooConfig]
    added: Mapping[str, float] = field(default_factory=dict)

    def original_name(self, name: str) -> str:
        """Translate our name of a tensor into the project's."""
        return _translate(self.names, name)

    def added_value(self, name: str) -> float | None:
        """Return the value of a tensor of ours that the project does not have; else None."""
        return next((v for p, v in self.added.items() if re.search(p, name)), None)


Names = Mapping[str, str | Callable[[re.Match[str]], str]]


def _translate(names: Names, name: str) -> str:
    for pattern, replacement in names.items():
        name = re.sub(pattern, replacement, name)
    return name


def _alexnet_names(convolutions: Sequence[str], linear: Sequence[str]) -> dict[str, str]:
    """Pair our layers with those of another project, given in the order of the forward pass."""
    stages = ("stages.0.0.conv", "stages.1.0.conv", "stages.1.1.conv", "stages.1.2.conv")
    ours = ("stem.conv", *stages, "fc6", "fc7", "classifier")
    pairs = list(zip(ours, (*convolutions, *linear), strict=True))
    # The last comes first: torchvision calls fc6 "classifier.1", which must not be renamed again.
    return {rf"^{name}\.": f"{their}." for name, their in reversed(pairs)}


def _cnn_config(shapes: Shapes, fields: Fields) -> CNNConfig:
    slopes = shapes.get("conv2.0.final_act.weight")
    return CNNConfig(use_prelu=slopes is not None, prelu_channel_wise=slopes != (1,), **fields)


def _qlnet_config(shapes: Shapes, fields: Fields) -> QLNetConfig:
    one_output_per_channel = shapes.get("layer1.0.bn2.weight") == (256,)
    return (QLNetConfig.v10m if one_output_per_channel else QLNetConfig.v0)(**fields)


def _resnet_config(names: Names, shapes: Shapes, fields: Fields) -> CNNConfig:
    """Read depths and widths of a bottleneck ResNet; where there is none, those of ResNet-50."""

    def shape(name: str) -> tuple[int, ...]:
        return tuple(shapes.get(_translate(names, f"{name}.weight"), ()))

    depths: list[int] = []
    hidden_sizes: list[int] = []
    while len(last := shape(f"stages.{len(depths)}.0.conv3")) == 4:
        stage = len(depths)
        hidden_sizes.append(last[0])
        depths.append(next(n for n in itertools.count() if not shape(f"stages.{stage}.{n}.conv3")))
    stem, first = shape("stem.conv"), shape("stages.0.0.conv1")
    sizes: dict[str, Any] = {}
    if depths and len(stem) == len(first) == 4:
        expansion = max(1, hidden_sizes[0] // first[0])
        if not any(size % expansion for size in hidden_sizes):
            sizes = {
                "embedding_size": stem[0],
                "hidden_sizes": hidden_sizes,
                "depths": depths,
                "bottleneck_expansion": expansion,
            }
    return CNNConfig(use_prelu=False, conv_bias=False, **sizes, **fields)


TIMM_NAMES: Names = {
    r"^stem\.conv\.": "conv1.",
    r"^stem\.bn\.": "bn1.",
    r"^stages\.(\d+)\.": lambda match: f"layer{int(match[1]) + 1}.",
    r"\.shortcut\.conv\.": ".downsample.0.",
    r"\.shortcut\.bn\.": ".downsample.1.",
    r"^classifier\.": "fc.",
}
TRANSFORMERS_NAMES: Names = {
    r"^stem\.conv\.": "resnet.embedder.embedder.convolution.",
    r"^stem\.bn\.": "resnet.embedder.embedder.normalization.",
    r"^stages\.(\d+)\.(\d+)\.": r"resnet.encoder.stages.\1.layers.\2.",
    r"\.shortcut\.conv\.": ".shortcut.convolution.",
    r"\.shortcut\.bn\.": ".shortcut.normalization.",
    r"\.conv(\d)\.": lambda match: f".layer.{int(match[1]) - 1}.convolution.",
    r"\.bn(\d)\.": lambda match: f".layer.{int(match[1]) - 1}.normalization.",
    r"^classifier\.": "classifier.1.",
}
FORMATS = (
    Format(
        name="CNN of chrisjob1021/model-examples",
        project="https://github.com/chrisjob1021/model-examples",
        protocol="imagenet_bilinear_256",
        names={
            r"^stem\.": "conv1.0.",
            r"^stages\.(\d)\.": lambda match: f"conv{int(match[1]) + 2}.",
            r"\.shortcut\.conv\.": ".shortcut.0.",
            r"\.shortcut\.bn\.": ".shortcut.1.",
            r"^classifier\.": "fc.",
        },
        config=_cnn_config,
    ),
    Format(
        name="AlexNet of torchvision",
        project="https://github.com/pytorch/vision",
        protocol="imagenet_bilinear_256",
        names=_alexnet_names(
            ("features.0", "features.3", "features.6", "features.8", "features.10"),
            linear=("classifier.1", "classifier.4", "classifier.6"),
        ),
        config=lambda shapes, fields: AlexNetConfig.one_tower(**fields),
    ),
    Format(
        name="AlexNet of xevolesi/alexnet_pytorch",
        project="https://github.com/xevolesi/alexnet_pytorch",
        protocol="mean_subtracted_bicubic_256",
        names=_alexnet_names(
            ("block1.0", "block2.0", "block3.0", "block4.0", "block5.0"),
            linear=("head.2", "head.5", "head.7"),
        ),
        config=lambda shapes, fields: AlexNetConfig.from_2012_reimplementation(**fields),
    ),
    Format(
        name="QLNet of liuyao12/ConvNets-PDE-perspective",
        project="https://github.com/liuyao12/ConvNets-PDE-perspective",
        protocol="imagenet_bicubic_235",
        names={
            r"^stem\.conv\.": "conv1.",
            r"^stem\.bn\.": "bn1.",
            r"^stages\.(\d)\.": lambda match: f"layer{int(match[1]) + 1}.",
            r"\.conv([13])\.": r".conv\1.conv.",
            r"\.bn([13])\.": r".conv\1.bn.",
            r"\.shortcut\.": ".skip.",
            r"^classifier\.": "fc.",
        },
        config=_qlnet_config,
    ),
    Format(
        name="ResNet of timm and torchvision",
        project="https://github.com/huggingface/pytorch-image-models",
        protocol="imagenet_bilinear_256",
        names=TIMM_NAMES,
        config=partial(_resnet_config, TIMM_NAMES),
        added=RESNET_HAS_NOT,
    ),
    Format(
        name="ResNet of transformers",
        project="https://github.com/huggingface/transformers",
        protocol="imagenet_bilinear_256",
        names=TRANSFORMERS_NAMES,
        config=partial(_resnet_config, TRANSFORMERS_NAMES),
        added=RESNET_HAS_NOT,
    ),
)
