"""The networks of a benchmark, made ready in several ways, and what they cost on paper."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from convzoo.convolution_kernels import use_kernels

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PREPARATIONS = ("loaded", "fused", "compiled", "fused+compiled")
ARITHMETIC = {
    torch.ops.aten.convolution.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.mm.default,
}


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network as it was loaded.

    Attributes:
        name: as it was asked for.
        module: in evaluation mode, in float32.
    """

    name: str
    module: nn.Module


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a forward pass of one image costs, whatever runs it.

    Attributes:
        num_parameters: of all weights.
        num_multiply_adds: of convolutions and products of matrices, biases not counted.
        num_activations: numbers that convolutions and linear layers put out.
    """

    num_parameters: int
    num_multiply_adds: int
    num_activations: int


class _Activations(TorchDispatchMode):
    """Counts the numbers that convolutions and products of matrices put out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch has no types there
        self.count = 0

    def __torch_dispatch__(  # noqa: PLR0917  PyTorch calls it so
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation."""
        output = func(*args, **(kwargs or {}))
        if func in ARITHMETIC:
            self.count += output.numel()
        return output


def load_peer(name: str, *, trust_remote_code: bool) -> Network:
    """Make a network to compare with: timm:NAME or torchvision:NAME untrained, else load a model.

    Raises:
        ValueError: if the library is not installed or has no such network.
    """
    library, _, model_name = name.partition(":")
    if library not in ("timm", "torchvision") or not model_name:
        from convzoo.prediction.classifier import load_classifier

        found = load_classifier(name, device="cpu", trust_remote_code=trust_remote_code)
        return Network(name=shown_name(name), module=found.model.float())
    try:
        if library == "timm":
            import timm

            module = timm.create_model(model_name)
        else:
            from torchvision import models

            module = models.get_model(model_name)
    except ImportError as error:
        raise ValueError(f"--against {name} needs {library}; pip install {library}") from error
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"--against {name}: {library} has no such network ({error})") from error
    return Network(name=name, module=module.eval())


def shown_name(name: str) -> str:
    """Call a folder by its last part alone, because a result file is published."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def cost_of(network: Network, shape: Sequence[int]) -> Cost:
    """Count what one image costs, in a forward pass on the CPU.

    Raises:
        ValueError: if the network does not take images of this shape, (C, H, W).
    """
    operations = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), operations, _Activations() as activations:
            network.module(torch.zeros(1, *shape))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"networks must take the images of the model, {' x '.join(map(str, shape))} (channels, "
            f"height, width); {network.name} does not: {str(error).splitlines()[0]}"
        ) from error
    return Cost(
        num_parameters=sum(each.numel() for each in network.module.parameters()),
        num_multiply_adds=operations.get_total_flops() // 2,
        num_activations=activations.count,
    )


def made_ready(module: nn.Module, preparation: str, dtype: str, *, device: str) -> nn.Module:
    """Copy a network; as it was loaded, or in channels-last layout, folded, or compiled.

    Batch norms of networks of other projects are folded by torch.fx.
    """
    ready: Any = copy.deepcopy(module)
    if "fused" in preparation:
        if hasattr(ready, "fuse"):
            ready.fuse()
        else:
            with warnings.catch_warnings():  # of parts of PyTorch that it imports
                warnings.simplefilter("ignore")
                from torch.fx.experimental.optimization import fuse

                ready = fuse(ready)
    ready = ready.to(device=device, dtype=DTYPES[dtype])
    if preparation != "loaded":
        ready = ready.to(memory_format=torch.channels_last)
    if preparation == "fused":
        use_kernels(ready)
    if "compiled" in preparation:
        ready.compile()
    module_ready: nn.Module = ready.eval()
    return module_ready
