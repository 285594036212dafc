"""Convolutions of fused networks that also add and activate, on CPUs.

PyTorch has operators of oneDNN for its compiler: a convolution that adds another map to its output
and writes ReLU of the sum, with its weight in the layout that the processor reads. Called from
here they save passes over memory, and nothing is compiled: docs/inference-speed.md.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from modeling import CNN, QLNet
from modeling.modeling_cnn import CNNBlock, CNNStem, PReLU, ReLU, is_batched
from modeling.modeling_convzoo import PointwiseConv2d, computes_alone
from modeling.modeling_qlnet import QLNetBlock, hardball

OPERATORS: Any = torch.ops.mkldnn  # PyTorch has no types there
LAYERS = {
    *(nn.Conv2d, PointwiseConv2d, PReLU, ReLU, nn.MaxPool2d),
    *(nn.Identity, nn.Sequential, nn.ParameterList),
}
LIMIT = 1e37  # nothing below it overflows, neither in float32 nor in bfloat16
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
SMALL = 2**16  # below, in map and weights, calling the operators costs what they save


def use_kernels(model: nn.Module) -> bool:
    """Let the convolutions of a fused CNN or QLNet add and activate.

    Stem and blocks compute layer by layer, as before, wherever the operators do not serve: for
    gradients, autocast, traces, hooks, other devices and precisions.

    Args:
        model: any; all others stay as they are.

    Returns:
        Whether the convolutions of the model do so now: on a CPU with the operators, and if its
        weights were not made in inference mode.
    """
    if not isinstance(model, CNN | QLNet) or not model.fused:
        return False
    weight = next(model.parameters())
    if weight.device.type != "cpu" or weight.is_inference() or not has_kernels(weight.dtype):
        return False
    if isinstance(model.stages[0], StageOfKernels):
        return True
    if isinstance(model.stem, CNNStem):
        model.stem = StemOfKernels(model.stem)
    for number, stage in enumerate(model.stages):
        blocks = cast(nn.Sequential, stage)
        make = CNNBlockOfKernels if isinstance(model, CNN) else QLNetBlockOfKernels
        model.stages[number] = StageOfKernels(*(make(cast(Any, block)) for block in blocks))
    return True


class OfKernels(nn.Module):
    """Part of a network that computes by kernels where nobody sees it, else layer by layer.

    Args:
        layers: the part; its output is the same but for rounding.
    """

    def __init__(self, layers: nn.Module):
        super().__init__()
        self.layers = layers
        self.weights = tuple(layers.parameters())  # a tuple, so that they are no other ones
        self.size = sum(weight.numel() for weight in self.weights)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the part: (N, C, H, W) -> (N, C', H', W')."""
        return self.advance(x, math.inf)[0]

    def advance(self, x: Tensor, largest: float) -> tuple[Tensor, float]:
        """Compute the part by kernels where they serve.

        Args:
            x: a map, (N, C, H, W).
            largest: finite if x is nobody else's and has no larger numbers.

        Returns:
            The output and such a number of it.
        """
        if self.takes(x):
            bound = self.bound(largest)
            if not bound < LIMIT:  # then look
                bound = self.bound(largest_of(x))
            if bound < LIMIT:
                return self.compute(x, owned=largest < math.inf), bound
        return cast(Tensor, self.layers(x)), math.inf

    def takes(self, x: Tensor) -> bool:
        """Say whether kernels serve for a map."""
        layers = self.layers
        return (
            x.device.type == "cpu"
            and x.dtype == self.weights[0].dtype
            and x.numel() > 0
            and max(x.numel(), self.size) >= SMALL
            and not (layers._forward_hooks or layers._forward_pre_hooks)
            and computes_alone(layers, LAYERS)
            and not is_batched(x)
            and forward_ad._current_level < 0
            and has_kernels(x.dtype)
            and not self.weights[0].is_inference()  # these do not tell whether they change
        )

    def bound(self, largest: float) -> float:
        """Bound all numbers that are computed, by the largest of the input.

        The operators' ReLU makes 0 of what is not a number, which finite numbers below the bound
        never become. 0 where there is no ReLU.
        """
        return 0.0

    def compute(self, x: Tensor, *, owned: bool) -> Tensor:
        """Compute the part by kernels; the result may take the memory of x where it is owned."""
        raise NotImplementedError


class StageOfKernels(nn.Sequential):
    """Blocks, one after the other; each may overwrite what the one before it made for it alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the stage: (N, C, H, W) -> (N, C', H', W')."""
        largest = math.inf
        for block in cast(Iterator[OfKernels], iter(self)):
            if any(getattr(block, name) for name in HOOKS):
                x, largest = block(x), math.inf
            else:
                x, largest = block.advance(x, largest)
        return x


def largest_of(x: Tensor) -> float:
    """Return the largest absolute number; not a number where one is none."""
    # PyTorch is thirty times as fast where numbers lie one after the other in one dimension.
    laid_out = x if x.is_contiguous() else x.permute(0, 2, 3, 1)
    least, most = torch.aminmax(laid_out.reshape(-1))
    return max(-least.item(), most.item()) if least == least else math.nan


class StemOfKernels(OfKernels):
    """Stem of a CNN."""

    def __init__(self, layers: CNNStem):
        super().__init__(layers)
        self.conv = Kernel.of(layers.conv)

    def bound(self, largest: float) -> float:
        """Bound what the convolution computes."""
        has_relu = isinstance(cast(CNNStem, self.layers).act, nn.ReLU)
        return self.conv.bound(largest) if has_relu else 0.0

    def compute(self, x: Tensor, *, owned: bool) -> Tensor:
        """Compute convolution and ReLU at once."""
        layers = cast(CNNStem, self.layers)
        pooled: Tensor = layers.pool(self.conv(x, layers.act))
        return pooled


class CNNBlockOfKernels(OfKernels):
    """Block of a CNN."""

    def __init__(self, layers: CNNBlock):
        super().__init__(layers)
        self.conv1, self.conv2, self.conv3 = map(
            Kernel.of, (layers.conv1, layers.conv2, layers.conv3)
        )
        self.shortcut = None
        if isinstance(layers.shortcut, nn.Sequential):
            self.shortcut = Kernel.of(cast(nn.Module, layers.shortcut.conv))

    def bound(self, largest: float) -> float:
        """Bound what the convolutions and the addition compute."""
        if not isinstance(cast(CNNBlock, self.layers).act1, nn.ReLU):
            return 0.0
        first = self.conv1.bound(largest)
        second = self.conv2.bound(first)
        shortcut = self.shortcut.bound(largest) if self.shortcut else largest
        return first + second + shortcut + self.conv3.bound(second)  # none is below 0

    def compute(self, x: Tensor, *, owned: bool) -> Tensor:
        """Compute each convolution and its ReLU, and the addition, at once."""
        layers = cast(CNNBlock, self.layers)
        branch = self.conv1(x, layers.act1)  # (N, width, H, W)
        branch = self.conv2(branch, layers.act2)  # (N, width, H / stride, W / stride)
        x = self.shortcut(x) if self.shortcut else x  # (N, out_channels, ...)
        overwrite = owned or self.shortcut is not None
        return self.conv3(branch, layers.final_act, plus=x, overwrite=overwrite)


class QLNetBlockOfKernels(OfKernels):
    """Block of a QLNet."""

    def __init__(self, layers: QLNetBlock):
        super().__init__(layers)
        folded = cast(nn.ParameterList, layers.folded)
        last, groups, strides = len(folded) - 1, len(folded[0]), [layers.stride] * 2
        self.factors = [Kernel(partial(items, folded, i, i + 1)) for i in (0, 2)]
        self.shortcut = None
        if not isinstance(layers.shortcut, nn.Identity):
            self.shortcut = Kernel(partial(items, folded, last - 1, last), stride=strides)
            last -= 2
        self.parts: list[tuple[Kernel, Kernel]] = []
        for i in range(4, last, 3):
            source, bias = partial(items, folded, i, i + 1), None if self.parts else last
            part = Kernel(source, stride=strides, padding=[1, 1], groups=groups)
            self.parts.append((part, Kernel(partial(items, folded, i + 2, bias))))

    def compute(self, x: Tensor, *, owned: bool) -> Tensor:
        """Compute as `QLNetBlock.forward_folded`; convolutions add."""
        first, second = self.factors
        product = first(x).mul_(second(x))  # (N, width, H, W)
        output = self.shortcut(x) if self.shortcut else x
        overwrite = owned or self.shortcut is not None
        for part, last in self.parts:
            output, overwrite = last(part(product), plus=output, overwrite=overwrite), True
        return hardball(output) if self.shortcut else output


def items(tensors: nn.ParameterList, weight: int, bias: int | None) -> tuple[Tensor, Tensor | None]:
    """Return a weight and a bias of a list."""
    return tensors[weight], None if bias is None else tensors[bias]


class Kernel:
    """A convolution with its weight in the layout of the processor.

    Args:
        source: gives the weight, (out_channels, in_channels / groups, height, width), and the bias
            of now, (out_channels,): both may be replaced.
        stride: of height and width, as all that follow.
        padding: zeros on each side.
        dilation: 1 where the pixels of the kernel are neighbours.
        groups: of channels.
    """

    def __init__(
        self,
        source: Callable[[], tuple[Tensor, Tensor | None]],
        *,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
    ):
        self.source = source
        self.geometry = (list(padding), list(stride), list(dilation), groups)
        self.packed: tuple[Tensor, Any, Tensor] | None = None  # weight, what for, as laid out
        self.norms: tuple[Tensor, Any, float, float] | None = None  # see `bound`

    @classmethod
    def of(cls, conv: nn.Module) -> "Kernel":
        """Make the kernel of a layer."""
        layer: Any = conv
        return cls(
            partial(weight_and_bias, layer),
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
        )

    def __call__(
        self,
        x: Tensor,
        act: nn.Module | None = None,
        *,
        plus: Tensor | None = None,
        overwrite: bool = False,
    ) -> Tensor:
        """Compute act(convolution(x) + plus).

        Args:
            x: (N, in_channels, H, W).
            act: ReLU is computed by the same operator.
            plus: of the shape of the result.
            overwrite: whether the result may take the memory of `plus`.

        Returns:
            (N, out_channels, ...), channels last.
        """
        relu = "relu" if isinstance(act, nn.ReLU) else None
        weight, bias = self.source()
        layer = (self.packed_for(x, weight), bias, *self.geometry)
        output: Tensor
        if plus is None:
            output = OPERATORS._convolution_pointwise(x, *layer, relu or "none", [], "")
        elif overwrite and plus.is_contiguous(memory_format=torch.channels_last):  # or they fail
            output = OPERATORS._convolution_pointwise_(plus, x, *layer, "add", 1.0, relu, [], "")
        else:
            output = OPERATORS._convolution_pointwise(x, plus, *layer, "add", 1.0, relu, [], "")
        return output if act is None or relu else act(output)

    def packed_for(self, x: Tensor, weight: Tensor) -> Tensor:
        """Lay the weight out for maps of this size; one for others can be many times slower.

        PyTorch's convolution does so at each call, here once for all maps of a size.
        """
        key = (x.shape[2:], x.dtype, weight.data_ptr(), weight._version)
        packed = self.packed  # threads may share it
        # It keeps the weight, so that no other one can have its memory.
        if packed is None or packed[0] is not weight or packed[1] != key:
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            laid_out = reorder(weight.detach().to_mkldnn(), *self.geometry, list(x.shape))
            packed = self.packed = (weight, key, laid_out)
        return packed[2]

    def bound(self, largest: float) -> float:
        """Bound the numbers of the output, and all on the way to it, by the largest of the input.

        Returns:
            Not a number, or infinite, where the weights are.
        """
        tensors = self.source()
        key = [(each.data_ptr(), each._version) for each in tensors if each is not None]
        norms = self.norms
        if norms is None or norms[0] is not tensors[0] or norms[1] != key:
            weight, bias = tensors
            gain = weight.detach().double().abs().sum((1, 2, 3)).max().item()
            shift = 0.0 if bias is None else bias.detach().double().abs().max().item()
            norms = self.norms = (weight, key, gain, shift)
        return largest * norms[2] + norms[3]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the packed weight out of copies: it cannot be copied."""
        return {**self.__dict__, "packed": None}


def weight_and_bias(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Return those of a layer."""
    return layer.weight, layer.bias


@cache
def has_kernels(dtype: torch.dtype) -> bool:
    """Ask whether this build of PyTorch and this processor have the operators.

    Nothing documents them, so small convolutions are compared with PyTorch's.
    """
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    x = torch.linspace(-1, 1, 8 * 25).view(1, 8, 5, 5).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.linspace(-1, 1, 8 * 72).view(8, 8, 3, 3).to(dtype)
    kernel, relu = Kernel(lambda: (weight, None), padding=(1, 1)), nn.ReLU()
    wanted = F.conv2d(x, weight, padding=1)
    rounding = 0.02 if dtype == torch.bfloat16 else 1e-5  # of the largest value
    try:
        if dtype == torch.bfloat16 and not OPERATORS._is_mkldnn_bf16_supported():
            return False
        pairs = [
            (kernel(x), wanted),
            (kernel(x, relu), relu(wanted)),
            (kernel(x, plus=x), wanted + x),
            (kernel(x, relu, plus=x.clone(), overwrite=True), relu(wanted + x)),
        ]
    except (AttributeError, RuntimeError, TypeError):  # in another version of PyTorch
        return False
    return all((a - b).abs().max() < rounding * b.abs().max() for a, b in pairs)
