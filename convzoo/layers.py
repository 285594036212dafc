"""Describe a network as a column of layers, with the shape that leaves each of them.

Cards draw the column. It is seen in a forward pass, so that it holds for every family, also for one
that was added yesterday.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NotRequired

from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

if TYPE_CHECKING:  # the schema of eval_results.json needs no torch
    from torch import Tensor, nn
    from transformers import BaseImageProcessor, PreTrainedModel

logger = logging.getLogger(__name__)


class Layer(TypedDict):
    """A layer, or a stage of many, and the shape of its output for one image, channels first."""

    name: str
    shape: list[int]


class NetworkFacts(TypedDict):
    """The layers in the order of the data, from the image to the logits.

    Attributes:
        num_multiply_adds: of convolutions and products of matrices for one image, biases not
            counted.
    """

    layers: NotRequired[list[Layer]]
    num_multiply_adds: NotRequired[int]


def describe_network(model: "PreTrainedModel", size: Sequence[int]) -> NetworkFacts:
    """Pass the shape of an image through a copy of a network that has no values.

    Args:
        model: a `ConvZooModel`, or what has its parts.
        size: channels, height and width of the images.

    Returns:
        What was seen; nothing of a model without stages and, after a warning, of one that needs
        values to be called.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    if not hasattr(model, "stages"):
        return {}
    rows: list[Layer] = [{"name": "image", "shape": list(size)}]

    def note(name: str) -> Callable[..., None]:
        def hook(module: "nn.Module", inputs: object, output: "Tensor") -> None:
            rows.append({"name": name, "shape": list(output.shape[1:])})

        return hook

    def note_features(module: "nn.Module", inputs: "tuple[Tensor]") -> None:
        shape = list(inputs[0].shape[1:])
        if shape != rows[-1]["shape"]:
            rows.append({"name": "features", "shape": shape})

    try:
        with torch.device("meta"):
            twin = type(model)(model.config).eval()
            for module, name in _shown(twin):
                module.register_forward_hook(note(name))
            classifier: nn.Module = twin.classifier
            classifier.register_forward_pre_hook(note_features)
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                twin(torch.zeros(1, *size))
    except Exception as error:  # the network may be anybody's, and a description is no condition
        logger.warning("the layers of %s are not described: %r", type(model).__name__, error)
        return {}
    return {"layers": rows, "num_multiply_adds": counter.get_total_flops() // 2}


def count_multiply_adds(model: "PreTrainedModel", size: Sequence[int]) -> int | None:
    """Count as `describe_network` does, for a model of Transformers; None where that fails.

    Args:
        model: it is made again of its configuration, without values.
        size: channels, height and width of the images.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with torch.device("meta"):
            twin = type(model)(model.config).eval()
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                twin(torch.zeros(1, *size))
    except Exception:  # the network may be anybody's, and a count is no condition
        return None
    return counter.get_total_flops() // 2 or None


def image_shape(processor: "BaseImageProcessor") -> list[int]:
    """Channels, height and width of what a processor makes of an image."""
    size = getattr(processor, "crop_size", None) or getattr(processor, "size", None) or {}
    return [getattr(processor, "num_channels", 3), size.get("height", 0), size.get("width", 0)]


def _shown(model: "PreTrainedModel") -> "Iterator[tuple[nn.Module, str]]":
    """Choose the modules that are worth a line: stages of blocks, and layers elsewhere."""
    for part, module in model.named_children():
        stages = module.children() if part == "stages" else ()
        for number, stage in enumerate(stages, start=1):
            blocks = list(stage.children())
            if max(map(_count_convolutions, blocks), default=0) > 1:
                yield stage, f"stage {number}, {len(blocks)} block{'s' if len(blocks) > 1 else ''}"
            else:
                yield from _shown_layers(stage)
        if part != "stages":
            yield from _shown_layers(module)


def _shown_layers(part: "nn.Module") -> "Iterator[tuple[nn.Module, str]]":
    for module in part.modules():
        if name := _name(module):
            yield module, name


def _count_convolutions(block: "nn.Module") -> int:
    from torch import nn

    return sum(isinstance(module, nn.Conv2d) for module in block.modules())


def _name(module: "nn.Module") -> str:
    """Say what a layer does, in words; "" for one that changes no shape."""
    from torch import nn

    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        names = {nn.MaxPool2d: "max pooling", nn.AvgPool2d: "mean pooling"}
        kernel, stride = _pair(module.kernel_size), _pair(module.stride)
        step = "" if stride == (1, 1) else f", stride {stride[0]}"
        step += "" if stride[0] == stride[1] else f"x{stride[1]}"
        kinds = (name for kind, name in names.items() if isinstance(module, kind))
        return f"{next(kinds, 'convolution')} {kernel[0]}x{kernel[1]}{step}"
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return "mean over regions"
    return "linear" if isinstance(module, nn.Linear) else ""


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value, value)
