"""QLNet: a residual network whose blocks multiply channels instead of activating them.

From github.com/liuyao12/ConvNets-PDE-perspective, where a network is read as a partial differential
equation and the product of two channels as its quadratic term. A block widens its input with a 1x1
convolution, multiplies one half of the channels by the other, applies a depthwise 3x3 and a 1x1
convolution and adds the input. Only the stem has a ReLU. The logits stay the same when the residual
stream is rotated, in evaluation mode, and when the factors of a product are scaled against each
other: see QLNet.rotate_stream and QLNet.scale_products.
"""

from collections import OrderedDict
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_qlnet import QLNetConfig
from .modeling_convzoo import (
    ConvZooBackbone,
    ConvZooFeatures,
    ConvZooModel,
    PointwiseConv2d,
    are_as_built,
    classifier_layer,
    computes_alone,
    fold,
    fuse_pair,
    is_tracing,
)


class QLNetStem(nn.Module):
    """Convolution, batch norm, ReLU and, for ImageNet sizes, max pooling."""

    def __init__(self, config: QLNetConfig):
        super().__init__()
        size, imagenet = config.embedding_size, config.stem == "imagenet"
        kernel, stride = (7, 2) if imagenet else (3, 1)
        self.conv = nn.Conv2d(config.num_channels, size, kernel, stride, kernel // 2, bias=False)
        self.bn = batch_norm(config, size)
        self.pool = nn.MaxPool2d(3, 2, padding=1) if imagenet else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)))  # (N, num_channels, H, W) -> (N, embedding_size, ...)
        pooled: Tensor = self.pool(x)  # a quarter of the height and width; all of it if "small"
        return pooled

    def fuse_norms(self) -> None:
        """Fold the batch norm into the convolution."""
        fuse_pair(self, "conv", "bn")


class QLNetBlock(GradientCheckpointingLayer):
    """Product block: shortcut(x) + project(depthwise(first half * second half of widen(x))).

    Args:
        config: shape of the network.
        in_channels: channels that enter.
        out_channels: channels that leave.
        stride: of the depthwise convolution.
    """

    def __init__(self, config: QLNetConfig, *, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        within = in_channels <= config.expansion_limit
        width = in_channels * (config.expansion if within else config.expansion_beyond)
        out_width = width * config.depthwise_multiplier
        self.conv1 = nn.Conv2d(in_channels, 2 * width, 1, bias=False)
        self.bn1 = batch_norm(config, 2 * width)
        self.conv2 = DepthwiseConv2d(
            width, out_width, 3, stride, padding=1, groups=width, bias=False
        )
        self.bn2 = batch_norm(config, out_width)
        self.conv3 = nn.Conv2d(out_width, out_channels, 1, bias=False)
        self.bn3 = batch_norm(config, out_channels)
        self.bn3.zero_init = True  # type: ignore[assignment]  # a mark for QLNet._init_weights
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            conv = PointwiseConv2d(in_channels, out_channels, 1, stride, bias=False)
            bn = batch_norm(config, out_channels)
            self.shortcut = nn.Sequential(OrderedDict[str, nn.Module](conv=conv, bn=bn))
        self.stride = stride
        self.folded: nn.ParameterList | None = None  # the weights once batch norms are fused

    def forward(self, x: Tensor) -> Tensor:
        if self.folded is not None:
            return self.forward_folded(x, list(self.folded))
        if x.device.type == "cpu" and computes_alone(self, LAYERS):
            return self.forward_folded(x, self.fold_weights())
        if x.device.type == "cpu" and self.training and self.trains_by_parts():
            branch = self.forward_by_parts(x)
        else:
            first, second = self.bn1(self.conv1(x)).chunk(2, dim=1)  # 2 * (N, width, H, W)
            branch = self.bn2(self.conv2(first * second))  # (N, out_width, H / stride, ...)
            branch = self.conv3(branch)
        x = self.bn3(branch) + self.shortcut(x)  # (N, out_channels, ...)
        return x if isinstance(self.shortcut, nn.Identity) else hardball(x)

    def trains_by_parts(self) -> bool:
        """Say whether nobody sees how the branch computes what its last batch norm takes."""
        convs, norms = (self.conv1, self.conv2, self.conv3), (self.bn1, self.bn2)
        if not are_as_built((*convs, *norms), LAYERS, training=True):
            return False
        if [type(conv) for conv in convs] != [nn.Conv2d, DepthwiseConv2d, nn.Conv2d]:
            return False
        return all(conv.bias is None for conv in convs) and all(
            type(norm) is nn.BatchNorm2d
            and norm.momentum is not None
            and norm.track_running_stats
            and norm.affine
            for norm in norms
        )

    def forward_by_parts(self, x: Tensor) -> Tensor:
        """Compute the branch up to conv3 in training; no map is split, interleaved or joined."""
        width = self.conv2.in_channels
        first, second = (  # 2 * (N, width, H, W)
            normalize_part(F.conv2d(x, self.conv1.weight[part]), self.bn1, part)
            for part in (slice(width), slice(width, None))
        )
        outputs = self.conv2.outputs(first * second)
        branch: Tensor | None = None
        for i, output in enumerate(outputs):
            part = slice(i, None, len(outputs))
            output = normalize_part(output, self.bn2, part)
            output = F.conv2d(output, self.conv3.weight[:, part])  # (N, out_channels, ...)
            branch = output if branch is None else branch + output
        for norm in (self.bn1, self.bn2):
            cast(Tensor, norm.num_batches_tracked).add_(1)
        return cast(Tensor, branch)

    def fold_weights(self) -> list[Tensor]:
        """Fold the batch norms into the convolutions.

        Returns:
            Weights and biases in the order of `forward_folded`: of the first and of the second
            factors; for each output that the depthwise convolution has of a channel those of the
            outputs of this number, and the part of conv3's weight that reads them; the bias of
            conv3; and those of the shortcut if it has a convolution.
        """
        half = self.conv2.in_channels
        count = self.conv2.out_channels // half
        weight, bias = fold(self.conv1, self.bn1)
        tensors = [weight[:half], bias[:half], weight[half:], bias[half:]]
        weight, bias = fold(self.conv2, self.bn2)
        last_weight, last_bias = fold(self.conv3, self.bn3)
        for i in range(count):
            tensors += [weight[i::count], bias[i::count], last_weight[:, i::count]]
        tensors.append(last_bias)
        if isinstance(self.shortcut, nn.Sequential):
            conv, bn = self.shortcut.children()
            tensors += fold(conv, bn)
        return [tensor.contiguous() for tensor in tensors]

    def forward_folded(self, x: Tensor, tensors: list[Tensor]) -> Tensor:
        """Compute the block from folded weights, part by part: nothing is interleaved or joined."""
        first, first_bias, second, second_bias, *tensors = tensors
        product = F.conv2d(x, first, first_bias)
        product = product.mul_(F.conv2d(x, second, second_bias))  # (N, width, H, W)
        shortcut = x
        if not isinstance(self.shortcut, nn.Identity):
            *tensors, weight, bias = tensors
            shortcut = F.conv2d(x, weight, bias, self.stride)
        *tensors, last_bias = tensors
        output, groups = None, len(first)
        for weight, bias, last in zip(tensors[::3], tensors[1::3], tensors[2::3], strict=True):
            part = F.conv2d(product, weight, bias, self.stride, 1, 1, groups)
            if output is None:
                output = F.conv2d(part, last, last_bias)  # (N, out_channels, ...)
            else:
                output = output.add_(F.conv2d(part, last))
        output = cast(Tensor, output).add_(shortcut)
        return output if isinstance(self.shortcut, nn.Identity) else hardball(output)

    def fuse_norms(self) -> None:
        """Replace all layers by their folded weights."""
        with torch.no_grad():
            self.folded = nn.ParameterList(self.fold_weights())
        for name in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"):
            delattr(self, name)
        if not isinstance(self.shortcut, nn.Identity):
            self.shortcut = nn.Sequential()


class QLNet(ConvZooModel):
    """Image classifier of the QLNet family.

    Args:
        config: shape of the network.
    """

    config: QLNetConfig
    config_class = QLNetConfig
    arranges_single_images = True
    _no_split_modules = ["QLNetStem", "QLNetBlock"]  # noqa: RUF012 - a list in Transformers

    def __init__(self, config: QLNetConfig):
        super().__init__(config)
        self.stem = QLNetStem(config)
        self.stages = nn.ModuleList()
        channels = config.embedding_size
        for size, depth in zip(config.hidden_sizes, config.depths, strict=True):
            blocks = []
            for j in range(depth):
                stride = 2 if len(self.stages) > 0 and j == 0 else 1
                blocks.append(
                    QLNetBlock(config, in_channels=channels, out_channels=size, stride=stride)
                )
                channels = size
            self.stages.append(nn.Sequential(*blocks))
        self.classifier = classifier_layer(config, channels)
        self.post_init()

    def arrange(self, pixel_values: Tensor) -> Tensor:
        """Leave the layout of images where blocks go layer by layer: channels last is slower."""
        blocks = (module for module in self.modules() if isinstance(module, QLNetBlock))
        if self.fused or any(computes_alone(block, LAYERS) for block in blocks):
            return super().arrange(pixel_values)
        return pixel_values

    def forward_pool(self, x: Tensor) -> Tensor:
        """Shrink by hardball and average over all pixels: (N, C, H, W) -> (N, C)."""
        return hardball(x).mean((2, 3))

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise convolutions by Kaiming's normal law; every branch starts at zero."""
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="linear")
        elif isinstance(module, nn.Linear):
            module.reset_parameters()
        else:
            super()._init_weights(module)
            if isinstance(module, nn.BatchNorm2d) and hasattr(module, "zero_init"):
                init.zeros_(module.weight)

    @torch.no_grad()
    def rotate_stream(self, stage: int, matrix: Tensor) -> None:
        """Rotate the residual stream of a stage; logits in evaluation mode stay the same.

        All that writes to the stream (the last convolution of each block and the first shortcut) is
        multiplied by the matrix, all that reads it (the later blocks, and the next stage or the
        classifier) by its inverse. Batch norms that write are folded into their convolution and
        become the identity plus a bias, so the result has the ordinary keys. Batch norm works on
        single channels, so this is no symmetry of training.

        Args:
            stage: index into `stages` of a stage that starts with a shortcut convolution.
            matrix: orthogonal, (C, C) with C channels in the stream.

        Raises:
            ValueError: if the stage, the matrix or training mode rules the rotation out.
        """
        if self.training or self.fused:
            raise ValueError(
                "the model must be in evaluation mode, and not fused, to be rotated. Call eval() "
                "first, and fuse() afterwards."
            )
        blocks = self._blocks(stage)
        shortcut, channels = blocks[0].shortcut, blocks[0].conv3.out_channels
        if isinstance(shortcut, nn.Identity):
            raise ValueError(f"stage must start with a shortcut convolution; got stage {stage}")
        matrix = matrix.to(self.device, torch.float64)
        identity = torch.eye(channels, dtype=matrix.dtype, device=matrix.device)
        if matrix.shape != identity.shape or not torch.allclose(
            matrix @ matrix.T, identity, atol=1e-4
        ):
            raise ValueError(
                f"matrix must be orthogonal and ({channels}, {channels}); got shape "
                f"{tuple(matrix.shape)}. torch.linalg.qr(matrix).Q is orthogonal."
            )
        writers = [(block.conv3, block.bn3) for block in blocks]
        writers.append(cast(tuple[nn.Conv2d, nn.BatchNorm2d], tuple(shortcut.children())))
        for conv, bn in writers:
            fold_rotation(conv, bn, matrix)
        readers: list[nn.Module] = [block.conv1 for block in blocks[1:]]
        if self.stages[stage] is self.stages[-1]:
            readers.append(self.classifier)
        else:
            following = self._blocks(stage + 1)[0]
            readers += [following.conv1, next(following.shortcut.children())]
        for reader in readers:
            weight = cast(Tensor, reader.weight)
            weight.copy_((weight.double().flatten(1) @ matrix.T).view_as(weight))

    @torch.no_grad()
    def scale_products(self, stage: int, block: int, factors: Tensor) -> None:
        """Scale the first factors of a block's products, and the second ones by the inverse.

        The products, and with them the network, stay the same, in training, too.

        Args:
            stage: index into `stages`.
            block: index into the stage.
            factors: one for each product, (width,), finite and not 0.

        Raises:
            ValueError: if the factors are others.
        """
        norm = self._blocks(stage)[block].bn1
        factors = factors.to(self.device, torch.float64)
        if factors.shape != (norm.num_features // 2,) or not (factors * (1 / factors) > 0).all():
            raise ValueError(
                f"factors must be {norm.num_features // 2} finite numbers other than 0; got shape "
                f"{tuple(factors.shape)}"
            )
        for value in (norm.weight, norm.bias):
            value.copy_(value.double() * torch.cat([factors, 1 / factors]))

    def _blocks(self, stage: int) -> list[QLNetBlock]:
        return [block for block in self.stages[stage].children() if isinstance(block, QLNetBlock)]


class QLNetModel(ConvZooFeatures, QLNet):
    """QLNet without its classifier: the last map, and the average of its hardball."""

    config: QLNetConfig


class QLNetBackbone(ConvZooBackbone, QLNet):
    """QLNet without its head: the maps of the stages that the configuration chooses."""

    config: QLNetConfig


def fold_rotation(conv: nn.Conv2d, bn: nn.BatchNorm2d, matrix: Tensor) -> None:
    """Fold a batch norm in evaluation mode into the convolution before it, and rotate both."""
    mean, variance = cast(Tensor, bn.running_mean), cast(Tensor, bn.running_var)
    gain = bn.weight.double() / (variance.double() + bn.eps).sqrt()
    bias = bn.bias.double() - mean.double() * gain
    weight = matrix @ (gain[:, None] * conv.weight.double().flatten(1))
    conv.weight.copy_(weight.view_as(conv.weight))
    bn.bias.copy_(matrix @ bias)
    bn.weight.fill_(1)
    mean.zero_()
    variance.fill_(1 - bn.eps)


# Layers ----------------------------------------------------------------------------------------


def batch_norm(config: QLNetConfig, channels: int) -> nn.BatchNorm2d:
    """Make a batch norm with the configured momentum and eps."""
    return nn.BatchNorm2d(channels, config.batch_norm_eps, config.batch_norm_momentum)


def normalize_part(x: Tensor, norm: nn.BatchNorm2d, part: slice) -> Tensor:
    """Apply a batch norm in training to those of its channels that x, (N, C, H, W), has."""
    statistics = (cast(Tensor, norm.running_mean)[part], cast(Tensor, norm.running_var)[part])
    # Channels last, PyTorch 2.13 reads weights that are not contiguous wrongly in the gradient.
    weight, bias = norm.weight[part].contiguous(), norm.bias[part].contiguous()
    return F.batch_norm(x, *statistics, weight, bias, True, norm.momentum or 0.0, norm.eps)


def hardball(x: Tensor) -> Tensor:
    """Shrink the channel vector of each pixel to length sqrt(C) where it is longer.

    Args:
        x: a map, (N, C, H, W).

    Returns:
        The map, (N, C, H, W), in the type of x.
    """
    radius = x.shape[1] ** 0.5
    # Squares overflow in half precision. The clamp keeps gradients finite where the norm is 0.
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=dtype)
    factor: Tensor = radius / norm.clamp(min=radius)
    return x * factor.to(x.dtype)


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution with one or more outputs for each channel.

    On CPUs each of these outputs is a convolution by itself, in float32 if it has a stride: oneDNN
    is slow at several outputs, and at strided gradients in bfloat16.
    """

    def forward(self, x: Tensor) -> Tensor:
        count = self.out_channels // self.in_channels
        exporting = is_tracing() or torch.compiler.is_exporting()  # for any device
        if count == 1 or x.device.type != "cpu" or exporting:
            return super().forward(x)
        outputs = self.outputs(x)
        if x.stride(1) == 1:  # channels last
            outputs = [output.movedim(1, -1) for output in outputs]
            return torch.stack(outputs, -1).flatten(-2).movedim(-1, 1)
        return torch.stack(outputs, 2).flatten(1, 2)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Compute the first output of each channel, the second, ...: (N, in_channels, ...)."""
        count = self.out_channels // self.in_channels
        widen = x.dtype == torch.bfloat16 and self.stride[0] > 1
        dtype = torch.float32 if widen else x.dtype
        with torch.autocast("cpu", enabled=False):
            weight, wide = self.weight.to(dtype), x.to(dtype)
            # A bias is here where a batch norm was folded into the convolution.
            bias = None if self.bias is None else self.bias.to(dtype)
            return [
                self._conv_forward(
                    wide, weight[i::count], None if bias is None else bias[i::count]
                ).to(x.dtype)
                for i in range(count)
            ]


# What a block consists of, as it was built.
LAYERS = (
    *(nn.Conv2d, PointwiseConv2d, DepthwiseConv2d, nn.BatchNorm2d),
    *(nn.Identity, nn.Sequential),
)


__all__ = ["QLNet", "QLNetBackbone", "QLNetModel"]
