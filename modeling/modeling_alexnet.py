"""AlexNet: five convolutions and three linear layers, from 2012 to the one-tower network of 2014.

Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks" (NeurIPS 2012)
has two towers (groups), local response normalisation and 96-256-384-384-256 channels; Krizhevsky,
"One weird trick for parallelizing convolutional neural networks" (arXiv:1404.5997) has neither, and
64-192-384-256-256 channels. AlexNetConfig has a preset for each, for the reimplementation
github.com/xevolesi/alexnet_pytorch, and for small images. Layers 6 and 7 are `fc6` and `fc7`, as
the literature calls them. Initialisation is PyTorch's default, as in the reimplementations.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_alexnet import AlexNetConfig
from .modeling_convzoo import ConvZooBackbone, ConvZooFeatures, ConvZooModel, classifier_layer


class AlexNetLayer(GradientCheckpointingLayer):
    """Convolution with ReLU, and the normalisation and pooling that follow it.

    Args:
        config: shape of the network.
        index: number of the convolution, 0 to 4.
    """

    def __init__(self, config: AlexNetConfig, index: int):
        super().__init__()
        kernel, stride, padding = (5 if index == 1 else 3), 1, (2 if index == 1 else 1)
        if index == 0 and config.stem == "imagenet":
            kernel, stride, padding = 11, 4, config.stem_padding
        channels = [config.num_channels, *config.hidden_sizes]
        self.conv = nn.Conv2d(
            channels[index],
            channels[index + 1],
            kernel,
            stride,
            padding,
            groups=config.groups[index],
        )
        lrn = (config.lrn_size, config.lrn_alpha, config.lrn_beta, config.lrn_k)
        self.lrn = lrn if config.use_lrn and index < 2 else None
        self.pool = nn.Identity() if index in (2, 3) else nn.MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.device.type == "cpu" and torch.compiler.is_compiling():
            # Else PyTorch 2.13's compiler takes the gradient of the last max pooling for 0.
            x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.conv(x))  # (N, C, H, W) -> (N, C', H / stride, W / stride)
        if self.lrn:
            size, alpha, beta, k = self.lrn
            # Squares of activations of raw pixels overflow in half precision.
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            x = F.local_response_norm(wide, size, alpha, beta, k).to(x.dtype)
        pooled: Tensor = self.pool(x)
        return pooled


class AlexNet(ConvZooModel):
    """Image classifier of the AlexNet family.

    Args:
        config: shape and regularisation of the network.
    """

    config: AlexNetConfig
    config_class = AlexNetConfig
    head_layers = ("fc6", "fc7", "classifier")
    _no_split_modules = ["AlexNetLayer"]  # noqa: RUF012 - a list in Transformers

    def __init__(self, config: AlexNetConfig):
        super().__init__(config)
        self.stem = AlexNetLayer(config, 0)
        self.stages = nn.ModuleList(
            nn.Sequential(*(AlexNetLayer(config, index) for index in indices))
            for indices in ((1,), (2, 3, 4))  # a stage ends where pooling does
        )
        self.pool = nn.AdaptiveAvgPool2d(config.pooled_size)  # changes nothing at 224 pixels
        self.dropout = nn.Dropout(config.dropout_rate)
        size = config.classifier_hidden_size
        self.fc6 = nn.Linear(config.hidden_sizes[-1] * config.pooled_size**2, size)
        self.fc7 = nn.Linear(size, size)
        self.classifier = classifier_layer(config, size)
        # Three poolings of stride 2 need 15x15; a convolution of stride 4 comes before them.
        stem_size = 14 * 4 + 11 - 2 * config.stem_padding
        self.minimum_image_size = stem_size if config.stem == "imagenet" else 15
        self.post_init()

    def forward_pool(self, x: Tensor) -> Tensor:
        """Pool to a fixed size, through fc6 and fc7: to (N, classifier_hidden_size)."""
        x = self.dropout(self.pool(x).flatten(1))  # (N, C, H, W) -> (N, C * H * W)
        x = self.dropout(F.relu(self.fc6(x)))  # -> (N, classifier_hidden_size)
        return F.relu(self.fc7(x))

    def forward_head(self, x: Tensor) -> Tensor:
        """Pool and classify: (N, C, H, W) -> (N, num_labels)."""
        logits = super().forward_head(x)
        return F.relu(logits) if self.config.final_relu else logits

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise uniformly, as PyTorch does."""
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()


class AlexNetModel(ConvZooFeatures, AlexNet):
    """AlexNet without its classifier: the last map, and what leaves fc7."""

    config: AlexNetConfig


class AlexNetBackbone(ConvZooBackbone, AlexNet):
    """AlexNet without its linear layers: the maps of the stages that the configuration chooses."""

    config: AlexNetConfig


__all__ = ["AlexNet", "AlexNetBackbone", "AlexNetModel"]
