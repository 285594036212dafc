"""Write a network as a file of another format.

ExecuTorch is not among the formats: its package brings Core ML's tools and a second quantizer.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

if TYPE_CHECKING:
    from onnx import ModelProto

FILES = {"torch-export": "model.pt2", "onnx": "model.onnx", "int8-onnx": "model.onnx"}
NAMES = ("batch", "channels", "height", "width")


class Logits(nn.Module):
    """A classifier that gives its logits alone, (N, num_labels), so that readers need no class."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Compute the logits of a batch."""
        logits: Tensor = self.model(pixel_values).logits
        return logits


def trace(model: Any, shape: Sequence[int]) -> tuple[ExportedProgram, list[str | int]]:
    """Trace a model for any number of images, and for images of any size where it takes them.

    Args:
        model: in evaluation mode, in float32.
        shape: channels, height and width of its usual images.

    Returns:
        The program, and the shape that it takes: a number where it must be that.
    """
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    free: list[dict[int, Any]] = [{0: Dim("batch")}]
    if strides := getattr(model.config, "stage_strides", None):
        # A last map of one pixel would be traced as a case of its own.
        least = 2 * strides[-1]
        if min(shape[1:]) >= least:
            sides = {2: Dim("height", min=least), 3: Dim("width", min=least)}
            free.insert(0, free[0] | sides)
    for dimensions in free:
        try:
            with torch.no_grad(), _quiet():
                program = torch.export.export(
                    Logits(model).eval(),
                    (example,),
                    dynamic_shapes={"pixel_values": dimensions},
                    strict=False,
                )
        except (torch._dynamo.exc.UserError, RuntimeError, ValueError):
            if dimensions is free[-1]:
                raise
            continue
        taken = [NAMES[n] if n in dimensions else size for n, size in enumerate(example.shape)]
        return program, taken
    raise AssertionError("the last try raises")


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write a program for `torch.export.load`."""
    with _quiet():
        torch.export.save(program, path)


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Write a program as ONNX, with its weights in the same file."""
    with _quiet():
        written: Any = torch.onnx.export(
            program,
            dynamo=True,
            external_data=False,
            input_names=["pixel_values"],
            output_names=["logits"],
            verbose=False,
        )
        written.save(path, external_data=False)


def load_onnx(path: Path) -> "ModelProto":
    """Read a file of ONNX."""
    import onnx

    return onnx.load(path)


def quantize(source: Path, path: Path, batches: Sequence[np.ndarray]) -> None:
    """Write an ONNX file again with weights and activations of 8 bits.

    Activations get the ranges that they have on the given images. Weights are quantized channel by
    channel to 7 of the 8 bits, because products of 8 bits overflow on processors without VNNI.

    Args:
        source: ONNX of a network in float32.
        path: file to write.
        batches: pixel_values, (1, C, H, W) each.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]  # it has no types
        """The images, one after another, as onnxruntime asks for them."""

        def __init__(self) -> None:
            self.rest = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.rest, None)
            return None if batch is None else {"pixel_values": batch}

    prepared = path.with_name("prepared.onnx")
    with _quiet():
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            path,
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
    prepared.unlink()


@contextmanager
def _quiet() -> Iterator[None]:
    """Say nothing of other libraries' old names and missing extras; errors are raised anyway."""
    names = ("torch.onnx._internal.exporter._registration", "root")
    loggers = [logging.getLogger(name if name != "root" else None) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
