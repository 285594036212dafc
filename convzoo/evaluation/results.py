"""The file `eval_results.json` of a model folder: one entry per dataset, split and protocol."""

import json
from pathlib import Path

from convzoo.files import write_text

LINE = 110  # columns: a class or a bin fits


def record_result(model_folder: Path, result: dict) -> None:
    """Put a result into `eval_results.json`, replacing one of the same data and protocol.

    Results of other weights than the folder's are dropped: they would not be true any more.
    """
    path = model_folder / "eval_results.json"
    previous = json.loads(path.read_text(encoding="utf-8"))["results"] if path.is_file() else []
    kept = [
        old
        for old in previous
        if old["model"]["sha256"] == result["model"]["sha256"]
        and _what_was_measured(old) != _what_was_measured(result)
    ]
    content = {"schema_version": 1, "results": [*kept, result]}
    write_text(path, readable_json(content) + "\n")


def readable_json(value, indent: int = 0) -> str:
    """JSON with a list or table on one line where it fits there; a class is a line, not six.

    Args:
        value: what `json.dumps` takes.
        indent: columns before the text.
    """
    text = json.dumps(value)
    if not isinstance(value, dict | list) or indent + len(text) < LINE:
        return text
    deeper = indent + 2
    if isinstance(value, dict):
        opening, closing = "{}"
        parts = [f"{json.dumps(key)}: {readable_json(value[key], deeper)}" for key in value]
    else:
        opening, closing = "[]"
        parts = [readable_json(item, deeper) for item in value]
    inside = ",\n".join(" " * deeper + part for part in parts)
    return f"{opening}\n{inside}\n{' ' * indent}{closing}"


def _what_was_measured(result):
    return result["dataset"]["fingerprint"], result["dataset"]["split"], result["protocol"]
