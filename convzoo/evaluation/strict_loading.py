"""Load a published model strictly: weights from one file, all of them, and known code."""

from pathlib import Path
from typing import Any, NotRequired, cast

import transformers
from transformers import AutoImageProcessor, BaseImageProcessor, PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import (
    get_class_from_dynamic_module,
    get_relative_import_files,
)
from typing_extensions import TypedDict

import modeling
from convzoo.evaluation.exported_networks import find_exported, load_exported
from convzoo.evaluation.timm_models import MissingLibraryError, is_of_timm, load_timm
from convzoo.files import file_sha256, read_json
from convzoo.model_names import refuse_misfit

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
        library_missing: True if such a model needs a library that is not here, else absent.
        processor: the class of the image processor, where code of the folder names one beside a
            model that has none, else absent.
        needs_code: True if the weights are loaded, but code of the folder that may not run
            prepares the images, else absent.
        exported: of a network in a file of another format: name of the file -> its SHA-256.
    """

    code: str | None
    files: dict[str, bool]
    error: str | None
    unknown_family: bool
    stock: NotRequired[bool]
    library_missing: NotRequired[bool]
    processor: NotRequired[str]
    needs_code: NotRequired[bool]
    exported: NotRequired[dict[str, str]]


class UnknownFamilyError(ValueError):
    """A model of another family than those of this package."""


class NeedsCodeError(ValueError):
    """A model whose images are prepared by code of its folder, which may not run."""


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
            return _load_stock(folder, facts, trust_remote_code=trust_remote_code)
        references, facts["files"] = _code_of(folder)
        if trust_remote_code and references:
            config_class, model_class, processor_class = (
                cast(Any, get_class_from_dynamic_module(each, folder)) for each in references
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
        refuse_misfit(said)
        processor = (
            processor_class.from_pretrained(folder)
            if references  # else no code of the model says that images are prepared by ours
            else _load_processor(folder, facts, trust_remote_code=trust_remote_code)
        )
    except Exception as error:  # the code may be anybody's
        facts["error"] = f"{type(error).__name__}: {error}"
        facts["unknown_family"] = isinstance(error, UnknownFamilyError)
        if "stock" in facts and isinstance(error, MissingLibraryError | ImportError):
            facts["library_missing"] = True
        if isinstance(error, NeedsCodeError):
            facts["error"], facts["needs_code"] = str(error), True
        return facts, None, None
    return facts, model, processor


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = read_json(folder / "config.json")
    return config


def _is_stock(folder: Path) -> bool:
    """Tell whether a model is one of Transformers or timm, which needs no code of its own."""
    config = _config(folder)
    ours = {each.model_type for each in modeling.FAMILIES}
    return "auto_map" not in config and config.get("model_type") not in ours


def _code_of(folder: Path) -> tuple[list[str], dict[str, bool]]:
    """Find the code of a folder: its classes, and whether each file is ours; neither if none."""
    references: list[str] = []
    named: set[str] = set()
    if "auto_map" not in _config(folder):
        return [], {}
    for name, keys in AUTO_CLASSES.items():
        auto_map = read_json(folder / name)["auto_map"]
        references += [auto_map[key] for key in keys]
        named |= set(auto_map.values())  # also what other classes of Transformers would run
    return references, _files_of_code(folder, named)


def _files_of_code(folder: Path, named: set[str]) -> dict[str, bool]:
    """List the files of classes that an auto_map names, and whether each is ours."""
    if any("--" in reference for reference in named):
        raise ValueError(f"auto_map must name code of this folder only; got {sorted(named)}")
    files = {f"{each.partition('.')[0]}.py" for each in named}
    for name in sorted(files):  # and what these would import
        files |= {Path(path).name for path in get_relative_import_files(folder / name)}
    return {name: _is_ours(folder, name) for name in sorted(files)}


def _load_processor(folder: Path, facts: Loading, *, trust_remote_code: bool) -> BaseImageProcessor:
    """Load what prepares images for a model that has no code of its own; this may have some.

    Raises:
        NeedsCodeError: if it is code of the folder, and may not run.
    """
    loader: Any = AutoImageProcessor
    path = folder / "preprocessor_config.json"
    settings = read_json(path) if path.is_file() else {}
    code = settings.get("auto_map", {}).get(*AUTO_CLASSES[path.name])
    # Of several there is one for each library that resizes.
    named = [each for each in ([code] if isinstance(code, str) else code or []) if each]
    if not named:
        return cast(BaseImageProcessor, loader.from_pretrained(str(folder)))
    facts["files"] = _files_of_code(folder, set(named))
    allowed = {"trust_remote_code": False}
    if trust_remote_code:
        loader, allowed = get_class_from_dynamic_module(named[0], folder), {}
    try:
        processor: BaseImageProcessor = loader.from_pretrained(str(folder), **allowed)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise NeedsCodeError(
            f"code of this folder prepares the images, {named[0]} of {path.name}. Read it, then "
            f"let it run with --trust-remote-code."
        ) from error
    facts["processor"] = f"{type(processor).__module__}.{type(processor).__qualname__}"
    return processor


def _load_stock(
    folder: Path, facts: Loading, *, trust_remote_code: bool
) -> tuple[Loading, Any, BaseImageProcessor]:
    """Load a model of Transformers itself, or of timm through it."""
    from transformers import CONFIG_MAPPING, AutoModelForImageClassification

    facts["stock"] = True
    config = _config(folder)
    if "transformers_weights" in config or (folder / ADAPTER).exists():
        raise ValueError(ONE_FILE)
    family = config.get("model_type")
    model: Any
    if is_of_timm(str(folder)):
        model, processor, _ = load_timm(str(folder))
    elif family and family not in CONFIG_MAPPING:
        raise MissingLibraryError(
            f"Transformers {transformers.__version__} must know the model_type of a model without "
            f"code; got {family!r}. A newer version may know it"
        )
    else:
        loader: Any = AutoModelForImageClassification
        model, said = loader.from_pretrained(
            str(folder),
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in what it says, too
        )
        refuse_misfit(said)
        facts["code"] = f"{type(model).__module__}.{type(model).__qualname__}"
        processor = _load_processor(folder, facts, trust_remote_code=trust_remote_code)
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
    model_type = _config(folder)["model_type"]
    families = {each.model_type: (each, model) for each, model in modeling.FAMILIES.items()}
    if model_type not in families:
        raise UnknownFamilyError(
            f"model_type must be one of {', '.join(families)} to be loaded without the folder's "
            f"own code; got {model_type!r}"
        )
    return *families[model_type], modeling.ConvZooImageProcessor
