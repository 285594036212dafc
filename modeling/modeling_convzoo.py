"""The common half of all networks: the way through them, the loss and strict loading.

A family builds `stem`, `stages` and `classifier` and says in `forward_pool` how the last stage
becomes what the classifier sees. The rest of its file is the network of its paper, and two lines
for the same network without its head: `ConvZooFeatures` and `ConvZooBackbone`.
"""

import copy
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
)
from transformers.utils.generic import can_return_tuple

from .configuration_convzoo import ConvZooConfig
from .layers_by_hand import use_layers_by_hand

# Before the names of weights, of torch.compile and of DistributedDataParallel.
WRAPPERS = r"^(?:_orig_mod\.|module\.)+"
NEW_CLASSIFIER = ["classifier.bias", "classifier.weight"]
COUNTS_OF_AVERAGES = ["^n_averaged$"]  # of torch's AveragedModel, beside the averages
COUNTS_OF_BATCHES = [r"\.num_batches_tracked$"]  # old files lack them; nothing here reads them
IGNORED = -100  # label of rows that the loss leaves out, as in torch's cross_entropy


class ConvZooModel(PreTrainedModel):
    """Image classifier: a stem, stages and a head.

    Attributes:
        stem: first layers, (N, num_channels, H, W) -> (N, C, H', W').
        stages: groups of blocks, each (N, C, H, W) -> (N, C', H', W').
        classifier: last linear layer; Identity where `num_labels` is 0.
        head_layers: names of the layers with weights after the last stage.
        arranges_single_images: whether channels last is faster for one image, too.
        minimum_image_size: least height and width of images, in pixels.
        fused: whether `fuse` has folded the batch norms.
        weight_names: patterns in the names of weights in other files, and what they are here.
    """

    config: ConvZooConfig
    stem: nn.Module
    stages: nn.ModuleList
    classifier: nn.Linear | nn.Identity

    head_layers: tuple[str, ...] = ("classifier",)
    arranges_single_images = False
    minimum_image_size = 1
    fused = False

    # The wrappers of torch.compile and of data-parallel training put their names in front.
    weight_names = {WRAPPERS: ""}  # noqa: RUF012 - constant
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]  # a list would do, too
    supports_gradient_checkpointing = True
    _keys_to_ignore_on_load_missing = COUNTS_OF_BATCHES
    accepts_loss_kwargs = False  # the Trainer must divide the loss by its accumulation steps

    @can_return_tuple  # type: ignore[untyped-decorator]  # of Transformers
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutputWithNoAttention:
        """Classify a batch of images.

        Args:
            pixel_values: normalised images, (N, num_channels, H, W).
            labels: for the loss, of the form that `classification_loss` describes.
            output_hidden_states: also return the output of the stem and of each stage.
            kwargs: ignored.

        Returns:
            logits (N, num_labels); loss, a mean, when labels are given; hidden_states when asked
            for. With num_labels 0 the logits are what the classifier would see.

        Raises:
            ValueError: if the images or the labels do not fit the configuration.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        states = range(len(self.stages) + 1) if output_hidden_states else ()
        x, hidden_states = self.run_stages(pixel_values, states)
        logits = self.forward_head(x)

        return ImageClassifierOutputWithNoAttention(
            loss=None if labels is None else self.loss_function(labels, logits, config=self.config),
            logits=logits,
            hidden_states=tuple(hidden_states) or None,
        )

    def run_stages(
        self, pixel_values: Tensor, kept: Collection[int] = (), *, last: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the stem (0) and the stages (1, 2, ...) up to the one with the number `last`.

        Returns:
            the output of that one, and the outputs of those whose numbers are in `kept`, in order.
        """
        self._check_images(pixel_values)
        x = self.stem(self.arrange(pixel_values))
        states = [x] if 0 in kept else []
        for number, stage in enumerate(self.stages[:last], start=1):
            x = stage(x)
            if number in kept:
                states.append(x)
        return x, states

    def arrange(self, pixel_values: Tensor) -> Tensor:
        """Lay images out as evaluation on a CPU is fastest: channels last, as all maps are then."""
        graph = torch.compiler.is_compiling() or is_tracing()
        if self.training or pixel_values.device.type != "cpu" or graph:
            return pixel_values
        if len(pixel_values) == 1 and not self.arranges_single_images:
            return pixel_values
        return pixel_values.contiguous(memory_format=torch.channels_last)

    def forward_intermediates(
        self,
        pixel_values: Tensor,
        indices: int | Sequence[int | str] | None = None,
        *,
        stop_early: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Compute the maps of any stages, as the method of timm's models does.

        Args:
            pixel_values: normalised images, (N, num_channels, H, W).
            indices: places in config.stage_names, from the end where negative, or names of there;
                a number n for the last n; None for the stem and all stages.
            stop_early: leave out the stages after the last of them.

        Returns:
            The last map that was computed, and the maps of the indices, in the order of the stages;
            each is (N, C, H, W) with config.stage_channels and config.stage_strides.

        Raises:
            ValueError: if there is no such stage, or the images do not fit.
        """
        names = self.config.stage_names
        if indices is None:
            indices = range(len(names))
        elif isinstance(indices, int):
            indices = range(-indices, 0)
        kept = {_stage_number(index, names) for index in indices}
        if not kept:
            raise ValueError(f"indices must choose at least one of {names}; got none.")
        return self.run_stages(pixel_values, kept, last=max(kept) if stop_early else None)

    def forward_pool(self, x: Tensor) -> Tensor:
        """Turn the output of the last stage, (N, C, H, W), into what the classifier sees."""
        raise NotImplementedError

    def forward_head(self, x: Tensor) -> Tensor:
        """Turn the output of the last stage, (N, C, H, W), into logits, (N, num_labels)."""
        logits: Tensor = self.classifier(self.forward_pool(x))
        return logits

    def post_init(self) -> None:
        """Choose the layers and initialise weights, when all layers are there."""
        if self.config.layer_implementation == "by_hand":
            use_layers_by_hand(self)
        # Files may have weights of layers of the head that this model lacks.
        own = {name.partition(".")[0] for name, _ in self.named_parameters()}
        absent = [rf"^{name}\." for name in self.head_layers if name not in own]
        self._keys_to_ignore_on_load_unexpected = [*absent, *COUNTS_OF_AVERAGES]
        super().post_init()  # type: ignore[no-untyped-call]  # in Transformers

    def _init_weights(self, module: nn.Module) -> None:
        """Give a layer the values that training starts from; each family has its own."""
        super()._init_weights(module)  # type: ignore[no-untyped-call]  # in Transformers

    def _check_images(self, pixel_values: Tensor) -> None:
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                "pixel_values must have shape (N, C, H, W) with C = "
                f"{self.config.num_channels} (config.num_channels); got shape "
                f"{tuple(pixel_values.shape)}. The image processor of the model makes such batches."
            )
        if any(size < self.minimum_image_size for size in pixel_values.shape[2:]):
            raise ValueError(
                f"pixel_values must be at least {self.minimum_image_size} pixels high and wide; "
                f"got shape {tuple(pixel_values.shape)}. Enlarge the images."
            )
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values must be floats, normalised as in training; got {pixel_values.dtype}."
                " The image processor of the model makes such batches."
            )

    @property
    def loss_function(self) -> Callable[..., Tensor]:
        """Loss of `forward`: `classification_loss`, or what was assigned instead.

        Transformers calls it with labels, pooled_logits and config.
        """
        function: Callable[..., Tensor] = getattr(self, "_loss_function", classification_loss)
        return function

    @loss_function.setter
    def loss_function(self, value: Callable[..., Tensor]) -> None:
        self._loss_function = value

    # Fusion ------------------------------------------------------------------------------------

    def fuse(self) -> Self:
        """Fold batch norms and residual scales into the convolutions, for faster inference.

        Outputs stay the same but for rounding; the layers and names of weights do not. So a fused
        model can be moved, cast and run, but not trained or saved. A family without batch norms
        stays as it is.

        Returns:
            The model itself.

        Raises:
            ValueError: if the model is in training mode, or its layers are wrapped, as by PEFT, or
                those written by hand.
        """
        if self.training:
            raise ValueError("the model must be in evaluation mode to be fused. Call eval() first.")
        if self.config.layer_implementation != "builtin":
            raise ValueError(
                'layer_implementation must be "builtin" for a model to be fused; got '
                f'"{self.config.layer_implementation}". Load it with layer_implementation="builtin"'
            )
        if not self.fused:
            for module in list(self.modules()):
                if hasattr(module, "fuse_norms"):
                    cast(Any, module).fuse_norms()
                    self.fused = True
        if self.fused:
            self.requires_grad_(False)
            super().train(False)  # what stands for batch norms, too
        return self

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode.

        Raises:
            ValueError: for training mode of a fused model, whose batch norms are gone.
        """
        if mode and self.fused:
            raise ValueError(
                "a fused model must stay in evaluation mode, because its batch norms are gone; got "
                "train(). Load the model again to train it."
            )
        super().train(mode)
        return self

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save as `PreTrainedModel.save_pretrained` does.

        Raises:
            ValueError: for a fused model, whose weights no longer have their names.
        """
        if self.fused:
            raise ValueError(
                "a fused model must not be saved, because its weights no longer have their names. "
                "Save the model before fuse(), or load it again; fuse() takes a moment."
            )
        super().save_pretrained(*args, **kwargs)

    # Activation checkpointing ------------------------------------------------------------------

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = checkpoint,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Let running statistics move once for each batch, though blocks run twice."""
        layers = [m for m in self.modules() if isinstance(m, GradientCheckpointingLayer)]
        with_statistics = [layer for layer in layers if list(layer.buffers())]
        keywords = getattr(gradient_checkpointing_func, "keywords", {})
        if with_statistics and keywords.get("use_reentrant"):
            raise ValueError(
                "use_reentrant must be False: batch norms would count each batch twice; got True"
            )
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, *args, **kwargs)
        for layer in with_statistics:
            run = partial(
                checkpoint_block, block=layer, checkpoint_func=gradient_checkpointing_func
            )
            layer._gradient_checkpointing_func = run  # type: ignore[assignment]  # no module

    # Loading -----------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *args: Any,
        **kwargs: Any,
    ) -> Self:
        """Load weights that fit the configuration exactly.

        Args:
            pretrained_model_name_or_path: a Hub id or a folder.
            args: for `PreTrainedModel.from_pretrained`.
            kwargs: fields of the configuration to replace (`num_classes`, ...) and what
                `PreTrainedModel.from_pretrained` takes. With `ignore_mismatched_sizes=True`
                weights of another shape, as those of a new classifier, are initialised; for
                another number of channels the first layer is adapted, see `adapt_channels`.

        Returns:
            The model in evaluation mode; with `output_loading_info` also what was loaded.

        Raises:
            ValueError: if weights are missing, unexpected, of another shape, or not readable.
        """
        with_info = kwargs.pop("output_loading_info", False)
        new_sizes = kwargs.pop("ignore_mismatched_sizes", False)
        kwargs["key_mapping"] = {**cls.weight_names, **(kwargs.get("key_mapping") or {})}
        try:
            loaded: Any = super().from_pretrained(
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
        model, info = loaded
        model._weight_conversions = None  # or save_pretrained would write the names of the file
        misfits = _misfits(info, new_sizes=new_sizes)
        if faults := _faults(misfits):
            more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
            raise ValueError(
                f"weights in {pretrained_model_name_or_path} must fit the {cls.__name__} "
                f"configuration exactly; got {'; '.join(faults[:10])}{more}. "
                f"{model._hint(misfits)}"
            )
        for key, found, wanted in info["mismatched_keys"]:
            # The groups of a first convolution share the channels out.
            if _differs_in_channels(key, found, wanted) and model.stem.conv.groups == 1:
                options = _for_channels(found[1], model.config, kwargs=kwargs)
                trained = cls.from_pretrained(pretrained_model_name_or_path, *args, **options)
                weight = adapt_channels(trained.get_parameter(key), wanted[1])
                model.get_parameter(key).data.copy_(weight)
        return cast(Self, loaded if with_info else model)

    def _hint(self, misfits: dict[str, list[Any]]) -> str:
        """Say what may help when weights do not fit."""
        missing, unexpected = misfits["missing_keys"], misfits["unexpected_keys"]
        if prefix := missing and _common_prefix(missing, unexpected):
            return f"Pass key_mapping={{{f'^{re.escape(prefix)}'!r}: ''}}."
        hints, other_shapes = [], False
        for key, found, wanted in misfits["mismatched_keys"]:
            if key == "classifier.weight" and found[1:] == wanted[1:]:
                hints.append(
                    f"num_labels={found[0]}, or ignore_mismatched_sizes=True for a new classifier"
                )
            elif _differs_in_channels(key, found, wanted):
                hints.append(
                    f"num_channels={found[1]}, or ignore_mismatched_sizes=True to adapt the first "
                    "layer"
                )
            else:
                other_shapes |= key != "classifier.bias"
        if missing == NEW_CLASSIFIER and not unexpected:
            hints.append("num_labels=0, or ignore_mismatched_sizes=True for a new classifier")
        elif missing or unexpected or other_shapes:
            hints.append("the fields that differ")
        return f"Pass {'; '.join(hints)}."


class ConvZooFeatures(ConvZooModel):
    """A network without its classifier, for `AutoModel`."""

    def post_init(self) -> None:
        """Take the classifier away before weights are initialised."""
        self.classifier = nn.Identity()
        super().post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]  # of Transformers
    def forward(
        self, pixel_values: Tensor, *, output_hidden_states: bool | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """Compute the features of a batch of images.

        Args:
            pixel_values: normalised images, (N, num_channels, H, W).
            output_hidden_states: also return the output of the stem and of each stage.
            kwargs: ignored.

        Returns:
            last_hidden_state, the output of the last stage, (N, C, H, W); pooler_output, what a
            classifier would see, (N, features); hidden_states when asked for.

        Raises:
            ValueError: if the images do not fit the configuration.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        states = range(len(self.stages) + 1) if output_hidden_states else ()
        x, hidden_states = self.run_stages(pixel_values, states)
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=x,
            pooler_output=self.forward_pool(x),
            hidden_states=tuple(hidden_states) or None,
        )


class ConvZooBackbone(BackboneMixin, ConvZooModel):
    """A network without its head, for `AutoBackbone` and the models that are built on one.

    Attributes:
        num_features: channels that leave the stem and each stage.
        strides: pixels of the image for one of each map that is returned.
    """

    has_attentions = False

    def __init__(self, config: ConvZooConfig):
        super().__init__(config)
        self.num_features = config.stage_channels

    def post_init(self) -> None:
        """Take the head away before weights are initialised."""
        for name in self.head_layers:
            delattr(self, name)
        super().post_init()  # type: ignore[no-untyped-call]  # in Transformers

    @property
    def strides(self) -> list[int]:
        """Pixels of the image for one of each map that is returned."""
        return [self.config.stage_strides[number] for number in self._kept()]

    def _kept(self) -> list[int]:
        names = self.config.stage_names
        return [names.index(name) for name in self.out_features]

    @can_return_tuple  # type: ignore[untyped-decorator]  # of Transformers
    def forward(
        self, pixel_values: Tensor, *, output_hidden_states: bool | None = None, **kwargs: Any
    ) -> BackboneOutput:
        """Compute the maps of the chosen stages; those after the last of them do not run.

        Args:
            pixel_values: normalised images, (N, num_channels, H, W).
            output_hidden_states: also return the output of the stem and of each stage.
            kwargs: ignored.

        Returns:
            feature_maps, one (N, C, H, W) for each of `out_features`; hidden_states when asked for.

        Raises:
            ValueError: if the images do not fit the configuration.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        kept = self._kept()
        if output_hidden_states:
            _, states = self.run_stages(pixel_values, range(len(self.stages) + 1))
            maps, hidden_states = tuple(states[number] for number in kept), tuple(states)
        else:
            _, states = self.run_stages(pixel_values, kept, last=kept[-1])
            maps, hidden_states = tuple(states), None
        return BackboneOutput(feature_maps=cast(Any, maps), hidden_states=hidden_states)


def _stage_number(index: int | str, names: Sequence[str]) -> int:
    """Find a stage by its place, from the end where negative, or by its name."""
    if isinstance(index, str) and index in names:
        return names.index(index)
    if isinstance(index, int) and -len(names) <= index < len(names):
        return index % len(names)
    raise ValueError(f"indices must be places in {list(names)} or names of there; got {index!r}.")


def _misfits(info: dict[str, Any], *, new_sizes: bool) -> dict[str, list[Any]]:
    """Sort what Transformers found missing, unexpected or of another shape.

    With new_sizes other shapes are no misfit, nor is a classifier that is all that is missing.
    """
    unexpected, missing = sorted(info["unexpected_keys"]), sorted(info["missing_keys"])
    if new_sizes and missing == NEW_CLASSIFIER and not unexpected:
        missing = []
    return {
        "missing_keys": missing,
        "unexpected_keys": unexpected,
        "mismatched_keys": [] if new_sizes else sorted(info["mismatched_keys"]),
    }


def _faults(misfits: dict[str, list[Any]]) -> list[str]:
    """Put each misfit into words."""
    faults = [f"{key} is missing" for key in misfits["missing_keys"]]
    faults += [f"{key} is unexpected" for key in misfits["unexpected_keys"]]
    faults += [
        f"{key} has shape {tuple(found)} instead of {tuple(wanted)}"
        for key, found, wanted in misfits["mismatched_keys"]
    ]
    return faults


def _differs_in_channels(key: str, found: Sequence[int], wanted: Sequence[int]) -> bool:
    """Say whether a weight is that of the first convolution, for another number of channels."""
    return key == "stem.conv.weight" and (found[0], *found[2:]) == (wanted[0], *wanted[2:])


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Adapt the weight of a first convolution to images of another number of colour channels.

    One channel gets the sum over the old ones, as if it were each of them; more channels get the
    old ones in turn, times old / new number. Source: `adapt_input_conv` of timm 1.0
    (timm/models/_manipulate.py), which starts from three channels.

    Args:
        weight: (out, old channels, height, width).
        channels: the new number.

    Returns:
        (out, channels, height, width); the same tensor if the number is the old one.
    """
    old = weight.shape[1]
    if channels == old:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % old] * (old / channels)


def _for_channels(
    num_channels: int, config: ConvZooConfig, *, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the keywords that load the same weights for their own number of channels."""
    config = copy.deepcopy(config)
    config.num_channels = num_channels
    fields = {*config.__dataclass_fields__, "num_labels", "num_classes"} - {"dtype"}
    options = {key: value for key, value in kwargs.items() if key not in fields}
    return options | {"config": config, "ignore_mismatched_sizes": True}


def _common_prefix(missing: list[str], unexpected: list[str]) -> str:
    """Find what the file puts in front of all missing names; "" if there is no such thing."""
    found = [name.removesuffix(missing[0]) for name in unexpected if name.endswith(missing[0])]
    whole = (prefix for prefix in found if all(prefix + key in unexpected for key in missing))
    return next(whole, "")


def classification_loss(
    labels: Tensor, pooled_logits: Tensor, *, config: ConvZooConfig, **kwargs: Any
) -> Tensor:
    """Average the loss that `config.problem_type` names, in float32 or wider.

    - "single_label_classification": cross entropy with class indices, (N,), where -100 is ignored,
      or with class probabilities, (N, num_labels).
    - "multi_label_classification": binary cross entropy with one float for each label,
      (N, num_labels).
    - "regression": mean squared error with numbers, (N, num_labels), or (N,) for one label.
    - None: regression for one label, else single-label. Transformers takes floats for labels of
      many; here they are probabilities, as MixUp makes them.

    Args:
        labels: of the form above.
        pooled_logits: (N, num_labels).
        config: its num_labels and problem_type are read.
        kwargs: ignored; Transformers passes the logits under two names.

    Returns:
        The loss, a scalar; not a number where each row is ignored.

    Raises:
        ValueError: if the labels have another form or there is no classifier.
    """
    logits = pooled_logits.to(torch.promote_types(pooled_logits.dtype, torch.float32))
    num_labels = len(config.id2label or ())
    if num_labels == 0:
        raise ValueError("labels must be absent where the model has no classifier (num_labels 0).")
    if config.problem_type == "regression" or (config.problem_type is None and num_labels == 1):
        if labels.shape != logits.shape and not (
            num_labels == 1 and labels.shape == logits.shape[:1]
        ):
            raise _wrong_labels("numbers", labels, logits)
        return F.mse_loss(logits, labels.to(logits.dtype).view_as(logits))
    probabilities = labels.is_floating_point() and labels.shape == logits.shape
    if config.problem_type == "multi_label_classification":
        if not probabilities:
            raise _wrong_labels("floats", labels, logits)
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    if probabilities:
        return F.cross_entropy(logits, labels.to(logits.dtype))
    if labels.is_floating_point() or labels.shape != logits.shape[:1]:
        raise _wrong_labels(f"integers of shape ({len(logits)},) or probabilities", labels, logits)
    _check_indices(labels, num_labels)
    return F.cross_entropy(logits, labels.long())


def _wrong_labels(wanted: str, labels: Tensor, logits: Tensor) -> ValueError:
    return ValueError(
        f"labels must be {wanted} of shape {tuple(logits.shape)}; "
        f"got {labels.dtype} of shape {tuple(labels.shape)}."
    )


def _check_indices(labels: Tensor, num_labels: int) -> None:
    """Raise ValueError for a class index that is neither in the range nor ignored."""
    # On an accelerator this check would wait for the device.
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    counted = labels[labels != IGNORED]
    if counted.numel() and not 0 <= counted.min() <= counted.max() < num_labels:
        raise ValueError(
            f"labels must be in 0..{num_labels - 1} (config.num_labels - 1), or {IGNORED} to be "
            f"ignored; got {counted.min().item()}..{counted.max().item()}."
        )


def classifier_layer(config: ConvZooConfig, num_features: int) -> nn.Linear | nn.Identity:
    """Make the linear layer to the logits, or Identity where `num_labels` is 0."""
    num_labels = len(config.id2label or ())
    return nn.Linear(num_features, num_labels) if num_labels else nn.Identity()


class PointwiseConv2d(nn.Conv2d):
    """1x1 convolution; with a stride and fewer than 8 channels it first drops the skipped pixels.

    There PyTorch 2.13 (oneDNN) writes beyond its memory in the gradients of float32 on processors
    with AVX2 but not AVX-512, channels last.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.in_channels >= 8 or self.stride == (1, 1):
            return super().forward(x)
        height, width = self.stride
        return F.conv2d(x[:, :, ::height, ::width], self.weight, self.bias)


def is_tracing() -> bool:
    """Say whether torch.jit.trace, or the ONNX export that rests on it, is running."""
    # PyTorch documents it, but neither exports nor annotates it.
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing


class ScratchStatistics:
    """Context in which the batch norms of a block update copies of their running statistics.

    Activation checkpointing runs a block a second time for the backward pass; without this the
    same batch would enter the running statistics twice.
    """

    def __init__(self, block: nn.Module):
        self.block = block

    def __enter__(self) -> None:
        self.buffers = [(m._buffers, dict(m._buffers)) for m in self.block.modules()]
        for buffers, kept in self.buffers:
            for name, buffer in kept.items():
                buffers[name] = None if buffer is None else buffer.clone()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for buffers, kept in self.buffers:
            buffers.update(kept)


def checkpoint_block(
    function: Callable[..., Any],
    *inputs: Any,
    block: nn.Module,
    checkpoint_func: Callable[..., Any],
) -> Any:
    """Run a block under activation checkpointing; its running statistics move once."""
    if torch.compiler.is_compiling():  # compiled graphs write buffers once, and take no contexts
        return checkpoint_func(function, *inputs)
    return checkpoint_func(
        function, *inputs, context_fn=lambda: (nullcontext(), ScratchStatistics(block))
    )


# Batch norms folded into the convolutions in front of them ---------------------------------------


def fold(conv: nn.Module, bn: nn.Module, scale: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Compute weight and bias of the convolution that also does what its batch norm does.

    Args:
        conv: any convolution.
        bn: batch norm of its outputs.
        scale: number that the batch norm's output is multiplied by, too.

    Returns:
        Weight and bias, (out_channels,), in the type of the convolution.

    Raises:
        ValueError: if one of the two is something else, as where PEFT wraps it.
    """
    if not isinstance(conv, nn.Conv2d) or not isinstance(bn, _BatchNorm):
        raise ValueError(
            "layers to be fused must be a convolution and a batch norm; got "
            f"{type(conv).__name__} and {type(bn).__name__}. Merge or take off what wraps them."
        )
    dtype = conv.weight.dtype
    wide = torch.promote_types(dtype, torch.float32)
    mean, variance = cast(Tensor, bn.running_mean), cast(Tensor, bn.running_var)
    gain = bn.weight.to(wide) * (variance.to(wide) + bn.eps).rsqrt() * scale
    shift = -mean.to(wide) if conv.bias is None else conv.bias.to(wide) - mean.to(wide)
    bias = torch.addcmul(bn.bias.to(wide) * scale, shift, gain)
    return (conv.weight * gain.view(-1, 1, 1, 1)).to(dtype), bias.to(dtype)


@torch.no_grad()
def fuse_pair(
    parent: nn.Module, conv_name: str, bn_name: str, *, scale: Tensor | float = 1.0
) -> None:
    """Fold a batch norm of a module into its convolution, and put Identity in its place."""
    conv = cast(nn.Conv2d, getattr(parent, conv_name))
    weight, bias = fold(conv, getattr(parent, bn_name), scale)
    conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
    setattr(parent, bn_name, nn.Identity())


def computes_alone(block: nn.Module, layers: Collection[type[nn.Module]]) -> bool:
    """Say whether nobody sees how a block computes its output in evaluation on a CPU.

    That is so without gradients and autocast, where its children `are_as_built`.
    """
    if block.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    return are_as_built(block.children(), layers, training=False)


def are_as_built(
    modules: Iterable[nn.Module], layers: Collection[type[nn.Module]], *, training: bool
) -> bool:
    """Say whether nobody changes or sees what modules compute, so that it can be done otherwise.

    That is so without traces and hooks, where each of them, and each module in them, is of the
    given types and in the given mode: not where PEFT wraps it, a parametrisation or pruning
    computes its weights or accelerate loads them.
    """
    if torch.compiler.is_compiling() or is_tracing():
        return False
    everywhere = torch_module
    if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        return False
    if everywhere._global_backward_hooks or everywhere._global_backward_pre_hooks:
        return False
    for outer in modules:
        for module in outer.modules():
            hooks = module._forward_hooks or module._forward_pre_hooks
            hooks = hooks or module._backward_hooks or module._backward_pre_hooks
            if hooks or type(module) not in layers or module.training != training:
                return False
            if "forward" in vars(module):
                return False
    return True


__all__ = ["ConvZooBackbone", "ConvZooFeatures", "ConvZooModel"]
