"""Models that training can start from by a short name: where they are, and what is known of them.

`published_models.toml` lists weights that others published; `data/models/` beside the packages has
small networks of our own, in a clone of the repository.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import convzoo
from convzoo.files import read_json

LIST = Path(__file__).with_name("published_models.toml")
OWN = Path(convzoo.__file__).parents[1] / "data" / "models"
OWN_LICENSE = "apache-2.0"


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A model that training can start from.

    Attributes:
        name: short name, for `--from` and `finetune.pretrained`.
        family: which of ours it becomes.
        num_parameters: of the original.
        license: of the weights, as the Hub spells it.
        hub_id: its repository, or "".
        commit: of that repository; "" for the newest.
        file: its weights in the repository, or in the cache of torch.hub.
        download: where that cache gets it from.
        folder: where it is on this machine, for our own.
        project: address of the code that made it, where the format alone does not say.
        preprocessing: parameters of ConvZooImageProcessor, where no file beside the weights has
            them.
        top1_accuracy: in [0, 1], as reported by `source`; None where nobody reports it.
        top5_accuracy: likewise.
        protocol: how that was measured.
        source: who reports it.
        url: where.
    """

    name: str
    family: str
    num_parameters: int
    license: str
    hub_id: str = ""
    commit: str = ""
    file: str = ""
    download: str = ""
    folder: str = ""
    project: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    top1_accuracy: float | None = None
    top5_accuracy: float | None = None
    protocol: str = ""
    source: str = ""
    url: str = ""

    @property
    def place(self) -> str:
        """Say where it is: Hub id, file of torch.hub, or folder."""
        return self.hub_id or self.folder or f"torch.hub: {self.file}"

    def to_dict(self) -> dict[str, Any]:
        """Return what is known of it."""
        return {key: value for key, value in asdict(self).items() if value not in ("", None, {})}

    def quoted(self) -> dict[str, Any]:
        """Return the accuracy that others report, with its source; {} without one."""
        keys = ("name", "top1_accuracy", "top5_accuracy", "protocol", "source", "url")
        known = self.to_dict()
        return {k: known[k] for k in keys if k in known} if self.url else {}


@cache
def published_models() -> tuple[PublishedModel, ...]:
    """Return all models that have a short name, our own first."""
    entries = tomllib.loads(LIST.read_text(encoding="utf-8"))["models"]
    own = sorted(OWN.glob("*/config.json")) if OWN.is_dir() else []
    return (
        *(_own_model(path.parent) for path in own),
        *(PublishedModel(**entry) for entry in entries),
    )


def find_published(name: str) -> PublishedModel | None:
    """Return the model of a short name, or None."""
    return next((model for model in published_models() if model.name == name), None)


def published_file(sha256: str, file: str) -> PublishedModel | None:
    """Return the model whose weights these are, by the hash that the name of its file ends in.

    Args:
        sha256: of a file, in hexadecimal.
        file: its name, which has to be the published one.
    """
    found = next((m for m in published_models() if m.download and m.file == file), None)
    digest = Path(file).stem.rpartition("-")[2]
    return found if found and sha256.startswith(digest) else None


def _own_model(folder: Path) -> PublishedModel:
    """Read the facts of one of our own networks from its files."""
    config = read_json(folder / "config.json")
    results = read_json(folder / "eval_results.json")["results"]
    result = results[-1]
    dataset, metrics = result["dataset"], result["metrics"]
    return PublishedModel(
        name=folder.name,
        family=config["model_type"],
        num_parameters=result["model"]["num_parameters"],
        license=OWN_LICENSE,
        folder=str(folder),
        top1_accuracy=metrics["top1_accuracy"],
        top5_accuracy=metrics.get("top5_accuracy"),
        protocol=f"{dataset['split']} images of {dataset['path']}, {dataset['num_samples']:,}",
        source="measured here, n = 1",
    )
