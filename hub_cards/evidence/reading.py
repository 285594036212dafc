"""Read the small files of a model folder: JSON, TOML and lines of JSON.

What cannot be read is refused with the name of the file and what to do about it.
"""

import json
import tomllib
from pathlib import Path
from typing import NoReturn

from hub_cards.files import Record

SCHEMA_VERSION = 1


def read_json(folder: Path, name: str) -> Record | None:
    """Read a JSON object; None where there is no such file.

    Raises:
        ValueError: if it is no JSON object of finite numbers, or of another schema version.
    """
    text = _read_text(folder, name)
    if text is None:
        return None
    value = _parse_json(text, folder / name)
    if value.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise ValueError(
            f"schema_version in {folder / name} must be {SCHEMA_VERSION}; got "
            f"{value['schema_version']!r}. Write it again with this version of convzoo."
        )
    return value


def read_required_json(folder: Path, name: str) -> Record:
    """Read a JSON object that every model folder has.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as for `read_json`.
    """
    value = read_json(folder, name)
    if value is None and (folder / "model" / name).is_file():
        raise FileNotFoundError(
            f"{name} is missing in {folder}, which is the folder of a run; its model is in "
            f"{folder / 'model'}. Give that."
        )
    if value is None:
        raise FileNotFoundError(
            f"{name} is missing in {folder}; a card describes a finished model folder. "
            "Save the model and its image processor there with save_pretrained."
        )
    return value


def read_recipe(folder: Path) -> Record:
    """Read recipe.toml, all of whose keys are sections; {} where there is none.

    Raises:
        ValueError: if it is no TOML, or a key is no section.
    """
    text = _read_text(folder, "recipe.toml")
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


def read_metrics(folder: Path) -> tuple[Record, ...]:
    """Read the lines of metrics.jsonl; () where there is none.

    Raises:
        ValueError: if a line is no JSON object.
    """
    text = _read_text(folder, "metrics.jsonl") or ""
    return tuple(
        _parse_json(line, f"line {number} of {folder / 'metrics.jsonl'}")
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    )


def require(table: object, dotted: str, kind: type, *, where: str | Path, remedy: str = "") -> None:
    """Refuse a table that has no value of a type under a dotted key.

    Raises:
        ValueError: with the key, the type, what was found, and the remedy.
    """
    value = table
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, (int, float) if kind is float else kind):
        raise ValueError(
            f"{dotted} of {where} must be of type {kind.__name__}; got {value!r}. {remedy}"
        )


def _read_text(folder: Path, name: str) -> str | None:
    path = folder / name
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text; {error}. Write it again.") from error


def _parse_json(text: str, where: str | Path) -> Record:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no finite number")

    try:
        value = json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise ValueError(f"{where} must be valid JSON; {error}. Write it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where} must hold a JSON object; got {type(value).__name__}")
    return value
