"""Write a model in the format of timm, torchvision or transformers.

What those networks do not have is folded into what they have: the scale of a residual branch into
the batch norm before it, the bias of a convolution into the mean that the batch norm after it
subtracts. The weights are then read back, and compared by their logits.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor

import modeling
from convzoo.conversion.converting import model_of_weights
from convzoo.conversion.formats import FORMATS, Format
from convzoo.conversion.preprocessing import describe_processor
from convzoo.files import SCHEMA_VERSION, refuse_filled, write_folder, write_json
from convzoo.labels import class_names
from convzoo.model_names import loading_model
from modeling import AlexNetConfig, CNNConfig, ConvZooConfig, ConvZooModel

State = dict[str, Tensor]
LIBRARIES = ("timm", "torchvision", "transformers")
# Depths of the networks that have names, and which library has them.
RESNETS: dict[tuple[int, ...], str] = {
    (2, 2, 2, 2): "resnet26",
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
}
RESNET_SIZES = {"embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048]}
# What every other ResNet has; slopes of 0 are a ReLU, too.
RESNET_FIELDS = {
    "stem": "imagenet",
    "pyramid_levels": [],
    "bottleneck_expansion": 4,
    "batch_norm_eps": 1e-5,
}
ALEXNET_FREE = ("num_channels", "dropout_rate", "layer_implementation")  # may be any
TOLERANCE = 1e-4  # of the largest logit; folding rounds each weight once
CHECKED_SIDE = 96  # pixels of the images of the check


def write_for(library: str, model: str, *, output: str | Path) -> tuple[str, dict[str, Any]]:
    """Write a model folder as one that another library loads.

    Args:
        library: one of LIBRARIES.
        model: model folder or Hub id, of the families CNN (with ReLU, or slopes of 0) or AlexNet.
        output: folder to create; may exist when it is empty.

    Returns:
        What was written, for people to read; and the facts, which are also in its conversion.json.

    Raises:
        ValueError: if the library is unknown, or has no network that computes the same.
        OSError: if there is no such model, or the output exists or cannot be written.
    """
    if library not in LIBRARIES:
        raise ValueError(f"--to must be one of {', '.join(LIBRARIES)}; got {library!r}")
    output = Path(output).resolve()
    refuse_filled(output)
    network = _load(model)
    processor = AutoImageProcessor.from_pretrained(model)
    architecture = _architecture(network, library, name=model)
    fmt = _format(network.config, library)
    weights = {fmt.original_name(k): v for k, v in _folded(network).items()}
    difference = _difference(network, weights)
    facts = {
        "schema_version": SCHEMA_VERSION,
        "library": library,
        "architecture": architecture,
        "from": Path(model).name if Path(model).is_dir() else model,
        "classes": class_names(network.config),
        "preprocessing": processor.to_dict(),
        "num_parameters": sum(
            v.numel() for k, v in weights.items() if not re.search("running_|num_batches", k)
        ),
        "largest_difference": difference,
    }
    write = WRITERS[library]

    def fill(folder: Path) -> None:
        write(
            folder,
            weights,
            config=network.config,
            processor=processor,
            architecture=architecture,
        )
        write_json(folder / "conversion.json", facts)

    write_folder(output, fill)
    return (
        f"model   {architecture} of {library}: {facts['num_parameters']:,} parameters\n"
        f"images  {describe_processor(processor)}\n"
        f"check   logits differ by at most {difference:.1e} of the largest, on random images\n"
        f"load    {_how_to_load(library, architecture, output)}\n"
        f"output  {output}"
    ), facts


def _load(model: str) -> ConvZooModel:
    with loading_model(model):
        config = AutoConfig.from_pretrained(model)
    if type(config) not in modeling.FAMILIES:
        raise ValueError(
            f"{model} must be a model of the families "
            f"{', '.join(c.model_type for c in modeling.FAMILIES)}; it is {config.model_type}"
        )
    network: ConvZooModel = modeling.FAMILIES[type(config)].from_pretrained(
        model, dtype=torch.float32
    )
    network.eval()
    return network


def _architecture(network: ConvZooModel, library: str, *, name: str) -> str:
    """Name the network of the library that computes the same; refuse where there is none."""
    config = network.config
    if isinstance(config, AlexNetConfig):
        wanted = {k: v for k, v in _fields(AlexNetConfig()).items() if k not in ALEXNET_FREE}
        _check_fields(config, wanted, f"torchvision's AlexNet, to become which {name}")
        if library != "torchvision":
            raise ValueError(
                f"{name} is an AlexNet, which only torchvision has; got --to {library}"
            )
        return "alexnet"
    if not isinstance(config, CNNConfig):
        raise ValueError(f"{name} must be a CNN or an AlexNet; no other library has a QLNet")
    _check_fields(config, RESNET_FIELDS, f"a ResNet of {library}, to become which {name}")
    slopes = [t for n, t in network.state_dict().items() if re.search(r"act\d?\.weight$", n)]
    if any(bool((slope != 0).any()) for slope in slopes):
        raise ValueError(
            f"{name} must have ReLUs, or PReLUs with slopes of 0, to become a ResNet of {library}; "
            f"its slopes are up to {max(float(s.abs().max()) for s in slopes):.3g}"
        )
    if library == "transformers":
        return "resnet"
    _check_fields(config, RESNET_SIZES, f"a ResNet of {library}, to become which {name}")
    known = {k: v for k, v in RESNETS.items() if library == "timm" or v != "resnet26"}
    if tuple(config.depths) not in known:
        raise ValueError(
            f"{name} must have the depths of a ResNet of {library}, "
            f"{' or '.join(str(list(depths)) for depths in known)}; got {config.depths}"
        )
    return known[tuple(config.depths)]


def _fields(config: ConvZooConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in type(config).__annotations__}


def _check_fields(config: ConvZooConfig, wanted: dict[str, Any], what: str) -> None:
    for key, value in wanted.items():
        if getattr(config, key) != value:
            raise ValueError(
                f"{what} must have {key} = {value}; its config.json has {getattr(config, key)}"
            )


def _format(config: ConvZooConfig, library: str) -> Format:
    family = "AlexNet" if isinstance(config, AlexNetConfig) else "ResNet"
    return next(f for f in FORMATS if f.name.startswith(f"{family} of ") and library in f.name)


def _folded(network: ConvZooModel) -> State:
    """Return the weights without residual scales, biases before batch norms, and slopes."""
    state = {name: tensor.double() for name, tensor in network.state_dict().items()}
    if isinstance(network.config, CNNConfig):
        for name in [n for n in state if n.endswith("residual_scale")]:
            scale = F.softplus(state.pop(name))
            for last in ("weight", "bias"):
                state[name.replace("residual_scale", f"bn3.{last}")] *= scale
        for name in [n for n in state if re.search(r"conv\d?\.bias$", n)]:
            mean = re.sub(r"conv(\d?)\.bias$", r"bn\1.running_mean", name)
            state[mean] -= state.pop(name)
        for name in [n for n in state if re.search(r"act\d?\.weight$", n)]:
            del state[name]
    counters = {n for n in state if n.endswith("num_batches_tracked")}
    return {n: t.long() if n in counters else t.float().contiguous() for n, t in state.items()}


@torch.inference_mode()
def _difference(network: ConvZooModel, weights: State) -> float:
    """Read the weights back and compare the logits of random images."""
    _, again = model_of_weights(weights, Path("what was written"))
    generator = torch.Generator().manual_seed(0)
    shape = (2, network.config.num_channels, CHECKED_SIDE, CHECKED_SIDE)
    images = torch.randn(shape, generator=generator)
    logits = network(images).logits
    difference = float((again.eval()(images).logits - logits).abs().max() / logits.abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the written weights must give the same logits; they differ by {difference:.1e} of "
            f"the largest. Weights that are not finite, or variances near 0, can be the cause"
        )
    return difference


def _write_timm(
    folder: Path, weights: State, *, config: ConvZooConfig, processor: Any, architecture: str
) -> None:
    crop, size = processor.crop_size["height"], processor.size["shortest_edge"]
    settings = {
        "architecture": architecture,
        "num_classes": config.num_labels,
        "num_features": 2048,
        "label_names": class_names(config),
        **({} if config.num_channels == 3 else {"model_args": {"in_chans": config.num_channels}}),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [config.num_channels, crop, crop],
            "fixed_input_size": False,
            "interpolation": Image.Resampling(processor.resample).name.lower(),
            "crop_pct": _crop_pct(crop, size),
            "crop_mode": "center",
            "mean": processor.image_mean,
            "std": processor.image_std,
            "num_classes": config.num_labels,
            "pool_size": [7, 7],
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", settings)


def _crop_pct(crop: int, size: int) -> float:
    """Return the share from which timm, which rounds down, computes the size again."""
    exact = crop / size
    return exact if int(crop / exact) == size else crop / (size + 0.5)


def _write_torchvision(
    folder: Path, weights: State, *, config: ConvZooConfig, processor: Any, architecture: str
) -> None:
    torch.save(weights, folder / f"{architecture}.pth")


def _write_transformers(
    folder: Path, weights: State, *, config: ConvZooConfig, processor: Any, architecture: str
) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    fields = ("num_channels", "embedding_size", "hidden_sizes", "depths", "id2label", "label2id")
    settings = ResNetConfig(**{name: getattr(config, name) for name in fields})
    with torch.device("meta"):
        resnet = ResNetForImageClassification(settings)
    resnet.load_state_dict(weights, assign=True)
    resnet.save_pretrained(folder)
    kept = ("size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std")
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "BitImageProcessor",
            **{key: getattr(processor, key) for key in (*kept, *steps)},
            "do_convert_rgb": config.num_channels == 3,
        },
    )


WRITERS: dict[str, Callable[..., None]] = {
    "timm": _write_timm,
    "torchvision": _write_torchvision,
    "transformers": _write_transformers,
}


def _how_to_load(library: str, architecture: str, output: Path) -> str:
    return {
        "timm": f'timm.create_model("local-dir:{output}", pretrained=True)',
        "torchvision": f"torchvision.models.{architecture}(num_classes=...)"
        f'.load_state_dict(torch.load("{output / architecture}.pth"))',
        "transformers": f'AutoModelForImageClassification.from_pretrained("{output}")',
    }[library]
