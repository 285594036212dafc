"""The learning-rate range test: train with a rate that grows from step to step, and look.

The rate grows exponentially. As long as it is too small the loss hardly falls, then it falls, and
where the rate is too large it rises. Nothing is saved: the weights are thrown away.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186, section
3.3; the smoothing and the end are those of fastai's learning-rate finder.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from convzoo.data.stream import train_batches
from convzoo.recipe.settings import Recipe
from convzoo.training.batch_transform import BatchTransform
from convzoo.training.class_weights import LabelWeights, class_weights
from convzoo.training.learner import build_learner
from convzoo.training.losses import classification_loss
from convzoo.training.monitors import Monitors
from convzoo.training.progress import Plan
from convzoo.training.run_data import open_run_data, open_stream

SMOOTHING = 0.98  # of the running mean of the losses of about 100 steps; less for fewer steps
DIVERGED = 4.0  # a smoothed loss this many times the lowest one ends the test
RULE = "a tenth of the learning rate at which the smoothed loss is lowest"


@dataclass(frozen=True)
class RangePoint:
    """One step of the test.

    Attributes:
        learning_rate: of the step.
        loss: of its batch, before the step.
        smoothed_loss: its running mean, corrected for its start.
    """

    learning_rate: float
    loss: float
    smoothed_loss: float


def rates(lowest: float, highest: float, steps: int) -> list[float]:
    """Return learning rates that grow by the same factor, from the lowest to the highest."""
    growth = (highest / lowest) ** (1 / max(1, steps - 1))
    return [lowest * growth**step for step in range(steps)]


def run_range(recipe: Recipe, learning_rates: Sequence[float]) -> list[RangePoint]:
    """Train from the recipe's first step on, one step with each rate, until the loss diverges.

    Raises:
        OSError: if data or pretrained model cannot be read.
        ValueError: if something does not fit the recipe.
    """
    accelerator = Accelerator(mixed_precision=recipe.train.mixed_precision)
    data = open_run_data(recipe)
    plan = Plan.of(recipe, data.train.num_rows)
    learner = build_learner(recipe, data.label_names, accelerator=accelerator)
    weights = class_weights(recipe.train, data.label_names, data.samples_per_epoch)
    label_weights = LabelWeights(weights, recipe.train.global_batch_size, accelerator=accelerator)
    monitors = Monitors(
        learner.bare_model, (), every_steps=1, folder=Path(), start_step=0, enabled=False
    )
    transform = BatchTransform(
        recipe, len(data.label_names), accelerator=accelerator, monitors=monitors
    )
    stream = open_stream(recipe, data, plan=plan, start_step=0, accelerator=accelerator)
    stream.steps = range(len(learning_rates))
    parts = min(recipe.train.accumulation_steps, recipe.train.global_batch_size)

    def step(batch: dict[str, torch.Tensor], number: int, rate: float) -> float:
        images, labels = transform(batch, number)
        learner.set_learning_rate(rate)
        total, whole = 0.0, label_weights.of_global_batch(labels)
        for some_images, some_labels in zip(
            images.tensor_split(parts), labels.tensor_split(parts), strict=True
        ):
            loss = classification_loss(
                learner.model(some_images).logits,
                some_labels,
                settings=recipe.train,
                num_classes=len(data.label_names),
                weights=label_weights.weights,
            )
            loss = loss * (label_weights.of(some_labels) / whole)
            accelerator.backward(loss)
            total += float(loss.detach())
        learner.step()
        return total

    torch.manual_seed(recipe.run.seed)
    with closing(train_batches(stream, recipe.data.num_workers)) as batches:
        bar = tqdm(zip(batches, learning_rates, strict=False), total=len(learning_rates))
        losses = (step(batch, number, rate) for number, (batch, rate) in enumerate(bar))
        return follow(losses.__next__, learning_rates)


def follow(next_loss: Callable[[], float], learning_rates: Sequence[float]) -> list[RangePoint]:
    """Smooth the losses of steps, and end where they diverge."""
    keep = min(SMOOTHING, 1 - 5 / max(10, len(learning_rates)))
    points: list[RangePoint] = []  # never empty: a first loss that is not finite is an error
    mean, lowest = 0.0, math.inf
    for number, rate in enumerate(learning_rates, 1):
        loss = next_loss()
        mean = keep * mean + (1 - keep) * loss
        smoothed = mean / (1 - keep**number)
        lowest = min(lowest, smoothed)
        if number == 1 and not math.isfinite(loss):
            raise FloatingPointError(
                f"the first loss must be finite; it is {loss}. The weights or images are damaged"
            )
        if not math.isfinite(loss) or smoothed > DIVERGED * lowest:
            break
        points.append(RangePoint(rate, loss, smoothed))
    return points


def suggest(points: Sequence[RangePoint]) -> float | None:
    """Apply RULE; None where the loss was lowest at the first or last rate: the range is wrong."""
    if len(points) < 3:
        return None
    best = min(range(len(points)), key=lambda number: points[number].smoothed_loss)
    return None if best in (0, len(points) - 1) else points[best].learning_rate / 10


def plot_range(points: Sequence[RangePoint], title: str, path: Path) -> None:
    """Draw losses against learning rates into a PNG, with the suggestion."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    learning_rates = [point.learning_rate for point in points]
    axes.plot(learning_rates, [point.loss for point in points], alpha=0.3, label="of a batch")
    axes.plot(learning_rates, [point.smoothed_loss for point in points], label="smoothed")
    if suggestion := suggest(points):
        label = f"suggestion {suggestion:.2g}"
        axes.axvline(suggestion, color="tab:green", linestyle="--", label=label)
    top = max(point.smoothed_loss for point in points)
    axes.set_ylim(0, min(1.1 * top, 2 * points[0].smoothed_loss))
    axes.set_xscale("log")
    axes.set(xlabel="learning rate", ylabel="training loss", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
