"""Make a model ready to classify many images: fusion, precision, memory format and allocator.

Layers by themselves are as fast as PyTorch; what surrounds them is not: docs/inference-speed.md.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from convzoo.allocator import keep_freed_memory
from convzoo.convolution_kernels import use_kernels

Precision = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What `prepare` did.

    Attributes:
        fused: batch norms are folded into convolutions; so outputs differ by rounding.
        dtype: of the weights, and what images must be cast to.
        channels_last: memory format of the weights.
        kernels: convolutions also add and activate: see `convzoo.convolution_kernels`.
        keeps_freed_memory: the C library's allocator was told so.
    """

    fused: bool
    dtype: str
    channels_last: bool
    kernels: bool
    keeps_freed_memory: bool


def prepare(model: torch.nn.Module, *, precision: Precision = "float32") -> Preparation:
    """Make a model ready for fast inference on the device where it is, in place.

    Batch norms are folded if the model has `fuse`, weights are laid out channels last, and on CPUs
    convolutions add and activate, and the process keeps freed memory. bfloat16 changes
    probabilities, by a hundredth or two, and now and then an answer, so it must be asked for:
    "bfloat16" takes it wherever the model is, "auto" only where the device multiplies in it (CPUs
    with AVX512-BF16 or AMX).

    Args:
        model: in evaluation mode; it can neither be trained nor saved afterwards, and `.data` of
            its weights must not be written to.
        precision: of weights and activations; "float32" leaves the weights as they are.

    Returns:
        What was done.

    Raises:
        ValueError: if the model is in training mode.
    """
    if model.training:
        raise ValueError("model must be in evaluation mode to be prepared. Call eval() first.")
    device = next(model.parameters()).device
    fuse = getattr(model, "fuse", None)
    if callable(fuse):
        fuse()
    if precision == "bfloat16" or (precision == "auto" and has_bfloat16_instructions(device)):
        model.to(torch.bfloat16)
    layout: Any = {"memory_format": torch.channels_last}
    model.to(**layout)
    return Preparation(
        fused=bool(getattr(model, "fused", False)),
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        channels_last=True,
        kernels=use_kernels(model),
        keeps_freed_memory=device.type == "cpu" and keep_freed_memory(),
    )


def has_bfloat16_instructions(device: torch.device) -> bool:
    """Tell whether a device multiplies in bfloat16; a CPU does so with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # PyTorch asks the processor by these, but documents neither.
        questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in questions)
    return False
