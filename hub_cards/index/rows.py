"""Read rows of the zoo's table, each from the files that prove it.

A row comes from a model folder, from a model on the Hub, or from a TOML file whose `[[results]]`
are quoted (with `url`) or name a benchmark's result file (with `file`).
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # its own client

from hub_cards.card.evaluation_facts import describe_protocol, protocol_label
from hub_cards.card.formatting import code, dataset_name, hub_dataset, joined, link, plain
from hub_cards.card.model_facts import QUOTED, does, multiply_adds, speed, weights_license
from hub_cards.evidence.folder import Evidence, read_evidence
from hub_cards.evidence.hub_model import read_hub_model
from hub_cards.evidence.other_models import is_export, model_of, read_export, read_result_file
from hub_cards.files import Record
from hub_cards.hub.push_errors import cause


@dataclass(frozen=True)
class Accuracy:
    """A fraction; `low` and `high` bound a 95 % interval, or `seeds` runs have this deviation."""

    value: float
    low: float | None = None
    high: float | None = None
    deviation: float | None = None
    seeds: int | None = None


@dataclass(frozen=True)
class Row:
    """One result of one model.

    Attributes:
        model: name and links, as Markdown.
        name: the name alone.
        family: the model type.
        image_size: the crop in pixels, and the shorter side that it was taken from; "" if unknown.
        top1: accuracy.
        top5: accuracy, or None.
        measured: by the zoo's own programs, rather than quoted.
        license: identifier of the weights' licence, "" if there are no published weights.
        setting: dataset, split, number of images and protocol: rows are comparable within one.
        fingerprint: of the evaluated images, or None.
        file: the benchmark's result file, or None.
        speed: the fastest of its speed results with setting and machine, "" without one.
    """

    model: str
    name: str
    family: str
    num_parameters: int
    multiply_adds: int | None
    image_size: str
    top1: Accuracy
    top5: Accuracy | None
    measured: bool
    license: str
    setting: str
    fingerprint: str | None = None
    file: Path | None = None
    speed: str = ""


def read_rows(sources: Sequence[str]) -> list[Row]:
    """Read all rows of several models.

    Args:
        sources: model folders, exports, results in JSON files, TOML files, and Hub ids as user/name
            or user/name@revision.

    Raises:
        OSError: if something does not exist or the Hub cannot be read.
        ValueError: if files are unusable or a model has no results.
    """
    return [row for source in sources for row in _read(source)]


def _read(source: str) -> Iterable[Row]:
    path = Path(source)
    if path.suffix == ".toml":
        return _read_table(path)
    if path.suffix == ".json" and path.is_file():
        result = read_result_file(path)
        return [_other_row(model_of(path, result), result)]
    if path.is_dir() and is_export(path):
        return _export_rows(path)
    if path.is_dir():
        evidence = read_evidence(path)
        run = evidence.recipe.get("run", {}).get("name")
        name = run or (path.resolve().parent.name if path.name == "model" else path.resolve().name)
        license = weights_license(evidence)
        return _evidence_rows(evidence, name, link=code(name), license=license, source=source)
    repo_id, _, revision = source.partition("@")
    if repo_id.count("/") != 1:
        raise FileNotFoundError(
            f"{source} must be a model folder, an export, a result of `convzoo evaluate --output`, "
            f"a TOML file, or a Hub id"
        )
    try:
        model = read_hub_model(HfApi(), repo_id, revision or None)
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id} is neither a folder nor a model on the Hub that you may see; for a private "
            "one run `hf auth login`, or set HF_TOKEN"
        ) from error
    except (HfHubHTTPError, httpx.HTTPError) as error:
        raise OSError(f"{source} could not be read from the Hub; {cause(error)}") from error
    page = f"https://huggingface.co/{repo_id}"
    commit = link(model.commit[:7], f"{page}/tree/{model.commit}")
    return _evidence_rows(
        model.evidence,
        repo_id,
        link=f"{link(plain(repo_id), page)} at {commit}",
        license=model.license or "",
        source=source,
    )


def _evidence_rows(
    evidence: Evidence, name: str, *, link: str, license: str, source: str
) -> Iterator[Row]:
    if not evidence.eval_results:
        raise ValueError(
            f"{source} must have results in eval_results.json; run `python -m convzoo evaluate` "
            "and, for a model on the Hub, push it again"
        )
    for result in evidence.eval_results:
        processor = (result.get("protocol") or {}).get("image_processor") or evidence.preprocessor
        yield _measured_row(
            result,
            protocol=protocol_label(evidence, result),
            has_top5=len(evidence.labels) > 5,
            model=link,
            name=name,
            family=evidence.model_type,
            num_parameters=evidence.weights.num_parameters,
            multiply_adds=multiply_adds(evidence),
            speed=speed(evidence.speed_results),
            image_size=_image_size(
                processor["crop_size"]["height"] if does(processor, "center_crop") else None,
                processor["size"]["shortest_edge"] if does(processor, "resize") else None,
            ),
            license=plain(license),
        )


def _measured_row(result: Record, *, protocol: str, has_top5: bool = True, **about: Any) -> Row:
    """A row of a result, with the fields that say of which model it is."""
    dataset, metrics = result["dataset"], result["metrics"]
    intervals = result.get("intervals_95") or {}
    top5 = metrics.get("top5_accuracy") if has_top5 else None
    return Row(
        top1=_with_interval(metrics["top1_accuracy"], intervals.get("top1_accuracy")),
        top5=None if top5 is None else _with_interval(top5, intervals.get("top5_accuracy")),
        measured=True,
        setting=_setting(
            _dataset_label(dataset),
            config=dataset.get("config"),
            split=dataset["split"],
            num_samples=dataset["num_samples"],
            protocol=protocol,
        ),
        fingerprint=dataset.get("fingerprint"),
        **about,
    )


def _export_rows(folder: Path) -> Iterator[Row]:
    export = read_export(folder)
    if not export.eval_results:
        raise ValueError(f"{folder} must have results; run `python -m convzoo evaluate {folder}`")
    for result in export.eval_results:
        yield _other_row(folder.resolve().name, result, family=export.family)


def _other_row(name: str, result: Record, *, family: str = "") -> Row:
    """A row of a model that is no model folder; it says nothing of its licence."""
    model, hub_id = result["model"], result["model"].get("name") or ""
    processor = (result.get("protocol") or {}).get("image_processor") or {}
    shown = code(name)
    if hub_id.count("/") == 1:
        shown = link(plain(hub_id), f"https://huggingface.co/{hub_id}")
    return _measured_row(
        result,
        protocol=describe_protocol({}, result),
        model=shown,
        name=name,
        family=plain(family or model.get("format") or ""),
        num_parameters=model["num_parameters"],
        multiply_adds=model.get("num_multiply_adds"),
        image_size=_image_size(
            (processor.get("crop_size") or {}).get("height"),
            (processor.get("size") or {}).get("shortest_edge"),
        ),
        license="",
    )


def _with_interval(value: float, interval: Sequence[float] | None) -> Accuracy:
    if interval is None:
        return Accuracy(value)
    low, high = interval
    return Accuracy(value, low=low, high=high)


def _dataset_label(dataset: Record) -> str:
    """The dataset as Markdown; a part of one has no link, so that it never passes for the whole."""
    if dataset.get("id") and not dataset.get("subset"):
        return hub_dataset(dataset["id"])
    return plain(dataset_name(dataset))


def _setting(
    dataset: str, *, config: str | None, split: str, num_samples: int | None, protocol: str
) -> str:
    images = f"{num_samples:,} images" if num_samples else ""
    named = plain(config) if config else ""
    return joined([dataset, named, f"split {code(split)}", images, protocol or "one view"])


def _image_size(crop: int | None, resize: int | None) -> str:
    return joined([crop, resize and f"of {resize}"], " ")


def _read_table(path: Path) -> Iterator[Row]:
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("results")
    if not entries:
        raise ValueError(f"{path} must have [[results]], as hub_cards/quoted_results.toml has")
    for number, entry in enumerate(entries):
        try:
            yield _benchmark_row(entry, path.parent) if "file" in entry else _quoted_row(entry)
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"results[{number}] of {path} must be as in hub_cards/quoted_results.toml, or have "
                f"name, file and recipe; {error!r} is missing or wrong"
            ) from error


def _quoted_row(entry: Record) -> Row:
    views, averaged = entry.get("views", 1), entry.get("averaged")
    protocol = joined([views > 1 and f"{views} views", averaged and f"mean of the {averaged}"])
    return Row(
        model=link(plain(entry["name"]), entry["url"]),
        name=entry["name"],
        family=entry["model_type"],
        num_parameters=entry["num_parameters"],
        multiply_adds=entry.get("num_multiply_adds"),
        image_size=_image_size(entry.get("crop"), entry.get("resize")),
        top1=Accuracy(entry["top1_accuracy"]),
        top5=Accuracy(entry["top5_accuracy"]) if "top5_accuracy" in entry else None,
        measured=False,
        license=QUOTED["licenses"].get(entry.get("project"), ""),
        setting=_setting(
            hub_dataset(entry["dataset"]),
            config=None,
            split=entry["split"],
            num_samples=entry.get("num_samples"),
            protocol=protocol,
        ),
    )


def _benchmark_row(entry: Record, folder: Path) -> Row:
    """Take the mean over a benchmark's seeds; what its file does not say stands in the recipe."""
    path = folder / entry["file"]
    record = json.loads(path.read_text(encoding="utf-8"))
    recipe = tomllib.loads((folder / entry["recipe"]).read_text(encoding="utf-8"))
    runs, size = record["runs"], recipe["preprocessing"]
    dataset = {"name": entry["dataset"]} if "dataset" in entry else runs[0]["dataset"]
    deviation = record["top1_accuracy_standard_deviation"]
    top5 = [run["top5_accuracy"] for run in runs if "top5_accuracy" in run]
    return Row(
        model=plain(entry["name"]),
        name=entry["name"],
        family=entry.get("model_type") or recipe["model"]["model_type"],
        num_parameters=runs[0]["num_parameters"],
        multiply_adds=runs[0].get("num_multiply_adds"),
        image_size=_image_size(size["crop"], size["resize"]),
        top1=Accuracy(record["top1_accuracy_mean"], deviation=deviation, seeds=len(runs)),
        top5=Accuracy(mean(top5), seeds=len(runs)) if len(top5) == len(runs) else None,
        measured=True,
        license="",
        setting=_setting(
            _dataset_label(dataset),
            config=dataset.get("config"),
            split=recipe["data"]["eval_split"],
            num_samples=runs[0].get("num_samples"),
            protocol="",
        ),
        file=path,
    )
