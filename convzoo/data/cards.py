"""Read the front matter of the README of a dataset."""

from pathlib import Path
from typing import Any

import fsspec

from convzoo.data.remote import patiently


def read_card(root: str) -> dict[str, Any]:
    """Read the front matter of the README of a dataset.

    Args:
        root: address of the folder that has it.

    Raises:
        ValueError: if it is no YAML.
        OSError: if the Hub cannot be reached, in spite of several tries.
    """
    import yaml

    readme = f"{root}/README.md"

    def read() -> str:
        if "://" not in readme:
            return Path(readme).read_text(encoding="utf-8")
        with fsspec.open(readme, "r", encoding="utf-8") as handle:
            return str(handle.read())

    try:
        text = patiently(readme, read)
    except FileNotFoundError:
        return {}
    parts = text.split("---\n", 2)
    try:
        return (yaml.safe_load(parts[1]) or {}) if len(parts) == 3 and not parts[0] else {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"{readme} must start with valid YAML between --- lines; {error}"
        ) from error
