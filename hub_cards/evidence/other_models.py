"""Read results of models that are no model folder: exports, and baselines beside a model.

An export is a folder of `convzoo export`: export.json describes its file. A baseline is a result
that `convzoo evaluate --output` wrote of any model; model folders keep them in baselines/.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hub_cards.evidence.eval_results import check_eval_result, read_eval_results
from hub_cards.evidence.reading import read_json, require
from hub_cards.files import Record

DESCRIPTION = "export.json"
BASELINES = "baselines"


@dataclass(frozen=True)
class Export:
    """An export, whose file is the one that it describes.

    Attributes:
        folder: where it lies.
        description: the contents of export.json.
        sha256: of the file.
        eval_results: its results.
    """

    folder: Path
    description: Record
    sha256: str
    eval_results: tuple[Record, ...]

    @property
    def family(self) -> str:
        """The model type and the format."""
        model = self.description.get("model") or {}
        kinds = (model.get("model_type"), self.description.get("format"))
        return ", ".join(str(kind) for kind in kinds if kind) or self.description["file"]


def is_export(folder: Path) -> bool:
    """Tell whether a folder is an export."""
    return (folder / DESCRIPTION).is_file() and not (folder / "config.json").is_file()


def read_export(folder: Path) -> Export:
    """Read an export, and check that its files are of each other.

    Raises:
        FileNotFoundError: if the file that it describes is not there.
        ValueError: if a file cannot be read, or is of another network.
    """
    description = read_json(folder, DESCRIPTION) or {}
    require(description, "file", str, where=folder / DESCRIPTION, remedy="Export the model again.")
    path = folder / Path(description["file"]).name
    if not path.is_file():
        raise FileNotFoundError(f"{path}, which {DESCRIPTION} names, does not exist")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    results = read_eval_results(folder)
    recorded = {f"results[{n}] of eval_results.json": r["model"] for n, r in enumerate(results)}
    for name, model in {DESCRIPTION: {"sha256": sha256} | description, **recorded}.items():
        if model["sha256"] != sha256:
            raise ValueError(
                f"{name} in {folder} must be of {path.name}, whose SHA-256 is {sha256[:12]}...; "
                f"got {model['sha256'][:12]}... Export or evaluate the model again."
            )
    return Export(folder, description, sha256, results)


def read_result_file(path: Path) -> Record:
    """Read a result that `convzoo evaluate --output` wrote.

    Raises:
        ValueError: if it is none, or several.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be a result as JSON; {error}") from error
    if not isinstance(result, dict):
        raise ValueError(
            f"{path} must have one result, as `convzoo evaluate --output` writes it of one size"
        )
    check_eval_result(result, str(path))
    return result


def model_of(path: Path, result: Record) -> str:
    """Name the model of a result that a file has: its Hub id, or the file's name."""
    return str(result["model"].get("name") or path.stem)


def read_baselines(folder: Path, results: Sequence[Record]) -> tuple[Record, ...]:
    """Read the baselines of a model folder, as results with a `name`; () where there are none.

    Args:
        folder: the model folder.
        results: those of the model itself.

    Raises:
        ValueError: if one is no result, or of images that no result of the model is of.
    """
    images = {(each["dataset"].get("fingerprint"), each["dataset"]["split"]) for each in results}
    found = []
    for path in sorted((folder / BASELINES).glob("*.json")):
        result = read_result_file(path)
        if (result["dataset"].get("fingerprint"), result["dataset"]["split"]) not in images:
            raise ValueError(
                f"{path} must be of images that the model was evaluated on, to stand beside it; no "
                f"result in eval_results.json has its fingerprint. Evaluate both on the same images"
            )
        found.append({**result, "name": model_of(path, result)})
    return tuple(found)
