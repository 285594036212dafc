"""Load a published model strictly: weights from one file, all of them, and known code."""

import json
from pathlib import Path
from typing import Any, NotRequired, cast

from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import (
    get_class_from_dynamic_module,
    get_relative_import_files,
)
from typing_extensions import TypedDict

import modeling
from convzoo.evaluation.exported_networks import find_exported, load_exported
from convzoo.evaluation.timm_models import is_of_timm, load_timm
from convzoo.files import file_sha256

AUTO_CLASSES = {
    "config.json": ("AutoConfig", "AutoModelForImageClassification"),
    "preprocessor_config.json": ("AutoImageProcessor",),
}
ADAPTER = "adapter_config.json"  # with peft, Transformers would load what it names
ONE_FILE = (
    "weights must come from model.safetensors only, without transformers_weights in config.json "
    f"and without {ADAPTER}"
)


class Loading(TypedDict):
    """How a model was loaded.

    Attributes:
        code: the class of the model; None if it could not be found.
        files: for each file of code of the folder, whether it has the text of this package's.
        error: why the model could not be loaded, or None.
        unknown_family: whether that is because this package has no such model.
        stock: True for a model of Transformers or timm, else absent.
        exported: of a network in a file of another format: name of the file -> its SHA-256.
    """

    code: str | None
    files: dict[str, bool]
    error: str | None
    unknown_family: bool
    stock: NotRequired[bool]
    exported: NotRequired[dict[str, str]]


class UnknownFamilyError(ValueError):
    """A model of another family than those of this package."""


def load_strictly(
    folder: Path, *, trust_remote_code: bool = False
) -> tuple[Loading, PreTrainedModel | None, BaseImageProcessor | None]:
    """Load weights from model.safetensors and nothing else, all of them and no others.

    Args:
        folder: the model folder.
        trust_remote_code: run the classes of the folder's own code instead of this package's.

    Returns:
        What is known of it; then model and image processor, both None after an error.
    """
    facts: Loading = {"code": None, "files": {}, "error": None, "unknown_family": False}
    try:
        if exported := find_exported(str(folder)):
            return _load_exported(exported, facts, trust_remote_code=trust_remote_code)
        if _is_stock(folder):
            return _load_stock(folder, facts)
        references: dict[str, str] = {}
        named: set[str] = set()
        for name, keys in AUTO_CLASSES.items():
            auto_map = json.loads((folder / name).read_text(encoding="utf-8"))["auto_map"]
            references |= {key: auto_map[key] for key in keys}
            named |= set(auto_map.values())  # also what other classes of Transformers would run
        if any("--" in reference for reference in named):
            raise ValueError(f"auto_map must name code of this folder only; got {sorted(named)}")
        files = {f"{each.partition('.')[0]}.py" for each in named}
        for name in sorted(files):  # and what these would import
            files |= {Path(path).name for path in get_relative_import_files(folder / name)}
        facts["files"] = {name: _is_ours(folder, name) for name in sorted(files)}
        if trust_remote_code:
            config_class, model_class, processor_class = (
                cast(Any, get_class_from_dynamic_module(each, folder))
                for each in references.values()
            )
        else:
            config_class, model_class, processor_class = _our_classes(folder)
        facts["code"] = f"{model_class.__module__}.{model_class.__qualname__}"
        config = config_class.from_pretrained(folder)
        if getattr(config, "transformers_weights", None) or (folder / ADAPTER).exists():
            raise ValueError(ONE_FILE)
        model, said = model_class.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
        )
        wrong = {key: sorted(map(str, value)) for key, value in said.items() if value}
        if wrong:
            raise ValueError(f"weights and model do not fit: {json.dumps(wrong)}")
        processor = processor_class.from_pretrained(folder)
    except Exception as error:  # the code may be anybody's
        facts["error"] = f"{type(error).__name__}: {error}"
        facts["unknown_family"] = isinstance(error, UnknownFamilyError)
        return facts, None, None
    return facts, model, processor


def _is_stock(folder: Path) -> bool:
    """Tell whether a model is one of Transformers or timm, which needs no code of its own."""
    from transformers import CONFIG_MAPPING

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    family = config.get("model_type")
    ours = {each.model_type for each in modeling.FAMILIES}
    known = family in CONFIG_MAPPING and family not in ours
    return "auto_map" not in config and (known or "pretrained_cfg" in config)


def _load_stock(folder: Path, facts: Loading) -> tuple[Loading, Any, BaseImageProcessor]:
    """Load a model of Transformers itself, or of timm through it."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    facts["stock"] = True
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "transformers_weights" in config or (folder / ADAPTER).exists():
        raise ValueError(ONE_FILE)
    model: Any
    if is_of_timm(str(folder)):
        model, processor, _ = load_timm(str(folder))
    else:
        loader: Any = AutoModelForImageClassification
        model, said = loader.from_pretrained(
            str(folder), use_safetensors=True, output_loading_info=True
        )
        if wrong := {key: sorted(map(str, value)) for key, value in said.items() if value}:
            raise ValueError(f"weights and model do not fit: {json.dumps(wrong)}")
        processor = AutoImageProcessor.from_pretrained(str(folder))
    facts["code"] = f"{type(model).__module__}.{type(model).__qualname__}"
    return facts, model, processor


def _load_exported(
    path: Path, facts: Loading, *, trust_remote_code: bool
) -> tuple[Loading, Any, BaseImageProcessor]:
    """Load a network from a file; a program only if the repository's code may run."""
    facts["exported"] = {path.name: file_sha256(path) if path.is_file() else ""}
    if path.suffix != ".onnx" and not trust_remote_code:
        raise ValueError(f"{path.name} is a program, which runs with --trust-remote-code only")
    network, processor, described = load_exported(path)
    facts["code"] = {"onnx": "onnxruntime", "torch-export": "torch.export"}[described["format"]]
    return facts, network, processor


def _is_ours(folder: Path, name: str) -> bool:
    ours, theirs = Path(modeling.__file__).with_name(name), folder / name
    return ours.is_file() and ours.read_text("utf-8") == theirs.read_text("utf-8")


def _our_classes(
    folder: Path,
) -> tuple[type[PreTrainedConfig], type[PreTrainedModel], type[BaseImageProcessor]]:
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    families = {each.model_type: (each, model) for each, model in modeling.FAMILIES.items()}
    if model_type not in families:
        raise UnknownFamilyError(
            f"model_type must be one of {', '.join(families)} to be loaded without the folder's "
            f"own code; got {model_type!r}"
        )
    return *families[model_type], modeling.ConvZooImageProcessor
