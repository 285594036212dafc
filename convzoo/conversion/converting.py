"""Convert weights that other projects published to a model folder that AutoModel loads.

A file is recognised by the names and shapes of its tensors alone: not by its own name, nor by what
it says of itself (the published QLNet says "resnet50").

    python -m convzoo convert SOURCE OUTPUT
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import convzoo
import modeling
from convzoo.conversion.formats import FORMATS, GREY_NOTE, Format, Shapes
from convzoo.conversion.reading import SHOWN, read_weights
from convzoo.environment import now
from convzoo.files import SCHEMA_VERSION, file_sha256, write_folder, write_json
from convzoo.imagenet_classes import imagenet_names
from convzoo.labels import unique_names
from convzoo.layers import describe_network, image_shape
from modeling import CNNConfig, ConvZooConfig, ConvZooImageProcessor, ConvZooModel


def convert(source: str | Path, output: str | Path, labels: str | Path | None = None) -> str:
    """Write published weights as a model folder.

    Args:
        source: weights file, or folder with a model.safetensors or pytorch_model.bin.
        output: folder to create; may exist when it is empty.
        labels: file with the class names: one a line, a JSON list, or JSON {"0": name, ...}.
            Without it 1000 classes get ImageNet's names.

    Returns:
        What was found and written, for people to read.

    Raises:
        ValueError: if the weights cannot be read safely, or fit no known format exactly.
        OSError: if files are missing, or the output exists or cannot be written.
    """
    output = Path(output).resolve()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} must be new or an empty folder; choose another output")
    path, origin, weights = read_weights(Path(source))
    fmt, model = _recognise(weights, path)
    processor = _processor(fmt, model.config.num_channels)
    label_source = _set_labels(model.config, labels, path)
    if isinstance(model.config, CNNConfig):
        model.config.layer_implementation = _layers_of_the_original(path)
    model.to_empty(device="cpu").load_state_dict(
        {name: weights[fmt.original_name(name)] for name in model.state_dict()}
    )
    facts = {
        "schema_version": SCHEMA_VERSION,
        "source": {"file": path.name, "sha256": file_sha256(path), "weights": origin},
        "format": fmt.name,
        "project": fmt.project,
        "protocol": fmt.protocol,
        "labels": label_source,
        "num_tensors": len(weights),
        "num_parameters": model.num_parameters(),
        **describe_network(model, image_shape(processor)),
        "converter": f"convzoo {convzoo.__version__}",
        "date": now(),
    }

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_json(folder / "conversion.json", facts)

    write_folder(output, fill)
    return (
        f"source  {path.name}: {origin}, {len(weights)} tensors\n"
        f"format  {fmt.name}\n"
        f"model   {_describe(model.config)}: {facts['num_parameters']:,} parameters, "
        f"{model.config.num_labels} classes\n"
        f"labels  {label_source}\n"
        f"images  {fmt.protocol}{'' if model.config.num_channels == 3 else GREY_NOTE}\n"
        f"output  {output}"
    )


def _describe(config: ConvZooConfig) -> str:
    """Name the family, and the fields that are not its default."""
    default = type(config)()
    fields = {name: getattr(config, name) for name in type(config).__annotations__}
    changed = [f"{k} = {v}" for k, v in fields.items() if v != getattr(default, k)]
    return ", ".join([config.model_type, *changed])


@dataclass(frozen=True)
class Candidate:
    """A format, the model it would need, and the tensors that this model would take.

    Args:
        format: one of FORMATS.
        model: on the meta device.
        expected: its tensors by the names of the format's project.
        num_shared: how many of them the file names.
    """

    format: Format
    model: ConvZooModel
    expected: Mapping[str, Tensor]
    num_shared: int


def _recognise(weights: Mapping[str, Tensor], path: Path) -> tuple[Format, ConvZooModel]:
    """Find the format that the tensors fit exactly; its model is still on the meta device."""
    if {"stem.conv.weight", "classifier.weight"} <= weights.keys():
        raise ValueError(
            f"{path} is already converted. Load its folder with "
            "AutoModelForImageClassification.from_pretrained."
        )
    best = max((_candidate(fmt, weights) for fmt in FORMATS), key=lambda c: c.num_shared)
    faults = _faults(best.expected, weights)
    if not any(faults.values()):
        return best.format, best.model
    details = "; ".join(
        f"{len(names)} are {kind}: {', '.join(sorted(names)[:SHOWN])}"
        for kind, names in faults.items()
        if names
    )
    raise ValueError(
        f"{path} must hold the weights of {', '.join(fmt.name for fmt in FORMATS)}; the closest is "
        f"{best.format.name}, with {best.num_shared} of its {len(best.expected)} tensors, but "
        f"{details}"
    )


def _candidate(fmt: Format, weights: Mapping[str, Tensor]) -> Candidate:
    model = _empty_model(fmt, {name: tensor.shape for name, tensor in weights.items()})
    expected = {fmt.original_name(name): tensor for name, tensor in model.state_dict().items()}
    return Candidate(
        format=fmt,
        model=model,
        expected=expected,
        num_shared=len(expected.keys() & weights.keys()),
    )


def _faults(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """List the tensors that are missing, unknown or wrong."""
    wrong = []
    for name in expected.keys() & weights.keys():
        got, wanted = weights[name], expected[name]
        if got.shape != wanted.shape or got.is_floating_point() != wanted.is_floating_point():
            wrong.append(
                f"{name} is {got.dtype} {tuple(got.shape)} instead of {tuple(wanted.shape)}"
            )
        elif not all(extreme.isfinite() for extreme in got.float().aminmax()):
            wrong.append(f"{name} has values that are not finite in float32")
    return {
        "missing": [name for name in expected if name not in weights],
        "unknown": [name for name in weights if name not in expected],
        "wrong": wrong,
    }


def _empty_model(fmt: Format, shapes: Shapes) -> ConvZooModel:
    stem = shapes.get(fmt.original_name("stem.conv.weight"), ())
    classifier = shapes.get(fmt.original_name("classifier.weight"), ())
    fields = {
        "num_channels": stem[1] if len(stem) == 4 else 3,
        "num_labels": classifier[0] if len(classifier) == 2 else 1000,
    }
    config = fmt.config(shapes, fields)
    with torch.device("meta"):
        return modeling.FAMILIES[type(config)](config)


def _processor(fmt: Format, num_channels: int) -> ConvZooImageProcessor:
    processor = ConvZooImageProcessor.from_protocol(fmt.protocol)
    if num_channels == 3:
        return processor
    # The projects know colour only; for grey, the average of their three values is closest.
    mean, std = (sum(values) / 3 for values in (processor.image_mean, processor.image_std))
    return ConvZooImageProcessor.from_protocol(
        fmt.protocol, num_channels=num_channels, image_mean=[mean], image_std=[std]
    )


def _set_labels(config: ConvZooConfig, labels: str | Path | None, path: Path) -> str:
    """Name the classes where names can be had, and say where they are from."""
    if labels is not None:
        names, label_source = unique_names(_read_names(Path(labels))), Path(labels).name
    elif config.num_labels == 1000:
        names = imagenet_names()
        label_source = "ImageNet-1k, assumed because there are 1000 classes"
    else:
        return "LABEL_0, LABEL_1, ... because no class names were given"
    if len(names) != config.num_labels:
        raise ValueError(
            f"{labels} must name the {config.num_labels} classes of {path}; it has {len(names)}"
        )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    return label_source


def _layers_of_the_original(path: Path) -> str:
    """Read from the config.json beside the weights whether the original's layers are by hand."""
    settings = path.parent / "config.json"
    if not settings.is_file():
        return "builtin"
    try:
        chosen = json.loads(settings.read_text(encoding="utf-8")).get("use_builtin_conv", True)
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{settings} must hold a JSON object; reading it failed: {error}"
        ) from error
    return "by_hand" if chosen is False else "builtin"


def _read_names(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
        if text[:1] not in ("[", "{"):
            return [line.strip() for line in text.splitlines() if line.strip()]
        names: Any = json.loads(text)
        if isinstance(names, dict):
            names = [names[str(index)] for index in range(len(names))]
        if all(isinstance(name, str) for name in names):
            return list(names)
        reason = f"got {names[:3]}"
    except (ValueError, KeyError) as error:
        reason = f"reading it failed: {error!r}"
    raise ValueError(
        f'{path} must have one name a line, or be a JSON list of names or map "0", "1", ... to '
        f"names; {reason}"
    )
