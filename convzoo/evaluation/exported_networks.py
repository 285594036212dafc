"""Networks in files of other formats, evaluated as models are: ONNX, and programs of torch.export.

Such a file knows neither its classes nor what prepares images for it: that is described beside it,
by the export.json of `convzoo export`, or by the config.json of other exporters.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BaseImageProcessor
from transformers.modeling_outputs import ImageClassifierOutput

from convzoo.evaluation.exported_costs import Costs, costs_of_onnx, costs_of_program, taken_by
from convzoo.evaluation.results import ModelFacts
from convzoo.files import file_sha256, read_json
from convzoo.imagenet_classes import imagenet_names
from convzoo.layers import image_shape
from convzoo.model_names import file_of_model, loading_model

logger = logging.getLogger(__name__)
DESCRIPTION = "export.json"
Form = Literal["onnx", "torch-export"]
FORMS: dict[str, Form] = {".onnx": "onnx", ".pt2": "torch-export"}
ALL_OF_IMAGENET = "imagenet-1k"  # what `classes` may be instead of a list
TOLERANCE = 1e-3  # of a sum of probabilities
Run = Callable[[np.ndarray], np.ndarray]
Count = Callable[[Sequence[int]], Costs]  # of the shape of an image


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """A network in a file, and what is described beside it.

    Attributes:
        path: the file.
        names: name of each class, in the order of the outputs.
        sha256: of the file.
        exported_from: SHA-256 of the weights that it was made of, where that is known.
    """

    path: Path
    names: tuple[str, ...]
    sha256: str
    exported_from: str | None


class ExportedNetwork(nn.Module):
    """Gives an output with `logits`, as models of Transformers do; it computes on the CPU.

    Args:
        run: pixel values (N, C, H, W), float32 -> outputs (N, number of classes).
        shape: what the file takes, (N, C, H, W); None where it takes any number.
        names: name of each class.
    """

    def __init__(self, run: Run, shape: Sequence[int | None], names: Sequence[str]):
        super().__init__()
        self.run = run
        self.shape = tuple(shape)
        self.names = tuple(names)
        self.config = SimpleNamespace(id2label=dict(enumerate(names)))  # as models have it
        self.gives_probabilities = False

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Compute the logits of a batch, (N, C, H, W).

        Raises:
            ValueError: if the file takes images of another shape, or its outputs are no scores.
        """
        given = tuple(pixel_values.shape)
        for size, wanted in zip(given[1:], self.shape[1:], strict=True):
            if wanted is not None and size != wanted:
                raise ValueError(f"the network takes images {self.shape[1:]}; got {given[1:]}")
        pixels = pixel_values.detach().cpu().float().numpy()
        scores = torch.from_numpy(self._in_batches(np.ascontiguousarray(pixels))).float()
        if scores.shape != (len(pixels), len(self.names)):
            raise ValueError(
                f"the network must give a score for each of its {len(self.names)} classes; its "
                f"output is {tuple(scores.shape)}"
            )
        if self.gives_probabilities:
            scores = scores.clamp_min(torch.finfo(torch.float32).tiny).log()
        return ImageClassifierOutput(logits=scores.to(pixel_values.device))

    def _in_batches(self, pixels: np.ndarray) -> np.ndarray:
        """Give a file of a fixed number of images so many at a time."""
        size = self.shape[0]
        if size is None or size == len(pixels):
            return self.run(pixels)
        outputs = []
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            padding = [(0, size - len(part)), *([(0, 0)] * (part.ndim - 1))]
            outputs.append(self.run(np.pad(part, padding))[: len(part)])
        return np.concatenate(outputs)


def find_exported(name: str) -> Path | None:
    """Find the file of a network that is no model of Transformers; None where there is none.

    Args:
        name: a file; a folder that has one and no config.json with model.safetensors; or a model
            on the Hub that `convzoo export` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a folder has several.
    """
    path = Path(name)
    if path.suffix in FORMS and not path.exists():
        raise FileNotFoundError(f"a network in a file must exist; there is no {path.absolute()}")
    if path.is_file():
        return path if path.suffix in FORMS else None
    if not path.is_dir():
        with loading_model(name):
            return _on_the_hub(name)
    if (path / "model.safetensors").is_file():
        return None
    described = _read(path / DESCRIPTION) if (path / DESCRIPTION).is_file() else {}
    if "file" in described:
        return path / Path(str(described["file"])).name
    found = sorted(each for each in path.iterdir() if each.suffix in FORMS)
    if len(found) > 1:
        raise ValueError(
            f"{path} must have one network; it has {', '.join(each.name for each in found)}. Name "
            f"one of the files"
        )
    return found[0] if found else None


def _on_the_hub(name: str) -> Path | None:
    if file_of_model(name, "config.json"):
        return None
    if not (description := file_of_model(name, DESCRIPTION)):
        return None
    file_of_model(name, "preprocessor_config.json")
    file = Path(str(_read(description).get("file", "model.onnx"))).name
    return file_of_model(name, file)


def describe_exported(path: Path) -> ExportedFile:
    """Read what is described beside a file.

    Raises:
        FileNotFoundError: if it is not there, or nothing describes it.
        ValueError: if the description is of another file, or names no classes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}, which {DESCRIPTION} beside it names, does not exist")
    sha256, beside = file_sha256(path), path.parent / DESCRIPTION
    facts = _read(beside) if beside.is_file() else {}
    if facts.get("file", path.name) != path.name:
        facts = {}  # of another file in the same folder
    if facts.get("sha256", sha256) != sha256:
        raise ValueError(
            f"{path} must be the file that {DESCRIPTION} describes; its SHA-256 is another one. "
            f"Export the model again"
        )
    classes = facts.get("classes")
    if classes is None:
        classes = _classes_of_config(path.parent / "config.json")
    names = imagenet_names() if classes == ALL_OF_IMAGENET else classes
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise FileNotFoundError(
            f"{path} must have its classes described beside it: {beside} with "
            f'{{"file": "{path.name}", "classes": [NAME, ...]}} in the order of its outputs, or '
            f'"{ALL_OF_IMAGENET}" for the 1000 of ImageNet; or a config.json with id2label'
        )
    model = facts.get("model") or {}
    return ExportedFile(
        path=path, names=tuple(names), sha256=sha256, exported_from=model.get("sha256")
    )


def _classes_of_config(path: Path) -> list[str] | None:
    id2label = _read(path).get("id2label") if path.is_file() else None
    if not isinstance(id2label, dict):
        return None
    return [id2label[key] for key in sorted(id2label, key=int)]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be JSON; {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(content).__name__}")
    return content


def load_exported(
    path: Path,
) -> tuple[ExportedNetwork, BaseImageProcessor, ModelFacts]:
    """Load a network from a file, with what prepares images for it, and try it once.

    Raises:
        FileNotFoundError: as `describe_exported`, or if no preprocessor_config.json is there.
        ValueError: if the file cannot be read or is no classifier of such images, as
            `describe_exported`, or a library is missing.
    """
    described = describe_exported(path)
    processor = _load_processor(path.parent)
    form = FORMS[path.suffix]
    load = _load_onnx if form == "onnx" else _load_program
    try:
        run, shape, count = load(path)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path.name} needs {error.name}, which is not installed. Install it: "
            f"pip install -e '.[export]'"
        ) from error
    network = ExportedNetwork(run, shape, described.names)
    sizes = _sizes(network, image_shape(processor), path)
    _try(network, sizes, path)
    costs = count(sizes)
    facts: ModelFacts = {
        "file": path.name,
        "sha256": described.sha256,
        "num_parameters": costs["num_parameters"],
        "format": form,
    }
    if "num_multiply_adds" in costs:
        facts["num_multiply_adds"] = costs["num_multiply_adds"]
    if described.exported_from:
        facts["exported_from"] = described.exported_from
    return network.eval(), processor, facts


def _load_processor(folder: Path) -> BaseImageProcessor:
    from transformers import AutoImageProcessor

    from modeling import ConvZooImageProcessor

    settings = folder / "preprocessor_config.json"
    if not settings.is_file():
        raise FileNotFoundError(
            f"{settings} must say how images are prepared for the network; it does not exist. Save "
            f"an image processor there with save_pretrained, such as a ConvZooImageProcessor"
        )
    ours = _read(settings).get("image_processor_type") == ConvZooImageProcessor.__name__
    loader: Any = ConvZooImageProcessor if ours else AutoImageProcessor
    processor: BaseImageProcessor = loader.from_pretrained(str(folder))
    return processor


def _load_onnx(path: Path) -> tuple[Run, list[int | None], Count]:
    import onnx
    import onnxruntime

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # of protobuf, which has several
        raise ValueError(f"{path} must be an ONNX file; {error}") from error
    stored = model.graph.initializer
    if any(each.data_location == onnx.TensorProto.EXTERNAL for each in stored):
        raise ValueError(
            f"{path} must have its weights in itself, for a result records its hash; they lie in "
            f"another file. Save it again with onnx.save(onnx.load(FILE), NEW_FILE)"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's have no class of their own above them
        raise ValueError(f"{path} must be a network that onnxruntime runs; {error}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    named = [each.name for each in outputs]
    if len(inputs) != 1 or inputs[0].type not in ("tensor(float)", "tensor(float16)"):
        raise ValueError(
            f"{path} must take one input of floats, the images; it takes "
            f"{', '.join(f'{each.name}: {each.type}' for each in inputs)}"
        )
    if len(named) > 1 and "logits" not in named:
        raise ValueError(f"{path} must have one output, or one called logits; it has {named}")
    output = "logits" if "logits" in named else named[0]
    kind = np.float16 if inputs[0].type == "tensor(float16)" else np.float32

    def run(pixel_values: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(session.run([output], {inputs[0].name: pixel_values.astype(kind)})[0])
        except Exception as error:  # see above
            raise ValueError(f"{path.name} could not be run; {error}") from error

    shape = [size if isinstance(size, int) else None for size in inputs[0].shape]
    return run, shape, partial(costs_of_onnx, model)


def _load_program(path: Path) -> tuple[Run, list[int | None], Count]:
    try:
        program = torch.export.load(path)
    except Exception as error:  # anything, from zipfile to a newer schema
        raise ValueError(f"{path} must be a program of torch.export; {error}") from error
    module = program.module()

    def run(pixel_values: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            outputs: Tensor = module(torch.from_numpy(pixel_values))
        return outputs.numpy()

    shape = [size if isinstance(size, int) else None for size in taken_by(program)]
    return run, shape, partial(costs_of_program, program)


def _sizes(network: ExportedNetwork, shape: Sequence[int], path: Path) -> list[int]:
    """Channels, height and width of the images that a network is shown."""
    if len(network.shape) != 4:
        raise ValueError(f"{path} must take images (N, C, H, W); it takes {network.shape}")
    channels, height, width = shape
    return [channels, height or network.shape[2] or 224, width or network.shape[3] or 224]


def _try(network: ExportedNetwork, sizes: Sequence[int], path: Path) -> None:
    """Show a network two images of noise; see whether it gives logits or probabilities."""
    noise = torch.randn(2, *sizes, generator=torch.Generator().manual_seed(0))
    try:
        scores = network(noise).logits
    except ValueError as error:
        raise ValueError(
            f"{path} must take what preprocessor_config.json beside it makes of an image, "
            f"{tuple(sizes)}; {error}"
        ) from error
    sums = scores.sum(-1)
    network.gives_probabilities = bool(
        (scores >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=TOLERANCE)
    )
    if network.gives_probabilities:
        logger.info("%s gives probabilities; their logarithms are taken as logits", path)
