"""Weights that other projects published, to a model folder that AutoModel loads.

A file is recognised by the names and shapes of its tensors alone: not by its own name, nor by what
it says of itself (the published QLNet says "resnet50").

    python -m convzoo convert SOURCE OUTPUT
"""

import importlib.util
import json
import re
from pathlib import Path

import torch

import convzoo
import modeling
from convzoo.conversion.formats import FORMATS, GREY_NOTE
from convzoo.conversion.reading import SHOWN, read_weights
from convzoo.environment import now
from convzoo.files import file_sha256, write_folder, write_json
from convzoo.training.building import unique_names

# Where training scripts keep the weights in a checkpoint; moving averages first, as timm does.
DICTIONARIES = ("state_dict_ema", "model_ema", "state_dict", "model")
PREFIX = re.compile(r"^(?:_orig_mod\.|module\.)+")  # of torch.compile and DistributedDataParallel


def convert(source: str | Path, output: str | Path, labels: str | Path | None = None) -> str:
    """Write published weights as a model folder.

    Args:
        source: weights file, or folder with a model.safetensors or pytorch_model.bin.
        output: folder to create; may exist when it is empty.
        labels: file with the class names: one a line, a JSON list, or JSON {"0": name, ...}.
            Without it 1000 classes get ImageNet's names where a list of them is installed.

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
    model.to_empty(device="cpu").load_state_dict(
        {name: weights[fmt.original_name(name)] for name in model.state_dict()}
    )
    facts = {
        "schema_version": 1,
        "source": {"file": path.name, "sha256": file_sha256(path), "weights": origin},
        "format": fmt.name,
        "project": fmt.project,
        "protocol": fmt.protocol,
        "labels": label_source,
        "num_tensors": len(weights),
        "num_parameters": model.num_parameters(),
        "converter": f"convzoo {convzoo.__version__}",
        "date": now(),
    }

    def fill(folder):
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


def _describe(config):
    default = type(config)()
    fields = {name: getattr(config, name) for name in type(config).__annotations__}
    changed = [f"{k} = {v}" for k, v in fields.items() if v != getattr(default, k)]
    return ", ".join([config.model_type, *changed])


def _recognise(weights, path):
    """The format that the tensors fit exactly, and its model, still on the meta device."""
    if {"stem.conv.weight", "classifier.weight"} <= weights.keys():
        raise ValueError(
            f"{path} is already converted. Load its folder with "
            "AutoModelForImageClassification.from_pretrained."
        )
    fits = []
    for fmt in FORMATS:
        model = _empty_model(fmt, {name: tensor.shape for name, tensor in weights.items()})
        expected = {fmt.original_name(name): t for name, t in model.state_dict().items()}
        fits.append((len(expected.keys() & weights.keys()), fmt, model, expected))
    shared, fmt, model, expected = max(fits, key=lambda fit: fit[0])
    faults = {
        "missing": [name for name in expected if name not in weights],
        "unknown": [name for name in weights if name not in expected],
        "wrong": [],
    }
    for name in expected.keys() & weights.keys():
        got, wanted = weights[name], expected[name]
        if got.shape != wanted.shape or got.is_floating_point() != wanted.is_floating_point():
            faults["wrong"].append(
                f"{name} is {got.dtype} {tuple(got.shape)} instead of {tuple(wanted.shape)}"
            )
        elif not all(extreme.isfinite() for extreme in got.float().aminmax()):
            faults["wrong"].append(f"{name} has values that are not finite in float32")
    if not any(faults.values()):
        return fmt, model
    details = "; ".join(
        f"{len(names)} are {kind}: {', '.join(sorted(names)[:SHOWN])}"
        for kind, names in faults.items()
        if names
    )
    raise ValueError(
        f"{path} must hold the weights of {', '.join(fmt.name for fmt in FORMATS)}; the closest is "
        f"{fmt.name}, with {shared} of its {len(expected)} tensors, but {details}"
    )


def _empty_model(fmt, shapes):
    stem = shapes.get(fmt.original_name("stem.conv.weight"), ())
    classifier = shapes.get(fmt.original_name("classifier.weight"), ())
    fields = {
        "num_channels": stem[1] if len(stem) == 4 else 3,
        "num_labels": classifier[0] if len(classifier) == 2 else 1000,
    }
    config = fmt.config(shapes, fields)
    with torch.device("meta"):
        return modeling.FAMILIES[type(config)](config)


def _processor(fmt, num_channels):
    processor = modeling.ConvZooImageProcessor.from_protocol(fmt.protocol)
    if num_channels == 3:
        return processor
    # The projects know colour only; for grey, the average of their three values is closest.
    mean, std = (sum(values) / 3 for values in (processor.image_mean, processor.image_std))
    return modeling.ConvZooImageProcessor.from_protocol(
        fmt.protocol, num_channels=num_channels, image_mean=[mean], image_std=[std]
    )


def _set_labels(config, labels, path):
    """Name the classes where names can be had; returns where they are from, in words."""
    label_source = "ImageNet-1k, assumed because there are 1000 classes"
    if labels is not None:
        label_source = Path(labels).name
    elif config.num_labels == 1000:
        labels = _imagenet_names()
    if labels is None:
        return "LABEL_0, LABEL_1, ... because no class names were given"
    names = unique_names(_read_names(Path(labels)))
    if len(names) != config.num_labels:
        raise ValueError(
            f"{labels} must name the {config.num_labels} classes of {path}; it has {len(names)}"
        )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    return label_source


def _imagenet_names():
    """The list that gradio ships for its demos: the classes and the order of torchvision's."""
    gradio = importlib.util.find_spec("gradio")
    folders = gradio.submodule_search_locations if gradio else ()
    files = (Path(folder, "media_assets/data/imagenet_labels.json") for folder in folders)
    return next((file for file in files if file.is_file()), None)


def _read_names(path):
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
        if text[:1] not in ("[", "{"):
            return [line.strip() for line in text.splitlines() if line.strip()]
        names = json.loads(text)
        if isinstance(names, dict):
            names = [names[str(index)] for index in range(len(names))]
        if all(isinstance(name, str) for name in names):
            return names
        reason = f"got {names[:3]}"
    except (ValueError, KeyError) as error:
        reason = f"reading it failed: {error!r}"
    raise ValueError(
        f'{path} must have one name a line, or be a JSON list of names or map "0", "1", ... to '
        f"names; {reason}"
    )
