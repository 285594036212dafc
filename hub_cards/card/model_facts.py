"""Facts about the model itself: formatted rows, each traceable to one file of the folder.

A fact that the folder does not hold yields no row; the template turns an empty table into
"Not measured.".
"""

import math
import re
import tomllib
from pathlib import Path

from hub_cards.card.formatting import (
    Rows,
    code,
    joined,
    link,
    percent,
    plain,
    present,
    scalar,
    settings,
    source_ids,
)
from hub_cards.evidence.folder import Evidence
from hub_cards.files import Record

QUOTED = tomllib.loads(
    Path(__file__).parent.with_name("quoted_results.toml").read_text(encoding="utf-8")
)
KNOWN = tomllib.loads(Path(__file__).with_name("known_datasets.toml").read_text(encoding="utf-8"))
CODE_LICENSE = "apache-2.0"
PIL_FILTERS = ("nearest", "Lanczos", "bilinear", "bicubic", "box", "Hamming")  # by PIL's number
MAX_NAMED_CLASSES = 20

# Keys of config.json that say nothing about the architecture.
GENERIC_CONFIG_KEYS = {
    "_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "model_type",
    "num_classes", "num_labels", "problem_type", "torch_dtype", "transformers_version",
}  # fmt: skip


def detail_rows(evidence: Evidence) -> Rows:
    """Size and identity of the weights, then the architecture's own settings."""
    weights, processor = evidence.weights, evidence.preprocessor
    fields = {k: v for k, v in evidence.config.items() if k not in GENERIC_CONFIG_KEYS}
    rows = [
        ("Parameters", f"{weights.num_parameters:,} ({short_count(weights.num_parameters)})"),
        ("Batch-norm buffers", scalar(weights.num_buffer_elements or None)),
        ("Multiply-adds per image", scalar(multiply_adds(evidence))),
        ("Speed", speed(evidence.speed_results)),
        ("Input", _input_shape(processor)),
        ("Classes", _class_names(evidence)),
        ("Weights", f"safetensors, {', '.join(weights.dtypes)}, {weights.num_bytes / 1e6:.1f} MB"),
        ("SHA-256 of the weights", f"`{weights.sha256}`"),
        ("Converted from", _origin(evidence.conversion)),
        ("Configuration", settings(fields)),
    ]
    return present(rows)


def speed(results: Record) -> str:
    """The fastest row of a benchmark, with its setting and its machine; "" without one."""
    own = [row for row in results.get("rows") or () if row.get("is_model")]
    if not own:
        return ""
    row, environment = max(own, key=lambda row: row["images_per_second"]), results["environment"]
    threads = results.get("threads")
    machine = environment["accelerator"] if threads is None else environment["processor"]
    setting = f"batch {row['batch_size']}, {row['dtype']}, {row['preparation']}"
    count = "" if threads is None else f", {threads} thread{'s' if threads > 1 else ''}"
    return f"{row['images_per_second']:,.1f} images per second ({setting}; {plain(machine)}{count})"


def multiply_adds(evidence: Evidence) -> int | None:
    """Multiplications with additions for one image, where a result file has them."""
    counts = (record.get("num_multiply_adds") for record in network_records(evidence))
    return next(filter(None, counts), None)


def network_records(evidence: Evidence) -> list[Record]:
    """The records that may say what was seen of the network in a forward pass."""
    evaluated = (result["model"] for result in evidence.eval_results)
    measured = evidence.speed_results.get("model") or {}
    return [evidence.train_results or {}, evidence.conversion, *evaluated, measured]


def short_count(count: int) -> str:
    """A large count in thousands (k) or millions (M)."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def _class_names(evidence: Evidence) -> str:
    """Count the classes, with their names when they are few and real."""
    labels = evidence.labels
    if all(re.fullmatch(r"LABEL_\d+", label) for label in labels):
        return f"{len(labels):,}, without names"
    if len(labels) > MAX_NAMED_CLASSES:
        return f"{len(labels):,}, named in [config.json](config.json)"
    return f"{len(labels)}: {', '.join(map(plain, labels))}"


def _origin(conversion: Record) -> str:
    source, project = conversion.get("source") or {}, conversion.get("project")
    return joined(
        [
            project and link(plain(conversion.get("format") or project), project),
            source.get("hub_id")
            and link(plain(source["hub_id"]), f"https://huggingface.co/{source['hub_id']}"),
            source.get("commit") and f"commit {code(source['commit'])}",
            source.get("file") and f"file {code(source['file'])}",
            source.get("sha256") and f"SHA-256 {code(source['sha256'])}",
            conversion.get("converter") and f"by {plain(conversion['converter'])}",
        ]
    )


def weights_license(evidence: Evidence) -> str:
    """The licence that the recipe names, or of the project that converted weights come from."""
    if evidence.conversion:
        listed = QUOTED["licenses"].get(evidence.conversion.get("project"), "unknown")
        return str(evidence.conversion.get("license") or listed)
    return str(evidence.recipe.get("run", {}).get("license") or CODE_LICENSE)


def license_name(evidence: Evidence) -> str | None:
    """The name that the recipe gives a licence that the Hub does not know."""
    name = evidence.recipe.get("run", {}).get("license_name")
    return str(name) if name and weights_license(evidence) == "other" else None


def preprocessing_steps(evidence: Evidence) -> list[str]:
    """The image processor's work, one sentence a step; a switch `do_...: false` leaves one out."""
    processor = evidence.preprocessor
    resizes, crops = does(processor, "resize"), does(processor, "center_crop")
    beyond = "" if resizes else ", with black beyond a smaller image"
    colours = "RGB" if processor["num_channels"] == 3 else "grey"
    edge, crop = processor["size"]["shortest_edge"], processor["crop_size"]
    resample, factor = PIL_FILTERS[processor["resample"]], processor["rescale_factor"]
    by_255 = math.isclose(factor, 1 / 255)
    rescale = "Divide the values by 255." if by_255 else f"Multiply the values by {factor:.6g}."
    mean, std = scalar(processor["image_mean"]), scalar(processor["image_std"])
    steps = [
        (processor.get("exif_rotation"), "Turn the image as its EXIF data says."),
        (True, f"Convert the image to {colours}, values 0 to 255."),
        (
            resizes,
            f"Resize the shorter side to {edge} pixels, keeping the aspect ratio ({resample}).",
        ),
        (crops, f"Cut out the centre, {crop['height']} x {crop['width']} pixels{beyond}."),
        (does(processor, "rescale") and factor != 1, rescale),
        (
            does(processor, "normalize"),
            f"Subtract the mean {mean} and divide by {std}, for each channel.",
        ),
    ]
    return [sentence for done, sentence in steps if done]


def does(processor: Record, step: str) -> bool:
    """Tell whether an image processor takes a step: it does unless its file says false."""
    return processor.get(f"do_{step}") is not False


def _input_shape(processor: Record) -> str:
    """Write the shape of what the image processor makes, channels first."""
    channels, crop = processor["num_channels"], processor["crop_size"]
    if does(processor, "center_crop"):
        return f"{channels} x {crop['height']} x {crop['width']}"
    if does(processor, "resize"):
        side = processor["size"]["shortest_edge"]
        return f"{channels} channels, {side} pixels at the shorter side"
    return f"{channels} channels, in the size that the image has"


def dataset_ids(dataset: Record) -> list[str]:
    """Hub ids of a dataset: its own, or those it was derived from."""
    return [dataset["id"]] if dataset.get("id") else source_ids(dataset)


def dataset_facts(dataset: Record) -> list[str]:
    """Repeat what is published about a dataset, or about those it was derived from."""
    return [fact for id in dataset_ids(dataset) for fact in KNOWN.get(id, {}).get("facts", ())]


def quoted_rows(evidence: Evidence) -> list[tuple[str, ...]]:
    """Quote what others report for these weights, or this architecture at ImageNet's classes."""
    if len(evidence.labels) != 1000:
        return []
    same_architecture = [
        result
        for result in QUOTED["results"]
        if result["model_type"] == evidence.model_type
        and result["num_parameters"] == evidence.weights.num_parameters
        and all(evidence.config.get(k) == v for k, v in result.get("config", {}).items())
    ]
    own = evidence.conversion.get("quoted")
    if own and any(result["url"] == own["url"] for result in same_architecture):
        own = None  # the same figures
    return [
        (
            result["name"],
            percent(result["top1_accuracy"]),
            percent(result["top5_accuracy"]) if "top5_accuracy" in result else "not reported",
            result["protocol"],
            f"[{result['source']}]({result['url']})",
        )
        for result in [*([own] if own else []), *same_architecture]
    ]
