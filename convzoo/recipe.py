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


def _setting(default, doc, low=None, high=None, choices=None, kind=None):
    """A field; kind is "range" for two ascending numbers, "pair" for two of any order."""
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
    trackers: tuple[str, ...] = _setting(
        (),
        "where metrics go besides metrics.jsonl and the terminal",
        choices=("tensorboard", "trackio", "wandb"),
    )
    push_to: str = _setting("", "user/name on the Hub that the finished model is pushed to, if set")
    push_private: bool = _setting(False, "a new repository is private")


@dataclass(frozen=True)
class Model:
    """Which family, and any field of its configuration class."""

    model_type: str = _setting(
        "", "cnn, alexnet or qlnet; if '' the family of finetune.pretrained, or cnn"
    )
    config: dict = _setting(None, "fields of CNNConfig, AlexNetConfig or QLNetConfig")


@dataclass(frozen=True)
class Finetune:
    """Start from trained weights; [model] then holds only what shall differ from their config."""

    pretrained: str = _setting("", "model folder or Hub id to start from; fresh weights if ''")
    revision: str = _setting("", "commit or tag of a Hub model; its newest commit if ''")
    frozen_stages: int = _setting(
        0,
        "stem and stages that stay as they are, counted from the input; -1 = all but the head",
        low=-1,
    )
    layer_decay: float = _setting(
        1.0, "learning rate of a stage over that of the one after it", low=0.0, high=1.0
    )


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
    classes: tuple[str, ...] = _setting((), "only pictures of these classes; of all if []")
    fraction: float = _setting(
        1.0, "share of the training pictures, drawn with the seed", low=1e-6, high=1.0
    )
    limit: int = _setting(0, "training pictures at most, the first ones; 0 = all", low=0)
    eval_limit: int = _setting(0, "evaluation pictures at most, evenly spaced; 0 = all", low=0)
    exif_rotation: bool = _setting(
        False, "turn pictures as their EXIF data says; published numbers were made without"
    )
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
        (0.485, 0.456, 0.406), "subtracted per channel after rescaling"
    )
    std: tuple[float, ...] = _setting(
        (0.229, 0.224, 0.225), "divides per channel afterwards", low=1e-6
    )


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training picture before it is a crop of `preprocessing.crop` pixels."""

    crop: str = _setting(
        "random_resized",
        "'random_resized' (Inception crop), 'padded' (shorter side to the crop's, pad, random "
        "crop), 'random' (shorter side to preprocessing.resize, random crop) or 'center'",
        choices=("random_resized", "padded", "random", "center"),
    )
    interpolation: str = _setting(
        "same",
        "resize filter of training crops; 'same' as preprocessing's, 'random' of the two",
        choices=("same", "bilinear", "bicubic", "random"),
    )
    first_crop: int = _setting(
        0, "side of the crops at the start, pixels, growing to the full; 0 = always full", low=0
    )
    growing_epochs: float = _setting(0.0, "epochs until the crops are full-sized", low=0.0)
    scale: tuple[float, ...] = _setting(
        (0.08, 1.0), "area of a random resized crop, share", low=0.0, high=1.0, kind="range"
    )
    ratio: tuple[float, ...] = _setting(
        (3 / 4, 4 / 3), "width / height of that crop", low=1e-3, kind="range"
    )
    repeats: int = _setting(
        1, "views of a picture in a batch; epochs keep their number of images", low=1
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
    """The optimizer and who is decayed."""

    name: str = _setting("sgd", "optimizer", choices=("sgd", "adamw", "lamb"))
    learning_rate: float = _setting(0.1, "peak, for the recipe's global batch", low=0.0)
    weight_decay: float = _setting(1e-4, "decoupled in adamw and lamb, L2 in sgd", low=0.0)
    weight_decay_on: str = _setting(
        "kernels",
        "'kernels' (more than one dimension), 'not_bias' (all whose name lacks 'bias') or 'all'",
        choices=("kernels", "not_bias", "all"),
    )
    momentum: float = _setting(0.9, "of SGD", low=0.0, high=1.0)
    nesterov: bool = _setting(False, "Nesterov momentum (SGD)")
    betas: tuple[float, ...] = _setting(
        (0.9, 0.999), "of AdamW and LAMB", low=0.0, high=0.999999, kind="pair"
    )
    eps: float = _setting(1e-8, "of AdamW and LAMB", low=0.0)
    slope_limits: tuple[float, ...] = _setting(
        (), "PReLU slopes are clamped to these two after each step; not if []", kind="range"
    )


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the optimizer step; of evaluations, for a plateau."""

    name: str = _setting(
        "cosine",
        "shape after the warm-up",
        choices=("cosine", "constant", "step", "plateau", "one_cycle", "restarts"),
    )
    warmup_epochs: float = _setting(0.0, "linear rise from warmup_learning_rate, epochs", low=0.0)
    warmup_learning_rate: float = _setting(0.0, "learning rate at step 0 of the warm-up", low=0.0)
    warmup_first: bool = _setting(
        True, "the shape starts after the warm-up; if false, at step 0, hidden by the warm-up"
    )
    per_epoch: bool = _setting(False, "changes only between epochs")
    min_learning_rate: float = _setting(0.0, "where cosine and restarts end", low=0.0)
    factor: float = _setting(0.1, "of a step, or on a plateau", low=0.0, high=1.0)
    step_epochs: float = _setting(30.0, "epochs between steps", low=1e-6)
    plateau_metric: str = _setting(
        "top5_error", "held-out metric", choices=("top1_error", "top5_error", "loss")
    )
    plateau_patience: int = _setting(10, "evaluations without progress that are accepted", low=0)
    plateau_threshold: float = _setting(1e-4, "relative progress that counts", low=0.0)
    rise: float = _setting(0.3, "of one_cycle, share of the steps", low=0.0, high=1.0)
    start_factor: float = _setting(0.04, "of one_cycle, first rate over peak", low=0.0, high=1.0)
    end_factor: float = _setting(4e-6, "of one_cycle, last rate over peak", low=0.0, high=1.0)
    cycle_epochs: float = _setting(10.0, "of restarts, first cycle", low=1e-6)
    cycle_growth: float = _setting(1.0, "of restarts, length of a cycle over the last one", low=1.0)
    cycle_decay: float = _setting(
        1.0, "of restarts, peak of a cycle over the last one", low=0.0, high=1.0
    )


@dataclass(frozen=True)
class Train:
    """The loop."""

    epochs: float = _setting(90.0, "passes over the training split", low=0.0)
    global_batch_size: int = _setting(256, "images per step, all processes together", low=1)
    accumulation_steps: int = _setting(
        1,
        "parts that a process computes its share of a batch in; same gradients, less memory",
        low=1,
    )
    loss: str = _setting(
        "cross_entropy",
        "'bce' is one binary cross entropy per class, its mean over classes",
        choices=("cross_entropy", "bce"),
    )
    bce_target_threshold: float = _setting(
        0.0, "targets of bce above it become 1, others 0; 0 = as they are", low=0.0, high=1.0
    )
    label_smoothing: float = _setting(0.0, "share of the target spread evenly", low=0.0, high=1.0)
    max_grad_norm: float = _setting(0.0, "clip gradients to this norm; 0 = do not clip", low=0.0)
    mixed_precision: str = _setting("no", "autocast type", choices=("no", "bf16", "fp16"))
    ema_decay: float = _setting(
        0.0,
        "of an average of the weights, which is evaluated and published; 0 = none",
        low=0.0,
        high=1.0,
    )
    ema_warmup: bool = _setting(True, "the decay starts at 0.1 and rises, (1 + n) / (10 + n)")
    batch_norm_statistics: str = _setting(
        "average",
        "with several processes: 'average' of all, those of the 'first', or 'sync'hronised batches",
        choices=("average", "first", "sync"),
    )
    compile: bool = _setting(False, "torch.compile; not bit-exact with eager steps")
    deterministic: bool = _setting(
        False, "the same bits in every run on GPUs, too, as on CPUs; slower, and not for AlexNet"
    )
    gradient_checkpointing: bool = _setting(False, "compute activations twice, for less memory")
    channels_last: bool = _setting(True, "NHWC memory format, faster on GPUs and CPUs")
    log_every_steps: int = _setting(50, "steps between metric lines", low=1)
    evaluate_every_epochs: float = _setting(
        1.0, "epochs between evaluations; 0 = only at the end", low=0.0
    )
    eval_batch_size: int = _setting(128, "images per evaluation step and process", low=1)
    checkpoint_every_epochs: float = _setting(
        1.0, "epochs between checkpoints; 0 = only before the last evaluation", low=0.0
    )
    keep_checkpoints: int = _setting(2, "newest checkpoints that are kept", low=1)
    keep_best: bool = _setting(False, "keep also the checkpoint of the best held-out top-1")
    eval_crops: int = _setting(1, "views of a picture in evaluation, averaged", choices=(1, 10))


MONITORS = (
    "gradients",
    "batch_norm",
    "slopes",
    "residual_scales",
    "residual_ratio",
    "weight_change",
    "mixing",
)


@dataclass(frozen=True)
class Monitor:
    """Looks inside the model while it trains."""

    names: tuple[str, ...] = _setting((), "what is watched; nothing if []", choices=MONITORS)
    every_steps: int = _setting(100, "steps between looks", low=1)


@dataclass(frozen=True)
class Recipe:
    """All sections of a recipe file, each with its defaults."""

    run: Run = Run()
    model: Model = Model(config={})
    finetune: Finetune = Finetune()
    data: Data = Data()
    preprocessing: Preprocessing = Preprocessing()
    augmentation: Augmentation = Augmentation()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    train: Train = Train()
    monitor: Monitor = Monitor()

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


def num_channels(model: Model) -> int:
    """Colour channels of the model's input: its configuration's, by default 3."""
    return model.config.get("num_channels", 3)


def family_fields(config_class: type) -> list[str]:
    """What [model] may set of a configuration class: its own fields.

    What all Transformers configurations share (labels, dtype, ...) is set from the data.
    """
    return list(config_class.__annotations__)


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
