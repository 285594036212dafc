"""Convert weights that other projects published to a model folder that AutoModel loads.

A file is recognised by the names and shapes of its tensors alone: not by its own name, nor by what
it says of itself (the published QLNet says "resnet50").

    python -m convzoo convert SOURCE OUTPUT
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import convzoo
import modeling
from convzoo.conversion.formats import FORMATS, GREY_NOTE, Format, Shapes
from convzoo.conversion.preprocessing import describe_processor, processor_of
from convzoo.conversion.reading import SHOWN, read_weights
from convzoo.conversion.sources import Source, find_source
from convzoo.environment import now
from convzoo.files import SCHEMA_VERSION, file_sha256, refuse_filled, write_folder, write_json
from convzoo.imagenet_classes import imagenet_names, imagenet_numbers
from convzoo.labels import unique_names
from convzoo.layers import describe_network, image_shape
from modeling import CNNConfig, ConvZooConfig, ConvZooModel


def convert(
    source: str | Path,
    output: str | Path,
    labels: str | Path | None = None,
    *,
    revision: str = "",
    prelu: bool = False,
) -> str:
    """Write published weights as a model folder.

    Args:
        source: weights file, folder with one, Hub id, or short name of `convzoo models`.
        output: folder to create; may exist when it is empty.
        labels: file with the class names: one a line, a JSON list, or JSON {"0": name, ...}.
            Without it the names are those beside the weights; 1000 classes get ImageNet's.
        revision: commit, branch or tag on the Hub.
        prelu: give a ResNet PReLUs with slopes of 0, which training can move, in place of ReLUs.

    Returns:
        What was found and written, for people to read.

    Raises:
        ValueError: if the weights cannot be read safely, or fit no known format exactly.
        OSError: if files are missing, or the output exists or cannot be written.
    """
    output = Path(output).resolve()
    refuse_filled(output)
    found = find_source(source, revision)
    path, origin, weights = read_weights(found.path)
    fmt, model = model_of_weights(weights, path, prelu=prelu)
    _check_settings(found, path)
    processor, protocol = processor_of(found, fmt, model.config.num_channels)
    label_source = _set_labels(model.config, labels, path, settings=found.settings)
    if isinstance(model.config, CNNConfig) and found.settings.get("use_builtin_conv") is False:
        model.config.layer_implementation = "by_hand"
    facts = {
        "schema_version": SCHEMA_VERSION,
        "source": {"file": path.name, "sha256": file_sha256(path), "weights": origin},
        "format": fmt.name,
        "project": (found.published and found.published.project) or fmt.project,
        "protocol": protocol,
        "labels": label_source,
        "num_tensors": len(weights),
        "num_parameters": model.num_parameters(),
        **describe_network(model, image_shape(processor)),
        "converter": f"convzoo {convzoo.__version__}",
        "date": now(),
    }
    _add_provenance(facts, found)

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_json(folder / "conversion.json", facts)

    write_folder(output, fill)
    where = f" of {found.hub_id}, commit {found.commit}" if found.hub_id else ""
    return (
        f"source  {path.name}{where}: {origin}, {len(weights)} tensors\n"
        f"format  {fmt.name}\n"
        f"model   {_describe(model.config)}: {facts['num_parameters']:,} parameters, "
        f"{model.config.num_labels} classes\n"
        f"labels  {label_source}\n"
        f"images  {protocol}{'' if model.config.num_channels == 3 else GREY_NOTE}: "
        f"{describe_processor(processor)}\n"
        f"output  {output}"
    )


def model_of_weights(
    weights: Mapping[str, Tensor], path: Path, *, prelu: bool = False
) -> tuple[Format, ConvZooModel]:
    """Make the model of weights in a format of FORMATS.

    Args:
        weights: by the names of the format.
        path: their file, for messages.
        prelu: see `convert`.

    Raises:
        ValueError: if they fit no format exactly.
    """
    fmt, model = _recognise(weights, path, prelu=prelu)
    _fill(model, fmt, weights)
    return fmt, model


def _add_provenance(facts: dict[str, Any], found: Source) -> None:
    """Add repository, licence (of the card, timm's settings or our list) and quoted accuracy."""
    facts["source"] |= {k: v for k in ("hub_id", "commit") if (v := getattr(found, k))}
    timm = found.settings.get("pretrained_cfg") or {}
    listed = found.published.license if found.published else ""
    if license := found.license or timm.get("license") or listed:
        facts["license"] = license
    if found.published and (quoted := found.published.quoted()):
        facts["quoted"] = quoted


def _check_settings(found: Source, path: Path) -> None:
    """Refuse networks whose tensors look like those of ours, and that compute something else."""
    settings = found.settings
    architecture = settings.get("architecture", "resnet50") if "pretrained_cfg" in settings else ""
    if architecture and architecture not in TIMM_RESNETS:
        raise ValueError(
            f"{path} must be one of timm's {', '.join(TIMM_RESNETS)}, which are a CNN; the "
            f"config.json beside it says {architecture}"
        )
    if settings.get("model_type") != "resnet":
        return
    for key, value in TRANSFORMERS_RESNET.items():
        if settings.get(key, value) != value:
            raise ValueError(
                f"{path} must be a ResNet v1.5 to become a CNN; the config.json beside it has "
                f"{key} = {settings[key]}, not {value}"
            )


def _fill(model: ConvZooModel, fmt: Format, weights: Mapping[str, Tensor]) -> None:
    """Give a model on the meta device its weights, and what the project has not its value."""
    state = {}
    for name, tensor in model.state_dict().items():
        original, value = fmt.original_name(name), fmt.added_value(name)
        if value is not None:
            state[name] = torch.full(tensor.shape, value)
        elif original not in weights and name.endswith(COUNTER):
            state[name] = torch.tensor(0)
        else:
            state[name] = weights[original]
    model.to_empty(device="cpu").load_state_dict(state)


def _describe(config: ConvZooConfig) -> str:
    """Name the family, and the fields that are not its default."""
    default = type(config)()
    fields = {name: getattr(config, name) for name in type(config).__annotations__}
    changed = [f"{k} = {v}" for k, v in fields.items() if v != getattr(default, k)]
    return ", ".join([config.model_type, *changed])


COUNTER = ".num_batches_tracked"  # old files lack them, and nothing of ours counts on them
# Networks of timm and torchvision with the layers of ResNet v1.5; what else has tensors of these
# names and shapes, as resnetblur50 and resnetaa50, has layers without weights between.
TIMM_RESNETS = tuple(
    f"{prefix}resnet{name}" for prefix in ("", "tv_", "wide_") for name in
    (("50_2", "101_2") if prefix == "wide_" else ("26", "50", "101", "152"))
)  # fmt: skip
TRANSFORMERS_RESNET = {
    "layer_type": "bottleneck",
    "hidden_act": "relu",
    "downsample_in_bottleneck": False,
    "downsample_in_first_stage": False,
}


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


def _recognise(
    weights: Mapping[str, Tensor], path: Path, *, prelu: bool
) -> tuple[Format, ConvZooModel]:
    """Find the format that the tensors fit exactly; its model is still on the meta device."""
    if {"stem.conv.weight", "classifier.weight"} <= weights.keys():
        raise ValueError(
            f"{path} is already converted. Load its folder with "
            "AutoModelForImageClassification.from_pretrained."
        )
    best = max((_candidate(fmt, weights, prelu) for fmt in FORMATS), key=lambda c: c.num_shared)
    faults = _faults(best.expected, weights)
    if not any(faults.values()):
        if prelu and not best.format.added:
            raise ValueError(
                f"{path} must be a ResNet to get PReLUs in place of ReLUs; it is "
                f"{best.format.name}. Convert it without --prelu"
            )
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


def _candidate(fmt: Format, weights: Mapping[str, Tensor], prelu: bool) -> Candidate:
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    model = _empty_model(fmt, shapes, prelu=prelu)
    expected = {
        fmt.original_name(name): tensor
        for name, tensor in model.state_dict().items()
        if fmt.added_value(name) is None
    }
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
        "missing": [n for n in expected if n not in weights and not n.endswith(COUNTER)],
        "unknown": [name for name in weights if name not in expected],
        "wrong": wrong,
    }


def _empty_model(fmt: Format, shapes: Shapes, *, prelu: bool) -> ConvZooModel:
    stem = shapes.get(fmt.original_name("stem.conv.weight"), ())
    classifier = shapes.get(fmt.original_name("classifier.weight"), ())
    fields = {
        "num_channels": stem[1] if len(stem) == 4 else 3,
        "num_labels": classifier[0] if len(classifier) == 2 else 1000,
    }
    config = fmt.config(shapes, fields)
    if prelu and fmt.added and isinstance(config, CNNConfig):
        config.use_prelu = True
    with torch.device("meta"):
        return modeling.FAMILIES[type(config)](config)


def _set_labels(
    config: ConvZooConfig,
    labels: str | Path | None,
    path: Path,
    *,
    settings: Mapping[str, Any],
) -> str:
    """Name the classes where names can be had, and say where they are from."""
    if labels is not None:
        names, label_source = unique_names(_read_names(Path(labels))), Path(labels).name
    elif own := _names_in(settings):
        names, label_source = own, "config.json beside the weights"
        if len(names) == 1000 and _are_imagenet(names):
            names, label_source = imagenet_names(), "ImageNet-1k, as in config.json"
        names = unique_names(names)
    elif config.num_labels == 1000:
        names = imagenet_names()
        label_source = "ImageNet-1k, assumed because there are 1000 classes"
    else:
        return "LABEL_0, LABEL_1, ... because no class names were given"
    if len(names) != config.num_labels:
        raise ValueError(
            f"{labels or label_source} must name the {config.num_labels} classes of {path}; it has "
            f"{len(names)}"
        )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    return label_source


def _names_in(settings: Mapping[str, Any]) -> list[str]:
    """Return the class names of timm's or transformers' settings; [] where they have none."""
    names: Any = settings.get("label_names") or settings.get("id2label") or []
    if isinstance(names, Mapping):
        names = [names.get(str(index)) for index in range(len(names))]
    return list(names) if all(isinstance(name, str) for name in names) else []


def _are_imagenet(names: Sequence[str]) -> bool:
    try:
        return imagenet_numbers(names) == list(range(1000))
    except ValueError:
        return False


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
