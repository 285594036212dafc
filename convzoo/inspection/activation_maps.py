"""Images of what a model makes of an image: the prediction, and the maps of each stage."""

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from convzoo.images.decoding import open_rgb

MOST_LOGITS = 20
MOST_GUESSES = 5
MOST_BARS = 128  # channels that fit side by side
GAP = 1  # pixels between the maps of a mosaic


def draw_activations(model: PreTrainedModel, processor, image: str, folder: Path) -> dict:
    """Draw the prediction, and the output of the stem and of each stage, into PNG files.

    Args:
        model: of one of our families, in evaluation mode.
        processor: its image processor.
        image: image file.
        folder: where `prediction.png`, `0_stem.png`, `1_stage.png`, ... go; created.

    Returns:
        "predictions", label -> probability of the five likeliest classes, and "images", paths.

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
    labels = model.config.id2label
    guesses = {labels[i]: probabilities[i].item() for i in likeliest[:MOST_GUESSES]}
    seen = _visible(pixel_values["pixel_values"][0].numpy(), processor)

    folder.mkdir(parents=True, exist_ok=True)
    pictures = [folder / "prediction.png"]
    shown = likeliest[:MOST_LOGITS]
    _draw_prediction(seen, guesses, [labels[i] for i in shown], logits[shown], pictures[0])
    for index, maps in enumerate(output.hidden_states):
        name = "stage" if index else "stem"
        pictures.append(folder / f"{index}_{name}.png")
        title = f"{name} {index}" if index else name
        _draw_maps(seen, guesses, maps[0].float().cpu().numpy(), title, pictures[-1])
    return {"predictions": guesses, "images": [str(picture) for picture in pictures]}


def mosaic(maps: np.ndarray) -> np.ndarray:
    """Maps (C, H, W) side by side in rows, about square; NaN between and after them."""
    count, height, width = maps.shape
    columns = int(np.ceil(np.sqrt(count * height / width)))
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height + GAP, width + GAP), np.nan, np.float32)
    sheet[:count, :height, :width] = maps
    sheet = sheet.reshape(rows, columns, height + GAP, width + GAP).transpose(0, 2, 1, 3)
    return sheet.reshape(rows * (height + GAP), columns * (width + GAP))[:-GAP, :-GAP]


def _visible(pixels, processor):
    """The input of the model, (C, H, W), as an image: normalisation undone."""
    mean, std = (
        np.array(values)[:, None, None] for values in (processor.image_mean, processor.image_std)
    )
    grey_levels = (pixels * std + mean) / processor.rescale_factor
    return grey_levels.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def _figure(size):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_input(axis, seen, guesses):
    axis.imshow(seen, cmap="gray", vmin=0, vmax=255)
    axis.axis("off")
    lines = [f"{probability:6.1%}  {label[:28]}" for label, probability in guesses.items()]
    axis.set_title("\n".join(lines), fontsize=9, loc="left", family="monospace")


def _draw_prediction(seen, guesses, labels, logits, path):
    figure = _figure((10, 4.8))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    _draw_input(left, seen, guesses)
    right.barh(np.arange(len(labels)), logits.numpy(), color="tab:blue")
    right.set_yticks(np.arange(len(labels)), [label[:28] for label in labels], fontsize=8)
    right.invert_yaxis()
    right.axvline(0, color="black", linewidth=0.8)
    right.set(xlabel="logit", title=f"the {len(labels)} largest logits")
    figure.savefig(path, dpi=120)


def _draw_maps(seen, guesses, maps, title, path):
    channels, height, width = maps.shape
    figure = _figure((13, 8))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2))
    picture, bars = left.subplots(2, 1, height_ratios=(1.2, 1))
    _draw_input(picture, seen, guesses)
    edges = np.arange(channels + 1) - 0.5
    largest, mean, label = maps.max((1, 2)), maps.mean((1, 2)), "channel"
    if channels > MOST_BARS:
        largest, mean, label = -np.sort(-largest), -np.sort(-mean), "channels, each curve sorted"
    bars.stairs(largest, edges, fill=True, color="tab:orange", alpha=0.5, label="max")
    bars.stairs(mean, edges, fill=True, color="tab:blue", label="mean")
    bars.axhline(0, color="black", linewidth=0.8)
    bars.set(xlabel=label, ylabel="activation", xlim=(edges[0], edges[-1]))
    bars.legend(loc="upper right")
    constant = int((np.ptp(maps, axis=(1, 2)) == 0).sum())
    bars.set_title(f"{constant} of {channels} channels are constant", fontsize=10)

    axis = right.subplots()
    limit = float(np.quantile(np.abs(maps), 0.995)) or 1.0
    signed = maps.min() < 0
    colours = {"cmap": "RdBu_r", "vmin": -limit} if signed else {"cmap": "viridis", "vmin": 0}
    drawn = axis.imshow(mosaic(maps), vmax=limit, interpolation="nearest", **colours)
    axis.axis("off")
    axis.set_title(f"{title}: {channels} maps of {height} x {width}, row by row", fontsize=11)
    right.colorbar(drawn, ax=axis, shrink=0.6, extend="both" if signed else "max")
    figure.savefig(path, dpi=120)
