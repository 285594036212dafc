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
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils import can_return_tuple

from .configuration_alexnet import AlexNetConfig


class AlexNetLayer(GradientCheckpointingLayer):
    """Convolution `index` (0 to 4) with ReLU, and the normalisation and pooling that follow it."""

    def __init__(self, config: AlexNetConfig, index: int):
        super().__init__()
        kernel, stride, padding = (5 if index == 1 else 3), 1, (2 if index == 1 else 1)
        if index == 0 and config.stem == "imagenet":
            kernel, stride, padding = 11, 4, config.stem_padding
        channels = [config.num_channels, *config.hidden_sizes]
        self.conv = nn.Conv2d(
            *channels[index : index + 2], kernel, stride, padding, groups=config.groups[index]
        )
        lrn = (config.lrn_size, config.lrn_alpha, config.lrn_beta, config.lrn_k)
        self.lrn = lrn if config.use_lrn and index < 2 else None
        self.pool = nn.Identity() if index in (2, 3) else nn.MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        if self.lrn:
            # Squares of activations of raw pixels overflow in half precision.
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            x = F.local_response_norm(wide, *self.lrn).to(x.dtype)
        return self.pool(x)


class AlexNet(PreTrainedModel):
    """Image classifier of the AlexNet family.

    Args:
        config: shape and regularisation of the network.
    """

    config_class = AlexNetConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the Trainer must divide the loss by its accumulation steps
    _no_split_modules = ["AlexNetLayer"]

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
        self.classifier = nn.Identity()
        if config.num_labels > 0:
            self.classifier = nn.Linear(size, config.num_labels)
        # Three poolings of stride 2 need 15x15; a convolution of stride 4 comes before them.
        stem_size = 14 * 4 + 11 - 2 * config.stem_padding
        self.minimum_image_size = stem_size if config.stem == "imagenet" else 15
        self.post_init()

    def _init_weights(self, module: nn.Module):
        """PyTorch's uniform initialisation."""
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.reset_parameters()

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
            when asked for. With num_labels 0 the logits are the features of `fc7`.

        Raises:
            ValueError: if the images or the labels do not fit the configuration.
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                "pixel_values must have shape (N, C, H, W) with C = "
                f"{self.config.num_channels} (config.num_channels); got shape "
                f"{tuple(pixel_values.shape)}. The image processor of the model makes such batches."
            )
        if min(pixel_values.shape[2:]) < self.minimum_image_size:
            raise ValueError(
                f"pixel_values must be at least {self.minimum_image_size} pixels high and wide; "
                f'got shape {tuple(pixel_values.shape)}. Enlarge the images, or use stem="small".'
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states

        x = self.stem(pixel_values)
        hidden_states = (x,) if output_hidden_states else None
        for stage in self.stages:
            x = stage(x)
            if output_hidden_states:
                hidden_states += (x,)
        x = self.dropout(self.pool(x).flatten(1))  # (N, C, H, W) -> (N, C * H * W)
        x = self.dropout(F.relu(self.fc6(x)))
        logits = self.classifier(F.relu(self.fc7(x)))  # (N, num_labels)
        if self.config.final_relu:
            logits = F.relu(logits)

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
            kwargs: fields of the configuration to replace (`final_relu`, `num_classes`, ...) and
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


__all__ = ["AlexNet"]
