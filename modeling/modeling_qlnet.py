"""QLNet: a residual network whose blocks multiply channels instead of activating them.

From github.com/liuyao12/ConvNets-PDE-perspective, where a network is read as a partial differential
equation and the product of two channels as its quadratic term. A block widens its input with a 1x1
convolution, multiplies one half of the channels by the other, applies a depthwise 3x3 and a 1x1
convolution and adds the input. Only the stem has a ReLU. In evaluation mode the residual stream can
be rotated without changing the logits: see QLNet.rotate_stream.
"""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils import can_return_tuple

from .configuration_qlnet import QLNetConfig


def batch_norm(config: QLNetConfig, channels: int) -> nn.BatchNorm2d:
    """Batch norm with the configured momentum and eps."""
    return nn.BatchNorm2d(channels, config.batch_norm_eps, config.batch_norm_momentum)


def hardball(x: Tensor) -> Tensor:
    """Shrink the channel vector of each pixel to length sqrt(channels) where it is longer."""
    radius = x.shape[1] ** 0.5
    # Squares overflow in half precision. The clamp keeps gradients finite where the norm is 0.
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=dtype)
    return x * (radius / norm.clamp(min=radius)).to(x.dtype)


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
        return self.pool(F.relu(self.bn(self.conv(x))))


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution without bias, with one or more outputs for each channel.

    On CPUs each of these outputs is a convolution by itself, in float32 if it has a stride: oneDNN
    is slow at several outputs, and at strided gradients in bfloat16.
    """

    def forward(self, x: Tensor) -> Tensor:
        count = self.out_channels // self.in_channels
        exporting = torch.jit.is_tracing() or torch.compiler.is_exporting()  # for any device
        if count == 1 or x.device.type != "cpu" or exporting:
            return super().forward(x)
        widen = x.dtype == torch.bfloat16 and self.stride[0] > 1
        dtype = torch.float32 if widen else x.dtype
        with torch.autocast("cpu", enabled=False):
            weight, wide = self.weight.to(dtype), x.to(dtype)
            outputs = [self._conv_forward(wide, weight[i::count], None) for i in range(count)]
        if x.stride(1) == 1:  # channels last
            outputs = [output.movedim(1, -1) for output in outputs]
            return torch.stack(outputs, -1).flatten(-2).movedim(-1, 1).to(x.dtype)
        return torch.stack(outputs, 2).flatten(1, 2).to(x.dtype)


class QLNetBlock(GradientCheckpointingLayer):
    """shortcut(x) + project(depthwise(first half * second half of widen(x)))."""

    def __init__(self, config: QLNetConfig, in_channels: int, out_channels: int, stride: int):
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
        self.bn3.zero_init = True  # see QLNet._init_weights
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(
                OrderedDict(conv=conv, bn=batch_norm(config, out_channels))
            )

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.bn1(self.conv1(x)).chunk(2, dim=1)
        branch = self.bn2(self.conv2(first * second))
        branch = self.bn3(self.conv3(branch)) + self.shortcut(x)
        return branch if isinstance(self.shortcut, nn.Identity) else hardball(branch)


class ScratchStatistics:
    """Context in which the batch norms of a block update copies of their running statistics.

    Activation checkpointing runs a block a second time for the backward pass; without this the
    same batch would enter the running statistics twice.
    """

    def __init__(self, block: nn.Module):
        self.block = block

    def __enter__(self):
        self.buffers = [(m._buffers, dict(m._buffers)) for m in self.block.modules()]
        for buffers, kept in self.buffers:
            buffers.update({name: buffer.clone() for name, buffer in kept.items()})

    def __exit__(self, *exception):
        for buffers, kept in self.buffers:
            buffers.update(kept)


def checkpoint_block(block: nn.Module, checkpoint_func: Callable, function: Callable, *args):
    """Run a block under activation checkpointing; its running statistics move once."""
    if torch.compiler.is_compiling():  # compiled graphs write buffers once, and take no contexts
        return checkpoint_func(function, *args)
    return checkpoint_func(
        function, *args, context_fn=lambda: (nullcontext(), ScratchStatistics(block))
    )


class QLNet(PreTrainedModel):
    """Image classifier of the QLNet family.

    Args:
        config: shape of the network.
    """

    config_class = QLNetConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the Trainer must divide the loss by its accumulation steps
    _no_split_modules = ["QLNetStem", "QLNetBlock"]

    def __init__(self, config: QLNetConfig):
        super().__init__(config)
        self.stem = QLNetStem(config)
        self.stages = nn.ModuleList()
        channels = config.embedding_size
        for size, depth in zip(config.hidden_sizes, config.depths, strict=True):
            blocks = []
            for j in range(depth):
                stride = 2 if len(self.stages) > 0 and j == 0 else 1
                blocks.append(QLNetBlock(config, channels, size, stride))
                channels = size
            self.stages.append(nn.Sequential(*blocks))
        self.classifier = nn.Identity()
        if config.num_labels > 0:
            self.classifier = nn.Linear(channels, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module):
        """Kaiming normal for convolutions; the branch of every block starts at zero."""
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="linear")
        elif isinstance(module, nn.Linear):
            module.reset_parameters()
        else:
            super()._init_weights(module)
            if hasattr(module, "zero_init"):
                init.zeros_(module.weight)

    def _set_gradient_checkpointing(
        self, enable=True, gradient_checkpointing_func=checkpoint, **kwargs
    ):
        if getattr(gradient_checkpointing_func, "keywords", {}).get("use_reentrant"):
            raise ValueError(
                "use_reentrant must be False: batch norms would count each batch twice; got True"
            )
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)
        for block in self.modules():
            if isinstance(block, GradientCheckpointingLayer):
                block._gradient_checkpointing_func = partial(
                    checkpoint_block, block, gradient_checkpointing_func
                )

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> ImageClassifierOutputWithNoAttention:
        """Classify a batch of images.

        Args:
            pixel_values: normalised images, (N, num_channels, H, W).
            labels: class indices (N,) or class probabilities (N, num_labels), for the loss.
            output_hidden_states: also return the output of the stem and of each stage.
            kwargs: ignored.

        Returns:
            logits (N, num_labels); loss (mean cross entropy) when labels are given; hidden_states
            when asked for. With num_labels 0 the logits are the pooled features.

        Raises:
            ValueError: if the images or the labels do not fit the configuration.
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                "pixel_values must have shape (N, C, H, W) with C = "
                f"{self.config.num_channels} (config.num_channels); got shape "
                f"{tuple(pixel_values.shape)}. The image processor of the model makes such batches."
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states

        x = self.stem(pixel_values)
        hidden_states = (x,) if output_hidden_states else None
        for stage in self.stages:
            x = stage(x)
            if output_hidden_states:
                hidden_states += (x,)
        logits = self.classifier(hardball(x).mean((2, 3)))  # (N, C, H, W) -> (N, num_labels)

        return ImageClassifierOutputWithNoAttention(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=hidden_states,
        )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        indices = labels.shape == logits.shape[:1] and not labels.is_floating_point()
        if not indices and not (labels.shape == logits.shape and labels.is_floating_point()):
            raise ValueError(
                f"labels must be integers of shape ({len(logits)},) or probabilities of shape "
                f"{tuple(logits.shape)}; got {labels.dtype} of shape {tuple(labels.shape)}."
            )
        # On an accelerator this check would wait for the device.
        if indices and labels.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = labels.aminmax()
            if low < 0 or high >= self.config.num_labels:
                raise ValueError(
                    f"labels must be in 0..{self.config.num_labels - 1} (config.num_labels - 1); "
                    f"got {low.item()}..{high.item()}."
                )
        dtype = torch.promote_types(
            logits.dtype, torch.float32
        )  # sums need more than half precision
        return F.cross_entropy(logits.to(dtype), labels if indices else labels.to(dtype))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load weights that fit the configuration exactly.

        Args:
            pretrained_model_name_or_path: a Hub id or a folder.
            args: for `PreTrainedModel.from_pretrained`.
            kwargs: fields of the configuration to replace (`stem`, `num_classes`, ...) and
                what `PreTrainedModel.from_pretrained` takes. With `ignore_mismatched_sizes=True`
                weights of another shape, as those of a new classifier, are initialised.

        Returns:
            The model in evaluation mode; with `output_loading_info` also what was loaded.

        Raises:
            ValueError: if weights are missing, unexpected, of another shape, or not readable.
        """
        with_info = kwargs.pop("output_loading_info", False)
        new_sizes = kwargs.pop("ignore_mismatched_sizes", False)
        kwargs["key_mapping"] = {**{r"^_orig_mod\.": ""}, **(kwargs.get("key_mapping") or {})}
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **kwargs,
            )
        except Exception as error:
            if "deserializing header" not in str(error):
                raise
            raise ValueError(
                f"weights in {pretrained_model_name_or_path} must be a complete safetensors file; "
                f"got: {error}. Download or copy the file again."
            ) from error
        model._weight_conversions = None  # or save_pretrained would write the names of the file
        faults = [f"{key} is missing" for key in sorted(info["missing_keys"])]
        for key in sorted(info["unexpected_keys"]):
            if model.config.num_labels or not key.startswith("classifier."):
                faults.append(f"{key} is unexpected")
        for key, found, wanted in [] if new_sizes else sorted(info["mismatched_keys"]):
            faults.append(f"{key} has shape {tuple(found)} instead of {tuple(wanted)}")
        if faults:
            hint = "Pass the fields that differ; ignore_mismatched_sizes=True for a new classifier."
            more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
            raise ValueError(
                f"weights in {pretrained_model_name_or_path} must fit the {cls.__name__} "
                f"configuration exactly; got {'; '.join(faults[:10])}{more}. {hint}"
            )
        return (model, info) if with_info else model

    @torch.no_grad()
    def rotate_stream(self, stage: int, matrix: Tensor):
        """Rotate the residual stream of a stage; logits in evaluation mode stay the same.

        What writes to the stream (the last convolution of each block and the first shortcut) is
        multiplied by the matrix, what reads it (the later blocks, and the next stage or the
        classifier) by its inverse. Batch norms that write are folded into their convolution and
        become the identity plus a bias, so the result has the ordinary keys. Batch norm works on
        single channels, so this is no symmetry of training.

        Args:
            stage: index into `stages` of a stage that starts with a shortcut convolution.
            matrix: orthogonal, (C, C) with C channels in the stream.

        Raises:
            ValueError: if the stage, the matrix or training mode rules the rotation out.
        """
        if self.training:
            raise ValueError(
                "the model must be in evaluation mode to be rotated. Call eval() first."
            )
        blocks = self.stages[stage]
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
        writers = [(block.conv3, block.bn3) for block in blocks] + [(shortcut.conv, shortcut.bn)]
        for conv, bn in writers:
            gain = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
            bias = bn.bias.double() - bn.running_mean.double() * gain
            weight = matrix @ (gain[:, None] * conv.weight.double().flatten(1))
            conv.weight.copy_(weight.view_as(conv.weight))
            bn.bias.copy_(matrix @ bias)
            bn.weight.fill_(1)
            bn.running_mean.zero_()
            bn.running_var.fill_(1 - bn.eps)
        readers = [block.conv1 for block in blocks[1:]]
        if blocks is self.stages[-1]:
            readers.append(self.classifier)
        else:
            following = self.stages[stage + 1][0]
            readers += [following.conv1, following.shortcut.conv]
        for reader in readers:
            weight = reader.weight.double().flatten(1) @ matrix.T
            reader.weight.copy_(weight.view_as(reader.weight))


__all__ = ["QLNet"]
