"""Read a finished model folder as evidence: its files, checked against each other.

A card may only say what these files say, so everything doubtful stops here: a file that cannot be
read, numbers that disagree, or results that were measured with other weights.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from hub_cards.evidence.code_files import named_code, with_imports
from hub_cards.evidence.eval_results import read_eval_results
from hub_cards.evidence.other_models import read_baselines
from hub_cards.evidence.reading import (
    read_json,
    read_metrics,
    read_recipe,
    read_required_json,
    require,
)
from hub_cards.evidence.robustness import FILE as ROBUSTNESS
from hub_cards.evidence.robustness import read_robustness_results
from hub_cards.evidence.weights import Weights, read_weights
from hub_cards.files import Record

FAMILY_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Evidence:
    """A model folder's files; what is absent is None or empty."""

    folder: Path
    config: Record
    weights: Weights
    preprocessor: Record
    code_files: tuple[str, ...]
    recipe: Record
    conversion: Record
    train_results: Record | None
    metrics: tuple[Record, ...]
    eval_results: tuple[Record, ...]
    speed_results: Record
    robustness_results: tuple[Record, ...] = ()
    baselines: tuple[Record, ...] = ()

    @property
    def model_type(self) -> str:
        """The family."""
        return str(self.config["model_type"])

    @property
    def labels(self) -> list[str]:
        """Class names in the order of the logits."""
        id2label = self.config["id2label"]
        return [id2label[key] for key in sorted(id2label, key=int)]


def read_evidence(folder: str | Path, weights: Weights | None = None) -> Evidence:
    """Read a model folder and check that its files agree with each other.

    Args:
        folder: a folder as `save_pretrained`, training and evaluation leave it.
        weights: what is known of weights that lie elsewhere, with the code: then neither is
            looked for in the folder.

    Raises:
        FileNotFoundError: if the folder, config.json, the weights, the preprocessing or the code
            that they name is missing.
        ValueError: if a file cannot be read, or files contradict each other.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"model folder {folder} does not exist or is no folder")
    config = read_required_json(folder, "config.json")
    if not FAMILY_NAME.fullmatch(str(config.get("model_type") or "")):
        raise ValueError(
            f"model_type in {folder / 'config.json'} must be the name of a family, as cnn; got "
            f"{config.get('model_type')!r}. Save the model again with save_pretrained."
        )
    id2label = config.get("id2label")
    if not isinstance(id2label, dict) or not id2label:
        raise ValueError(
            f"id2label in {folder / 'config.json'} must name the classes; got {id2label!r}. "
            "Save the model again with save_pretrained."
        )
    preprocessor, eval_results = _read_preprocessor(folder), read_eval_results(folder)
    evidence = Evidence(
        folder=folder,
        config=config,
        weights=weights or read_weights(folder),
        preprocessor=preprocessor,
        code_files=() if weights else _code_files(folder, config, preprocessor),
        recipe=read_recipe(folder),
        conversion=read_json(folder, "conversion.json") or {},
        train_results=read_json(folder, "train_results.json"),
        metrics=read_metrics(folder),
        eval_results=eval_results,
        speed_results=read_json(folder, "speed_results.json") or {},
        robustness_results=read_robustness_results(folder),
        baselines=read_baselines(folder, eval_results),
    )
    _check_weights(evidence)
    _check_recipe(evidence)
    _check_labels(evidence)
    return evidence


def _code_files(folder: Path, config: Record, preprocessor: Record) -> tuple[str, ...]:
    """The Python files that `trust_remote_code=True` runs: of the auto_maps, and their imports."""
    named: set[str] = set()
    for name, table in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        auto_map = table.get("auto_map")
        if not isinstance(auto_map, dict) or not auto_map:
            raise ValueError(
                f"{folder / name} must have an auto_map, or nobody can load the model; got "
                f"{auto_map!r}. Save it with save_pretrained after `import modeling`."
            )
        named |= named_code(auto_map)
    files = with_imports(folder, named)
    missing = sorted(name for name in files if not (folder / name).is_file())
    if missing:
        raise FileNotFoundError(
            f"auto_map names code that is missing in {folder}: {', '.join(missing)}. "
            "Save the model and its image processor again with save_pretrained."
        )
    return tuple(sorted(files))


def _read_preprocessor(folder: Path) -> Record:
    preprocessor = read_required_json(folder, "preprocessor_config.json")
    where = folder / "preprocessor_config.json"
    for dotted, kind in (
        ("size.shortest_edge", int),
        ("crop_size.height", int),
        ("crop_size.width", int),
        ("num_channels", int),
        ("resample", int),
        ("rescale_factor", float),
        ("image_mean", list),
        ("image_std", list),
    ):
        remedy = "Save a ConvZooImageProcessor there."
        require(preprocessor, dotted, kind, where=where, remedy=remedy)
    if not 0 <= preprocessor["resample"] <= 5:
        raise ValueError(f"resample of {where} must be a filter of Pillow, 0 to 5")
    return preprocessor


def _check_weights(evidence: Evidence) -> None:
    """Refuse files that were made with other weights."""
    weights, train = evidence.weights, evidence.train_results or {}
    counts = {
        "train_results.json": train.get("num_parameters"),
        "conversion.json": evidence.conversion.get("num_parameters"),
    }
    measured = [
        *(
            (f"results[{n}] of eval_results.json", each)
            for n, each in enumerate(evidence.eval_results)
        ),
        *((f"a result of {ROBUSTNESS}", each) for each in evidence.robustness_results),
    ]
    for name, result in measured:
        counts[name] = result["model"]["num_parameters"]
        if result["model"]["sha256"] != weights.sha256:
            raise ValueError(
                f"{name} in {evidence.folder} is stale: it was measured with weights "
                f"{result['model']['sha256'][:12]}..., but model.safetensors is now "
                f"{weights.sha256[:12]}... Evaluate the model again."
            )
    if train.get("model_sha256", weights.sha256) != weights.sha256:
        raise ValueError(
            f"train_results.json in {evidence.folder} is of other weights, "
            f"{train['model_sha256'][:12]}...; model.safetensors is now {weights.sha256[:12]}... "
            f"Put those back; or, if no training of convzoo made these, remove train_results.json, "
            f"metrics.jsonl and training_curve.png."
        )
    if speed := evidence.speed_results:
        where = evidence.folder / "speed_results.json"
        require(speed, "model.sha256", str, where=where, remedy="Measure the model again.")
        measured = speed["model"]["sha256"]
        if measured != weights.sha256:
            raise ValueError(
                f"speed_results.json in {evidence.folder} is stale: it was measured with weights "
                f"{measured[:12]}..., but model.safetensors is now {weights.sha256[:12]}... Run "
                f"`python -m convzoo benchmark` again, or remove the file."
            )
    for name, count in counts.items():
        if count is not None and count != weights.num_parameters:
            raise ValueError(
                f"num_parameters of {name} in {evidence.folder} must be that of "
                f"model.safetensors, {weights.num_parameters:,}; got {count:,}. "
                "The files come from different models; train or evaluate again."
            )


def _check_recipe(evidence: Evidence) -> None:
    for key, value in evidence.recipe.get("model", {}).items():
        if evidence.config.get(key, value) != value:
            raise ValueError(
                f"[model] {key} in {evidence.folder / 'recipe.toml'} must be that of config.json, "
                f"{evidence.config[key]!r}; got {value!r}. The files come from different models."
            )


def _check_labels(evidence: Evidence) -> None:
    """Refuse class names in another order than that of the evaluation."""
    labels = evidence.labels
    for number, result in enumerate(evidence.eval_results):
        for row in result.get("classes") or ():
            index = row.get("class")
            name = labels[index] if isinstance(index, int) and 0 <= index < len(labels) else None
            if index is not None and row["name"] != name:
                raise ValueError(
                    f"id2label in {evidence.folder / 'config.json'} must name the classes as "
                    f"results[{number}] of eval_results.json does: class {index} is "
                    f"{row['name']!r} there; got {name!r}. Evaluate the model again."
                )
