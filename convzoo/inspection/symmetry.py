"""The symmetries of QLNet: other weights, and the same network.

Two families of changes leave the logits of a QLNet alone. The residual stream of a stage that
begins with a shortcut convolution can be rotated: what writes to it is multiplied by an orthogonal
matrix, what reads it by its inverse (evaluation mode only, because batch norm works on single
channels). And in each product the first factor can be scaled by any number and the second by its
inverse. So the weights of a trained QLNet are one point of a whole surface of equal networks.
Source: liuyao12/ConvNets-PDE-perspective, whose notebook rotates one stage.

    python -m convzoo symmetry converted/qlnet --data FOLDER --output moved
"""

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import BaseImageProcessor

from convzoo.data.opening import DatasetReference, open_split
from convzoo.data.share import Share
from convzoo.data.subset import subset
from convzoo.evaluation.class_matching import match_classes
from convzoo.evaluation.predicting import EvalStream
from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.files import SCHEMA_VERSION, refuse_filled, write_folder, write_json
from convzoo.inspection.figures import headless_figure
from convzoo.labels import class_names
from convzoo.layers import image_shape
from convzoo.model_names import load_model
from modeling import QLNet
from modeling.modeling_qlnet import QLNetBlock

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOISE_IMAGES = 8  # that logits are compared on where there are no data
EXACT_IMAGES = 8  # of which logits are compared in float64, too


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How weights are moved along the symmetries.

    Attributes:
        stages: numbers, from 1, of the stages to rotate; all that can be if None.
        largest_factor: factors of products are scaled by 1 / this to this; 1 leaves them alone.
        seed: of the matrices and the scales.
    """

    stages: tuple[int, ...] | None = None
    largest_factor: float = 2.0
    seed: int = 0


class Change(TypedDict):
    """Largest change of a logit, the largest logit, and on how many images."""

    largest_change: float
    largest_logit: float
    num_images: int


class Accuracy(TypedDict):
    """Top-1 accuracy before and after, and the images whose first class is another one."""

    before: float
    after: float
    changed_images: int
    num_images: int


class MotionFacts(TypedDict):
    """How the weights were moved, and by how many free numbers."""

    seed: int
    rotated_stages: list[int]
    rotation_parameters: int
    scales: int
    largest_factor: float


class SymmetryReport(MotionFacts):
    """What moving the weights along the symmetries changed.

    Attributes:
        weights: for each part of the network, the length of the change over that of the weights.
        logits: by type of the weights: their own, and float64.
        accuracy: None without data.
    """

    schema_version: int
    model: str
    data: str | None
    weights: dict[str, float]
    logits: dict[str, Change]
    accuracy: Accuracy | None


def rotatable_stages(model: QLNet) -> list[int]:
    """Number, from 1, the stages whose stream can be rotated: those with a shortcut convolution."""
    return [
        number
        for number, stage in enumerate(model.stages, start=1)
        if not isinstance(_blocks(stage)[0].shortcut, nn.Identity)
    ]


def move(model: QLNet, motion: Motion) -> QLNet:
    """Return the same network with other weights: rotated and scaled at random.

    The arithmetic is done in float64, so that only one rounding separates the two.

    Raises:
        ValueError: if a stage cannot be rotated, or the largest factor is not at least 1.
    """
    possible = rotatable_stages(model)
    stages = possible if motion.stages is None else list(motion.stages)
    if wrong := [number for number in stages if number not in possible]:
        raise ValueError(
            f"stages to rotate must be of {possible}, which start with a shortcut convolution; got "
            f"{wrong[0]}"
        )
    if not 1 <= motion.largest_factor < math.inf:
        raise ValueError(f"largest_factor must be at least 1; got {motion.largest_factor}")
    generator = torch.Generator().manual_seed(motion.seed)
    moved = copy.deepcopy(model).double().eval()
    for number in sorted(set(stages)):
        channels = _blocks(moved.stages[number - 1])[0].conv3.out_channels
        moved.rotate_stream(number - 1, random_orthogonal(channels, generator))
    if motion.largest_factor > 1:
        for index, stage in enumerate(moved.stages):
            for place, block in enumerate(_blocks(stage)):
                powers = torch.rand(block.bn1.num_features // 2, generator=generator) * 2 - 1
                factors = motion.largest_factor ** powers.double()
                moved.scale_products(index, place, factors)
    same: QLNet = moved.to(model.dtype)
    return same


def random_orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """Draw an orthogonal float64 matrix, (size, size), each as likely as any other."""
    gaussian = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    rotation: Tensor = q * r.diagonal().sign()
    return rotation


def show_symmetry(
    path: str,
    data: DatasetReference | None,
    *,
    split: str,
    limit: int,
    motion: Motion,
    output: Path | None,
) -> SymmetryReport:
    """Move a QLNet along its symmetries, and measure what that changes.

    Args:
        path: model folder or Hub id.
        data: images to compare logits and accuracy on; noise without.
        split: of the data.
        limit: images at most, evenly spaced; all if 0.
        motion: how far.
        output: new folder for the moved model, symmetry.json and symmetry.png; None for nothing.

    Raises:
        ValueError: if the model is no QLNet, and as `move` and `match_classes`.
        OSError: if the output exists or cannot be written.
    """
    if output is not None:
        refuse_filled(output)
    model, processor = load_model(path)
    if not isinstance(model, QLNet):
        raise ValueError(
            f"{path} must be a QLNet, whose products and hardballs have these symmetries; it is a "
            f"{model.config.model_type}"
        )
    moved = move(model, motion)
    batches = (
        _noise(processor)
        if data is None
        else _images(model, processor, data, split=split, limit=limit)
    )
    before, after, labels, exact = _compare(model, moved, batches, motion=motion)
    report: SymmetryReport = {
        "schema_version": SCHEMA_VERSION,
        "model": path,
        "data": None if data is None else f"{data.path} [{split}]",
        **_describe(model, motion),
        "weights": weight_changes(model, moved),
        "logits": {
            str(model.dtype).removeprefix("torch."): _change(before, after),
            "float64": exact,
        },
        "accuracy": None if data is None else _accuracy(before, after, labels),
    }
    if output is not None:

        def fill(folder: Path) -> None:
            moved.save_pretrained(folder)
            processor.save_pretrained(folder)
            write_json(folder / "symmetry.json", report)
            draw(model, moved, logits=(before, after), report=report, path=folder / "symmetry.png")

        write_folder(output.resolve(), fill)
    return report


def _describe(model: QLNet, motion: Motion) -> MotionFacts:
    stages = rotatable_stages(model) if motion.stages is None else sorted(set(motion.stages))
    sizes = [model.config.hidden_sizes[number - 1] for number in stages]
    blocks = [block for stage in model.stages for block in _blocks(stage)]
    scales = sum(block.bn1.num_features // 2 for block in blocks)
    return {
        "seed": motion.seed,
        "rotated_stages": stages,
        "rotation_parameters": sum(size * (size - 1) // 2 for size in sizes),
        "scales": scales if motion.largest_factor > 1 else 0,
        "largest_factor": motion.largest_factor,
    }


def weight_changes(model: QLNet, moved: QLNet) -> dict[str, float]:
    """Compare the weights of each part: length of the difference over length of the weights."""
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    others = dict(moved.named_parameters())
    for name, weight in model.named_parameters():
        first, second, *_ = [*name.split("."), ""]
        part = f"stage{int(second) + 1}" if first == "stages" else first
        parts.setdefault(part, []).append(
            (weight.detach().double(), others[name].detach().double())
        )
    return {
        part: math.sqrt(
            sum(float((b - a).square().sum()) for a, b in pairs)
            / sum(float(a.square().sum()) for a, _ in pairs)
        )
        for part, pairs in parts.items()
    }


def symmetry_text(report: SymmetryReport) -> str:
    """Say a report in a few lines, for a terminal."""
    changed = ", ".join(f"{part} {change:.2f}" for part, change in report["weights"].items())
    lines = [
        f"moved    stages {report['rotated_stages'] or 'none'} by rotations of "
        f"{report['rotation_parameters']:,} free numbers, {report['scales']:,} pairs of scales up "
        f"to {report['largest_factor']:g} (seed {report['seed']})",
        f"weights  changed by this much of their length: {changed}",
    ]
    for dtype, change in report["logits"].items():
        lines.append(
            f"logits   of {change['num_images']} images in {dtype}: largest change "
            f"{change['largest_change']:.1e}, largest logit {change['largest_logit']:.3g}"
        )
    if accuracy := report["accuracy"]:
        lines.append(
            f"top-1    {accuracy['before']:.2%} before, {accuracy['after']:.2%} after; "
            f"{accuracy['changed_images']} of {accuracy['num_images']} images of {report['data']} "
            f"have another first class"
        )
    return "\n".join(lines)


# Comparing ------------------------------------------------------------------------------------

Batches = Iterable[tuple[Tensor, Tensor]]  # pixel_values and labels


def _blocks(stage: nn.Module) -> list[QLNetBlock]:
    return [block for block in stage.children() if isinstance(block, QLNetBlock)]


def _noise(processor: BaseImageProcessor) -> Iterator[tuple[Tensor, Tensor]]:
    """Give one batch of noise of the size of the images, the same each time."""
    channels, height, width = image_shape(processor)
    generator = torch.Generator().manual_seed(0)
    shape = (NOISE_IMAGES, channels, height, width)
    yield torch.randn(shape, generator=generator), torch.zeros(NOISE_IMAGES, dtype=torch.int64)


def _images(
    model: QLNet, processor: BaseImageProcessor, data: DatasetReference, *, split: str, limit: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give the images as the model is shown them, with the model's class numbers."""
    source = subset(open_split(data, split), limit=limit, spaced=True)
    source = match_classes(source, class_names(model.config)).source
    protocol = EvaluationProtocol(batch_size=16)
    stream = EvalStream(source, processor, protocol=protocol, share=Share(0, 1))
    with tqdm(total=source.num_rows, desc="compare", unit=" images", leave=False) as bar:
        for batch in stream:
            labels = torch.from_numpy(batch["label"]).long()
            yield batch["shown"][0], labels
            bar.update(len(labels))


@torch.inference_mode()
def _compare(
    model: QLNet, moved: QLNet, batches: Batches, *, motion: Motion
) -> tuple[Tensor, Tensor, Tensor, Change]:
    """Compute logits before and after of all images, the labels, and the change in float64."""
    before, after, labels = [], [], []
    exact: Change | None = None
    for pixel_values, batch_labels in batches:
        if exact is None:
            wide, few = copy.deepcopy(model).double(), pixel_values[:EXACT_IMAGES].double()
            exact = _change(wide(few).logits, move(wide, motion)(few).logits)
        shown = pixel_values.to(model.dtype)
        before.append(model(shown).logits.float())
        after.append(moved(shown).logits.float())
        labels.append(batch_labels)
    assert exact is not None
    return torch.cat(before), torch.cat(after), torch.cat(labels), exact


def _change(before: Tensor, after: Tensor) -> Change:
    return {
        "largest_change": float((after - before).abs().max()),
        "largest_logit": float(before.abs().max()),
        "num_images": len(before),
    }


def _accuracy(before: Tensor, after: Tensor, labels: Tensor) -> Accuracy:
    first, second = before.argmax(1), after.argmax(1)
    return {
        "before": float((first == labels).double().mean()),
        "after": float((second == labels).double().mean()),
        "changed_images": int((first != second).sum()),
        "num_images": len(labels),
    }


# Drawing --------------------------------------------------------------------------------------


def draw(
    model: QLNet, moved: QLNet, *, logits: tuple[Tensor, Tensor], report: SymmetryReport, path: Path
) -> None:
    """Draw weights before and after, how far each part moved, and the logits, as one PNG."""
    figure = headless_figure(13, 3.6)
    last = _blocks(model.stages[-1])[-1].conv1, _blocks(moved.stages[-1])[-1].conv1
    weights = [conv.weight.detach().float().flatten(1)[:64, :64].numpy() for conv in last]
    limit = float(np.abs(np.stack(weights)).max()) or 1.0
    panels = figure.subplots(1, 4, gridspec_kw={"width_ratios": [1, 1, 1.2, 1.2]})
    for axes, weight, when in zip(panels[:2], weights, ("before", "after"), strict=True):
        axes.imshow(weight, cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set(
            title=f"last stage, {when}",
            xlabel="channel of the stream",
            ylabel="weights to the product's channel",
        )
    _draw_changes(panels[2], report)
    shown = np.stack([each.flatten().numpy() for each in logits])
    chosen = shown[:, :: max(1, shown.shape[1] // 5000)]  # more points would look the same
    ends = [float(shown.min()), float(shown.max())]
    panels[3].plot(ends, ends, color="0.8", linewidth=4, zorder=0)
    panels[3].plot(*chosen, ".", markersize=3, color="tab:blue")
    panels[3].set(title="logits", xlabel="before", ylabel="after", aspect="equal")
    figure.savefig(path, dpi=110)


def _draw_changes(axes: "Axes", report: SymmetryReport) -> None:
    changes = report["weights"]
    own = next(iter(report["logits"].values()))
    bars = {**changes, "logits": own["largest_change"] / (own["largest_logit"] or 1)}
    floor = 1e-9  # of the scale; nothing is below rounding
    colours = ["tab:orange"] * len(changes) + ["tab:blue"]
    axes.barh(list(bars), [max(value, floor) for value in bars.values()], color=colours, left=0)
    axes.set(xscale="log", xlim=(floor, 100), title="change", xlabel="relative to its size")
    axes.invert_yaxis()
    for place, value in enumerate(bars.values()):
        axes.text(
            max(value, floor) * 1.3,
            place,
            f"{value:.1e}" if value else "0",
            va="center",
            fontsize=7,
        )
