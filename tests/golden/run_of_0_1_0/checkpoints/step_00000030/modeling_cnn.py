"""CNN: a ResNet-50 with PReLU activations and learnt residual scales.

The layout is ResNet-50 (He et al., "Deep Residual Learning", arXiv:1512.03385) with the stride on
the 3x3 convolution. It differs in three things: the activations are PReLUs with one slope for each
channel (He et al., "Delving Deep into Rectifiers", arXiv:1502.01852), the convolutions in front of
batch norms have biases, and each residual branch is multiplied by softplus(residual_scale), a
learnt scalar that starts at softplus(0) = 0.69. First published as
github.com/chrisjob1021/model-examples; weights in that format load, too.
"""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils import can_return_tuple

from .configuration_cnn import CNNConfig

# Names that torch.compile's wrapper and the first published checkpoints give to weights -> ours.
KEY_MAPPING = {
    r"^_orig_mod\.": "",
    r"^conv1\.0\.": "stem.",
    r"^conv2\.": "stages.0.",
    r"^conv3\.": "stages.1.",
    r"^conv4\.": "stages.2.",
    r"^conv5\.": "stages.3.",
    r"\.shortcut\.0\.": ".shortcut.conv.",
    r"\.shortcut\.1\.": ".shortcut.bn.",
    r"^fc\.": "classifier.",
}


def batch_norm(config: CNNConfig, channels: int) -> nn.BatchNorm2d:
    """Batch norm with the configured momentum and eps."""
    return nn.BatchNorm2d(channels, config.batch_norm_eps, config.batch_norm_momentum)


class PReLUFunction(torch.autograd.Function):
    """PReLU with the gradients of PyTorch's, by vectorised operations; its own on CPUs is none."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, slopes: Tensor) -> Tensor:
        return torch.prelu(x, slopes)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slopes = (tensor.to(grad.dtype) for tensor in ctx.saved_tensors)  # as autocast did
        positive = torch.ops.aten.threshold_backward(grad, x, 0)
        negative = grad - positive  # grad where x <= 0, 0 elsewhere
        grad_x = torch.addcmul(positive, negative, slopes.view(-1, 1, 1))
        # x first: its memory layout decides the order of the sum, as in PyTorch's.
        return grad_x, (x * negative).sum((0, 2, 3)).sum_to_size(slopes.shape)


class PReLU(nn.PReLU):
    """PReLU: `PReLUFunction` in training on CPUs; elsewhere and in graphs that of PyTorch."""

    def forward(self, x: Tensor) -> Tensor:
        graph = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if x.device.type != "cpu" or graph or not self.training:
            return super().forward(x)
        return PReLUFunction.apply(x, self.weight)


def activation(config: CNNConfig, channels: int) -> nn.Module:
    """PReLU or ReLU, as configured."""
    if not config.use_prelu:
        return nn.ReLU()
    return PReLU(channels if config.prelu_channel_wise else 1, init=config.prelu_init)


class CNNStem(nn.Module):
    """Convolution, batch norm, activation and, for ImageNet sizes, max pooling."""

    def __init__(self, config: CNNConfig):
        super().__init__()
        size, imagenet, bias = config.embedding_size, config.stem == "imagenet", config.conv_bias
        kernel, stride = (7, 2) if imagenet else (3, 1)
        self.conv = nn.Conv2d(config.num_channels, size, kernel, stride, kernel // 2, bias=bias)
        self.bn = batch_norm(config, size)
        self.act = activation(config, size)
        self.pool = nn.MaxPool2d(3, 2, padding=1) if imagenet else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.act(self.bn(self.conv(x))))


class CNNBlock(GradientCheckpointingLayer):
    """Bottleneck: final_act(shortcut(x) + drop_path(softplus(residual_scale) * branch(x)))."""

    def __init__(
        self,
        config: CNNConfig,
        in_channels: int,
        out_channels: int,
        stride: int,
        drop_path_rate: float,
    ):
        super().__init__()
        width, bias = out_channels // config.bottleneck_expansion, config.conv_bias
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=bias)
        self.bn1 = batch_norm(config, width)
        self.act1 = activation(config, width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=bias)
        self.bn2 = batch_norm(config, width)
        self.act2 = activation(config, width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=bias)
        self.bn3 = batch_norm(config, out_channels)
        self.residual_scale = nn.Parameter(torch.zeros(1))
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            conv.keep_torch_init = True  # see CNN._init_weights
            self.shortcut = nn.Sequential(
                OrderedDict(conv=conv, bn=batch_norm(config, out_channels))
            )
        self.final_act = activation(config, out_channels)
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor) -> Tensor:
        branch = self.act1(self.bn1(self.conv1(x)))
        branch = self.act2(self.bn2(self.conv2(branch)))
        branch, scale = self.conv3(branch), F.softplus(self.residual_scale)
        kept = None
        if self.training and self.drop_path_rate > 0:
            keep = 1 - self.drop_path_rate
            kept = branch.new_empty(len(branch), 1, 1, 1).bernoulli_(keep) / keep
        if self.training and not torch.jit.is_tracing():  # which takes no functional_call
            # The batch norm multiplies by the scale, too: the backward pass then has nothing to
            # add. Hooks of bn3 see the scaled branch.
            affine = {"weight": self.bn3.weight * scale, "bias": self.bn3.bias * scale}
            branch, scale = functional_call(self.bn3, affine, (branch,)), kept
        else:
            # In the type of the branch: autocast's softplus would widen the residual stream.
            branch, scale = self.bn3(branch), scale.to(branch.dtype)
            scale = scale if kept is None else scale * kept
        if scale is None:
            return self.final_act(branch + self.shortcut(x))
        return self.final_act(torch.addcmul(self.shortcut(x), branch, scale))


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


class CNN(PreTrainedModel):
    """Image classifier of the CNN family.

    Args:
        config: shape and regularisation of the network.
    """

    config_class = CNNConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the Trainer must divide the loss by its accumulation steps
    _no_split_modules = ["CNNStem", "CNNBlock"]

    def __init__(self, config: CNNConfig):
        super().__init__(config)
        self.stem = CNNStem(config)
        self.stages = nn.ModuleList()
        index, last_index, channels = 0, max(sum(config.depths) - 1, 1), config.embedding_size
        for size, depth in zip(config.hidden_sizes, config.depths, strict=True):
            blocks = []
            for j in range(depth):
                stride = 2 if len(self.stages) > 0 and j == 0 else 1
                rate = config.drop_path_rate * index / last_index
                blocks.append(CNNBlock(config, channels, size, stride, rate))
                index, channels = index + 1, size
            self.stages.append(nn.Sequential(*blocks))
        self.classifier = nn.Identity()
        if config.num_labels > 0:
            self.classifier = nn.Linear(channels, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module):
        """Kaiming normal for convolutions; PyTorch's uniform for shortcuts and the classifier."""
        if isinstance(module, nn.Linear) or hasattr(module, "keep_torch_init"):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.PReLU):
            init.constant_(module.weight, self.config.prelu_init)
        elif isinstance(module, CNNBlock):
            init.zeros_(module.residual_scale)
        else:
            super()._init_weights(module)

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
        logits = self.classifier(x.mean((2, 3)))  # (N, C, H, W) -> (N, num_labels)

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
        """Load weights that fit the configuration exactly, in our format or the original's.

        Args:
            pretrained_model_name_or_path: a Hub id or a folder.
            args: for `PreTrainedModel.from_pretrained`.
            kwargs: fields of the configuration to replace (`use_prelu`, `num_classes`, ...) and
                what `PreTrainedModel.from_pretrained` takes. With `ignore_mismatched_sizes=True`
                weights of another shape, as those of a new classifier, are initialised.

        Returns:
            The model in evaluation mode; with `output_loading_info` also what was loaded.

        Raises:
            ValueError: if weights are missing, unexpected, of another shape, or not readable.
        """
        with_info = kwargs.pop("output_loading_info", False)
        new_sizes = kwargs.pop("ignore_mismatched_sizes", False)
        kwargs["key_mapping"] = {**KEY_MAPPING, **(kwargs.get("key_mapping") or {})}
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
            if all("act" in fault for fault in faults):
                switch = "prelu_channel_wise" if info["mismatched_keys"] else "use_prelu"
                hint = f"Try {switch}={not getattr(model.config, switch)}."
            more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
            raise ValueError(
                f"weights in {pretrained_model_name_or_path} must fit the {cls.__name__} "
                f"configuration exactly; got {'; '.join(faults[:10])}{more}. {hint}"
            )
        return (model, info) if with_info else model


__all__ = ["CNN"]
