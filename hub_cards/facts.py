"""From evidence to what a card prints: formatted rows, each traceable to one file of the folder.

A fact that the folder does not hold yields no row; the template turns an empty table into
"Not measured.".
"""

import json
import math
import re
import tomllib
from pathlib import Path

from hub_cards.evidence import Evidence

QUOTED = tomllib.loads(Path(__file__).with_name("quoted_results.toml").read_text(encoding="utf-8"))
CODE_LICENSE = "apache-2.0"
Z_95 = 1.959963984540054  # two-sided 95 % quantile of the standard normal distribution
PIL_FILTERS = ("nearest", "Lanczos", "bilinear", "bicubic", "box", "Hamming")  # by PIL's number
MAX_PROGRESS_ROWS = 10
MAX_NAMED_CLASSES = 20

# Keys of config.json that say nothing about the architecture.
GENERIC_CONFIG_KEYS = {
    "_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "model_type",
    "num_classes", "num_labels", "problem_type", "torch_dtype", "transformers_version",
}  # fmt: skip

Rows = list[tuple[str, str]]


def wilson_interval(fraction: float, num_samples: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion.

    Args:
        fraction: measured proportion, in [0, 1].
        num_samples: independent samples behind it, at least 1.

    Returns:
        Lower and upper end, in [0, 1].

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
        Journal of the American Statistical Association 22 (1927).
    """
    spread = Z_95**2 / num_samples
    centre = (fraction + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (fraction * (1 - fraction) + spread / 4)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def percent(fraction: float) -> str:
    """A fraction as text in percent, with two decimals."""
    return f"{100 * fraction:.2f} %"


def detail_rows(evidence: Evidence) -> Rows:
    """Size and identity of the weights, then the architecture's own settings."""
    weights, processor = evidence.weights, evidence.preprocessor
    shape = (processor["num_channels"], *(processor["crop_size"][k] for k in ("height", "width")))
    records = [evidence.train_results or {}, *(result["model"] for result in evidence.eval_results)]
    multiply_adds = next(filter(None, (r.get("num_multiply_adds") for r in records)), None)
    settings = {k: v for k, v in evidence.config.items() if k not in GENERIC_CONFIG_KEYS}
    rows = [
        ("Parameters", f"{weights.num_parameters:,} ({_short_count(weights.num_parameters)})"),
        ("Batch-norm buffers", _value(weights.num_buffer_elements or None)),
        ("Multiply-adds per image", _value(multiply_adds)),
        ("Input", " x ".join(map(str, shape))),
        ("Classes", _class_names(evidence)),
        ("Weights", f"safetensors, {', '.join(weights.dtypes)}, {weights.num_bytes / 1e6:.1f} MB"),
        ("SHA-256 of the weights", f"`{weights.sha256}`"),
        ("Converted from", _origin(evidence.conversion)),
        ("Configuration", _settings(settings)),
    ]
    return _present(rows)


def _short_count(count: int) -> str:
    """A large count in thousands (k) or millions (M)."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def _class_names(evidence: Evidence) -> str:
    """How many classes there are, with their names when they are few and real."""
    labels = evidence.labels
    if all(re.fullmatch(r"LABEL_\d+", label) for label in labels):
        return f"{len(labels):,}, without names"
    if len(labels) > MAX_NAMED_CLASSES:
        return f"{len(labels):,}, named in [config.json](config.json)"
    return f"{len(labels)}: {', '.join(labels)}"


def _origin(conversion):
    source, project = conversion.get("source") or {}, conversion.get("project")
    parts = [
        project and f"[{conversion.get('format') or project}]({project})",
        source.get("file") and f"file `{source['file']}`",
        source.get("sha256") and f"SHA-256 `{source['sha256']}`",
        conversion.get("converter") and f"by {conversion['converter']}",
    ]
    return ", ".join(filter(None, parts))


def weights_license(evidence: Evidence) -> str:
    """The licence that the recipe names, or of the project that converted weights come from."""
    if evidence.conversion:
        return QUOTED["licenses"].get(evidence.conversion.get("project"), "unknown")
    return evidence.recipe.get("run", {}).get("license") or CODE_LICENSE


def preprocessing_steps(evidence: Evidence) -> list[str]:
    """The image processor's work, one sentence a step."""
    processor = evidence.preprocessor
    colours = "RGB" if processor["num_channels"] == 3 else "grey"
    edge, crop = processor["size"]["shortest_edge"], processor["crop_size"]
    resample, factor = PIL_FILTERS[processor["resample"]], processor["rescale_factor"]
    by_255 = math.isclose(factor, 1 / 255)
    rescale = "Divide the values by 255." if by_255 else f"Multiply the values by {factor:.6g}."
    mean, std = _value(processor["image_mean"]), _value(processor["image_std"])
    return [
        f"Convert the picture to {colours}, values 0 to 255.",
        f"Resize the shorter side to {edge} pixels, keeping the aspect ratio ({resample}).",
        f"Cut out the centre, {crop['height']} x {crop['width']} pixels.",
        *([] if factor == 1 else [rescale]),
        f"Subtract the mean {mean} and divide by {std}, for each channel.",
    ]


def recipe_rows(evidence: Evidence) -> Rows:
    """One row for each section of the recipe, with all its settings."""
    return [(name, text) for name, table in evidence.recipe.items() if (text := _settings(table))]


def training_rows(evidence: Evidence) -> Rows:
    """What the training run did, on what, and how fast."""
    train = evidence.train_results
    if not train:
        return []
    waits = [
        line["data_wait_fraction"] for line in evidence.metrics if "data_wait_fraction" in line
    ]
    rows = [
        ("Epochs", _value(train.get("epochs"))),
        ("Optimizer steps", _value(train.get("optimizer_steps"))),
        ("Images seen", _value(train.get("images_seen"))),
        ("Final training loss", _value(train.get("final_train_loss"))),
        ("Training time", _duration(train.get("duration_seconds"))),
        ("Images per second", _value(train.get("images_per_second"))),
        ("Waiting for data", waits and f"{percent(sum(waits) / len(waits))} of the time"),
        ("Processes", _value(train.get("num_processes"))),
        ("Global batch size", _value(train.get("global_batch_size"))),
        ("Mixed precision", _value(train.get("mixed_precision"))),
        ("Seed", _value(train.get("seed"))),
        *environment_rows(train),
    ]
    return _present(rows)


def environment_rows(record: dict) -> Rows:
    """Hardware, software and date of a measurement."""
    environment = record.get("environment") or {}
    cores = environment.get("cpu_count")
    hardware = [environment.get("accelerator"), environment.get("processor")]
    hardware.append(cores and f"{cores} CPU cores")
    versions = {"Python": environment.get("python"), **(environment.get("versions") or {})}
    software = [f"{name} {version}" for name, version in versions.items() if version]
    return [
        ("Hardware", ", ".join(filter(None, hardware))),
        ("Software", ", ".join(software)),
        ("Date", (record.get("date") or "").partition("T")[0]),
    ]


def progress_rows(evidence: Evidence) -> list[tuple[str, ...]]:
    """Evaluations during training, evenly thinned out, the last one always kept."""
    lines = [line for line in evidence.metrics if "eval_top1_accuracy" in line]
    step = max(1, math.ceil(len(lines) / MAX_PROGRESS_ROWS))
    return [
        (
            _value(line.get("epoch")),
            _value(line.get("eval_loss")),
            percent(line["eval_top1_accuracy"]),
        )
        for line in lines[::-1][::step][::-1]
    ]


def training_data_rows(evidence: Evidence) -> Rows:
    """Which images the model was trained on."""
    dataset = (evidence.train_results or {}).get("dataset") or {}
    rows = [
        ("Dataset", dataset_link(dataset)),
        ("Split", dataset.get("split")),
        ("Images", _value(dataset.get("num_samples"))),
        *_provenance_rows(dataset),
    ]
    return _present(rows)


def dataset_ids(dataset: dict) -> list[str]:
    """Hub ids of a dataset: its own, or those it was derived from."""
    return [dataset["id"]] if dataset.get("id") else _source_ids(dataset)


def dataset_link(dataset: dict) -> str:
    """The dataset's name, linked when it is on the Hub."""
    name = dataset_name(dataset)
    return _hub_dataset(dataset["id"], name) if dataset.get("id") else name


def accuracies(evidence: Evidence) -> list[tuple[str, str]]:
    """Names and keys of the accuracies that mean something for this number of classes."""
    top1, top5 = ("Top-1 accuracy", "top1_accuracy"), ("Top-5 accuracy", "top5_accuracy")
    return [top1, top5] if len(evidence.labels) > 5 else [top1]


def protocol_label(evidence: Evidence, result: dict) -> str:
    """How the images were shown, where that is not one view with the published preprocessing."""
    protocol = result.get("protocol") or {}
    views, published = protocol.get("views", 1), evidence.preprocessor
    changed = {
        key: value
        for key, value in (protocol.get("image_processor") or {}).items()
        if key in published and key != "auto_map" and published[key] != value
    }
    averaged = protocol.get("averaged")
    parts = [
        f"{views} views" if views != 1 else "",
        f"mean of the {averaged}" if averaged else "",
        "turned by EXIF" if protocol.get("exif_rotation") else "",
        _settings(changed),
    ]
    return ", ".join(filter(None, parts))


def dataset_name(dataset: dict) -> str:
    """The dataset's name; for a part of a split, with the number of images of the whole."""
    name = dataset.get("name") or dataset.get("id") or dataset.get("path") or ""
    subset = dataset.get("subset")
    return f"{name}, part of {subset['of']:,} images" if subset else name


def evaluation_table(evidence: Evidence) -> tuple[list[str], list[tuple[str, ...]]]:
    """Header and rows of the results, accuracies with their intervals."""
    columns = accuracies(evidence)
    rows = []
    for result in evidence.eval_results:
        dataset, metrics = result["dataset"], result["metrics"]
        images = dataset["num_samples"]
        values = [
            _with_interval(metrics[key], images) if metrics.get(key) is not None else "not measured"
            for _, key in columns
        ]
        label = protocol_label(evidence, result)
        name = f"{dataset_link(dataset)} ({label})" if label else dataset_link(dataset)
        loss = _value(metrics.get("loss")) or "not measured"
        rows.append((name, dataset["split"], f"{images:,}", *values, loss))
    return ["Dataset", "Split", "Images", *(title for title, _ in columns), "Loss"], rows


def _with_interval(fraction: float, num_samples: int) -> str:
    """A measured fraction in percent, with its Wilson interval."""
    low, high = wilson_interval(fraction, num_samples)
    return f"{percent(fraction)} [{100 * low:.2f}, {100 * high:.2f}]"


def evaluation_rows(evidence: Evidence, result: dict) -> Rows:
    """Everything around one measurement but its results."""
    label = protocol_label(evidence, result)
    rows = [
        ("Protocol", label or "one view of each image, preprocessed as above"),
        *_provenance_rows(result["dataset"]),
        ("Images per second", _value(result.get("images_per_second"))),
        *environment_rows(result),
        ("Command", result.get("command") and f"`{result['command']}`"),
    ]
    return _present(rows)


def quoted_rows(evidence: Evidence) -> list[tuple[str, ...]]:
    """What others report for this very architecture at ImageNet's 1000 classes."""
    if len(evidence.labels) != 1000:
        return []
    return [
        (
            result["name"],
            percent(result["top1_accuracy"]),
            percent(result["top5_accuracy"]) if "top5_accuracy" in result else "not reported",
            result["protocol"],
            f"[{result['source']}]({result['url']})",
        )
        for result in QUOTED["results"]
        if result["model_type"] == evidence.model_type
        and result["num_parameters"] == evidence.weights.num_parameters
        and all(evidence.config.get(k) == v for k, v in result.get("config", {}).items())
    ]


def _provenance_rows(dataset):
    taken = (dataset.get("subset") or {}).get("taken") or []
    return [
        ("Part of the split", "; ".join(_settings(step) for step in taken)),
        ("Derived from", ", ".join(map(_hub_dataset, _source_ids(dataset)))),
        ("Configuration", dataset.get("config")),
        ("Revision", dataset.get("revision")),
        ("Fingerprint", dataset.get("fingerprint") and f"`{dataset['fingerprint']}`"),
    ]


def _source_ids(dataset):
    # Dataset cards also write words such as "original" there; a Hub id has an owner.
    return [source for source in dataset.get("source_datasets") or [] if "/" in source]


def _hub_dataset(dataset_id, text=None):
    return f"[{text or dataset_id}](https://huggingface.co/datasets/{dataset_id})"


def _present(rows):
    return [(label, text) for label, text in rows if text]


def _settings(table):
    pairs = ((key, _toml(value)) for key, value in table.items() if value not in (None, ""))
    return ", ".join(f"`{key} = {text}`" for key, text in pairs)


def _toml(value):
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value)


def _value(value):
    """A scalar or list for reading; "" for None."""
    if value is None:
        return ""
    if isinstance(value, list):
        return f"({', '.join(map(_value, value))})"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if type(value) is int else str(value)


def _duration(seconds):
    if seconds is None:
        return ""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "under 1 s"
