"""Values of result files as text for people."""

import json
import re

from hub_cards.evidence.folder import Evidence

Rows = list[tuple[str, str]]


def percent(fraction: float) -> str:
    """A fraction as text in percent, with two decimals."""
    return f"{100 * fraction:.2f} %"


def scalar(value) -> str:
    """A number, text or list for reading; "" for None."""
    if value is None:
        return ""
    if isinstance(value, list):
        return f"({', '.join(map(scalar, value))})"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if type(value) is int else str(value)


def settings(table: dict) -> str:
    """Settings as one writes them in TOML, those without a value left out."""
    pairs = ((key, _toml(value)) for key, value in table.items() if value not in (None, ""))
    return ", ".join(f"`{key} = {text}`" for key, text in pairs)


def _toml(value):
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value)


def duration(seconds: float | None) -> str:
    """Seconds as hours, minutes and seconds; "" for None."""
    if seconds is None:
        return ""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "under 1 s"


def joined(parts, separator: str = ", ") -> str:
    """The texts that say something, one after another."""
    return separator.join(str(part) for part in parts if part)


def present(rows: Rows) -> Rows:
    """The rows that say something."""
    return [(label, text) for label, text in rows if text]


def plain(text: str) -> str:
    """Text whose brackets, backticks and the like Markdown shows as they are."""
    return re.sub(r"([\\\[\]`*<])", r"\\\1", text)


def hub_dataset(dataset_id: str, text: str | None = None) -> str:
    """A link to a dataset of the Hub."""
    return f"[{text or dataset_id}](https://huggingface.co/datasets/{dataset_id})"


def dataset_name(dataset: dict) -> str:
    """The dataset's name; for a part of a split, with the number of images of the whole."""
    name = dataset.get("name") or dataset.get("id") or dataset.get("path") or ""
    subset = dataset.get("subset")
    return f"{name}, part of {subset['of']:,} images" if subset else name


def dataset_link(dataset: dict) -> str:
    """The dataset's name, linked when it is on the Hub."""
    name = dataset_name(dataset)
    return hub_dataset(dataset["id"], name) if dataset.get("id") else name


def source_ids(dataset: dict) -> list[str]:
    """Hub ids of the datasets that one was derived from."""
    # Dataset cards also write words such as "original" there; a Hub id has an owner.
    return [source for source in dataset.get("source_datasets") or [] if "/" in source]


def provenance_rows(dataset: dict) -> Rows:
    """Where a dataset comes from, and which version of it was read."""
    taken = (dataset.get("subset") or {}).get("taken") or []
    return [
        ("Part of the split", "; ".join(settings(step) for step in taken)),
        ("Derived from", ", ".join(map(hub_dataset, source_ids(dataset)))),
        ("Configuration", dataset.get("config") or ""),
        ("Revision", dataset.get("revision") or ""),
        ("Fingerprint", f"`{dataset['fingerprint']}`" if dataset.get("fingerprint") else ""),
    ]


def environment_rows(record: dict, evidence: Evidence | None = None) -> Rows:
    """Hardware, software and date of a measurement.

    Args:
        record: a result file.
        evidence: leave out hardware and software that are those of this folder's training.
    """
    environment = record.get("environment") or {}
    trained = (evidence.train_results if evidence else None) or {}
    if environment and environment == trained.get("environment"):
        machine = [("Hardware, software", "as for the training")]
    else:
        cores = environment.get("cpu_count")
        hardware = [environment.get("accelerator"), environment.get("processor")]
        versions = {"Python": environment.get("python"), **(environment.get("versions") or {})}
        machine = [
            ("Hardware", joined([*hardware, cores and f"{cores} CPU cores"])),
            ("Software", joined(f"{name} {text}" for name, text in versions.items() if text)),
        ]
    return [*machine, ("Date", (record.get("date") or "").partition("T")[0])]
