"""A recipe: every setting of a training run, read from TOML into frozen dataclasses.

TOML because it is inert (safe to publish with the weights and to read back) and exact (`1e-4` stays
a number). A default stands once, here; an unknown or ill-typed key is an error that names the file
and the nearest key. The command line can only override a value: `section.key=value`.

`python -m convzoo recipe` prints every key with its default and meaning;
`python -m convzoo recipe recipes/quickstart.toml` prints a recipe with all defaults filled in.
"""

import dataclasses
import difflib
import json
import math
import re
import tomllib
import types
import typing
from pathlib import Path

from convzoo.recipe.settings import Finetune, Model, Recipe, family_fields, num_channels

# Settings that a run may change when it resumes: they move no weight. That data and pretrained
# weights lie elsewhere is harmless: a checkpoint knows the fingerprint of its data.
HARMLESS = {
    "run": ("name", "output_dir", "license", "resume", "trackers", "push_to", "push_private"),
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


# Harmless, too, unless evaluations decide: the learning rate on a plateau, or which one is best.
EVALUATION = {
    "data": ("eval_split", "eval_limit"),
    "train": ("evaluate_every_epochs", "eval_crops"),
}


def load_recipe(path: str | Path, overrides: typing.Sequence[str] = ()) -> Recipe:
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
        hint = _nearest(path.name, known) if known else f"; no .toml file is in {path.parent}"
        raise FileNotFoundError(f"recipe {path} does not exist{hint}")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a TOML file; {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"{name} in {path} must be a section, as in [{name}]; got {table!r}")
    for override in overrides:
        section, key, value = _parse_override(override)
        tables.setdefault(section, {})[key] = value
    run = tables.setdefault("run", {})
    run["name"] = run.get("name") or path.stem
    return recipe_from_tables(tables, source=str(path))


def recipe_from_tables(tables: dict, source: str = "recipe") -> Recipe:
    """Build a Recipe from nested dictionaries, as `tomllib.load` returns them.

    Args:
        tables: section name -> key -> value.
        source: what error messages call the recipe.

    Raises:
        ValueError: if a section, key, type or range is wrong.
    """
    sections = {section.name: section.type for section in dataclasses.fields(Recipe)}
    built = {}
    for name, table in tables.items():
        if name not in sections:
            raise ValueError(f"unknown section [{name}] in {source}{_nearest(name, sections)}")
        if not isinstance(table, dict):
            raise ValueError(f"{name} in {source} must be a section, as in [{name}]; got {table!r}")
        if name != "model":
            built[name] = _section(sections[name], table, f"{source} [{name}]")
    finetune = built.get("finetune", Finetune())
    built["model"] = _model_section(tables.get("model", {}), source, finetune)
    recipe = Recipe(**built)
    if finetune.frozen_stages and not finetune.pretrained:
        raise ValueError(
            f"finetune.frozen_stages in {source} needs finetune.pretrained: fresh weights must "
            f"train; got {finetune.frozen_stages}"
        )
    if recipe.run.name in (".", "..") or not re.fullmatch(r"[\w.-]*", recipe.run.name):
        raise ValueError(
            f"run.name in {source} must be a folder name of letters, digits, '.', '-', '_'; got "
            f"{recipe.run.name!r}. Folders above it go into run.output_dir"
        )
    if recipe.train.global_batch_size % recipe.augmentation.repeats:
        raise ValueError(
            f"train.global_batch_size in {source} must be a multiple of augmentation.repeats, "
            f"{recipe.augmentation.repeats}; got {recipe.train.global_batch_size}"
        )
    if bool(recipe.augmentation.first_crop) != bool(recipe.augmentation.growing_epochs):
        raise ValueError(
            f"augmentation.first_crop and growing_epochs in {source} must be set together; got "
            f"{recipe.augmentation.first_crop} and {recipe.augmentation.growing_epochs}"
        )
    evaluates = recipe.data.eval_split and recipe.train.evaluate_every_epochs
    if not evaluates and (recipe.schedule.name == "plateau" or recipe.train.keep_best):
        raise ValueError(
            f"schedule.name='plateau' and train.keep_best in {source} need data.eval_split and "
            f"train.evaluate_every_epochs above 0"
        )
    for key in ("mean", "std"):
        values = getattr(recipe.preprocessing, key)
        if len(values) != num_channels(recipe.model):
            raise ValueError(
                f"preprocessing.{key} in {source} must have one number for each channel, "
                f"{num_channels(recipe.model)}; got {values}"
            )
    if not recipe.data.path:
        raise ValueError(f"data.path must be set in {source}: a folder or a Hub dataset id")
    return recipe


def recipe_to_tables(recipe: Recipe) -> dict:
    """The inverse of `recipe_from_tables`, defaults included."""
    tables = dataclasses.asdict(recipe)
    tables["model"] |= tables["model"].pop("config")
    return tables


def recipe_to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML text that `load_recipe` reads back to an equal Recipe."""
    lines = []
    for section, table in recipe_to_tables(recipe).items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml_value(value)}" for key, value in table.items()]
        lines.append("")
    return "\n".join(lines)


def recipe_differences(old: Recipe, new: Recipe) -> list[str]:
    """Settings that change a run's result and differ, as "train.epochs: 6.0 -> 5.0"."""
    old_tables, new_tables = recipe_to_tables(old), recipe_to_tables(new)
    decided = any(
        recipe.schedule.name == "plateau" or recipe.train.keep_best for recipe in (old, new)
    )
    differences = []
    for section in old_tables:
        before, after = old_tables[section], new_tables[section]
        harmless = {*HARMLESS.get(section, ()), *(() if decided else EVALUATION.get(section, ()))}
        for key in sorted({*before, *after} - harmless):
            if before.get(key) != after.get(key):
                differences.append(f"{section}.{key}: {before.get(key)} -> {after.get(key)}")
    return differences


def describe_settings() -> str:
    """Every section and key with its default, range and meaning, as commented TOML."""
    lines = []
    for section in dataclasses.fields(Recipe):
        lines.append(f"[{section.name}]  # {section.type.__doc__}")
        for setting in dataclasses.fields(section.type):
            if setting.name == "config":
                lines.append(f"# ... {setting.metadata['doc']}")
                continue
            about = setting.metadata["doc"]
            if choices := [str(c) for c in setting.metadata["choices"] or () if c != ""]:
                about += f" ({' | '.join(choices)})"
            low, high = setting.metadata["low"], setting.metadata["high"]
            if low is not None:
                about += f"; at least {low}" if high is None else f"; in [{low}, {high}]"
            lines.append(f"{setting.name} = {_toml_value(setting.default)}  # {about}")
        lines.append("")
    return "\n".join(lines)


def _parse_override(text):
    target, equals, value = text.partition("=")
    section, dot, key = target.strip().partition(".")
    if not (equals and dot and section and key):
        raise ValueError(f"an override must look like section.key=value; got {text!r}")
    try:
        return section, key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return section, key, value.strip()


def _model_section(table, source, finetune):
    from modeling import FAMILIES

    table = dict(table)
    where = f"{source} [model]"
    model_type = table.pop("model_type", "")
    known = [family.model_type for family in FAMILIES]
    if model_type not in ("", *known):
        raise ValueError(
            f"model_type in {where} must be one of {', '.join(known)}; got {model_type!r}"
        )
    if not finetune.pretrained:
        model_type = model_type or "cnn"
    families = [family for family in FAMILIES if model_type in (family.model_type, "")]
    names = dict.fromkeys(name for family in families for name in family_fields(family))
    for key in table:
        if key not in names:
            raise ValueError(f"unknown key '{key}' in {where}{_nearest(key, names)}")
    if not finetune.pretrained:  # else the rest of the configuration is not known yet
        families[0](**table)  # its own validation names field, value and rule
    return Model(model_type=model_type, config=table)


def _section(section_class, table, where):
    settings = section_class.__dataclass_fields__
    values = {}
    for key, value in table.items():
        if key not in settings:
            raise ValueError(f"unknown key '{key}' in {where}{_nearest(key, settings)}")
        values[key] = _check(key, value, settings[key], where)
    return section_class(**values)


def _check(key, value, setting, where):
    """The value in the setting's type, or ValueError."""
    kind = setting.type
    if typing.get_origin(kind) is tuple:
        item_type = typing.get_args(kind)[0]
        may_be_empty = setting.default == ()
        if not isinstance(value, list | tuple) or not (value or may_be_empty):
            items = {float: "numbers", str: "texts"}[item_type]
            raise ValueError(f"{key} in {where} must be a list of {items}; got {value!r}")
        values = tuple(_check_scalar(key, item, item_type, setting, where) for item in value)
        rule = {
            "range": (
                "two numbers, the smaller first",
                len(values) == 2 and values[0] <= values[-1],
            ),
            "pair": ("two numbers", len(values) == 2),
        }.get(setting.metadata["kind"], ("", True))
        if values and not rule[1]:
            raise ValueError(f"{key} in {where} must be {rule[0]}; got {value}")
        return values
    return _check_scalar(key, value, kind, setting, where)


def _check_scalar(key, value, kind, setting, where):
    if kind is float and type(value) is int:
        value = float(value)
    if kind is str and type(value) is int:  # run.name=2024
        value = str(value)
    if type(value) is not kind:
        raise ValueError(f"{key} in {where} must be of type {kind.__name__}; got {value!r}")
    limits = types.SimpleNamespace(**setting.metadata)
    if limits.choices and value not in limits.choices:
        options = ", ".join(str(choice) for choice in limits.choices if choice != "")
        raise ValueError(f"{key} in {where} must be one of {options}; got {value!r}")
    too_low = limits.low is not None and not value >= limits.low
    too_high = limits.high is not None and not value <= limits.high
    if too_low or too_high or (kind is float and not math.isfinite(value)):
        low = "-inf" if limits.low is None else limits.low
        high = "inf" if limits.high is None else limits.high
        rule = (
            f"be finite and lie in [{low}, {high}]" if kind is float else f"lie in [{low}, {high}]"
        )
        raise ValueError(f"{key} in {where} must {rule}; got {value}")
    return value


def _nearest(name, known):
    match = difflib.get_close_matches(name, list(known), n=1)
    if match:
        return f"; did you mean '{match[0]}'?"
    return f"; known: {', '.join(known)}"


def _toml_value(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, except for DEL, which JSON leaves raw.
        return json.dumps(value).replace("\x7f", "\\u007f")
    return repr(value)
