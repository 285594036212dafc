"""CNN: a ResNet-50 with PReLU activations and learnt residual scales.

The layout is ResNet-50 (He et al., "Deep Residual Learning", arXiv:1512.03385) with the stride on
the 3x3 convolution. It differs in three things: the activations are PReLUs with one slope for each
channel (He et al., "Delving Deep into Rectifiers", arXiv:1502.01852), the convolutions in front of
batch norms have biases, and each residual branch is multiplied by softplus(residual_scale), a
learnt scalar that starts at softplus(0) = 0.69. First published as
github.com/chrisjob1021/model-examples; weights in that format load, too.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.func import functional_call
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_cnn import CNNConfig
from .modeling_convzoo import (
    WRAPPERS,
    ConvZooBackbone,
    ConvZooFeatures,
    ConvZooModel,
    PointwiseConv2d,
    classifier_layer,
    fuse_pair,
    is_tracing,
)

# Names that wrappers and the first published checkpoints give to weights -> ours.
WEIGHT_NAMES = {
    WRAPPERS: "",
    r"^conv1\.0\.": "stem.",
    r"^conv2\.": "stages.0.",
    r"^conv3\.": "stages.1.",
    r"^conv4\.": "stages.2.",
    r"^conv5\.": "stages.3.",
    r"\.shortcut\.0\.": ".shortcut.conv.",
    r"\.shortcut\.1\.": ".shortcut.bn.",
    r"^fc\.": "classifier.",
}


class CNNStem(nn.Module):
    """Convolution, batch norm, activation and, for ImageNet sizes, max pooling."""

    def __init__(self, config: CNNConfig):
        super().__init__()
        size, imagenet, bias = config.embedding_size, config.stem == "imagenet", config.conv_bias
        kernel, stride = (7, 2) if imagenet else (3, 1)
        self.conv = nn.Conv2d(config.num_channels, size, kernel, stride, kernel // 2, bias=bias)
        self.bn = batch_norm(config, size)
        self.act = activation(config, size, (self, "bn"))
        self.pool = nn.MaxPool2d(3, 2, padding=1) if imagenet else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))  # (N, num_channels, H, W) -> (N, embedding_size, ...)
        pooled: Tensor = self.pool(x)  # a quarter of the height and width; all of it if "small"
        return pooled

    def fuse_norms(self) -> None:
        """Fold the batch norm into the convolution."""
        fuse_pair(self, "conv", "bn")


class CNNBlock(GradientCheckpointingLayer):
    """Bottleneck: final_act(shortcut(x) + softplus(residual_scale) * branch(x)).

    The branch is a 1x1, a 3x3 and a 1x1 convolution, each with batch norm. In training drop path
    skips it for some images and enlarges it for the others.

    Args:
        config: shape and regularisation of the network.
        in_channels: channels that enter.
        out_channels: channels that leave.
        stride: of the 3x3 convolution.
        drop_path_rate: probability, in [0, 1), that training skips the branch for an image.
    """

    def __init__(
        self,
        config: CNNConfig,
        *,
        in_channels: int,
        out_channels: int,
        stride: int,
        drop_path_rate: float,
    ):
        super().__init__()
        width, bias = out_channels // config.bottleneck_expansion, config.conv_bias
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=bias)
        self.bn1 = batch_norm(config, width)
        self.act1 = activation(config, width, (self, "bn1"))
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=bias)
        self.bn2 = batch_norm(config, width)
        self.act2 = activation(config, width, (self, "bn2"))
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=bias)
        self.bn3 = batch_norm(config, out_channels)
        self.residual_scale = nn.Parameter(torch.zeros(1))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            conv = PointwiseConv2d(in_channels, out_channels, 1, stride, bias=False)
            conv.keep_torch_init = True  # type: ignore[assignment]  # a mark for _init_weights
            bn = batch_norm(config, out_channels)
            self.shortcut = nn.Sequential(OrderedDict[str, nn.Module](conv=conv, bn=bn))
        self.final_act = activation(config, out_channels)
        self.drop_path_rate = drop_path_rate
        self.fused = False

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            fused_output: Tensor = self.final_act(self.convolutions(x) + self.shortcut(x))
            return fused_output
        if self.training and self.takes_scaled_norm():
            return self.forward_with_scaled_norm(x)
        branch = self.bn3(self.convolutions(x))  # (N, out_channels, H / stride, W / stride)
        # In the type of the branch: autocast's softplus would widen the residual stream.
        scale = F.softplus(self.residual_scale).to(branch.dtype)
        kept = self.draw_kept(branch)
        scale = scale if kept is None else scale * kept
        output: Tensor = self.final_act(torch.addcmul(self.shortcut(x), branch, scale))
        return output

    def convolutions(self, x: Tensor) -> Tensor:
        """Run the branch up to its last batch norm."""
        x = self.act1(self.bn1(self.conv1(x)))  # (N, in_channels, H, W) -> (N, width, H, W)
        x = self.act2(self.bn2(self.conv2(x)))  # -> (N, width, H / stride, W / stride)
        branch: Tensor = self.conv3(x)  # -> (N, out_channels, H / stride, W / stride)
        return branch

    def draw_kept(self, branch: Tensor) -> Tensor | None:
        """Draw what drop path multiplies the branch of each image by: 0 or 1 / (1 - rate)."""
        if not self.training or self.drop_path_rate == 0:
            return None
        keep = 1 - self.drop_path_rate
        return branch.new_empty(len(branch), 1, 1, 1).bernoulli_(keep) / keep

    def takes_scaled_norm(self) -> bool:
        """Say whether the last batch norm is as it was built, so that its weights can be replaced.

        It is not where PEFT wraps it or a parametrisation or pruning computes its weights.
        """
        norm = self.bn3
        plain = getattr(type(norm), "forward", None) in (
            nn.BatchNorm2d.forward,
            nn.SyncBatchNorm.forward,
        )
        owns_weights = all(norm._parameters.get(name) is not None for name in ("weight", "bias"))
        replaced = "forward" in vars(norm)  # as accelerate's offloading does
        return plain and owns_weights and not replaced and not is_tracing()

    def forward_with_scaled_norm(self, x: Tensor) -> Tensor:
        """Compute the same in training, with a shorter backward pass; no trace can hold it.

        The last batch norm multiplies by the scale, too: the gradient of the scale then comes from
        its gains and biases, not from a sum over all pixels. Hooks of bn3 see the scaled branch.
        """
        branch, scale = self.convolutions(x), F.softplus(self.residual_scale)
        kept = self.draw_kept(branch)
        affine = {"weight": self.bn3.weight * scale, "bias": self.bn3.bias * scale}
        branch = functional_call(self.bn3, affine, (branch,))
        if kept is None:
            x = branch + self.shortcut(x)
        else:
            x = torch.addcmul(self.shortcut(x), branch, kept)
        output: Tensor = self.final_act(x)
        return output

    def fuse_norms(self) -> None:
        """Fold the batch norms, and the residual scale, into the convolutions."""
        fuse_pair(self, "conv1", "bn1")
        fuse_pair(self, "conv2", "bn2")
        fuse_pair(self, "conv3", "bn3", scale=F.softplus(self.residual_scale))
        if not isinstance(self.shortcut, nn.Identity):
            fuse_pair(self.shortcut, "conv", "bn")
        del self.residual_scale
        self.fused = True


class CNN(ConvZooModel):
    """Image classifier of the CNN family; loads weights under our names and the original's.

    Args:
        config: shape and regularisation of the network.
    """

    config: CNNConfig
    config_class = CNNConfig
    weight_names = WEIGHT_NAMES
    _no_split_modules = ["CNNStem", "CNNBlock"]  # noqa: RUF012 - a list in Transformers

    def __init__(self, config: CNNConfig):
        super().__init__(config)
        self.stem = CNNStem(config)
        self.stages = nn.ModuleList()
        index, last_index, channels = 0, max(sum(config.depths) - 1, 1), config.embedding_size
        for size, depth in zip(config.hidden_sizes, config.depths, strict=True):
            blocks = []
            for j in range(depth):
                block = CNNBlock(
                    config,
                    in_channels=channels,
                    out_channels=size,
                    stride=2 if len(self.stages) > 0 and j == 0 else 1,
                    drop_path_rate=config.drop_path_rate * index / last_index,
                )
                blocks.append(block)
                index, channels = index + 1, size
            self.stages.append(nn.Sequential(*blocks))
        self.pool = SpatialPyramidPooling(config.pyramid_levels)
        cells = sum(level**2 for level in config.pyramid_levels) or 1
        self.classifier = classifier_layer(config, channels * cells)
        self.post_init()

    def forward_pool(self, x: Tensor) -> Tensor:
        """Average over all pixels or pool in a pyramid: (N, C, H, W) -> (N, C * cells)."""
        return self.pool(x) if self.config.pyramid_levels else x.mean((2, 3))

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise convolutions by Kaiming's normal law, shortcuts and classifier as PyTorch."""
        if isinstance(module, nn.Conv2d) and not hasattr(module, "keep_torch_init"):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
        elif isinstance(module, nn.PReLU):
            init.constant_(module.weight, self.config.prelu_init)
        elif isinstance(module, CNNBlock):
            init.zeros_(module.residual_scale)
        else:
            super()._init_weights(module)

    def _hint(self, misfits: dict[str, list[Any]]) -> str:
        mismatched = [key for key, _, _ in misfits["mismatched_keys"]]
        keys = [*mismatched, *misfits["missing_keys"], *misfits["unexpected_keys"]]
        if not all("act" in key for key in keys):
            return super()._hint(misfits)
        switch = "prelu_channel_wise" if mismatched else "use_prelu"
        return f"Try {switch}={not getattr(self.config, switch)}."


class CNNModel(ConvZooFeatures, CNN):
    """CNN without its classifier: the last map, and its average over all pixels."""

    config: CNNConfig


class CNNBackbone(ConvZooBackbone, CNN):
    """CNN without its head: the maps of the stages that the configuration chooses."""

    config: CNNConfig


# Layers ----------------------------------------------------------------------------------------


def batch_norm(config: CNNConfig, channels: int) -> nn.BatchNorm2d:
    """Make a batch norm with the configured momentum and eps."""
    return nn.BatchNorm2d(channels, config.batch_norm_eps, config.batch_norm_momentum)


def activation(
    config: CNNConfig, channels: int, norm: tuple[nn.Module, str] | None = None
) -> nn.Module:
    """Make a PReLU or ReLU, as configured, of the output of a batch norm or of an addition."""
    if not config.use_prelu:
        return ReLU(norm)
    return PReLU(channels if config.prelu_channel_wise else 1, init=config.prelu_init)


class ReLU(nn.ReLU):
    """ReLU that overwrites its input in training, where nobody else can have it.

    Args:
        norm: module and name of its batch norm, which may be replaced, whose output this takes;
            None where that is a sum.
    """

    def __init__(self, norm: tuple[nn.Module, str] | None = None):
        super().__init__()
        self.norm = norm  # a tuple, so that it is no child of this module

    def forward(self, x: Tensor) -> Tensor:
        graph = torch.compiler.is_compiling() or is_tracing()
        if graph or not self.training or not torch.is_grad_enabled() or x._is_view():
            return F.relu(x)  # a view is what a backward hook gave
        norm = getattr(*self.norm) if self.norm else None
        hooked = self._forward_pre_hooks or (norm is not None and norm._forward_hooks)
        return F.relu(x, inplace=not hooked)


class SpatialPyramidPooling(nn.Module):
    """Largest pixel of each cell of several grids, side by side.

    A vector of fixed length for maps of any size that still says where in the image things are. He
    et al., "Spatial Pyramid Pooling in Deep Convolutional Networks", arXiv:1406.4729.

    Args:
        levels: cells along each side of each grid.
    """

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        self.levels = nn.ModuleList(nn.AdaptiveMaxPool2d(level) for level in levels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([level(x).flatten(1) for level in self.levels], 1)  # (N, C * cells)


class PReLU(nn.PReLU):
    """PReLU with a vectorised CPU backward pass; that of PyTorch is scalar.

    Outputs and gradients for x have the bits of PyTorch's; gradients for the slopes of float32 and
    bfloat16 are summed in another order. In evaluation, in graphs and on other devices it is that
    of PyTorch.
    """

    def forward(self, x: Tensor) -> Tensor:
        graph = torch.compiler.is_compiling() or is_tracing()
        if x.device.type != "cpu" or graph or not self.training:
            return super().forward(x)
        output: Tensor = PReLUFunction.apply(x, self.weight)
        return output


class PReLUFunction(torch.autograd.Function):
    """PReLU of x, (N, C, ...), by slopes, (C,) or (1,), and its gradients."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, slopes: Tensor) -> Tensor:
        return torch.prelu(x, slopes)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slopes = (tensor.to(grad.dtype) for tensor in ctx.saved_tensors)  # as autocast did
        slopes = slopes.view(-1, 1, 1)
        fast = x.dtype in (torch.float32, torch.bfloat16) and x.ndim == 4 and x.numel() > 0
        # Neither the gradient of a gradient nor a batch of batches goes through parts.
        if fast and not torch.is_grad_enabled() and not is_batched(grad):
            grad_x, sums = gradients_by_parts(x, grad, slopes)
        else:
            positive = torch.ops.aten.threshold_backward(grad, x, 0)
            negative = grad - positive  # grad where x <= 0, 0 elsewhere
            grad_x = torch.addcmul(positive, negative, slopes)
            # x first: its memory layout decides the order of the sum, as in PyTorch's.
            sums = (x * negative).sum((0, 2, 3))
        return grad_x, sums.sum_to_size(slopes.shape[0]).to(grad.dtype)


def gradients_by_parts(x: Tensor, grad: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of PReLU for x and, in float32, for one slope of each channel.

    Images go one after the other, or as many as a processor's cache holds, so that nothing but x,
    grad and the result passes through memory. A batch norm's gradient for its gain is the sum over
    the pixels of a product, which no other operation computes in one pass; mean and variance do
    nothing here.
    """
    grad_x, channels = torch.empty_like(x), x.shape[1]
    zeros, ones = torch.zeros(channels), torch.ones(channels)
    sums = torch.zeros(channels)
    count = max(1, CACHED_BYTES // (x[0].numel() * x.element_size()))
    scratch = torch.empty_like(grad[:count])
    parts = zip(x.split(count), grad.split(count), grad_x.split(count), strict=True)
    for x_part, grad_part, result in parts:
        torch.ops.aten.threshold_backward(grad_part, x_part, 0, grad_input=result)
        # grad where x <= 0, 0 elsewhere
        negative = torch.sub(grad_part, result, out=scratch[: len(result)])
        result.addcmul_(negative, slopes)
        sums += torch.ops.aten.native_batch_norm_backward(
            *(negative, x_part, ones, zeros, ones, None, None),
            *(False, 0.0, [False, True, False]),  # in evaluation mode, eps, only of the gain
        )[1]
    return grad_x, sums


def is_batched(x: Tensor) -> bool:
    """Say whether a tensor, or all, are wrapped by a transform of torch.func or vmap's ancestor."""
    functorch = torch._C._functorch
    return functorch.maybe_current_level() is not None or functorch.is_legacy_batchedtensor(x)


CACHED_BYTES = 2**20  # of one tensor in `gradients_by_parts`: second-level caches have 1 to 2 MiB

__all__ = ["CNN", "CNNBackbone", "CNNModel"]
