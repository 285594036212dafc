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
from dataclasses import dataclass, field
from pathlib import Path

# Settings that a run may change when it resumes: they move no weight.
HARMLESS = {
    "run": ("name", "output_dir", "license", "resume"),
    "data": ("num_workers", "max_unreadable_share", "cache_dir", "cache_gb"),
    "train": (
        "log_every_steps",
        "evaluate_every_epochs",
        "eval_batch_size",
        "checkpoint_every_epochs",
        "keep_checkpoints",
    ),
}


def _setting(default, doc, low=None, high=None, choices=None, kind=None):
    """A field; kind is "range" for two ascending numbers, "pair" for two, "channels" for 3."""
    metadata = {"doc": doc, "low": low, "high": high, "choices": choices, "kind": kind}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Run:
    """What the run is called, where it writes, and its seed."""

    name: str = _setting("", "folder name of the run below output_dir; the recipe's own name if ''")
    output_dir: str = _setting("runs", "folder that holds runs")
    seed: int = _setting(42, "of weights, data order and augmentation", low=0, high=2**63 - 1)
    license: str = _setting("apache-2.0", "of the trained weights, for their card; a Hub id")
    resume: str = _setting(
        "auto",
        "'auto' goes on from the newest good checkpoint, 'never' needs an empty run folder",
        choices=("auto", "never"),
    )


@dataclass(frozen=True)
class Model:
    """Which family, and any field of its configuration class."""

    model_type: str = _setting("cnn", "model family", choices=("cnn", "alexnet", "qlnet"))
    config: dict = _setting(None, "fields of CNNConfig, AlexNetConfig or QLNetConfig")


@dataclass(frozen=True)
class Data:
    """Where the pictures come from."""

    path: str = _setting(
        "", "folder of parquet files or of pictures by class, or Hub dataset id; required"
    )
    name: str = _setting("", "configuration of a dataset that has several")
    revision: str = _setting("", "commit or tag of a Hub dataset; its newest commit if ''")
    train_split: str = _setting("train", "split that is trained on")
    eval_split: str = _setting("", "split that is evaluated on; none if ''")
    image_column: str = _setting("", "column with the pictures; the only image column if ''")
    label_column: str = _setting("", "column with the class numbers; the only class column if ''")
    examples: int = _setting(
        0, "evaluation pictures copied into the model folder; mind their licence", low=0
    )
    max_unreadable_share: float = _setting(
        0.001, "of the pictures; more unreadable ones stop training", low=0.0, high=1.0
    )
    num_workers: int = _setting(2, "decoding processes per training process; 0 = none", low=0)
    cache_dir: str = _setting("", "keeps row groups of a Hub dataset for later epochs; none if ''")
    cache_gb: float = _setting(200.0, "what cache_dir may hold, GB", low=0.0)
    shuffle_memory_mb: int = _setting(
        512, "undecoded bytes that one process may hold for shuffling, MB", low=1
    )


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation protocol; it becomes the published image processor."""

    resize: int = _setting(256, "length of the shorter side after resizing, pixels", low=1)
    crop: int = _setting(224, "side of the centre crop, also of training crops, pixels", low=1)
    interpolation: str = _setting(
        "bilinear", "resize filter, antialiased", choices=("bilinear", "bicubic")
    )
    rescale_factor: float = _setting(1 / 255, "multiplies pixel values 0..255", low=0.0)
    mean: tuple[float, ...] = _setting(
        (0.485, 0.456, 0.406), "subtracted per channel after rescaling", kind="channels"
    )
    std: tuple[float, ...] = _setting(
        (0.229, 0.224, 0.225), "divides per channel afterwards", low=1e-6, kind="channels"
    )


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training picture before it is a crop of `preprocessing.crop` pixels."""

    crop: str = _setting(
        "random_resized",
        "'random_resized' (Inception crop), 'padded' (pad, then random crop) or 'center'",
        choices=("random_resized", "padded", "center"),
    )
    scale: tuple[float, ...] = _setting(
        (0.08, 1.0), "area of a random resized crop, share", low=0.0, high=1.0, kind="range"
    )
    ratio: tuple[float, ...] = _setting(
        (3 / 4, 4 / 3), "width / height of that crop", low=1e-3, kind="range"
    )
    repeats: int = _setting(
        1, "views of a picture in a pass over the data; epochs keep their number of images", low=1
    )
    padding: int = _setting(4, "black border of a padded crop, pixels", low=0)
    horizontal_flip: float = _setting(0.5, "probability of mirroring", low=0.0, high=1.0)
    policy: str = _setting(
        "", "as timm writes it, rand-m9-mstd0.5, augmix-m3, or ta_wide; none if ''"
    )
    color_jitter: tuple[float, ...] = _setting(
        (0.0,), "strength of brightness, contrast, saturation, hue changes", low=0.0
    )
    pca_noise: str = _setting(
        "none",
        "colour noise along ImageNet's components (the 2012 paper) or the picture's own",
        choices=("none", "offset", "stretch"),
    )
    erasing: float = _setting(0.0, "probability of random erasing", low=0.0, high=1.0)
    erasing_area: tuple[float, ...] = _setting(
        (0.02, 0.33), "of an erased box, share", low=0.0, high=1.0, kind="range"
    )
    erasing_ratio: tuple[float, ...] = _setting(
        (0.3, 3.3), "height / width of the box", low=1e-3, kind="range"
    )
    erasing_max_count: int = _setting(1, "boxes in a picture, at most", low=1)
    erasing_fill: str = _setting("mean", "what fills a box", choices=("mean", "noise"))
    mixup_alpha: float = _setting(0.0, "of MixUp's Beta distribution; 0 = no MixUp", low=0.0)
    cutmix_alpha: float = _setting(0.0, "of CutMix's Beta distribution; 0 = no CutMix", low=0.0)
    mix_probability: float = _setting(1.0, "of mixing a batch, row or pair", low=0.0, high=1.0)
    mix_switch_probability: float = _setting(0.5, "of CutMix, with both on", low=0.0, high=1.0)
    mix_mode: str = _setting("batch", "one draw for all", choices=("batch", "elem", "pair"))


@dataclass(frozen=True)
class Optimizer:
    """torch.optim settings."""

    name: str = _setting("sgd", "optimizer", choices=("sgd", "adamw"))
    learning_rate: float = _setting(0.1, "peak, for the recipe's global batch", low=0.0)
    weight_decay: float = _setting(1e-4, "on tensors with more than one dimension only", low=0.0)
    momentum: float = _setting(0.9, "of SGD", low=0.0, high=1.0)
    nesterov: bool = _setting(False, "Nesterov momentum (SGD)")
    betas: tuple[float, ...] = _setting((0.9, 0.999), "of AdamW", low=0.0, high=1.0, kind="pair")
    eps: float = _setting(1e-8, "of AdamW", low=0.0)


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the optimizer step."""

    name: str = _setting("cosine", "shape after the warm-up", choices=("cosine", "constant"))
    warmup_epochs: float = _setting(0.0, "linear rise from warmup_learning_rate, epochs", low=0.0)
    warmup_learning_rate: float = _setting(0.0, "learning rate at step 0 of the warm-up", low=0.0)
    min_learning_rate: float = _setting(0.0, "where the cosine ends", low=0.0)


@dataclass(frozen=True)
class Train:
    """The loop."""

    epochs: float = _setting(90.0, "passes over the training split", low=0.0)
    global_batch_size: int = _setting(256, "images per step, all processes together", low=1)
    label_smoothing: float = _setting(0.0, "share of the target spread evenly", low=0.0, high=1.0)
    max_grad_norm: float = _setting(0.0, "clip gradients to this norm; 0 = do not clip", low=0.0)
    mixed_precision: str = _setting("no", "autocast type", choices=("no", "bf16", "fp16"))
    channels_last: bool = _setting(True, "NHWC memory format, faster on GPUs and CPUs")
    log_every_steps: int = _setting(50, "steps between metric lines", low=1)
    evaluate_every_epochs: float = _setting(
        1.0, "epochs between evaluations; 0 = only at the end", low=0.0
    )
    eval_batch_size: int = _setting(128, "images per evaluation step and process", low=1)
    checkpoint_every_epochs: float = _setting(1.0, "epochs between checkpoints; 0 = none", low=0.0)
    keep_checkpoints: int = _setting(2, "newest checkpoints that are kept", low=1)


@dataclass(frozen=True)
class Recipe:
    """All sections of a recipe file, each with its defaults."""

    run: Run = Run()
    model: Model = Model(config={})
    data: Data = Data()
    preprocessing: Preprocessing = Preprocessing()
    augmentation: Augmentation = Augmentation()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    train: Train = Train()

    @property
    def folder(self) -> Path:
        """Where the run writes: output_dir / name."""
        return Path(self.run.output_dir) / self.run.name


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
        known = sorted(str(recipe) for recipe in path.parent.glob("*.toml"))
        raise FileNotFoundError(
            f"recipe {path} does not exist; recipes there: {', '.join(known) or 'none'}"
        )
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a TOML file; {error}") from error
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
        if name == "model":
            built[name] = _model_section(table, source)
        else:
            built[name] = _section(sections[name], table, f"{source} [{name}]")
    recipe = Recipe(**built)
    if recipe.run.name in (".", "..") or not re.fullmatch(r"[\w.-]*", recipe.run.name):
        raise ValueError(
            f"run.name in {source} must be a folder name of letters, digits, '.', '-', '_'; got "
            f"{recipe.run.name!r}. Folders above it go into run.output_dir"
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
    differences = []
    for section in old_tables:
        before, after = old_tables[section], new_tables[section]
        for key in sorted({*before, *after}):
            harmless = key in HARMLESS.get(section, ())
            if not harmless and before.get(key) != after.get(key):
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
            if setting.metadata["choices"]:
                about += f" ({' | '.join(setting.metadata['choices'])})"
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


def _model_section(table, source):
    from modeling import FAMILIES

    table = dict(table)
    model_type = table.pop("model_type", "cnn")
    where = f"{source} [model]"
    _check("model_type", model_type, Model.__dataclass_fields__["model_type"], where)
    config_class = next(c for c in FAMILIES if c.model_type == model_type)
    # Only the family's own fields: what all transformers configurations share (labels, dtype, ...)
    # is set from the data, not by a recipe.
    names = [name for name in config_class.__annotations__ if name != "model_type"]
    for key in table:
        if key not in names:
            raise ValueError(f"unknown key '{key}' in {where}{_nearest(key, names)}")
    config_class(**table)  # its own validation names field, value and rule
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
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"{key} in {where} must be a list of numbers; got {value!r}")
        values = tuple(_check_scalar(key, item, float, setting, where) for item in value)
        rule = {
            "range": (
                "two numbers, the smaller first",
                len(values) == 2 and values[0] <= values[-1],
            ),
            "pair": ("two numbers", len(values) == 2),
            "channels": ("three numbers, for R, G, B", len(values) == 3),
        }.get(setting.metadata["kind"], ("", True))
        if not rule[1]:
            raise ValueError(f"{key} in {where} must be {rule[0]}; got {value}")
        return values
    return _check_scalar(key, value, kind, setting, where)


def _check_scalar(key, value, kind, setting, where):
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{key} in {where} must be of type {kind.__name__}; got {value!r}")
    limits = types.SimpleNamespace(**setting.metadata)
    if limits.choices and value not in limits.choices:
        options = ", ".join(limits.choices)
        raise ValueError(f"{key} in {where} must be one of {options}; got {value!r}")
    too_low = limits.low is not None and not value >= limits.low
    too_high = limits.high is not None and not value <= limits.high
    if too_low or too_high or (kind is float and not math.isfinite(value)):
        low = "-inf" if limits.low is None else limits.low
        high = "inf" if limits.high is None else limits.high
        raise ValueError(f"{key} in {where} must lie in [{low}, {high}]; got {value}")
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
