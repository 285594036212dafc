"""Set PyTorch up for the device that it trains on: memory, speed, repeatable bits."""

import logging
import os
import sysconfig
import tempfile
from pathlib import Path

import torch

from convzoo.allocator import keep_freed_memory
from convzoo.inference import has_bfloat16_instructions

logger = logging.getLogger(__name__)
# Of networks that gain from bf16 on CPUs: at 22 million a step was 1.4 times as fast, at 10 million
# 0.9 to 1.2 times, at 4 billion 1.8 times (AMD EPYC with AVX512-BF16, PyTorch 2.13).
LEAST_MULTIPLY_ADDS = 20_000_000


def training_device() -> torch.device:
    """Return the device of this machine that a training would take."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare_device(
    device: torch.device, mixed_precision: str, *, deterministic: bool = False
) -> None:
    """Set PyTorch up for training, before the first tensor is on the device.

    On CPUs freed memory is kept, and results are repeatable as they are. On GPUs cuDNN tries its
    algorithms for each shape of a batch and keeps the fastest, and float32 products may use TF32;
    or, deterministic, every operation gives the same bits each time or raises RuntimeError.

    Args:
        device: where the model will be.
        mixed_precision: the recipe's train.mixed_precision.
        deterministic: the recipe's train.deterministic.

    Raises:
        ValueError: if the device cannot train with this precision.

    Source: PyTorch's notes on reproducibility and on CUDA semantics (TF32).
    """
    if device.type == "cpu":
        keep_freed_memory()
        if mixed_precision == "fp16":  # accelerate would train in float32 without a word
            raise ValueError(
                "train.mixed_precision must be 'no' or 'bf16' on CPUs; got 'fp16', whose loss "
                "scaling needs a GPU"
            )
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not deterministic
        torch.set_float32_matmul_precision("high")  # TF32, as cuDNN does by itself
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
    if mixed_precision == "bf16" and not has_fast_bf16(device):
        logger.warning(
            "train.mixed_precision='bf16' is emulated on this %s",
            "GPU, and slower than 'no' or 'fp16'"
            if device.type == "cuda"
            else "CPU, and slower than 'no'",
        )


def advise_precision(
    device: torch.device, mixed_precision: str, num_multiply_adds: int | None
) -> str:
    """Say what bf16 would bring, where it is not asked for and the device multiplies in it.

    Args:
        device: where the model is, or would be.
        mixed_precision: the recipe's train.mixed_precision.
        num_multiply_adds: of the network for an image, small ones gain nothing; None if there is
            none yet.

    Returns:
        A sentence, or "".
    """
    if mixed_precision != "no" or not has_bfloat16_instructions(device):
        return ""
    networks = f"networks of {LEAST_MULTIPLY_ADDS / 1e6:g} million multiply-adds or more"
    if num_multiply_adds is not None:
        networks = "networks of this size" if num_multiply_adds >= LEAST_MULTIPLY_ADDS else ""
    if not networks:
        return ""
    gain = "faster" if device.type == "cpu" else "in less memory (its speed was not measured)"
    return (
        f"this {device.type.replace('cuda', 'gpu').upper()} multiplies in bfloat16: "
        f"train.mixed_precision=bf16 would train {networks} {gain}, with other rounding"
    )


def check_deterministic(model: torch.nn.Module, device: torch.device) -> None:
    """Refuse a model with an operation whose gradients are not deterministic on a GPU.

    Raises:
        ValueError: if it has one; torch.use_deterministic_algorithms lists them.
    """
    if device.type == "cuda" and any(
        isinstance(module, torch.nn.AdaptiveAvgPool2d) for module in model.modules()
    ):
        raise ValueError(
            f"train.deterministic must be false for {type(model).__name__} on a GPU: PyTorch has "
            f"no deterministic gradient of its adaptive pooling"
        )


def check_compiler(device: torch.device) -> None:
    """Refuse train.compile where PyTorch would call the C++ compiler with a torn path.

    Raises:
        ValueError: if PyTorch, Python's library or the compiler's cache lie in a path with spaces.

    Source: torch/_inductor/cpp_builder.py of PyTorch 2.13, which quotes only folders of headers.
    """
    if device.type != "cpu" or os.name != "posix":
        return
    link = "start Python through a link to {} whose path has none"
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()
    for place, remedy in {
        str(Path(torch.__file__).parent): link.format("its environment"),
        sysconfig.get_config_var("LIBDIR") or "": link.format("its installation"),
        cache: "set TORCHINDUCTOR_CACHE_DIR to a folder whose path has none",
    }.items():
        if " " in place:
            raise ValueError(
                f"train.compile must be false where a path has spaces, which PyTorch does not "
                f"quote for the C++ compiler; got {place!r}. Leave it out, or {remedy}"
            )


def has_fast_bf16(device: torch.device) -> bool:
    """Tell whether the device computes in bfloat16, rather than converting to and from float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        has_onednn = torch.backends.mkldnn.is_available()
        return bool(has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return True
