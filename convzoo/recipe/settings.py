"""The sections and keys of a recipe, each with its type, default, limits and meaning.

Every section is a pydantic model: frozen, strict (a bool is no number, 1.5 is no whole number) and
closed (an unknown key is an error). An int becomes a float where a float is asked for, and text
where text is (`run.name=2024`); a list becomes a tuple. Rules between keys are in rules.py.
"""

import math
import os.path
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict


def _text(value: object) -> object:
    return str(value) if type(value) is int else value


def _expanded(value: str) -> str:
    """Put the home folder in the place of "~", which no shell does behind "key="."""
    return os.path.expanduser(value)


def _whole_number(value: object) -> object:
    if type(value) is not int:  # a Literal takes True and 1.0 for 1
        raise ValueError("of type int")
    return value


def _two_numbers(values: tuple[float, ...]) -> tuple[float, ...]:
    if values and len(values) != 2:
        raise ValueError("two numbers")
    return values


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if values and not (len(values) == 2 and values[0] <= values[1]):
        raise ValueError("two numbers, the smaller first")
    return values


WEIGHTINGS = ("none", "balanced", "effective")


def _class_weights(value: object) -> object:
    if value in WEIGHTINGS:
        return value
    if isinstance(value, dict) and value:
        numbers = [each for each in value.values() if type(each) in (int, float)]
        if len(numbers) == len(value) and all(0 < each < math.inf for each in numbers):
            return {str(name): float(number) for name, number in value.items()}
    raise ValueError(
        f"one of {', '.join(WEIGHTINGS)}, or a table of class names and numbers above 0"
    )


T = TypeVar("T")
ClassWeights = Annotated[Any, BeforeValidator(_class_weights)]  # a str or a dict[str, float]
Text = Annotated[str, BeforeValidator(_text)]
Place = Annotated[Text, AfterValidator(_expanded)]  # of files
NotNegative = Annotated[float, Field(ge=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Side = Annotated[int, Field(ge=1)]  # pixels
Count = Annotated[int, Field(ge=0)]
# Lists, empty ones too unless their field has a min_length.
List = Annotated[tuple[T, ...], Strict(False)]
Pair = Annotated[tuple[T, ...], Strict(False), AfterValidator(_two_numbers)]
Range = Annotated[tuple[T, ...], Strict(False), AfterValidator(_ascending)]

MonitorName = Literal[
    "gradients",
    "batch_norm",
    "slopes",
    "residual_scales",
    "residual_ratio",
    "weight_change",
    "mixing",
]
MONITORS: tuple[str, ...] = get_args(MonitorName)


class Section(BaseModel):
    """A group of settings that are checked when they are read and never change afterwards."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        defer_build=True,  # when the first recipe is read: imports stay fast
    )


class Run(Section):
    """The run's name, its seed, and where it writes."""

    name: Text = Field(
        default="",
        description="Folder name of the run below output_dir; '' takes the recipe file's name.",
    )
    output_dir: Place = Field(default="runs", description="Folder that holds all runs.")
    seed: int = Field(
        default=42,
        ge=0,
        le=2**63 - 1,
        description="Seed of the fresh weights, the data order and the augmentation.",
    )
    license: Text = Field(
        default="apache-2.0",
        description="Licence of the trained weights, as a Hub id, for their card.",
    )
    license_name: Text = Field(
        default="",
        description="Name of a licence without Hub id, where license='other'; its text is the file "
        "LICENSE that you put into the model folder.",
    )
    publish: Literal["last", "best"] = Field(
        default="last",
        description="Weights of model/: those of the last step, or of the best validation top-1 "
        "accuracy, which is then better than on other images.",
    )
    resume: Literal["auto", "never"] = Field(
        default="auto",
        description="'auto' resumes from the newest good checkpoint; 'never' needs an empty run "
        "folder.",
    )
    trackers: List[Literal["tensorboard", "trackio", "wandb"]] = Field(
        default=(),
        description="Services that get the metrics besides metrics.jsonl and the terminal.",
    )
    push_to: Text = Field(
        default="",
        description="Repository, user/name, that the finished model is pushed to; '' for none.",
    )
    push_private: bool = Field(
        default=False, description="A repository that is created is private."
    )


class Model(Section):
    """The model's family, and any field of its configuration class."""

    model_type: Text = Field(
        default="",
        description="Family (docs/models.md); '' takes that of finetune.pretrained, or cnn.",
    )
    config: dict[str, Any] = Field(
        default_factory=dict,
        description="Any field of the configuration class of the family can be set here.",
    )


class Finetune(Section):
    """Start from trained weights; [model] then holds only what differs from their configuration."""

    pretrained: Place = Field(
        default="",
        description="Model folder, Hub id or name of `convzoo models` to start from; '' starts "
        "from fresh weights.",
    )
    revision: Text = Field(
        default="", description="Commit or tag of a Hub model; '' takes its newest commit."
    )
    frozen_stages: int = Field(
        default=0,
        ge=-1,
        description="Number of stages, the stem included, that are not trained, counted from the "
        "input; -1 trains only the head.",
    )
    layer_decay: Share = Field(
        default=1.0, description="Learning rate of a stage divided by that of the stage after it."
    )


class Data(Section):
    """The dataset, and how it is read."""

    path: Place = Field(
        default="",
        description="Folder of images by class, of parquet files, tars or zips, or of "
        "save_to_disk, a list of images, or a Hub dataset id; must be set.",
    )
    name: Text = Field(default="", description="Configuration of a dataset that has several.")
    revision: Text = Field(
        default="", description="Commit or tag of a Hub dataset; '' takes its newest commit."
    )
    train_split: Text = Field(default="train", description="Split that is trained on.")
    eval_split: Text = Field(
        default="", description="Split that is evaluated on; '' evaluates on none."
    )
    eval_fraction: float = Field(
        default=0.0,
        ge=0.0,
        le=0.9,
        description="Share of each class of train_split that is evaluated on and never trained on, "
        "drawn with the seed; 0 takes none. Not together with eval_split.",
    )
    image_column: Text = Field(
        default="", description="Column that holds the images; '' takes the only image column."
    )
    label_column: Text = Field(
        default="",
        description="Column that holds the class numbers; '' takes the only class column.",
    )
    root: Place = Field(
        default="",
        description="Folder that the paths in a list of images are relative to; '' takes that of "
        "the list.",
    )
    classes: List[Text] = Field(
        default=(), description="Only images of these classes are used; [] uses all."
    )
    fraction: float = Field(
        default=1.0,
        ge=1e-6,
        le=1.0,
        description="Share of the training images that is used, drawn with the seed.",
    )
    limit: Count = Field(
        default=0,
        description="At most this many training images, the first ones, are used; 0 uses all.",
    )
    balance: Share = Field(
        default=0.0,
        description="How far classes are made equally frequent in an epoch, whose number of images "
        "stays: a class of n images gets a share of it in proportion to n ** (1 - balance). 0 "
        "takes each image once, 0.5 the square root, 1 gives all classes the same share.",
    )
    eval_limit: Count = Field(
        default=0,
        description="At most this many validation images, evenly spaced, are used; 0 uses all.",
    )
    exif_rotation: bool = Field(
        default=False,
        description="Images are turned as their EXIF data says; published numbers were made "
        "without.",
    )
    examples: Count = Field(
        default=0,
        description="Number of validation images that are copied into the model folder; mind their "
        "licence.",
    )
    max_unreadable_share: Share = Field(
        default=0.001, description="Training stops if a larger share of the images is unreadable."
    )
    num_workers: Count = Field(
        default=2,
        description="Number of decoding processes for each training process; 0 decodes in the "
        "training process.",
    )
    cache_dir: Place = Field(
        default="",
        description="Folder that keeps row groups of a Hub dataset for later epochs; '' keeps "
        "none.",
    )
    cache_gb: NotNegative = Field(default=200.0, description="Largest size of cache_dir, in GB.")
    shuffle_memory_mb: int = Field(
        default=512,
        ge=1,
        description="Undecoded images that one process may hold for shuffling, in MB.",
    )


class Preprocessing(Section):
    """The evaluation protocol, which becomes the published image processor."""

    resize: Side = Field(
        default=256, description="Length of the shorter side after resizing, in pixels."
    )
    crop: Side = Field(
        default=224, description="Side of the centre crop, and of training crops, in pixels."
    )
    interpolation: Literal["bilinear", "bicubic"] = Field(
        default="bilinear", description="Resize filter, antialiased."
    )
    rescale_factor: NotNegative = Field(
        default=1 / 255, description="Pixel values, 0 to 255, are multiplied by this."
    )
    mean: List[float] = Field(
        default=(0.485, 0.456, 0.406),
        min_length=1,
        description="One number per channel, subtracted after rescaling.",
    )
    std: List[Annotated[float, Field(ge=1e-6)]] = Field(
        default=(0.229, 0.224, 0.225),
        min_length=1,
        description="One number per channel, by which the difference is divided.",
    )


class Augmentation(Section):
    """Random changes to training images and batches."""

    crop: Literal["random_resized", "padded", "random", "center"] = Field(
        default="random_resized",
        description="'random_resized' is the Inception crop; 'padded' resizes the shorter side to "
        "the crop's, pads, and crops at random; 'random' resizes the shorter side to "
        "preprocessing.resize and crops at random; 'center' crops the centre.",
    )
    interpolation: Literal["same", "bilinear", "bicubic", "random"] = Field(
        default="same",
        description="Resize filter of training crops; 'same' takes that of [preprocessing], "
        "'random' draws one of the two.",
    )
    first_crop: Count = Field(
        default=0,
        description="Side of the training crops at the start, in pixels, from which they grow to "
        "their full size; 0 keeps them at full size.",
    )
    full_crop: Count = Field(
        default=0,
        description="Side of the training crops at full size, in pixels; 0 takes "
        "preprocessing.crop. Images are best evaluated somewhat larger than they are trained on.",
    )
    growing_from_epoch: NotNegative = Field(
        default=0.0, description="Number of epochs before the training crops begin to grow."
    )
    growing_epochs: NotNegative = Field(
        default=0.0, description="Number of epochs until the training crops have their full size."
    )
    scale: Range[Share] = Field(
        default=(0.08, 1.0),
        min_length=1,
        description="Smallest and largest area of a random resized crop, as a share of the image.",
    )
    ratio: Range[Annotated[float, Field(ge=1e-3)]] = Field(
        default=(3 / 4, 4 / 3),
        min_length=1,
        description="Smallest and largest ratio, width / height, of a random resized crop.",
    )
    repeats: int = Field(
        default=1,
        ge=1,
        description="Number of views of an image in a batch; an epoch keeps its number of images.",
    )
    padding: Count = Field(default=4, description="Black border of a padded crop, in pixels.")
    horizontal_flip: Share = Field(default=0.5, description="Probability of mirroring an image.")
    policy: Text = Field(
        default="",
        description="Augmentation policy in timm's spelling, such as rand-m9-mstd0.5, augmix-m3 or "
        "ta_wide; '' for none.",
    )
    color_jitter: List[NotNegative] = Field(
        default=(0.0,),
        min_length=1,
        description="Strengths of random changes of brightness, contrast, saturation and hue.",
    )
    pca_noise: Literal["none", "offset", "stretch"] = Field(
        default="none",
        description="Colour noise: 'offset' along the principal components of ImageNet's colours "
        "(the 2012 paper), 'stretch' along those of the image.",
    )
    erasing: Share = Field(default=0.0, description="Probability of random erasing.")
    erasing_area: Range[Share] = Field(
        default=(0.02, 0.33),
        min_length=1,
        description="Smallest and largest area of an erased box, as a share of the image.",
    )
    erasing_ratio: Range[Annotated[float, Field(ge=1e-3)]] = Field(
        default=(0.3, 3.3),
        min_length=1,
        description="Smallest and largest ratio, height / width, of an erased box.",
    )
    erasing_max_count: int = Field(
        default=1, ge=1, description="Largest number of erased boxes in an image."
    )
    erasing_fill: Literal["mean", "noise"] = Field(
        default="mean", description="Content of an erased box."
    )
    mixup_alpha: NotNegative = Field(
        default=0.0, description="Alpha of MixUp's Beta distribution; 0 disables MixUp."
    )
    cutmix_alpha: NotNegative = Field(
        default=0.0, description="Alpha of CutMix's Beta distribution; 0 disables CutMix."
    )
    mix_probability: Share = Field(
        default=1.0,
        description="Probability that a batch, an image or a pair is mixed; see mix_mode.",
    )
    mix_switch_probability: Share = Field(
        default=0.5, description="Probability of CutMix rather than MixUp where both are enabled."
    )
    mix_mode: Literal["batch", "elem", "pair"] = Field(
        default="batch",
        description="One draw serves a whole batch, one image, or a pair of images.",
    )


class Optimizer(Section):
    """The optimizer, its peak learning rate, and which weights are decayed."""

    name: Literal["sgd", "adamw", "lamb"] = Field(default="sgd", description="Optimizer.")
    learning_rate: NotNegative = Field(
        default=0.1, description="Peak learning rate, for the recipe's global batch size."
    )
    weight_decay: NotNegative = Field(
        default=1e-4, description="Weight decay: decoupled in adamw and lamb, an L2 penalty in sgd."
    )
    weight_decay_on: Literal["kernels", "not_bias", "all"] = Field(
        default="kernels",
        description="'kernels' decays parameters of more than one dimension, 'not_bias' those "
        "whose name lacks 'bias', 'all' every parameter.",
    )
    momentum: Share = Field(default=0.9, description="Momentum of SGD.")
    nesterov: bool = Field(default=False, description="SGD uses Nesterov momentum.")
    betas: Pair[Annotated[float, Field(ge=0.0, le=0.999999)]] = Field(
        default=(0.9, 0.999), min_length=1, description="Betas of AdamW and LAMB."
    )
    eps: NotNegative = Field(default=1e-8, description="Epsilon of AdamW and LAMB.")
    slope_limits: Range[float] = Field(
        default=(),
        description="PReLU slopes are clamped to these two numbers after each step; [] does not "
        "clamp them.",
    )


class Schedule(Section):
    """Learning rate as a function of the optimizer step, or of evaluations (plateau)."""

    name: Literal["cosine", "linear", "constant", "step", "plateau", "one_cycle", "restarts"] = (
        Field(default="cosine", description="Shape of the schedule after the warm-up.")
    )
    warmup_epochs: NotNegative = Field(
        default=0.0,
        description="Length of the linear rise from warmup_learning_rate, in epochs; at most "
        "train.epochs.",
    )
    warmup_learning_rate: NotNegative = Field(
        default=0.0, description="Learning rate at step 0 of the warm-up."
    )
    warmup_first: bool = Field(
        default=True,
        description="The shape starts after the warm-up; if false it starts at step 0, hidden by "
        "the warm-up.",
    )
    per_epoch: bool = Field(
        default=False, description="The learning rate changes only between epochs."
    )
    min_learning_rate: NotNegative = Field(
        default=0.0, description="Learning rate at which cosine, linear and restarts end."
    )
    factor: Share = Field(
        default=0.1,
        description="Factor on the learning rate at each step of 'step', or on a plateau.",
    )
    step_epochs: float = Field(default=30.0, ge=1e-6, description="Epochs between steps of 'step'.")
    plateau_metric: Literal["top1_error", "top5_error", "loss"] = Field(
        default="top5_error", description="Validation metric that a plateau is judged by."
    )
    plateau_patience: Count = Field(
        default=10, description="Number of evaluations without progress that are accepted."
    )
    plateau_threshold: NotNegative = Field(
        default=1e-4, description="Relative progress that counts."
    )
    rise: Share = Field(default=0.3, description="Share of the steps in which one_cycle rises.")
    start_factor: Share = Field(
        default=0.04, description="First learning rate of one_cycle divided by the peak."
    )
    end_factor: Share = Field(
        default=4e-6, description="Last learning rate of one_cycle divided by the peak."
    )
    cycle_epochs: float = Field(
        default=10.0, ge=1e-6, description="Length of the first cycle of restarts, in epochs."
    )
    cycle_growth: float = Field(
        default=1.0,
        ge=1.0,
        description="Length of a cycle of restarts divided by that of the last one.",
    )
    cycle_decay: Share = Field(
        default=1.0, description="Peak of a cycle of restarts divided by that of the last one."
    )


class Train(Section):
    """The training loop: its length, batches, loss, precision, evaluations and checkpoints."""

    epochs: float = Field(
        default=90.0,
        gt=0.0,
        le=2.0**53,
        description="Number of passes over the training split.",
    )
    global_batch_size: int = Field(
        default=256, ge=1, description="Images per step, summed over all processes."
    )
    accumulation_steps: int = Field(
        default=1,
        ge=1,
        description="Number of micro-batches into which each process splits its share of a batch: "
        "same gradients, less memory.",
    )
    loss: Literal["cross_entropy", "bce"] = Field(
        default="cross_entropy",
        description="'bce' is one binary cross-entropy per class, averaged over the classes.",
    )
    bce_target_threshold: Share = Field(
        default=0.0,
        description="Targets of bce above this become 1 and all others 0; 0 leaves them as they "
        "are.",
    )
    label_smoothing: Share = Field(
        default=0.0, description="Share of the target that is spread evenly over all classes."
    )
    class_weights: ClassWeights = Field(
        default="none",
        description="How much the loss of an image counts, by its class: 'none', 'balanced' "
        "(inverse frequency), 'effective' (inverse effective number), or a table of class names "
        "and numbers above 0, as {cat = 2.0}, in which classes that are left out have 1.",
    )
    class_weight_beta: float = Field(
        default=0.999,
        ge=0.0,
        le=0.999999,
        description="Beta of class_weights='effective': 0 gives all classes the same weight, near "
        "1 the inverse frequency.",
    )
    max_grad_norm: NotNegative = Field(
        default=0.0, description="Gradients are clipped to this norm; 0 does not clip them."
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = Field(
        default="no", description="Autocast type."
    )
    ema_decay: Share = Field(
        default=0.0,
        description="Decay of the moving average of the weights, which is evaluated and published; "
        "0 disables it.",
    )
    ema_warmup: bool = Field(
        default=True, description="The decay starts at 0.1 and rises as (1 + n) / (10 + n)."
    )
    batch_norm_statistics: Literal["average", "first", "sync"] = Field(
        default="average",
        description="With several processes: 'average' averages their statistics, 'first' keeps "
        "those of the first, 'sync' synchronises batches.",
    )
    compile: bool = Field(
        default=False, description="Use torch.compile; its steps are not bit-exact with eager ones."
    )
    deterministic: bool = Field(
        default=False,
        description="Repeat the same bits on GPUs, too, as on CPUs; slower, and not for AlexNet.",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Compute activations twice to save memory."
    )
    channels_last: bool = Field(
        default=True, description="Use the NHWC memory format, which is faster on GPUs and CPUs."
    )
    log_every_steps: int = Field(default=50, ge=1, description="Steps between lines of metrics.")
    evaluate_every_epochs: NotNegative = Field(
        default=1.0, description="Epochs between evaluations; 0 evaluates only at the end."
    )
    eval_batch_size: int = Field(
        default=128, ge=1, description="Images per evaluation step and process."
    )
    checkpoint_every_epochs: NotNegative = Field(
        default=1.0,
        description="Epochs between checkpoints; 0 writes one only before the last evaluation.",
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, description="Number of newest checkpoints that are kept."
    )
    keep_best: bool = Field(
        default=False, description="Keep also the checkpoint of the best validation top-1 accuracy."
    )
    early_stopping_patience: Count = Field(
        default=0,
        description="Training ends after this many evaluations in a row without a better "
        "validation top-1 accuracy; 0 trains to the end.",
    )
    eval_crops: Annotated[Literal[1, 10], BeforeValidator(_whole_number)] = Field(
        default=1, description="Number of views of an image in evaluation, averaged."
    )


class Monitor(Section):
    """Measurements inside the model while it trains."""

    names: List[MonitorName] = Field(default=(), description="Monitors that are switched on.")
    every_steps: int = Field(default=100, ge=1, description="Steps between measurements.")


class Recipe(Section):
    """All sections of a recipe file, each with its defaults."""

    run: Run = Field(default_factory=Run)
    model: Model = Field(default_factory=Model)
    finetune: Finetune = Field(default_factory=Finetune)
    data: Data = Field(default_factory=Data)
    preprocessing: Preprocessing = Field(default_factory=Preprocessing)
    augmentation: Augmentation = Field(default_factory=Augmentation)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    train: Train = Field(default_factory=Train)
    monitor: Monitor = Field(default_factory=Monitor)

    @property
    def evaluates(self) -> bool:
        """Whether there are images to evaluate on."""
        return bool(self.data.eval_split or self.data.eval_fraction)

    @property
    def keeps_best(self) -> bool:
        """Whether the checkpoint of the best evaluation is kept."""
        return self.train.keep_best or self.run.publish == "best"

    @property
    def folder(self) -> Path:
        """Where the run writes: output_dir / name."""
        return Path(self.run.output_dir) / self.run.name


def sections() -> dict[str, type[Section]]:
    """The section class of each name, in the order of a recipe file."""
    return {name: type(section) for name, section in Recipe()}


def num_channels(model: Model) -> int:
    """Colour channels of the model's input: its configuration's, by default 3."""
    channels: int = model.config.get("num_channels", 3)
    return channels


def family_fields(config_class: type) -> list[str]:
    """Fields of a configuration class that [model] may set: its own.

    Fields that all Transformers configurations share (labels, dtype, ...) are set from the data.
    """
    return list(config_class.__annotations__)
