"""Settings for a person's own images: few or many, from fresh weights or from trained ones.

They are a start that a person edits. Some were measured against their neighbours by
benchmarks/finetune_presets.py; docs/small-data.md says with what result.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from convzoo.own_images.looking import Findings
from convzoo.own_images.starting_point import StartingPoint

FEW = 1_000  # training images; below it a pretrained network keeps its first stages
EVALUATIONS = 10  # at most about so many during a training


class Setting(NamedTuple):
    """A value of a recipe and what to know about it."""

    value: Any
    about: str = ""


Settings = dict[str, dict[str, Setting]]


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a training is: a number of images, seen within limits of epochs."""

    images: int
    fewest: int
    most: int

    def epochs(self, num_images: int) -> int:
        """Passes over so many images."""
        return min(max(round(self.images / num_images), self.fewest), self.most)


FRESH, TRAINED = Length(images=24_000, fewest=4, most=60), Length(images=15_000, fewest=3, most=24)


def choose(findings: Findings, start: StartingPoint | None, *, epochs: Any = None) -> Settings:
    """Choose all settings that differ from their defaults or that one may want to change.

    Args:
        findings: what is in the dataset.
        start: the pretrained model, or None for fresh weights.
        epochs: of the training, if a person has chosen: evaluations are spread over them.
    """
    share = _eval_fraction(findings)
    num_training = max(1, round(findings.num_images * (1 - share)))
    few = num_training < FEW
    network = _trained_network(start, few=few) if start else _fresh_network(findings)
    return {
        **network,
        "data": _data(findings, share),
        "train": _train(num_training, length=TRAINED if start else FRESH, epochs=epochs),
    }


def describe_preset(findings: Findings, start: StartingPoint | None) -> str:
    """Name the preset in a line."""
    few = findings.num_images * (1 - _eval_fraction(findings)) < FEW
    amount = f"few images (below {FEW:,})" if few else f"many images (from {FEW:,} on)"
    return f"{amount}, {f'the weights of {start.path}' if start else 'fresh weights'}"


def _eval_fraction(findings: Findings) -> float:
    if findings.num_validation:
        return 0.0
    return 0.2 if findings.num_images < 5_000 else 0.1 if findings.num_images < 50_000 else 0.02


def _data(findings: Findings, share: float) -> dict[str, Setting]:
    data = {"path": Setting(findings.path)}
    if share:
        text = f"about {round(share * findings.num_images):,} images measure and are not trained on"
        data["eval_fraction"] = Setting(share, text)
    else:
        text = f"{findings.num_validation:,} images measure"
        data["eval_split"] = Setting("validation", text)
    if findings.rotated:
        data["exif_rotation"] = Setting(True, "photographs that a camera stored lying down")
    return data


def _train(num_training: int, *, length: Length, epochs: Any) -> dict[str, Setting]:
    if not isinstance(epochs, int | float) or not 0 < epochs < 2**53:  # refused with the recipe
        epochs = length.epochs(num_training)
    every = max(1, round(epochs / EVALUATIONS))
    batch = 64
    while batch > 8 and batch * 8 > num_training:
        batch //= 2
    batch = min(batch, num_training)
    return {
        "epochs": Setting(epochs, "passes over the training images; more may help"),
        "global_batch_size": Setting(batch, "images in a step"),
        "label_smoothing": Setting(0.1),
        "log_every_steps": Setting(10),
        "evaluate_every_epochs": Setting(every),
        "checkpoint_every_epochs": Setting(every, "a training that is stopped loses no more"),
    }


def _fresh_network(findings: Findings) -> Settings:
    """A small CNN for the size of the images."""
    side = findings.sides[1]
    small = side <= 40
    crop = max(8, side) if small else 64
    augmentation = {
        "crop": Setting("padded" if small else "random_resized"),
        "horizontal_flip": Setting(0.5, "0.0 where left and right differ, as in writing"),
    }
    if small:
        augmentation["padding"] = Setting(max(1, crop // 14))
    else:
        augmentation["scale"] = Setting([0.35, 1.0], "smallest and largest part that is shown")
    return {
        "model": {
            "model_type": Setting("cnn", "or another family: docs/models.md"),
            "stem": Setting("small" if small else "imagenet"),
            "embedding_size": Setting(16 if small else 32),
            "hidden_sizes": Setting([16, 64, 128] if small else [32, 64, 128]),
            "depths": Setting([1, 1, 1]),
            "bottleneck_expansion": Setting(2),
            "conv_bias": Setting(False),
        },
        "preprocessing": {
            "resize": Setting(crop if small else 72, "shorter side, in pixels; larger is slower"),
            "crop": Setting(crop, "side of what the network sees"),
        },
        "augmentation": augmentation,
        "optimizer": {
            "learning_rate": Setting(0.05),
            "nesterov": Setting(True),
            "weight_decay": Setting(5e-4),
        },
        "schedule": {"warmup_epochs": Setting(1)},
    }


def _trained_network(start: StartingPoint, *, few: bool) -> Settings:
    """The pretrained network, its own preprocessing, and small steps."""
    seen = start.preprocessing
    whose = "the model's own" if start.has_processor else "the model says none: ImageNet's"
    frozen = Setting(
        max(1, start.num_stages // 4) if few else 0,
        f"of {start.num_stages} stages; -1 trains the last layer only",
    )
    network: Settings = {
        "finetune": {
            "pretrained": Setting(start.path, "the last layer is new"),
            **({"revision": Setting(start.revision)} if start.revision else {}),
            "frozen_stages": frozen,
            "layer_decay": Setting(1.0, "below 1 earlier stages take smaller steps"),
        },
        "preprocessing": {
            "resize": Setting(seen.resize, whose),
            "crop": Setting(seen.crop),
            "interpolation": Setting(seen.interpolation),
            "rescale_factor": Setting(seen.rescale_factor),
            "mean": Setting(list(seen.mean)),
            "std": Setting(list(seen.std)),
        },
        "augmentation": {
            "crop": Setting("random_resized"),
            "scale": Setting([0.35, 1.0], "smallest and largest part that is shown"),
            "horizontal_flip": Setting(0.5, "0.0 where left and right differ, as in writing"),
        },
        "optimizer": {
            "learning_rate": Setting(0.03, "small, because the weights are good already"),
            "nesterov": Setting(True),
        },
        "schedule": {"warmup_epochs": Setting(1)},
    }
    if start.num_channels != 3:
        network["model"] = {"num_channels": Setting(start.num_channels, "as in the model")}
    return network
