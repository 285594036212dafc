"""What a finished model folder proves: its files, read and checked against each other.

A card may only say what these files say, so everything doubtful stops here: a file that cannot be
read, numbers that disagree, or results that were measured with other weights.
"""

import json
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path

from hub_cards.evidence.weights import Weights, read_weights

FAMILIES = ("alexnet", "cnn", "qlnet")
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Evidence:
    """A model folder's files; what is absent is None or empty."""

    folder: Path
    config: dict
    weights: Weights
    preprocessor: dict
    code_files: tuple[str, ...]
    recipe: dict
    conversion: dict
    train_results: dict | None
    metrics: tuple[dict, ...]
    eval_results: tuple[dict, ...]

    @property
    def model_type(self) -> str:
        """The family, one of FAMILIES."""
        return self.config["model_type"]

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
    config = _read_json(folder, "config.json", required=True)
    if config.get("model_type") not in FAMILIES:
        raise ValueError(
            f"model_type in {folder / 'config.json'} must be one of {', '.join(FAMILIES)}; "
            f"got {config.get('model_type')!r}. Cards exist for these families only."
        )
    id2label = config.get("id2label")
    if not isinstance(id2label, dict) or not id2label:
        raise ValueError(
            f"id2label in {folder / 'config.json'} must name the classes; got {id2label!r}. "
            "Save the model again with save_pretrained."
        )
    preprocessor = _read_preprocessor(folder)
    evidence = Evidence(
        folder=folder,
        config=config,
        weights=weights or read_weights(folder),
        preprocessor=preprocessor,
        code_files=() if weights else _code_files(folder, config, preprocessor),
        recipe=_read_recipe(folder),
        conversion=_read_json(folder, "conversion.json") or {},
        train_results=_read_json(folder, "train_results.json"),
        metrics=_read_metrics(folder),
        eval_results=_read_eval_results(folder),
    )
    _check_agreement(evidence)
    return evidence


def _read_text(folder, name, required):
    path = folder / name
    if not path.is_file():
        if required:
            raise FileNotFoundError(
                f"{name} is missing in {folder}; a card describes a finished model folder. "
                "Save the model and its image processor there with save_pretrained."
            )
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text; {error}. Write it again.") from error


def _parse_json(text, where):
    def refuse(constant):
        raise ValueError(f"{constant} is no finite number")

    try:
        value = json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise ValueError(f"{where} must be valid JSON; {error}. Write it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where} must hold a JSON object; got {type(value).__name__}")
    return value


def _read_json(folder, name, required=False):
    text = _read_text(folder, name, required)
    if text is None:
        return None
    value = _parse_json(text, folder / name)
    if value.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise ValueError(
            f"schema_version in {folder / name} must be {SCHEMA_VERSION}; got "
            f"{value['schema_version']!r}. Write it again with this version of convzoo."
        )
    return value


def _read_recipe(folder):
    text = _read_text(folder, "recipe.toml", required=False)
    try:
        recipe = tomllib.loads(text or "")
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            f"{folder / 'recipe.toml'} must be valid TOML; {error}. Write it again."
        ) from error
    for key, value in recipe.items():
        if not isinstance(value, dict):
            raise ValueError(f"{key} in {folder / 'recipe.toml'} must be a section, as in [{key}]")
    return recipe


def _read_metrics(folder):
    text = _read_text(folder, "metrics.jsonl", required=False) or ""
    return tuple(
        _parse_json(line, f"line {number} of {folder / 'metrics.jsonl'}")
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    )


def _code_files(folder, config, preprocessor):
    """The Python files that `trust_remote_code=True` runs, by the auto_map entries."""
    files = set()
    for name, table in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        auto_map = table.get("auto_map")
        if not isinstance(auto_map, dict) or not auto_map:
            raise ValueError(
                f"{folder / name} must have an auto_map, or nobody can load the model; got "
                f"{auto_map!r}. Save it with save_pretrained after `import modeling`."
            )
        files |= {reference.partition(".")[0] + ".py" for reference in auto_map.values()}
    missing = sorted(name for name in files if not (folder / name).is_file())
    if missing:
        raise FileNotFoundError(
            f"auto_map names code that is missing in {folder}: {', '.join(missing)}. "
            "Save the model and its image processor again with save_pretrained."
        )
    return tuple(sorted(files))


def _read_eval_results(folder):
    table = _read_json(folder, "eval_results.json") or {"results": []}
    results = table.get("results")
    if not isinstance(results, list):
        raise ValueError(f"results in {folder / 'eval_results.json'} must be a list")
    for number, result in enumerate(results):
        _check_eval_result(result, f"results[{number}] in {folder / 'eval_results.json'}")
    return tuple(results)


def _check_eval_result(result, where):
    for dotted, kind in (
        ("task", str),
        ("dataset.name", str),
        ("dataset.split", str),
        ("dataset.num_samples", int),
        ("metrics.top1_accuracy", float),
        ("model.sha256", str),
        ("model.num_parameters", int),
    ):
        _require(result, dotted, kind, where, "Evaluate the model again.")
    if result["dataset"]["num_samples"] < 1:
        raise ValueError(f"dataset.num_samples of {where} must be at least 1")
    for name, value in result["metrics"].items():
        if name.endswith("_accuracy") and value is not None:
            _require(result["metrics"], name, float, where, "Evaluate the model again.")
            if not 0 <= value <= 1:
                raise ValueError(f"{name} of {where} must be a fraction in [0, 1]; got {value}")
    try:
        wrong = next(_contradictions(result), None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"the breakdown of {where} must be as `convzoo evaluate` writes it; {error!r}. "
            "Evaluate the model again."
        ) from error
    if wrong:
        raise ValueError(f"{wrong} of {where} must agree with its metrics. Evaluate it again.")


def _contradictions(result):
    """Parts of a result that do not agree with its number of images and its accuracy."""
    metrics, images = result["metrics"], result["dataset"]["num_samples"]
    for name, (low, high) in (result.get("intervals_95") or {}).items():
        if not 0 <= low <= metrics[name] <= high <= 1:
            yield f"intervals_95.{name}"
    found = result.get("calibration")
    if found and not 0 <= found["expected_calibration_error"] <= 1:
        yield "expected_calibration_error"
    if found and not 0 <= found["mean_confidence"] <= 1:
        yield "mean_confidence"
    hits = round(metrics["top1_accuracy"] * images)
    for name, parts in (
        ("classes", result.get("classes")),
        ("calibration.bins", found and found["bins"]),
    ):
        if parts:
            sums = [sum(part[key] for part in parts) for key in ("num_samples", "num_correct")]
            if sums != [images, hits] or not all(part["num_samples"] > 0 for part in parts):
                yield name
    for row in result.get("classes") or ():
        accuracy = row["num_correct"] / row["num_samples"]
        if not (row["name"] and math.isclose(row["top1_accuracy"], accuracy, abs_tol=1e-6)):
            yield "classes"
    for pair in result.get("confusions") or ():
        named = pair["name"] and pair["predicted"]
        if not (named and 0 < pair["share"] <= 1 and 0 < pair["count"] <= images):
            yield "confusions"


def _read_preprocessor(folder):
    preprocessor = _read_json(folder, "preprocessor_config.json", required=True)
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
        where = folder / "preprocessor_config.json"
        _require(preprocessor, dotted, kind, where, "Save a ConvZooImageProcessor there.")
    if not 0 <= preprocessor["resample"] <= 5:
        raise ValueError(f"resample of {where} must be a filter of Pillow, 0 to 5")
    return preprocessor


def _require(table, dotted, kind, where, remedy):
    value = table
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, (int, float) if kind is float else kind):
        raise ValueError(
            f"{dotted} of {where} must be of type {kind.__name__}; got {value!r}. {remedy}"
        )


def _check_agreement(evidence):
    weights, train = evidence.weights, evidence.train_results or {}
    counts = {
        "train_results.json": train.get("num_parameters"),
        "conversion.json": evidence.conversion.get("num_parameters"),
    }
    for number, result in enumerate(evidence.eval_results):
        name = f"results[{number}] of eval_results.json"
        counts[name] = result["model"]["num_parameters"]
        if result["model"]["sha256"] != weights.sha256:
            raise ValueError(
                f"{name} in {evidence.folder} is stale: it was measured with weights "
                f"{result['model']['sha256'][:12]}..., but model.safetensors is now "
                f"{weights.sha256[:12]}... Evaluate the model again."
            )
    for name, count in counts.items():
        if count is not None and count != weights.num_parameters:
            raise ValueError(
                f"num_parameters of {name} in {evidence.folder} must be that of "
                f"model.safetensors, {weights.num_parameters:,}; got {count:,}. "
                "The files come from different models; train or evaluate again."
            )
    for key, value in evidence.recipe.get("model", {}).items():
        if evidence.config.get(key, value) != value:
            raise ValueError(
                f"[model] {key} in {evidence.folder / 'recipe.toml'} must be that of config.json, "
                f"{evidence.config[key]!r}; got {value!r}. The files come from different models."
            )
