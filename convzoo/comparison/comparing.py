"""Compare models on the same images: numbers, tests, and what these allow to say.

python -m convzoo compare runs/first/model runs/second/model
"""

import itertools
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convzoo.comparison.comparison_figures import save_comparison_figures
from convzoo.comparison.paired_statistics import (
    bootstrap_interval,
    difference_interval,
    holm,
    images_needed,
    mcnemar_p_value,
    mean_interval,
)
from convzoo.comparison.pairing import Evaluated, Paired, pair, read_models
from convzoo.comparison.seed_statistics import accuracy_over_seeds, difference_over_seeds
from convzoo.comparison.verdicts import seeds_verdict, verdict
from convzoo.data.opening import DatasetReference
from convzoo.evaluation.statistics import calibration, wilson_interval
from convzoo.files import SCHEMA_VERSION, write_json
from convzoo.report.reporting import was_trained_on

FILE = "comparison.json"


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What is to be compared, and what is to be written.

    Attributes:
        result: which result of model folders; see `read_models`.
        common: compare on the images that all models have, should they not have the same.
        seeds: also compare recipes: models whose recipes differ in [run] only are one.
        output: folder for comparison.json and the figures; None writes nothing.
        data: where the dataset lies now, for thumbnails; None for where it was.
        images: thumbnails on a contact sheet, at most.
    """

    result: str = ""
    common: bool = False
    seeds: bool = False
    output: Path | None = None
    data: DatasetReference | None = None
    images: int = 24


def compare_models(models: Sequence[str], options: CompareOptions) -> dict[str, Any]:
    """Compare models with each other, and write what was asked for.

    Args:
        models: model folders, or predictions files, two at least.
        options: what else.

    Returns:
        What `comparison.json` holds; docs/comparing-models.md has its keys.

    Raises:
        FileNotFoundError: if a model has no predictions.
        ValueError: if the images differ, as `read_models` and `pair`, or there are no seeds.
        OSError: if the output cannot be written.
    """
    paired = pair(read_models(models, options.result), common=options.common)
    report = compare(paired)
    if options.seeds:
        report["seeds"] = compare_seeds(paired)
        report["verdict"] = report["seeds"]["verdict"]
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        report["notes"] += save_comparison_figures(
            options.output, paired, report["models"], data=options.data, limit=options.images
        )
        write_json(options.output / FILE, report)
    return report


def compare(paired: Paired) -> dict[str, Any]:
    """Compute everything that needs no files; see `compare_models`."""
    names = [model.name for model in paired.models]
    dataset = paired.models[0].table.facts.dataset
    pairs = [
        _compare_two(paired, first, second)
        for first, second in itertools.combinations(range(len(names)), 2)
    ]
    for each, adjusted in zip(pairs, holm([one["p_value"] for one in pairs]), strict=True):
        each["adjusted_p_value"] = adjusted
    same = (paired.answers[:, None] == paired.answers[None]) & (paired.answers[:, None] >= 0)
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "dataset": {key: dataset.get(key) for key in ("name", "split", "fingerprint")}
        | {"num_images": len(paired.label)},
        "models": [_describe(paired, number) for number in range(len(names))],
        "pairs": pairs,
        "agreement": same.mean(axis=2).tolist(),
        "classes": _by_class(paired),
        "notes": _notes(paired),
    }
    return report | {"verdict": verdict(report)}


def _describe(paired: Paired, number: int) -> dict[str, Any]:
    """The line of a model in the table."""
    model, hits = paired.models[number], paired.hits[number]
    table, result = model.table, model.result
    facts: dict[str, Any] = dict(result["model"]) if result else dict(table.facts.model)
    read = table.readable
    summary = table.summary()
    calibrated = (
        calibration(table.top_probabilities[read, 0], hits[read])["expected_calibration_error"]
        if read.any()
        else None
    )
    return {
        "name": model.name,
        "folder": str(model.folder) if model.folder else None,
        "num_correct": int(hits.sum()),
        "top1_accuracy": summary["top1_accuracy"],
        "interval_95": list(wilson_interval(int(hits.sum()), len(hits))),
        "top5_accuracy": summary["top5_accuracy"] if len(table.facts.names) > 5 else None,
        "loss": summary["loss"] if read.any() else None,
        "expected_calibration_error": calibrated,
        "only_this_right": int((hits & (paired.hits.sum(axis=0) == 1)).sum()),
        "num_unreadable": int((~read).sum()),
        "num_left_out": paired.left_out[number],
        "num_parameters": facts.get("num_parameters"),
        "num_multiply_adds": facts.get("num_multiply_adds"),
        "images_per_second": result.get("images_per_second") if result else None,
        "weights": facts.get("sha256"),
    }


def _compare_two(paired: Paired, first: int, second: int) -> dict[str, Any]:
    one, other = paired.hits[first], paired.hits[second]
    num_images = len(one)
    only_first, only_second = int((one & ~other).sum()), int((other & ~one).sum())
    tables = paired.models[first].table, paired.models[second].table
    read = tables[0].readable & tables[1].readable
    losses = tables[0].loss[read].astype(np.float64) - tables[1].loss[read]
    enough = len(losses) > 1
    counted = {"num_images": num_images}
    return {
        "first": paired.models[first].name,
        "second": paired.models[second].name,
        "both_right": int((one & other).sum()),
        "only_first_right": only_first,
        "only_second_right": only_second,
        "both_wrong": int((~one & ~other).sum()),
        "difference": (only_first - only_second) / num_images,
        "interval_95": list(difference_interval(only_first, only_second, **counted)),
        "bootstrap_interval_95": list(bootstrap_interval(only_first, only_second, **counted)),
        "p_value": mcnemar_p_value(only_first, only_second),
        "images_needed": images_needed(only_first, only_second, **counted),
        "loss_difference": float(losses.mean()) if enough else None,
        "loss_interval_95": list(mean_interval(losses)) if enough else None,
    }


def _by_class(paired: Paired) -> list[dict[str, Any]]:
    """Images, hits of each model, and images that it alone gets right, of each class."""
    alone = paired.hits & (paired.hits.sum(axis=0) == 1)
    rows = []
    for number in np.unique(paired.label).tolist():
        inside = paired.label == number
        rows.append(
            {
                "name": paired.classes[number],
                "num_images": int(inside.sum()),
                "num_correct": paired.hits[:, inside].sum(axis=1).tolist(),
                "only_this_right": alone[:, inside].sum(axis=1).tolist(),
            }
        )
    return rows


def _notes(paired: Paired) -> list[str]:
    """What a reader must know before believing the numbers."""
    notes = []
    models = paired.models
    for model, left_out in zip(models, paired.left_out, strict=True):
        if left_out:
            notes.append(f"{left_out:,} images of {model.name} are left out: others have them not")
        if unreadable := int((~model.table.readable).sum()):
            notes.append(f"{model.name} could not read {unreadable:,} images: they count as wrong")
        if model.folder and model.result and was_trained_on(model.folder, model.result):
            notes.append(f"{model.name} was trained on these images: its accuracy is too good")
    protocols = [_views(model) for model in models]
    if len(set(protocols)) > 1:
        shown = ", ".join(
            f"{model.name}: {text}" for model, text in zip(models, protocols, strict=True)
        )
        notes.append(f"the images were not shown in the same way ({shown})")
    among = {model.name: _among(model) for model in models}
    if len({*among.values()}) > 1:
        shown = ", ".join(f"{name}: {count:,}" for name, count in among.items())
        notes.append(f"the models chose among different numbers of classes ({shown})")
    for one, other in itertools.combinations(models, 2):
        weights = one.table.facts.model.get("sha256")
        if weights and weights == other.table.facts.model.get("sha256"):
            notes.append(f"{one.name} and {other.name} have the same weights")
    notes += [
        f"{one.name} was exported from the weights of {other.name}"
        for one, other in itertools.permutations(models, 2)
        if one.result
        and one.result["model"].get("exported_from", "none")
        == other.table.facts.model.get("sha256")
    ]
    machines = {
        str((model.result.get("environment") or {}).get("processor"))
        for model in models
        if model.result
    }
    if len(machines) > 1:
        notes.append("images per second were measured on different machines")
    return notes


def _among(model: Evaluated) -> int:
    """Among how many classes a model chose."""
    facts = model.table.facts
    matching = facts.dataset.get("class_matching") or {}
    return int(matching.get("num_model_classes", len(facts.names)))


def _views(model: Evaluated) -> str:
    protocol = model.table.facts.protocol
    views = protocol.get("views", 1)
    text = "one view" if views == 1 else f"{views} views"
    text += ", turned as EXIF says" if protocol.get("exif_rotation") else ""
    return text + (", fast decoding" if protocol.get("fast_decoding") else "")


def compare_seeds(paired: Paired) -> dict[str, Any]:
    """Compare recipes by all their seeds.

    Raises:
        ValueError: if a model has no recipe, or a recipe has one seed only.
    """
    groups = _group_by_recipe(paired.models)
    hits = {name: paired.hits[members] for name, members in groups.items()}
    recipes = [
        {
            "name": name,
            "n": len(members),
            "models": [paired.models[member].name for member in members],
            "top1_accuracy_mean": float(hits[name].mean()),
            "top1_accuracy_standard_deviation": float(hits[name].mean(axis=1).std(ddof=1)),
            **_with_interval(asdict(accuracy_over_seeds(hits[name])), without=("p_value", "value")),
        }
        for name, members in groups.items()
    ]
    pairs = [
        {
            "first": first,
            "second": second,
            **_with_interval(asdict(difference_over_seeds(hits[first], hits[second]))),
        }
        for first, second in itertools.combinations(groups, 2)
    ]
    for each, adjusted in zip(pairs, holm([one["p_value"] for one in pairs]), strict=True):
        each["adjusted_p_value"] = adjusted
    found = {"recipes": recipes, "pairs": pairs}
    return found | {"verdict": seeds_verdict(found, num_images=len(paired.label))}


def _with_interval(values: dict[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    """The same with both ends of the interval in one list."""
    kept = {key: value for key, value in values.items() if key not in (*without, "low", "high")}
    if "value" in kept:
        kept = {"difference": kept.pop("value")} | kept
    return kept | {"interval_95": [values["low"], values["high"]]}


def _group_by_recipe(models: Sequence[Evaluated]) -> dict[str, list[int]]:
    """Models by what their recipes say outside of [run]; named by the settings that differ."""
    recipes = [_settings(model) for model in models]
    keys = list(dict.fromkeys(key for recipe in recipes for key in recipe))
    differing = [k for k in keys if any(r.get(k) != recipes[0].get(k) for r in recipes)]
    groups: dict[str, list[int]] = {}
    for number, recipe in enumerate(recipes):
        name = ", ".join(f"{key}={recipe.get(key)}" for key in differing) or "all models"
        groups.setdefault(name, []).append(number)
    if single := [members for members in groups.values() if len(members) < 2]:
        raise ValueError(
            f"--seeds needs two trainings at least of each recipe; the recipe of "
            f"{models[single[0][0]].name} differs from the others in {', '.join(differing)}"
        )
    return groups


def _settings(model: Evaluated) -> dict[str, Any]:
    path = (model.folder or Path()) / "recipe.toml"
    if model.folder is None or not path.is_file():
        raise ValueError(
            f"--seeds needs the recipe of each model, to know which are trainings of one recipe; "
            f"there is no {path if model.folder else f'model folder of {model.name}'}"
        )
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        f"{section}.{key}": value
        for section, table in tables.items()
        if section != "run"
        for key, value in table.items()
    }
