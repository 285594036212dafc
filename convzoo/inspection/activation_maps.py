"""Figures of what a model makes of an image: the prediction, and the maps of each stage."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import BaseImageProcessor, PreTrainedModel
from typing_extensions import TypedDict

from convzoo.images.decoding import open_rgb
from convzoo.inspection.figures import headless_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

MOST_LOGITS = 20
MOST_GUESSES = 5
MOST_BARS = 128  # channels that fit side by side
GAP = 1  # pixels between the maps of a mosaic


class DrawnActivations(TypedDict):
    """Label -> probability of the likeliest classes, and the paths of the figures."""

    predictions: dict[str, float]
    images: list[str]


def draw_activations(
    model: PreTrainedModel, processor: BaseImageProcessor, *, image: str, folder: Path
) -> DrawnActivations:
    """Draw the prediction, and the output of the stem and of each stage, into PNG files.

    Args:
        model: of one of our families, in evaluation mode.
        processor: its image processor.
        image: image file.
        folder: where `prediction.png`, `0_stem.png`, `1_stage.png`, ... go; created.

    Raises:
        OSError: if the image cannot be found or the folder not be written.
        ValueError: if the image cannot be decoded.
    """
    try:
        pixel_values = processor(open_rgb(Path(image).read_bytes()), return_tensors="pt")
    except ValueError as error:
        raise ValueError(f"{image}: {error}") from error
    with torch.inference_mode():
        output = model(**pixel_values.to(model.device), output_hidden_states=True)
    logits = output.logits[0].float().cpu()
    probabilities = logits.softmax(0)
    likeliest = probabilities.argsort(descending=True).tolist()
    labels = model.config.id2label or {}
    guesses = {labels[i]: probabilities[i].item() for i in likeliest[:MOST_GUESSES]}
    seen = visible(pixel_values["pixel_values"][0].numpy(), processor)

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "prediction.png"]
    shown = likeliest[:MOST_LOGITS]
    largest = {labels[i]: logits[i].item() for i in shown}
    _draw_prediction(seen, guesses, logits=largest, path=paths[0])
    for index, maps in enumerate(output.hidden_states):
        name = "stage" if index else "stem"
        paths.append(folder / f"{index}_{name}.png")
        title = f"{name} {index}" if index else name
        pixels = maps[0].float().cpu().numpy()
        _draw_maps(seen, guesses, maps=pixels, title=title, path=paths[-1])
    return {"predictions": guesses, "images": [str(path) for path in paths]}


def mosaic(maps: np.ndarray) -> np.ndarray:
    """Put maps (C, H, W) side by side in rows, about square; NaN between and after them."""
    count, height, width = maps.shape
    columns = int(np.ceil(np.sqrt(count * height / width)))
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height + GAP, width + GAP), np.nan, np.float32)
    sheet[:count, :height, :width] = maps
    sheet = sheet.reshape(rows, columns, height + GAP, width + GAP).transpose(0, 2, 1, 3)
    joined: np.ndarray = sheet.reshape(rows * (height + GAP), columns * (width + GAP))
    return joined[:-GAP, :-GAP]


def visible(pixels: np.ndarray, processor: Any) -> np.ndarray:
    """Make an image, uint8 (H, W, C), of the input of a model, (C, H, W): undo normalisation."""
    mean, std = (
        np.array(values)[:, None, None] for values in (processor.image_mean, processor.image_std)
    )
    grey_levels: np.ndarray = (pixels * std + mean) / processor.rescale_factor
    return grey_levels.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def _draw_input(axes: "Axes", seen: np.ndarray, guesses: dict[str, float]) -> None:
    axes.imshow(seen, cmap="gray", vmin=0, vmax=255)
    axes.axis("off")
    lines = [f"{probability:6.1%}  {label[:28]}" for label, probability in guesses.items()]
    axes.set_title("\n".join(lines), fontsize=9, loc="left", family="monospace")


def _draw_prediction(
    seen: np.ndarray, guesses: dict[str, float], *, logits: dict[str, float], path: Path
) -> None:
    figure = headless_figure(10, 4.8)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    _draw_input(left, seen, guesses)
    places = np.arange(len(logits))
    right.barh(places, list(logits.values()), color="tab:blue")
    right.set_yticks(places, [label[:28] for label in logits], fontsize=8)
    right.invert_yaxis()
    right.axvline(0, color="black", linewidth=0.8)
    right.set(xlabel="logit", title=f"the {len(logits)} largest logits")
    figure.savefig(path, dpi=120)


def _draw_maps(
    seen: np.ndarray, guesses: dict[str, float], *, maps: np.ndarray, title: str, path: Path
) -> None:
    figure = headless_figure(13, 8)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 2))[0]
    top, bottom = left.subplots(2, 1, height_ratios=(1.2, 1))
    _draw_input(top, seen, guesses)
    _draw_channels(bottom, maps)
    _draw_mosaic(right, maps, title=title)
    figure.savefig(path, dpi=120)


def _draw_channels(axes: "Axes", maps: np.ndarray) -> None:
    """Greatest and mean activation of each channel."""
    channels = len(maps)
    edges = np.arange(channels + 1) - 0.5
    largest, mean, label = maps.max((1, 2)), maps.mean((1, 2)), "channel"
    if channels > MOST_BARS:
        largest, mean, label = -np.sort(-largest), -np.sort(-mean), "channels, each curve sorted"
    axes.stairs(largest, edges, fill=True, color="tab:orange", alpha=0.5, label="max")
    axes.stairs(mean, edges, fill=True, color="tab:blue", label="mean")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel=label, ylabel="activation", xlim=(edges[0], edges[-1]))
    axes.legend(loc="upper right")
    constant = int((np.ptp(maps, axis=(1, 2)) == 0).sum())
    axes.set_title(f"{constant} of {channels} channels are constant", fontsize=10)


def _draw_mosaic(figure: "SubFigure", maps: np.ndarray, *, title: str) -> None:
    channels, height, width = maps.shape
    axes = figure.subplots()
    limit = float(np.quantile(np.abs(maps), 0.995)) or 1.0
    signed = maps.min() < 0
    colours: dict[str, Any] = (
        {"cmap": "RdBu_r", "vmin": -limit} if signed else {"cmap": "viridis", "vmin": 0}
    )
    drawn = axes.imshow(mosaic(maps), vmax=limit, interpolation="nearest", **colours)
    axes.axis("off")
    axes.set_title(f"{title}: {channels} maps of {height} x {width}, row by row", fontsize=11)
    figure.colorbar(drawn, ax=axes, shrink=0.6, extend="both" if signed else "max")
