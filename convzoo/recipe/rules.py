"""Rules that hold between the keys of a recipe, and how a broken rule is told.

A message names the key and the file, says the rule, what was given and, for an unknown key, the
nearest one.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from convzoo.recipe.settings import Recipe, Section, family_fields, num_channels, sections


def check_recipe(recipe: Recipe, source: str) -> None:
    """Raise ValueError for the first rule between keys that a recipe breaks."""
    for rules in (_family_rules, _run_rules, _model_rules, _length_rules, _data_rules):
        for message in rules(recipe, source):
            raise ValueError(message)


def _family_rules(recipe: Recipe, source: str) -> Iterator[str]:
    """[model] names a family and fields of its configuration, which checks their values."""
    from modeling import FAMILIES

    model_type, config = recipe.model.model_type, recipe.model.config
    known = [family.model_type for family in FAMILIES]
    if model_type not in ("", *known):
        yield (
            f"model_type in {source} [model] must be one of {', '.join(known)}; got {model_type!r}"
        )
    families = [family for family in FAMILIES if model_type in (family.model_type, "")]
    names = dict.fromkeys(name for family in families for name in family_fields(family))
    for key in config:
        if key not in names:
            yield f"unknown key '{key}' in {source} [model]{nearest(key, names)}"
    if not recipe.finetune.pretrained:  # else the rest of the configuration is not known yet
        check_fields(families[0], config, source)


def check_fields(family: type, fields: Mapping[str, Any], source: str) -> None:
    """Let a family's configuration check its fields.

    Raises:
        ValueError: if one has a wrong type, or breaks a rule of the family, which it names.
    """
    from huggingface_hub.errors import StrictDataclassFieldValidationError

    try:
        family(**fields)
    except StrictDataclassFieldValidationError as error:
        key = str(error).split("'")[1]
        kind = family.__annotations__[key]
        name = kind.__name__ if isinstance(kind, type) else str(kind).partition(" | tuple")[0]
        raise ValueError(
            f"{key} in {source} [model] must be of type {name}; got {fields[key]!r}"
        ) from error


def is_folder_name(name: str) -> bool:
    """Tell whether a run's folder can have this name."""
    return name not in (".", "..") and re.fullmatch(r"[\w.-]+", name) is not None


def _run_rules(recipe: Recipe, source: str) -> Iterator[str]:
    name = recipe.run.name
    if name and not is_folder_name(name):
        yield (
            f"run.name in {source} must be a folder name of letters, digits, '.', '-', '_'; got "
            f"{name!r}. Folders above it go into run.output_dir"
        )


def _model_rules(recipe: Recipe, source: str) -> Iterator[str]:
    finetune = recipe.finetune
    if finetune.frozen_stages and not finetune.pretrained:
        yield (
            f"finetune.frozen_stages in {source} needs finetune.pretrained: fresh weights must "
            f"train; got {finetune.frozen_stages}"
        )
    channels = num_channels(recipe.model)
    for key in ("mean", "std"):
        values = getattr(recipe.preprocessing, key)
        if len(values) != channels:
            yield (
                f"preprocessing.{key} in {source} must have one number for each channel, "
                f"{channels}; got {values}"
            )


def _length_rules(recipe: Recipe, source: str) -> Iterator[str]:
    train, augmentation, schedule = recipe.train, recipe.augmentation, recipe.schedule
    if train.global_batch_size % augmentation.repeats:
        yield (
            f"train.global_batch_size in {source} must be a multiple of augmentation.repeats, "
            f"{augmentation.repeats}; got {train.global_batch_size}"
        )
    if bool(augmentation.first_crop) != bool(augmentation.growing_epochs):
        yield (
            f"augmentation.first_crop and growing_epochs in {source} must be set together; got "
            f"{augmentation.first_crop} and {augmentation.growing_epochs}"
        )
    begin, end = augmentation.growing_from_epoch, augmentation.growing_epochs
    if begin and begin >= end:
        yield (
            f"augmentation.growing_from_epoch in {source} must be less than growing_epochs, {end}; "
            f"got {begin}"
        )
    if schedule.warmup_epochs > train.epochs:
        yield (
            f"schedule.warmup_epochs in {source} must be at most train.epochs, {train.epochs}; got "
            f"{schedule.warmup_epochs}. Shorten the warm-up, too"
        )


def _data_rules(recipe: Recipe, source: str) -> Iterator[str]:
    data = recipe.data
    if data.eval_split and data.eval_fraction:
        yield (
            f"data.eval_split and data.eval_fraction in {source} must not be set together; got "
            f"{data.eval_split!r} and {data.eval_fraction}. Leave one of them out"
        )
    evaluates = recipe.evaluates and recipe.train.evaluate_every_epochs
    following = {
        "schedule.name='plateau'": recipe.schedule.name == "plateau",
        "train.keep_best": recipe.train.keep_best,
        "train.early_stopping_patience": recipe.train.early_stopping_patience,
        "run.publish='best'": recipe.run.publish == "best",
    }
    for key in [key for key, is_set in following.items() if is_set and not evaluates]:
        yield (
            f"{key} in {source} needs data.eval_split or data.eval_fraction, and "
            f"train.evaluate_every_epochs above 0"
        )
    if not data.path:
        yield f"data.path must be set in {source}: a folder or a Hub dataset id"


def explain(error: ValidationError, source: str) -> str:
    """The first problem that pydantic found in a recipe, in the form of this file's messages."""
    problem = error.errors(include_url=False)[0]
    kind, given = problem["type"], problem["input"]
    section, *keys = (str(part) for part in problem["loc"])
    if not keys:
        if kind == "extra_forbidden":
            return f"unknown section [{section}] in {source}{nearest(section, sections())}"
        return f"{section} in {source} must be a section, as in [{section}]; got {given!r}"
    key, where, settings = keys[0], f"{source} [{section}]", describe(sections()[section])
    if kind == "extra_forbidden":
        return f"unknown key '{key}' in {where}{nearest(key, settings)}"
    return f"{key} in {where} must {_rule(settings[key], problem)}; got {given!r}"


def nearest(name: str, known: Iterable[str]) -> str:
    """End of a message about an unknown name: the nearest known one, or else all of them."""
    known = list(known)
    match = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{match[0]}'?" if match else f"; known: {', '.join(known)}"


def describe(section: type[Section]) -> dict[str, dict[str, Any]]:
    """Each key of a section as JSON schema; a list's has what holds for each of its values."""
    properties = section.model_json_schema()["properties"]
    return {key: schema | schema.get("items", {}) for key, schema in properties.items()}


def choices(schema: Mapping[str, Any]) -> list[str]:
    """Choices of a key's value; none if any value will do."""
    return [str(choice) for choice in schema.get("enum", ()) if choice != ""]


def limits(schema: Mapping[str, Any]) -> str:
    """Interval in which a number must lie, such as [0.0, 1.0]."""
    low = f"[{schema.get('minimum', '-inf')}"
    if "exclusiveMinimum" in schema:
        low = f"({schema['exclusiveMinimum']}"
    return f"{low}, {schema.get('maximum', 'inf')}]"


def _rule(schema: Mapping[str, Any], problem: Mapping[str, Any]) -> str:
    """The rule that a value breaks, as it follows "must"."""
    kind = problem["type"]
    if kind == "value_error":
        return f"be {problem['ctx']['error']}"
    if kind in ("tuple_type", "too_short"):
        return f"be a list of {'texts' if schema['type'] == 'string' else 'numbers'}"
    if options := choices(schema):
        return f"be one of {', '.join(options)}"
    if kind in ("int_type", "float_type", "bool_type", "string_type"):
        return f"be of type {kind.removesuffix('_type').replace('string', 'str')}"
    interval = f"lie in {limits(schema)}"
    return f"be finite and {interval}" if schema["type"] == "number" else interval
