"""Recipes are read from TOML files, overridden on the command line, compared and written.

TOML because it is inert (safe to publish with the weights and to read back) and exact (`1e-4` stays
a number). A default stands once, in settings.py; an unknown or ill-typed key is an error that names
the file and the nearest key. The command line can only override a value: `section.key=value`.

`convzoo recipe` prints every key with its default and meaning;
`convzoo recipe recipes/quickstart.toml` prints a recipe with all defaults filled in.
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from convzoo.recipe.rules import (
    check_recipe,
    choices,
    describe,
    explain,
    is_folder_name,
    limits,
    nearest,
)
from convzoo.recipe.settings import Recipe, sections

# Settings that a run may change when it resumes: they move no weight. That data and pretrained
# weights lie elsewhere is harmless: a checkpoint knows the fingerprint of its data.
HARMLESS = {
    "run": (
        "name",
        "output_dir",
        "license",
        "license_name",
        "publish",
        "resume",
        "trackers",
        "push_to",
        "push_private",
    ),
    "finetune": ("pretrained", "revision"),
    "data": (
        "path",
        "revision",
        "examples",
        "num_workers",
        "max_unreadable_share",
        "cache_dir",
        "cache_gb",
    ),
    "monitor": ("names", "every_steps"),
    "train": (
        "log_every_steps",
        "eval_batch_size",
        "checkpoint_every_epochs",
        "keep_checkpoints",
        "keep_best",
    ),
}


# Harmless, too, unless evaluations decide: the learning rate on a plateau, which one is best, or
# when training ends.
EVALUATION = {
    "data": ("eval_split", "eval_limit"),
    "train": ("evaluate_every_epochs", "eval_crops"),
}


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a TOML recipe, apply `section.key=value` overrides and check every value.

    Args:
        path: a recipe file.
        overrides: assignments such as `train.epochs=1` or `model.depths=[1, 1, 1, 1]`; the value is
            TOML, a bare word is taken as text.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not TOML, or a section, key, type or range is wrong.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(recipe.name for recipe in path.parent.glob("*.toml"))
        hint = nearest(path.name, known) if known else f"; no .toml file is in {path.parent}"
        raise FileNotFoundError(f"recipe {path} does not exist{hint}")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a TOML file; {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"{name} in {path} must be a section, as in [{name}]; got {table!r}")
    for override in overrides:
        section, key, value = parse_override(override)
        tables.setdefault(section, {})[key] = value
    run = tables.setdefault("run", {})
    run["name"] = run.get("name") or _name_of_run(path)
    return recipe_from_tables(tables, source=str(path))


def _name_of_run(path: Path) -> str:
    """Name a run after its recipe: the file's stem as it is, or what of it a folder can have."""
    if is_folder_name(path.stem):
        return path.stem
    name = re.sub(r"[^\w.-]+", "-", path.stem).strip("-.")
    if not name:
        raise ValueError(
            f"the name of {path} must have a letter or a digit, for the folder of its run; got "
            f"{path.stem!r}. Rename it or set run.name"
        )
    return name


def recipe_from_tables(tables: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Build a Recipe from nested dictionaries, as `tomllib.load` returns them.

    Args:
        tables: section name -> key -> value.
        source: what error messages call the recipe.

    Raises:
        ValueError: if a section, key, type or range is wrong, or keys contradict each other.
    """
    try:
        recipe = Recipe.model_validate(_fold_model(tables))
    except ValidationError as error:
        raise ValueError(explain(error, source)) from error
    check_recipe(recipe, source)
    return recipe


def _fold_model(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables with the fields of the model's configuration in a dictionary of their own."""
    config = tables.get("model", {})
    if not isinstance(config, Mapping):
        return dict(tables)
    config = dict(config)
    model_type = config.pop("model_type", "")
    finetune = tables.get("finetune", {})
    if model_type == "" and not (isinstance(finetune, Mapping) and finetune.get("pretrained")):
        model_type = "cnn"
    return {**tables, "model": {"model_type": model_type, "config": config}}


def recipe_to_tables(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The inverse of `recipe_from_tables`, defaults included."""
    tables = recipe.model_dump()
    tables["model"] |= tables["model"].pop("config")
    return tables


def recipe_to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML text that `load_recipe` reads back to an equal Recipe."""
    lines = []
    for section, table in recipe_to_tables(recipe).items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {toml_value(value)}" for key, value in table.items()]
        lines.append("")
    return "\n".join(lines)


def recipe_differences(old: Recipe, new: Recipe) -> list[str]:
    """Settings that change a run's result and differ, as "train.epochs: 6.0 -> 5.0"."""
    old_tables, new_tables = recipe_to_tables(old), recipe_to_tables(new)
    decided = evaluations_decide(old) or evaluations_decide(new)
    differences = []
    for section in old_tables:
        before, after = old_tables[section], new_tables[section]
        harmless = {*HARMLESS.get(section, ()), *(() if decided else EVALUATION.get(section, ()))}
        differences += [
            f"{section}.{key}: {before.get(key)} -> {after.get(key)}"
            for key in sorted({*before, *after} - harmless)
            if before.get(key) != after.get(key)
        ]
    return differences


def evaluations_decide(recipe: Recipe) -> bool:
    """Tell whether evaluations decide over the learning rate, what is kept, or the end."""
    return bool(
        recipe.schedule.name == "plateau"
        or recipe.keeps_best
        or recipe.train.early_stopping_patience
    )


def describe_settings() -> str:
    """Every section and key with its default, range and meaning, as commented TOML."""
    lines = []
    for name, section in sections().items():
        lines.append(f"[{name}]  # {section.__doc__}")
        for key, schema in describe(section).items():
            about = schema["description"]
            if key == "config":
                lines.append(f"# ... {about}")
                continue
            if options := choices(schema):
                about += f" One of {', '.join(options)}."
            if "minimum" in schema and "maximum" not in schema:
                about += f" At least {schema['minimum']}."
            elif (interval := limits(schema)) != "[-inf, inf]":
                about += f" In {interval}."
            lines.append(f"{key} = {toml_value(section.model_fields[key].default)}  # {about}")
        lines.append("")
    return "\n".join(lines)


def parse_override(text: str) -> tuple[str, str, Any]:
    """Read `section.key=value`; the value is TOML, or else text, as it is where a key takes texts.

    Raises:
        ValueError: if it is none.
    """
    target, equals, value = text.partition("=")
    section, dot, key = target.strip().partition(".")
    if not (equals and dot and section and key):
        raise ValueError(f"an override must look like section.key=value; got {text!r}")
    try:
        found = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return section, key, value.strip()
    fields = sections()[section].model_fields if section in sections() else {}
    if key in fields and fields[key].annotation is str and not isinstance(found, str):
        return section, key, value.strip()  # run.name=2026-11-28
    return section, key, found


def toml_value(value: object) -> str:
    """Write a value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        items = [f"{toml_value(key)} = {toml_value(item)}" for key, item in value.items()]
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, except for DEL, which JSON leaves raw.
        return json.dumps(value).replace("\x7f", "\\u007f")
    return repr(value)
