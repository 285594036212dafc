"""Layers of a model and their cost, and whether its weights look healthy (`convzoo.health`).

    python -m convzoo inspect runs/quickstart/model
    python -m convzoo inspect user/name --image cat.jpg --output activations

A model of another Transformers family gets the same report, as far as it has such layers.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NotRequired

import torch
import torch.nn.functional as F
from huggingface_hub import file_exists
from huggingface_hub.errors import HFValidationError
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)
from typing_extensions import TypedDict

import modeling
from convzoo import health
from convzoo.files import SCHEMA_VERSION
from convzoo.inspection.activation_maps import draw_activations
from convzoo.model_names import load_processor, loading_model
from convzoo.training.devices import advise_precision, training_device


class LayerCost(TypedDict):
    """A module with parameters of its own, or with products of matrices of its own.

    Attributes:
        output: shape without the batch; None where the output is not a tensor.
        multiply_adds: of convolutions and products of matrices for one image, biases not counted.
    """

    name: str
    type: str
    output: list[int] | None
    parameters: int
    multiply_adds: int


class SlopeReport(TypedDict):
    """Statistics of the slopes of a PReLU; shares outside [0, 1] and near their start."""

    name: str
    min: float
    mean: float
    max: float
    outside_0_1: float
    near_start: float
    verdict: str


class BranchReport(TypedDict):
    """How strongly a residual block adds its branch: scale (None in a QLNet) times gain."""

    name: str
    scale: float | None
    gain: float
    strength: float
    verdict: str


class NormReport(TypedDict):
    """Channels of a batch norm, and those that its gain or its input alone makes carry nothing."""

    name: str
    channels: int
    dead_gain: int
    dead_input: int
    verdict: str


class Totals(TypedDict):
    """Sums over the layers."""

    parameters: int
    multiply_adds: int


class ModelReport(TypedDict):
    """All numbers about a model, ready for JSON.

    Attributes:
        advice: sentences for a training of it on this machine.
        predictions: label -> probability of the likeliest classes of an image.
        images: the drawings of its activations.
    """

    schema_version: int
    path: str
    model_type: str
    has_weights: bool
    num_labels: int
    input_size: list[int]
    layers: list[LayerCost]
    totals: Totals
    slopes: list[SlopeReport]
    residual_branches: list[BranchReport]
    batch_norms: list[NormReport]
    advice: list[str]
    predictions: NotRequired[dict[str, float]]
    images: NotRequired[list[str]]


def inspect_model(
    path: str, image: str | None = None, *, output: str | None = None, revision: str = ""
) -> ModelReport:
    """Count and check a model.

    Args:
        path: model folder or Hub id; a folder with a config.json only is initialised afresh.
        image: image file; its activations are drawn.
        output: folder for those drawings; "activations" if None.
        revision: commit, tag or branch of a Hub model.

    Raises:
        OSError: if there is no such model or image.
        ValueError: if it is no image classifier, or its weights do not fit.
    """
    model, has_weights = _load(path, revision or "main")
    processor = load_processor(path, revision or "main")
    size = _input_size(processor, model.config)
    layers = count_layers(model, size)
    report: ModelReport = {
        "schema_version": SCHEMA_VERSION,
        "path": path,
        "model_type": model.config.model_type,
        "has_weights": has_weights,
        "num_labels": model.config.num_labels or 0,
        "input_size": size,
        "layers": layers,
        "totals": {
            "parameters": sum(layer["parameters"] for layer in layers),
            "multiply_adds": sum(layer["multiply_adds"] for layer in layers),
        },
        "slopes": check_slopes(model),
        "residual_branches": check_branches(model),
        "batch_norms": check_batch_norms(model),
        "advice": [],
    }
    if advice := advise_precision(training_device(), "no", report["totals"]["multiply_adds"]):
        report["advice"].append(advice)
    if image:
        drawn = draw_activations(
            model,
            _processor_for_drawing(model, processor, path=path),
            image=image,
            folder=Path(output or "activations"),
        )
        report["predictions"] = drawn["predictions"]
        report["images"] = drawn["images"]
    return report


def _processor_for_drawing(
    model: PreTrainedModel, processor: BaseImageProcessor | None, *, path: str
) -> BaseImageProcessor:
    if type(model) not in modeling.FAMILIES.values():
        families = ", ".join(family.model_type for family in modeling.FAMILIES)
        raise ValueError(
            f"activations are drawn of the families {families}; {path} is of the family "
            f"{model.config.model_type}. Leave the image out"
        )
    if processor is None:
        raise ValueError(f"{path} must have a preprocessor_config.json to look at an image")
    return processor


def is_model(path: str) -> bool:
    """Tell whether a folder or Hub id is a model, and not a dataset: it has a config.json."""
    if Path(path).exists():
        return (Path(path) / "config.json").is_file()
    try:
        return bool(file_exists(path, "config.json"))
    except HFValidationError:
        return False


def _load(path: str, revision: str) -> tuple[PreTrainedModel, bool]:
    """The model in evaluation mode, and whether it has weights of its own."""
    folder = Path(path)
    patterns = ("*.safetensors", "*.bin", "*.index.json")
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in patterns):
        config = AutoConfig.from_pretrained(path)
        fresh: PreTrainedModel = AutoModelForImageClassification.from_config(config)
        return fresh.eval(), False
    with loading_model(path):
        model = AutoModelForImageClassification.from_pretrained(
            path, revision=revision, dtype=torch.float32
        )
    return model.eval(), True


def _input_size(processor: BaseImageProcessor | None, config: PreTrainedConfig) -> list[int]:
    """Channels, height and width: of the processor's crop, else the usual size of the stem."""
    side = 32 if getattr(config, "stem", "") == "small" else 224
    crop = getattr(processor, "crop_size", None) or {"height": side, "width": side}
    return [getattr(config, "num_channels", 3), crop["height"], crop["width"]]


def count_layers(model: PreTrainedModel, size: list[int]) -> list[LayerCost]:
    """List the modules with parameters or products of their own, in the order of the forward pass.

    The multiply-adds are half the floating-point operations that PyTorch's counter sees.

    Args:
        model: in evaluation mode.
        size: channels, height and width of the input.
    """
    rows: dict[str, LayerCost] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            shape = list(output.shape[1:]) if isinstance(output, Tensor) else None
            rows.setdefault(
                name,
                {
                    "name": name,
                    "type": type(module).__name__,
                    "output": shape,
                    "parameters": sum(p.numel() for p in module.parameters(recurse=False)),
                    "multiply_adds": 0,
                },
            )

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in model.named_modules()]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, *size, device=model.device))
    for hook in hooks:
        hook.remove()
    for name, operations in _own_operations(model, counter):
        rows[name]["multiply_adds"] = operations // 2
    return [row for row in rows.values() if row["parameters"] or row["multiply_adds"]]


def _own_operations(model: nn.Module, counter: FlopCounterMode) -> Iterator[tuple[str, int]]:
    """Operations that a module that was called makes itself, not in the modules inside it.

    The counter gives a module the operations of all that is called inside it, and nothing to one
    that only holds others, such as a ModuleList.
    """
    by_module: dict[str, dict[Any, int]] = counter.get_flop_counts()
    root = type(model).__name__

    def inside(name: str, module: nn.Module) -> int:
        found = by_module.get(f"{root}.{name}" if name else root)
        return sum(found.values()) if found else in_children(name, module)

    def in_children(name: str, module: nn.Module) -> int:
        prefix = f"{name}." if name else ""
        return sum(inside(prefix + child, part) for child, part in module.named_children())

    for name, module in model.named_modules():
        if own := inside(name, module) - in_children(name, module):
            yield name, own


def check_slopes(model: PreTrainedModel) -> list[SlopeReport]:
    """Describe the PReLU slopes of each layer, with a verdict."""
    start = getattr(model.config, "prelu_init", health.START_SLOPE)
    rows: list[SlopeReport] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.PReLU):
            slopes = module.weight.detach().float()
            found = health.slope_statistics(slopes)
            rows.append(
                {
                    "name": name,
                    "min": found["min"],
                    "mean": found["mean"],
                    "max": found["max"],
                    "outside_0_1": found["outside"],
                    "near_start": health.near_share(slopes, start),
                    "verdict": health.judge_slopes(slopes, start),
                }
            )
    return rows


def check_branches(model: PreTrainedModel) -> list[BranchReport]:
    """Describe how strongly each residual block of a CNN or QLNet adds its branch, with a verdict.

    The strength is the root mean square of the gains of the branch's last batch norm, in a CNN
    times softplus(residual_scale): what the branch, normalised, is multiplied by. A fresh CNN has
    0.69 everywhere, a fresh QLNet 0.
    """
    rows: list[BranchReport] = []
    if type(model) not in (modeling.CNN, modeling.QLNet):
        return rows
    for name, block in model.named_modules():
        norm = getattr(block, "bn3", None)
        if not isinstance(norm, _BatchNorm):
            continue
        gain = health.gains(norm).square().mean().sqrt().item()
        raw = getattr(block, "residual_scale", None)
        scale = F.softplus(raw.detach().float()).item() if isinstance(raw, Tensor) else None
        strength = gain if scale is None else scale * gain
        start = 0.0 if scale is None else math.log(2)  # softplus(0)
        fresh = norm.num_batches_tracked == 0 and math.isclose(strength, start, abs_tol=1e-3)
        rows.append(
            {
                "name": name,
                "scale": scale,
                "gain": gain,
                "strength": strength,
                "verdict": health.AS_AT_THE_START if fresh else health.judge_branch(strength),
            }
        )
    return rows


def check_batch_norms(model: PreTrainedModel) -> list[NormReport]:
    """Count the channels of each batch norm that carry nothing, with a verdict."""
    rows: list[NormReport] = []
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_var is not None:
            dead = (health.gains(module), health.normalised_deviation(module))
            dead_gain, dead_input = (int((each < health.DEAD_OUTPUT).sum()) for each in dead)
            rows.append(
                {
                    "name": name,
                    "channels": module.num_features,
                    "dead_gain": dead_gain,
                    "dead_input": dead_input,
                    "verdict": health.judge_batch_norm(module),
                }
            )
    return rows
