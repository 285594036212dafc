"""Classify any number of images in batches, in order, with memory for a few batches only."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from convzoo.images.decoding import DARK_IMAGES, open_rgb
from convzoo.prediction.classifier import Classifier, Guess
from convzoo.prediction.downloading import DownloadLimits, download
from convzoo.prediction.image_names import STANDARD_INPUT, URL, FoundImages
from convzoo.signals import outlive_signals

HEIC = "HEIC is not supported; convert it to JPEG"
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of an image.

    Attributes:
        image: its name.
        guesses: its likeliest classes, best first; none if it could not be read.
        error: why it could not be read, else "".
    """

    image: str
    guesses: list[Guess] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How many images are in work at a time.

    Attributes:
        batch_size: images that the model sees at a time.
        num_workers: processes that read and decode; 0 for none but this one.
    """

    batch_size: int = 16
    num_workers: int = 2


# Of a batch: tensors of one shape with the places of their images, and the errors of others.
Loaded = tuple[list[tuple[list[int], Tensor]], dict[int, str]]


class ImageBatches(Dataset[Loaded]):
    """Batches of images as the model takes them; item N is batch N.

    Args:
        found: the images.
        processor: the model's image processor.
        batch_size: images of a batch.
        limits: of downloads.
    """

    def __init__(
        self, found: FoundImages, processor: Any, *, batch_size: int, limits: DownloadLimits
    ):
        self.found, self.processor = found, processor
        self.batch_size, self.limits = batch_size, limits

    def __len__(self) -> int:
        return math.ceil(len(self.found.names) / self.batch_size)

    def names(self, number: int) -> list[str]:
        """Return the names of the images of a batch."""
        return self.found.names[number * self.batch_size : (number + 1) * self.batch_size]

    def __getitem__(self, number: int) -> Loaded:
        shapes: dict[torch.Size, list[tuple[int, Tensor]]] = {}
        errors = {}
        for place, name in enumerate(self.names(number)):
            try:
                pixel_values = self._load(name)
            except (ValueError, OSError) as error:
                reason = getattr(error, "strerror", "") or str(error)
                errors[place] = reason.removeprefix("images[0] ")
            else:
                shapes.setdefault(pixel_values.shape, []).append((place, pixel_values))
        groups = [tuple(zip(*group, strict=True)) for group in shapes.values()]
        return [(list(places), torch.cat(tensors)) for places, tensors in groups], errors

    def _load(self, name: str) -> Tensor:
        """Read, decode and preprocess an image, to (1, C, H, W)."""
        data = self._read(name)
        DARK_IMAGES.look(data, partial(str, name))
        try:
            image: Image.Image = open_rgb(data, exif_rotation=True)  # as `pipeline` does
        except ValueError:
            if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
                raise ValueError(HEIC) from None
            raise
        shown: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"]
        return shown

    def _read(self, name: str) -> bytes:
        if name == STANDARD_INPUT and self.found.standard_input:
            return self.found.standard_input
        return download(name, self.limits) if URL.match(name) else Path(name).read_bytes()


def classify(
    found: FoundImages,
    classifier: Classifier,
    *,
    top_k: int,
    pace: Pace,
    limits: DownloadLimits = DownloadLimits(),  # noqa: B008  it is frozen
) -> Iterator[list[Answer]]:
    """Classify images; yields the answers of each batch, in the order of the names.

    Args:
        found: the images.
        classifier: the model.
        top_k: classes of each image.
        pace: batch size and workers.
        limits: of downloads.

    Raises:
        ValueError: if a probability is not finite.
    """
    batches = ImageBatches(found, classifier.processor, batch_size=pace.batch_size, limits=limits)
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=min(pace.num_workers, len(batches) - 1),  # each has a batch to load
        worker_init_fn=outlive_signals,
        pin_memory=classifier.model.device.type == "cuda",
    )
    for number, (groups, errors) in enumerate(loader):
        names = batches.names(number)
        answers = {place: Answer(image=names[place], error=text) for place, text in errors.items()}
        for places, pixel_values in groups:
            guesses = classifier.guess(pixel_values, top_k)
            for place, guessed in zip(places, guesses, strict=True):
                _check_finite(classifier.name, names[place], guessed)
                answers[place] = Answer(image=names[place], guesses=guessed)
        yield [answers[place] for place in range(len(names))]


def _check_finite(model: str, image: str, guesses: list[Guess]) -> None:
    if not all(math.isfinite(score) for _, score in guesses):
        raise ValueError(
            f"probabilities of {model} must be finite; those of {image} are not. Its weights may "
            f"be ruined: `convzoo inspect {model}`"
        )
