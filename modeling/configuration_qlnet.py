"""Configuration of QLNet, a residual network of products instead of activations."""

from typing import Any, Self

from huggingface_hub.dataclasses import strict

from .configuration_convzoo import ConvZooConfig


@strict
class QLNetConfig(ConvZooConfig):
    """Shape of a QLNet; the defaults are QLNet-50 v0.

    Args:
        num_channels: colour channels of the input images.
        embedding_size: channels that leave the stem.
        hidden_sizes: channels that leave each stage.
        depths: blocks of each stage.
        expansion: channels of the products of a block / channels that enter it.
        expansion_limit: most channels that may enter a block for `expansion` to hold.
        expansion_beyond: the same ratio for blocks that more channels enter.
        depthwise_multiplier: outputs of the 3x3 convolution for each of its input channels.
        stem: "imagenet" (7x7 convolution and max pooling, both of stride 2) or "small" (3x3
            convolution of stride 1, for images of about 32 pixels).
        batch_norm_momentum: weight of the newest batch in the running statistics, in (0, 1].
        batch_norm_eps: added to the variance by the batch norms.
        layer_implementation: "builtin" (PyTorch's kernels) or "by_hand" (`layers_by_hand.py`).
        kwargs: `num_labels` or `num_classes` (1000 without either and without `id2label`), and the
            fields that every Transformers configuration has.

    Raises:
        ValueError: if a field, or the number of labels, breaks its rule.
    """

    model_type = "qlnet"

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)
    expansion: int = 4
    expansion_limit: int = 128
    expansion_beyond: int = 2
    depthwise_multiplier: int = 2
    stem: str = "imagenet"
    batch_norm_momentum: float | int = 0.1
    batch_norm_eps: float | int = 1e-5
    layer_implementation: str = "builtin"

    @classmethod
    def v0(cls, **kwargs: Any) -> Self:
        """QLNet-50 v0, the network of qlnet-50-v0.pth.tar: 9,993,640 weights."""
        return cls(**kwargs)

    @classmethod
    def v10m(cls, **kwargs: Any) -> Self:
        """The network of qlnet-10m.pth.tar: 10,064,296 weights."""
        return cls(**{"expansion_limit": 256, "depthwise_multiplier": 1, **kwargs})

    def __post_init__(self, **kwargs: Any) -> None:
        self.hidden_sizes, self.depths = list(self.hidden_sizes), list(self.depths)
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

    def _check(self) -> None:
        self._check_positive("num_channels", "embedding_size", "hidden_sizes", "depths")
        self._check_positive("expansion", "expansion_beyond", "depthwise_multiplier")
        if len(self.hidden_sizes) != len(self.depths):
            raise ValueError(
                "hidden_sizes and depths must have one entry for each stage; got "
                f"{self.hidden_sizes} and {self.depths}"
            )
        if self.stem not in ("imagenet", "small"):
            raise ValueError(f'stem must be "imagenet" or "small"; got "{self.stem}"')
        if not 0 < self.batch_norm_momentum <= 1:
            raise ValueError(
                f"batch_norm_momentum must be in (0, 1]; got {self.batch_norm_momentum}"
            )
        if self.batch_norm_eps <= 0:
            raise ValueError(f"batch_norm_eps must be positive; got {self.batch_norm_eps}")


__all__ = ["QLNetConfig"]
