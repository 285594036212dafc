"""Find and load a model by its name, and say in our own words why it cannot be loaded.

The libraries' words name other things.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convzoo.files import file_sha256

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel

# What Transformers calls tensors that do not fit, and how a sentence says it.
MISFITS = {
    "missing_keys": "missing",
    "unexpected_keys": "not of this model",
    "mismatched_keys": "of another size",
    "error_msgs": "errors",
}
MOST_NAMED = 3  # tensors of each kind


@contextmanager
def loading_model(name: str) -> Iterator[None]:
    """Refuse what can be no model before it is loaded, and name the model in what fails then.

    Args:
        name: model folder or Hub id.

    Raises:
        OSError: if it is neither, or cannot be read.
    """
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        held = sorted(path.name for path in folder.iterdir())
        listed = ", ".join(held[:5]) + ", ..." * (len(held) > 5) or "nothing"
        raise FileNotFoundError(
            f"a model folder must have a config.json; {name} holds {listed}. A training writes its "
            f"model to <run.output_dir>/<run.name>/model"
        )
    if not folder.is_dir() and (folder.exists() or is_path(name)):
        what = "that is a file" if folder.exists() else f"there is no folder {folder.absolute()}"
        raise FileNotFoundError(
            f"a model must be a folder that exists, or a Hub id such as user/name; {what}"
        )
    try:
        yield
    except OSError as error:
        if name in str(error):
            raise
        raise OSError(f"the model {name} cannot be loaded. {error}") from error


def load_model(
    name: str, *, trust_remote_code: bool = False
) -> tuple["PreTrainedModel", "BaseImageProcessor"]:
    """Load a model, in evaluation mode, and its image processor.

    Args:
        name: model folder or Hub id.
        trust_remote_code: run the code that a model on the Hub brings along.

    Raises:
        OSError: as `loading_model`.
    """
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    import modeling  # noqa: F401  registers our families with the Auto classes

    trust = {"trust_remote_code": trust_remote_code}
    with loading_model(name):
        model: PreTrainedModel = AutoModelForImageClassification.from_pretrained(name, **trust)
        processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(name, **trust)
    return model.eval(), processor


def load_processor(name: str, revision: str = "main") -> "BaseImageProcessor | None":
    """Load the image processor of a model; None where it has none, as the original CNN."""
    from transformers import AutoImageProcessor

    try:
        processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(name, revision=revision)
    except OSError:
        return None
    return processor


def file_of_model(name: str, file: str, revision: str = "") -> Path | None:
    """Find a file of a model; on the Hub it is downloaded, unless it is cached.

    Args:
        name: model folder or Hub id.
        file: its name there.
        revision: commit, branch or tag on the Hub; the newest commit if "".

    Returns:
        None where the model has no such file.

    Raises:
        OSError: if there is no such model, or the Hub cannot be reached.
    """
    from transformers.utils.hub import cached_file

    found = cached_file(
        name, file, revision=revision or "main", _raise_exceptions_for_missing_entries=False
    )
    return Path(found) if found else None


def weights_sha256(name: str) -> str | None:
    """Hash the model.safetensors of a model folder or Hub id; None where it has none.

    Raises:
        OSError: as `file_of_model`.
    """
    path = file_of_model(name, "model.safetensors")
    return file_sha256(path) if path else None


def refuse_misfit(said: Mapping[str, Any]) -> None:
    """Refuse a model whose weights are not all of its tensors and no others.

    Args:
        said: the loading info of `from_pretrained`: kind of problem -> names of tensors; those of
            another size with the size in the file and that of the model.

    Raises:
        ValueError: if there is a problem.
    """
    wrong = []
    for kind, found in said.items():
        tensors = sorted(map(_tensor, found))
        more = f" and {len(tensors) - MOST_NAMED} more" if len(tensors) > MOST_NAMED else ""
        if tensors:
            listed = ", ".join(tensors[:MOST_NAMED])
            wrong.append(f"{MISFITS.get(kind, kind)}: {listed}{more}")
    if wrong:
        raise ValueError(f"weights and model do not fit; {'; '.join(wrong)}")


def _tensor(found: str | tuple[str, Sequence[int], Sequence[int]]) -> str:
    """Name a tensor that does not fit."""
    if isinstance(found, str):
        return found
    name, size, wanted = found
    return f"{name} is {tuple(size)} and must be {tuple(wanted)}"


def is_path(name: str) -> bool:
    """Tell whether a name can be a path only, and no Hub id: name or user/name."""
    return name.count("/") > 1 or name.startswith((".", "/", "~")) or "\\" in name or " " in name
