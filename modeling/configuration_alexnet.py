"""Configuration of AlexNet: the one-tower network, the 2012 paper's, and what lies between."""

from typing import Any, Self

from huggingface_hub.dataclasses import strict

from .configuration_convzoo import ConvZooConfig


@strict
class AlexNetConfig(ConvZooConfig):
    """Shape and regularisation of an AlexNet; the defaults are the one-tower network.

    Args:
        num_channels: colour channels of the input images.
        hidden_sizes: channels of the five convolutions.
        groups: groups of the five convolutions; 2 is one group for each GPU of the paper.
        stem: "imagenet" (11x11 convolution of stride 4) or "small" (3x3 convolution of stride 1,
            for images of about 32 pixels); both are followed by max pooling of stride 2.
        stem_padding: pixels around the image for the 11x11 convolution, 0 to 5.
        use_lrn: local response normalisation after the first two convolutions.
        lrn_size: channels it sums over.
        lrn_alpha: factor of the mean of the squares, as PyTorch counts; a factor a of their sum,
            as in the paper, is lrn_size * a.
        lrn_beta: exponent.
        lrn_k: additive constant.
        pooled_size: height and width of the map that the first linear layer sees.
        classifier_hidden_size: width of the two hidden linear layers.
        dropout_rate: probability, in [0, 1), in front of both hidden linear layers.
        final_relu: ReLU on the logits.
        layer_implementation: "builtin" (PyTorch's kernels) or "by_hand" (`layers_by_hand.py`).
        kwargs: `num_labels` or `num_classes` (1000 without either and without `id2label`), and the
            fields that every Transformers configuration has.

    Raises:
        ValueError: if a field, or the number of labels, breaks its rule.
    """

    model_type = "alexnet"

    num_channels: int = 3
    hidden_sizes: list[int] | tuple[int, ...] = (64, 192, 384, 256, 256)
    groups: list[int] | tuple[int, ...] = (1, 1, 1, 1, 1)
    stem: str = "imagenet"
    stem_padding: int = 2
    use_lrn: bool = False
    lrn_size: int = 5
    lrn_alpha: float | int = 5e-4
    lrn_beta: float | int = 0.75
    lrn_k: float | int = 2.0
    pooled_size: int = 6
    classifier_hidden_size: int = 4096
    dropout_rate: float | int = 0.5
    final_relu: bool = False
    layer_implementation: str = "builtin"

    @classmethod
    def one_tower(cls, **kwargs: Any) -> Self:
        """The network of arXiv:1404.5997 and torchvision: 61,100,840 weights."""
        return cls(**kwargs)

    @classmethod
    def paper_2012(cls, **kwargs: Any) -> Self:
        """Krizhevsky et al., "ImageNet Classification with Deep CNNs": 60,965,224 weights."""
        fields = {
            "hidden_sizes": (96, 256, 384, 384, 256),
            "groups": (1, 2, 1, 2, 2),
            "use_lrn": True,
        }
        return cls(**{**fields, **kwargs})

    @classmethod
    def from_2012_reimplementation(cls, **kwargs: Any) -> Self:
        """github.com/xevolesi/alexnet_pytorch: 62,378,344 weights.

        Unlike the paper's it has no groups, five pixels of padding (a first map of 56x56), twice
        the alpha, and a ReLU on the logits.
        """
        fields = {
            "hidden_sizes": (96, 256, 384, 384, 256),
            "stem_padding": 5,
            "use_lrn": True,
            "lrn_alpha": 1e-3,
            "final_relu": True,
        }
        return cls(**{**fields, **kwargs})

    @classmethod
    def small_images(cls, **kwargs: Any) -> Self:
        """The one-tower network for images of about 32 pixels, with narrower linear layers."""
        fields = {"stem": "small", "pooled_size": 3, "classifier_hidden_size": 1024}
        return cls(**{**fields, **kwargs})

    def __post_init__(self, **kwargs: Any) -> None:
        self.hidden_sizes, self.groups = list(self.hidden_sizes), list(self.groups)
        super().__post_init__(**kwargs)

    @property
    def stage_channels(self) -> list[int]:
        """Channels that leave the stem and each stage; a stage ends where pooling does."""
        return [*self.hidden_sizes[:2], *self.hidden_sizes[-1:]]

    @property
    def stage_strides(self) -> list[int]:
        """Pixels of the image for one of the map that leaves the stem and each stage."""
        return [8, 16, 32] if self.stem == "imagenet" else [2, 4, 8]

    def _check(self) -> None:
        self._check_positive("num_channels", "hidden_sizes", "groups", "lrn_size")
        self._check_positive("pooled_size", "classifier_hidden_size")
        if len(self.hidden_sizes) != 5 or len(self.groups) != 5:
            raise ValueError(
                "hidden_sizes and groups must have five entries, one for each convolution; got "
                f"{self.hidden_sizes} and {self.groups}"
            )
        channels = [self.num_channels, *self.hidden_sizes]
        for i, groups in enumerate(self.groups):
            if channels[i] % groups or channels[i + 1] % groups:
                raise ValueError(
                    f"groups[{i}] must divide the channels of its convolution, {channels[i]} and "
                    f"{channels[i + 1]}; got {groups}"
                )
        if self.stem not in ("imagenet", "small"):
            raise ValueError(f'stem must be "imagenet" or "small"; got "{self.stem}"')
        if not 0 <= self.stem_padding <= 5:
            raise ValueError(f"stem_padding must be in 0..5; got {self.stem_padding}")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate must be in [0, 1); got {self.dropout_rate}")


__all__ = ["AlexNetConfig"]
