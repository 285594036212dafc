"""A figure of training batches as a run on one process sees them: cropped, erased, mixed."""

import itertools
import math
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image, ImageDraw

from convzoo.data.stream import train_batches
from convzoo.files import SCHEMA_VERSION
from convzoo.inspection.figures import caption_font, fitting_text
from convzoo.recipe.settings import Preprocessing, Recipe
from convzoo.training.batch_transform import BatchTransform
from convzoo.training.monitors import Monitors
from convzoo.training.progress import Plan
from convzoo.training.run_data import open_run_data, open_stream

COLUMNS, SIDE, TEXT, MARGIN = 8, 128, 34, 8  # of the figure; the last three in pixels
MOST_IMAGES = 64


def draw_batches(recipe: Recipe, output: Path, *, limit: int = 0) -> dict[str, object]:
    """Draw the first images of a run with their labels into `batches.png`.

    They come in the run's order with the run's random numbers, at step 0 and after it; mixing is
    that of one process. Nothing is written into the run's folder.

    Args:
        recipe: of the run.
        output: folder of the figure.
        limit: how many images; MOST_IMAGES if 0.

    Returns:
        What was drawn, ready for JSON: for each image its step, its row and its label shares.

    Raises:
        OSError: if data cannot be read.
        ValueError: if something does not fit the recipe.
    """
    wanted = limit or MOST_IMAGES
    accelerator = Accelerator(cpu=True)
    data = open_run_data(recipe)
    plan = Plan.of(recipe, data.train.num_rows)
    off = Monitors(
        torch.nn.Identity(), (), every_steps=1, folder=output, start_step=0, enabled=False
    )
    transform = BatchTransform(recipe, len(data.label_names), accelerator=accelerator, monitors=off)
    stream = open_stream(recipe, data, plan=plan, start_step=0, accelerator=accelerator)
    per_step = recipe.train.global_batch_size
    stream.steps = range(min(plan.total_steps, math.ceil(wanted / per_step)))
    images: list[Image.Image] = []
    facts: list[dict[str, object]] = []
    with closing(train_batches(stream, 0)) as batches:
        for step, batch in enumerate(batches):
            pixel_values, labels = transform(batch, step)
            shares = label_shares(labels, recipe, num_classes=len(data.label_names))
            pixels = undo_normalisation(pixel_values, recipe.preprocessing)
            positions = (batch["positions"] // recipe.augmentation.repeats).tolist()
            for image, share, position in zip(pixels, shares, positions, strict=True):
                names = {data.label_names[n]: round(float(share[n]), 4) for n in np.argsort(-share)}
                where = data.train.where(*data.order.row(position))
                shown = dict(itertools.islice(((k, v) for k, v in names.items() if v >= 0.005), 2))
                facts.append({"step": step, "image": where, "labels": shown})
                images.append(Image.fromarray(image.squeeze()))
    facts, images = facts[:wanted], images[:wanted]
    output.mkdir(parents=True, exist_ok=True)
    figure = output / "batches.png"
    _sheet(images, [_caption(each) for each in facts]).save(figure, optimize=True)
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": recipe.run.name,
        "global_batch_size": per_step,
        "figure": str(figure),
        "images": facts,
    }


def undo_normalisation(pixel_values: torch.Tensor, settings: Preprocessing) -> np.ndarray:
    """Return normalised images, (N, C, H, W), as uint8 pixels, (N, H, W, C)."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (settings.mean, settings.std))
    pixels = (pixel_values * std + mean) / settings.rescale_factor
    return np.asarray(pixels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())


def label_shares(labels: torch.Tensor, recipe: Recipe, *, num_classes: int) -> np.ndarray:
    """Return the share of each class in each label, (N, num_classes), before it was smoothed."""
    if labels.ndim == 1:
        return np.asarray(np.eye(num_classes)[labels.numpy()])
    smoothing = recipe.train.label_smoothing if recipe.train.class_weights == "none" else 0.0
    shares = (labels.numpy() - smoothing / num_classes) / max(1e-9, 1 - smoothing)
    return np.asarray(np.where(shares < 1e-4, 0.0, shares))


def _caption(facts: dict[str, object]) -> list[str]:
    labels = facts["labels"]
    assert isinstance(labels, dict)
    if len(labels) == 1:
        return [next(iter(labels))]
    return [f"{share:.2f} {name}" for name, share in labels.items()]


def _sheet(images: list[Image.Image], captions: list[list[str]]) -> Image.Image:
    """Lay images out in rows, each with one or two lines below it."""
    columns = min(COLUMNS, len(images))
    width, height = SIDE + MARGIN, SIDE + MARGIN + TEXT
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = caption_font(text for lines in captions for text in lines)
    for number, (image, lines) in enumerate(zip(images, captions, strict=True)):
        left = MARGIN + number % columns * width
        top = MARGIN + number // columns * height
        method = Image.Resampling.NEAREST if image.width < SIDE else Image.Resampling.LANCZOS
        sheet.paste(image.convert("RGB").resize((SIDE, SIDE), method), (left, top))
        for line, text in enumerate(lines):
            shown = fitting_text(text, font, SIDE)
            draw.text((left, top + SIDE + 1 + 15 * line), shown, "black", font)
    return sheet
