"""Configuration of CNN, a ResNet-50 whose activations are PReLUs."""

from typing import Any, Self

from huggingface_hub.dataclasses import strict

from .configuration_convzoo import ConvZooConfig


@strict
class CNNConfig(ConvZooConfig):
    """Shape and regularisation of a CNN; the defaults are the 1000-class PReLU network.

    Args:
        num_channels: colour channels of the input images.
        embedding_size: channels that leave the stem.
        hidden_sizes: channels that leave each stage.
        depths: blocks of each stage.
        bottleneck_expansion: channels that leave a block / channels of its 3x3 convolution.
        stem: "imagenet" (7x7 convolution and max pooling, both of stride 2) or "small" (3x3
            convolution of stride 1, for images of about 32 pixels).
        use_prelu: PReLU activations; False means ReLU.
        prelu_channel_wise: one PReLU slope for each channel; False means one for each layer.
        prelu_init: PReLU slope at the start of training.
        conv_bias: biases in the convolutions in front of batch norms, as the original has them.
        batch_norm_momentum: weight of the newest batch in the running statistics, in (0, 1].
        batch_norm_eps: added to the variance by the batch norms.
        drop_path_rate: probability, in [0, 1), that training skips the last block for an image;
            it grows linearly from 0 at the first block.
        pyramid_levels: cells along each side of the levels of spatial pyramid pooling (He et al.,
            arXiv:1406.4729), as [4, 2, 1]; none for the average over all pixels.
        layer_implementation: "builtin" (PyTorch's kernels) or "by_hand" (`layers_by_hand.py`).
        kwargs: `num_labels` or `num_classes` (1000 without either and without `id2label`), and the
            fields that every Transformers configuration has.

    Raises:
        ValueError: if a field, or the number of labels, breaks its rule.
    """

    model_type = "cnn"

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: list[int] | tuple[int, ...] = (256, 512, 1024, 2048)
    depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)
    bottleneck_expansion: int = 4
    stem: str = "imagenet"
    use_prelu: bool = True
    prelu_channel_wise: bool = True
    prelu_init: float | int = 0.25
    conv_bias: bool = True
    batch_norm_momentum: float | int = 0.1
    batch_norm_eps: float | int = 1e-5
    drop_path_rate: float | int = 0.0
    pyramid_levels: list[int] | tuple[int, ...] = ()
    layer_implementation: str = "builtin"

    def __post_init__(self, **kwargs: Any) -> None:
        # The first published config.json of this family also describes the file it came with.
        for legacy_key in ("architecture", "input_size", "num_parameters"):
            kwargs.pop(legacy_key, None)
        if kwargs.pop("use_builtin_conv", True) is False:
            self.layer_implementation = "by_hand"
        self.hidden_sizes, self.depths = list(self.hidden_sizes), list(self.depths)
        self.pyramid_levels = list(self.pyramid_levels)
        super().__post_init__(**kwargs)

    @property
    def stage_channels(self) -> list[int]:
        """Channels that leave the stem and each stage."""
        return [self.embedding_size, *self.hidden_sizes]

    @property
    def stage_strides(self) -> list[int]:
        """Pixels of the image for one of the map that leaves the stem and each stage."""
        stem = 4 if self.stem == "imagenet" else 1
        return [stem, *(stem * 2**number for number in range(len(self.hidden_sizes)))]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Build the configuration as any; the original's switch yields to a field that is given."""
        if "layer_implementation" in kwargs:
            config_dict = {k: v for k, v in config_dict.items() if k != "use_builtin_conv"}
        return super().from_dict(config_dict, **kwargs)

    def _check(self) -> None:
        self._check_positive("num_channels", "embedding_size", "bottleneck_expansion")
        self._check_positive("hidden_sizes", "depths")
        if self.pyramid_levels:
            self._check_positive("pyramid_levels")
        if len(self.hidden_sizes) != len(self.depths):
            raise ValueError(
                "hidden_sizes and depths must have one entry for each stage; got "
                f"{self.hidden_sizes} and {self.depths}"
            )
        if any(size % self.bottleneck_expansion for size in self.hidden_sizes):
            raise ValueError(
                "hidden_sizes must be multiples of bottleneck_expansion "
                f"({self.bottleneck_expansion}); got {self.hidden_sizes}"
            )
        if self.stem not in ("imagenet", "small"):
            raise ValueError(f'stem must be "imagenet" or "small"; got "{self.stem}"')
        if not 0 < self.batch_norm_momentum <= 1:
            raise ValueError(
                f"batch_norm_momentum must be in (0, 1]; got {self.batch_norm_momentum}"
            )
        if self.batch_norm_eps <= 0:
            raise ValueError(f"batch_norm_eps must be positive; got {self.batch_norm_eps}")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1); got {self.drop_path_rate}")


__all__ = ["CNNConfig"]
