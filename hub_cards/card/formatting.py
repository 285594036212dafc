"""Values of result files as text for people."""

import json
import re
from collections.abc import Iterable
from urllib.parse import quote

from hub_cards.evidence.folder import Evidence
from hub_cards.files import Record

Rows = list[tuple[str, str]]
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def percent(fraction: float) -> str:
    """A fraction as text in percent, with two decimals."""
    return f"{100 * fraction:.2f} %"


def scalar(value: object) -> str:
    """A number, text or list for reading; "" for None."""
    if value is None:
        return ""
    if isinstance(value, list):
        return f"({', '.join(map(scalar, value))})"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if type(value) is int else str(value)


def settings(table: Record) -> str:
    """Settings as one writes them in TOML, those without a value left out."""
    pairs = ((key, _toml(value)) for key, value in table.items() if value not in (None, ""))
    return ", ".join(code(f"{key} = {text}") for key, text in pairs)


def _toml(value: object) -> str:
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


def joined(parts: Iterable[object], separator: str = ", ") -> str:
    """The texts that say something, one after another."""
    return separator.join(str(part) for part in parts if part)


def present(rows: Rows) -> Rows:
    """The rows that say something."""
    return [(label, text) for label, text in rows if text]


def plain(text: object) -> str:
    """Escape text that others chose, so that Markdown shows it as it is, on one line.

    Links, images, HTML, mentions and addresses in it stay text. What no person can see is left
    out: control characters, and marks that turn the direction of writing.
    """
    seen = "".join(sign if sign.isprintable() else " " for sign in str(text))
    shown = re.sub(r"([\\\[\]`*<&@~])|(?<![^\W_])(_)|(_)(?![^\W_])", r"\\\g<0>", seen)
    shown = re.sub(r"(?i)\b(https?|ftp|mailto|xmpp)(:)|\b(www)(\.)", r"\1\3\\\2\4", shown)
    return re.sub(r"\A(\s*)([#>+=|-]|\d+(?=[.)]))", _escape_start, shown)


def _escape_start(match: re.Match[str]) -> str:
    """Escape what would begin a heading, a quotation or a list at the start of a line."""
    sign = match[2]
    return f"{match[1]}{sign}\\" if sign.isdecimal() else f"{match[1]}\\{sign}"


def code(text: object) -> str:
    """Show text that others chose as code within a line."""
    seen = "".join(sign if sign.isprintable() else " " for sign in str(text))
    return f"`{seen.replace('`', chr(39))}`"


def link(text: str, address: str) -> str:
    """Link a text, which is Markdown, to a web address; without a link to other addresses."""
    if not re.match(r"https?://", address):
        return text
    return f"[{text}]({quote(address, safe=':/?#@!$&*+,;=%~')})"


def hub_dataset(dataset_id: str, text: str | None = None) -> str:
    """A link to a dataset of the Hub; the text is Markdown."""
    return link(text or plain(dataset_id), f"https://huggingface.co/datasets/{dataset_id}")


def dataset_name(dataset: Record) -> str:
    """The dataset's name; for a part of a split, which part and the number of images of all."""
    name = str(dataset.get("name") or dataset.get("id") or dataset.get("path") or "")
    subset = dataset.get("subset")
    if not subset:
        return name
    sides = [step.get("part") for step in subset.get("taken") or []]
    part = "validation share" if "validation" in sides else "part"
    return f"{name}, {part} of {subset['of']:,} images"


def dataset_link(dataset: Record) -> str:
    """The dataset's name as Markdown, linked when it is on the Hub."""
    name = plain(dataset_name(dataset))
    return hub_dataset(dataset["id"], name) if dataset.get("id") else name


def source_ids(dataset: Record) -> list[str]:
    """Hub ids of the datasets that one was derived from."""
    # Dataset cards also write words such as "original" there; a Hub id has an owner.
    return [source for source in dataset.get("source_datasets") or [] if "/" in source]


def provenance_rows(dataset: Record) -> Rows:
    """Tell where a dataset comes from, and which version of it was read."""
    taken = (dataset.get("subset") or {}).get("taken") or []
    return [
        ("Part of the split", "; ".join(settings(step) for step in taken)),
        ("Derived from", ", ".join(map(hub_dataset, source_ids(dataset)))),
        ("Configuration", plain(dataset.get("config") or "")),
        ("Revision", plain(dataset.get("revision") or "")),
        ("Fingerprint", code(dataset["fingerprint"]) if dataset.get("fingerprint") else ""),
    ]


def environment_rows(record: Record, evidence: Evidence | None = None) -> Rows:
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
            ("Hardware", plain(joined([*hardware, cores and f"{cores} CPU cores"]))),
            (
                "Software",
                plain(joined(f"{name} {text}" for name, text in versions.items() if text)),
            ),
        ]
    return [*machine, ("Date", plain((record.get("date") or "").partition("T")[0]))]
