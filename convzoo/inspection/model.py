"""What is in a model: its layers and their cost, and whether its weights look healthy.

    python -m convzoo inspect runs/quickstart/model
    python -m convzoo inspect user/name --image cat.jpg --output activations

The verdicts are rules of thumb with the thresholds below. They tell a model that was not trained,
or whose weights were not loaded, from one that was, and point at blocks and channels that do
nothing; they say nothing about accuracy. A model of another Transformers family gets the same
report, as far as it has such layers.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from huggingface_hub import file_exists
from huggingface_hub.errors import HFValidationError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
)

import modeling
from convzoo.inspection.activation_maps import draw_activations

START_SLOPE = 0.25  # of PReLU: torch and He et al., arXiv:1502.01852
NEAR = 0.01  # a slope this near to its start has not moved; one this near to 0 makes a ReLU
ALMOST_LINEAR = 0.1  # a slope this near to 1 hardly bends
MOSTLY = 0.95  # share of slopes for a verdict about a layer
FEW = 0.05  # share of slopes outside [0, 1] that is not worth a word
ALMOST_IDENTITY = 0.05  # strength of a branch below which its block passes the shortcut on
STARVED = 0.2  # strength below which the shortcut drowns the branch
DEAD_GAIN = 1e-3  # batch norm: the channel is its bias, whatever the image shows


def inspect_model(
    path: str, image: str | None = None, output: str | None = None, revision: str = ""
) -> dict:
    """Count and check a model.

    Args:
        path: model folder or Hub id; a folder with a config.json only is initialised afresh.
        image: image file; its activations are drawn.
        output: folder for those images; "activations" if None.
        revision: commit, tag or branch of a Hub model.

    Returns:
        All numbers, ready for JSON: "layers", "totals", "slopes", "residual_branches",
        "batch_norms", and with an image "predictions" and "images".

    Raises:
        OSError: if there is no such model or image.
        ValueError: if it is no image classifier, or its weights do not fit.
    """
    model, has_weights = _load(path, revision or "main")
    try:
        processor = AutoImageProcessor.from_pretrained(path, revision=revision or "main")
    except OSError:  # weights of the original CNN come without one
        processor = None
    size = _input_size(processor, model.config)
    layers = count_layers(model, size)
    report = {
        "schema_version": 1,
        "path": path,
        "model_type": model.config.model_type,
        "has_weights": has_weights,
        "num_labels": model.config.num_labels,
        "input_size": size,
        "layers": layers,
        "totals": {
            key: sum(layer[key] for layer in layers) for key in ("parameters", "multiply_adds")
        },
        "slopes": check_slopes(model),
        "residual_branches": check_branches(model),
        "batch_norms": check_batch_norms(model),
    }
    if image:
        if type(model) not in modeling.FAMILIES.values():
            families = ", ".join(family.model_type for family in modeling.FAMILIES)
            raise ValueError(
                f"activations are drawn of the families {families}; {path} is of the family "
                f"{model.config.model_type}. Leave the image out"
            )
        if processor is None:
            raise ValueError(f"{path} must have a preprocessor_config.json to look at an image")
        report |= draw_activations(model, processor, image, Path(output or "activations"))
    return report


def is_model(path: str) -> bool:
    """Whether a folder or Hub id is a model, and not a dataset: it has a config.json."""
    if Path(path).exists():
        return (Path(path) / "config.json").is_file()
    try:
        return file_exists(path, "config.json")
    except HFValidationError:
        return False


def _load(path, revision):
    """The model in evaluation mode, and whether it has weights of its own."""
    folder = Path(path)
    patterns = ("*.safetensors", "*.bin", "*.index.json")
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in patterns):
        config = AutoConfig.from_pretrained(path)
        return AutoModelForImageClassification.from_config(config).eval(), False
    model = AutoModelForImageClassification.from_pretrained(
        path, revision=revision, dtype=torch.float32
    )
    return model.eval(), True


def _input_size(processor, config):
    """Channels, height and width: of the processor's crop, else the usual size of the stem."""
    side = 32 if getattr(config, "stem", "") == "small" else 224
    crop = getattr(processor, "crop_size", None) or {"height": side, "width": side}
    return [getattr(config, "num_channels", 3), crop["height"], crop["width"]]


def count_layers(model: PreTrainedModel, size: list[int]) -> list[dict]:
    """Cost of each module that has parameters of its own, in the order of the forward pass.

    Args:
        model: in evaluation mode.
        size: channels, height and width of the input.

    Returns:
        Name, type, output shape without the batch (None where it is not a tensor), parameters, and
        multiply-adds of convolutions and linear layers for one image, biases not counted.
    """
    rows = {}

    def note(name):
        def hook(module, inputs, output):
            tensor = output if isinstance(output, Tensor) else None
            own = [parameter.numel() for parameter in module.parameters(recurse=False)]
            row = rows.setdefault(
                name,
                {
                    "name": name,
                    "type": type(module).__name__,
                    "output": None if tensor is None else list(tensor.shape[1:]),
                    "parameters": sum(own),
                    "multiply_adds": 0,
                },
            )
            if isinstance(module, nn.Conv2d | nn.Linear):  # each output sums over one kernel
                row["multiply_adds"] += tensor.numel() * module.weight[0].numel()

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    with torch.inference_mode():
        model(torch.zeros(1, *size, device=model.device))
    for hook in hooks:
        hook.remove()
    return list(rows.values())


def check_slopes(model: PreTrainedModel) -> list[dict]:
    """Statistics of the PReLU slopes of each layer, with a verdict."""
    start = getattr(model.config, "prelu_init", START_SLOPE)
    rows = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.PReLU):
            continue
        slopes = module.weight.detach().float()
        row = {
            "name": name,
            "min": slopes.min().item(),
            "mean": slopes.mean().item(),
            "max": slopes.max().item(),
            "outside_0_1": ((slopes < 0) | (slopes > 1)).float().mean().item(),
            "near_start": ((slopes - start).abs() <= NEAR).float().mean().item(),
        }
        almost_relu = (slopes.abs() <= NEAR).float().mean().item()
        almost_linear = ((slopes - 1).abs() <= ALMOST_LINEAR).float().mean().item()
        row["verdict"] = _first(
            (not slopes.isfinite().all(), "not finite"),
            (row["near_start"] >= MOSTLY, "as at the start"),
            (almost_relu >= MOSTLY, "almost ReLU"),
            (almost_linear >= MOSTLY, "almost linear"),
            (row["outside_0_1"] > FEW, "many outside [0, 1]"),
        )
        rows.append(row)
    return rows


def check_branches(model: PreTrainedModel) -> list[dict]:
    """How strongly each residual block of a CNN or QLNet adds its branch, with a verdict.

    The strength is the root mean square of the gains of the branch's last batch norm, in a CNN
    times softplus(residual_scale): what the branch, normalised, is multiplied by. A fresh CNN has
    0.69 everywhere, a fresh QLNet 0.
    """
    rows = []
    if type(model) not in (modeling.CNN, modeling.QLNet):
        return rows
    for name, block in model.named_modules():
        if not hasattr(block, "bn3"):
            continue
        gain = block.bn3.weight.detach().float().square().mean().sqrt().item()
        raw = getattr(block, "residual_scale", None)
        scale = 1.0 if raw is None else F.softplus(raw.detach().float()).item()
        start = 0.0 if raw is None else math.log(2)  # softplus(0)
        strength, fresh = scale * gain, block.bn3.num_batches_tracked == 0
        rows.append(
            {
                "name": name,
                "scale": None if raw is None else scale,
                "gain": gain,
                "strength": strength,
                "verdict": _first(
                    (not math.isfinite(strength), "not finite"),
                    (fresh and math.isclose(strength, start, abs_tol=1e-3), "as at the start"),
                    (strength < ALMOST_IDENTITY, "almost identity"),
                    (strength < STARVED, "starved branch"),
                ),
            }
        )
    return rows


def check_batch_norms(model: PreTrainedModel) -> list[dict]:
    """Channels of each batch norm that carry nothing, with a verdict."""
    rows = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        variance = module.running_var.detach().float()
        gain = module.weight.detach().float()
        values = torch.stack([module.running_mean, variance, gain, module.bias.detach()])
        row = {
            "name": name,
            "channels": module.num_features,
            "dead_gain": (gain.abs() < DEAD_GAIN).sum().item(),
            "dead_input": (variance < module.eps).sum().item(),
        }
        dead = ((gain.abs() < DEAD_GAIN) | (variance < module.eps)).sum().item()
        row["verdict"] = _first(
            (not values.isfinite().all(), "not finite"),
            (module.num_batches_tracked == 0, "never trained"),
            (dead == module.num_features, "all channels dead"),
            (dead, f"dead channels: {dead}"),
        )
        rows.append(row)
    return rows


def _first(*verdicts):
    return next((text for condition, text in verdicts if condition), "fine")


def summary(report: dict) -> str:
    """The report as text, with tables of at most 100 columns."""
    return "\n".join(_lines(report))


def _lines(report) -> Iterator[str]:
    totals, size = report["totals"], "x".join(map(str, report["input_size"]))
    yield report["path"]
    yield (
        f"{report['model_type']}, {report['num_labels']} classes, {totals['parameters']:,} "
        f"parameters, {_with_unit(totals['multiply_adds'])} multiply-adds for {size}"
    )
    if not report["has_weights"]:
        yield "It has no weights: these are fresh ones."
    yield ""
    yield f"{'layer':<42}{'type':<16}{'output':>14}{'parameters':>14}{'mult-adds':>12}"
    parts: dict[str, list[dict]] = {}
    for layer in report["layers"]:
        parts.setdefault(_part(layer["name"]), []).append(layer)
    for part, layers in parts.items():
        for layer in layers:
            shape = "x".join(map(str, layer["output"] or ())) or "-"
            cost = _with_unit(layer["multiply_adds"]) if layer["multiply_adds"] else ""
            name = layer["name"] if len(layer["name"]) < 42 else f"...{layer['name'][-38:]}"
            row = f"{name:<42}{layer['type']:<16}{shape:>14}{layer['parameters']:>14,}{cost:>12}"
            yield row.rstrip()
        if len(parts) > 1 and len(layers) > 1:
            parameters, cost = (
                sum(layer[key] for layer in layers) for key in ("parameters", "multiply_adds")
            )
            yield f"{'= ' + part:<72}{parameters:>14,}{_with_unit(cost):>12}"
    if report["slopes"]:
        yield from ("", f"{'PReLU slopes':<28}   min    mean     max  outside [0,1]  near start")
        for row in report["slopes"]:
            yield (
                f"{row['name']:<26}{row['min']:>8.3f}{row['mean']:>8.3f}{row['max']:>8.3f}"
                f"{row['outside_0_1']:>13.1%}{row['near_start']:>12.1%}  {row['verdict']}"
            )
    if report["residual_branches"]:
        yield from ("", f"{'residual branches':<26}   scale    gain  strength")
        for row in report["residual_branches"]:
            scale = "-" if row["scale"] is None else f"{row['scale']:.3f}"
            yield (
                f"{row['name']:<26}{scale:>8}{row['gain']:>8.3f}{row['strength']:>10.3f}"
                f"  {row['verdict']}"
            )
    faults = [row for row in report["batch_norms"] if row["verdict"] != "fine"]
    if len({row["verdict"] for row in report["batch_norms"]}) > 1:
        yield from ("", f"{'batch norms':<26}channels   gain ~ 0  variance ~ 0")
        for row in faults:
            yield (
                f"{row['name']:<26}{row['channels']:>8}{row['dead_gain']:>11}"
                f"{row['dead_input']:>14}  {row['verdict']}"
            )
    yield ""
    for title in ("slopes", "residual_branches", "batch_norms"):
        if rows := report[title]:
            verdicts = [row["verdict"] for row in rows]
            counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
            told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
            yield f"{title.replace('_', ' ')}: {told}"
    for name, probability in report.get("predictions", {}).items():
        yield f"{probability:7.1%}  {name}"
    for path in report.get("images", ()):
        yield f"drawn: {path}"


def _part(name):
    """The stage, or else the first component, that a layer belongs to."""
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "stages" else 1])


def _with_unit(count):
    """A count with three decimals of its unit."""
    for limit, unit, text in ((1e8, 1e9, "G"), (1e5, 1e6, "M"), (0, 1e3, "k")):
        if count >= limit:
            return f"{count / unit:.3f} {text}"
