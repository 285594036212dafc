"""The sections and keys of a recipe, each with its default, its range and its meaning."""

from dataclasses import dataclass, field
from pathlib import Path


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
    """Where the images come from."""

    path: str = _setting(
        "", "folder of parquet files or of images by class, or Hub dataset id; required"
    )
    name: str = _setting("", "configuration of a dataset that has several")
    revision: str = _setting("", "commit or tag of a Hub dataset; its newest commit if ''")
    train_split: str = _setting("train", "split that is trained on")
    eval_split: str = _setting("", "split that is evaluated on; none if ''")
    image_column: str = _setting("", "column with the images; the only image column if ''")
    label_column: str = _setting("", "column with the class numbers; the only class column if ''")
    classes: tuple[str, ...] = _setting((), "only images of these classes; of all if []")
    fraction: float = _setting(
        1.0, "share of the training images, drawn with the seed", low=1e-6, high=1.0
    )
    limit: int = _setting(0, "training images at most, the first ones; 0 = all", low=0)
    eval_limit: int = _setting(0, "evaluation images at most, evenly spaced; 0 = all", low=0)
    exif_rotation: bool = _setting(
        False, "turn images as their EXIF data says; published numbers were made without"
    )
    examples: int = _setting(
        0, "evaluation images copied into the model folder; mind their licence", low=0
    )
    max_unreadable_share: float = _setting(
        0.001, "of the images; more unreadable ones stop training", low=0.0, high=1.0
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
    """What happens to a training image before it is a crop of `preprocessing.crop` pixels."""

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
        1, "views of an image in a batch; epochs keep their number of images", low=1
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
        "colour noise along ImageNet's components (the 2012 paper) or the image's own",
        choices=("none", "offset", "stretch"),
    )
    erasing: float = _setting(0.0, "probability of random erasing", low=0.0, high=1.0)
    erasing_area: tuple[float, ...] = _setting(
        (0.02, 0.33), "of an erased box, share", low=0.0, high=1.0, kind="range"
    )
    erasing_ratio: tuple[float, ...] = _setting(
        (0.3, 3.3), "height / width of the box", low=1e-3, kind="range"
    )
    erasing_max_count: int = _setting(1, "boxes in an image, at most", low=1)
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
    eval_crops: int = _setting(1, "views of an image in evaluation, averaged", choices=(1, 10))


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


def num_channels(model: Model) -> int:
    """Colour channels of the model's input: its configuration's, by default 3."""
    return model.config.get("num_channels", 3)


def family_fields(config_class: type) -> list[str]:
    """What [model] may set of a configuration class: its own fields.

    What all Transformers configurations share (labels, dtype, ...) is set from the data.
    """
    return list(config_class.__annotations__)
