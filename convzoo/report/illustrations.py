"""What the page shows of an image: a thumbnail, and what speaks for each of two classes."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm
from transformers import BaseImageProcessor, PreTrainedModel

from convzoo.data.split import Split
from convzoo.errors import expected_problem
from convzoo.evaluation.prediction_table import PredictionTable
from convzoo.images.decoding import open_rgb
from convzoo.inspection.grad_cam import brightest_place, grad_cam, heat_over_image
from convzoo.report.rereading import data_uri, read_images

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heat:
    """What speaks for a class in an image.

    Attributes:
        number: the class.
        uri: the heat map over the image, as a data URI.
        place: of the brightest part, fractions from the left and the top; None if there is no heat.
    """

    number: int
    uri: str
    place: tuple[float, float] | None


@dataclass(frozen=True)
class Illustration:
    """A thumbnail as a data URI, and heat maps of the label and of the answer, in this order."""

    uri: str
    heats: tuple[Heat, ...] = ()


class Explainer:
    """Draws Grad-CAM of images, as the model of an evaluation sees them.

    Args:
        model: in evaluation mode.
        processor: its image processor.
    """

    def __init__(self, model: PreTrainedModel, processor: BaseImageProcessor):
        self.model = model
        self.processor = processor

    def explain(self, image: Image.Image, classes: list[int]) -> tuple[Heat, ...]:
        """Draw what speaks for each of some classes; nothing where the model has no feature map."""
        pixels = self.processor([image], return_tensors="pt")["pixel_values"]
        heats = grad_cam(self.model, pixels, classes)
        return tuple(
            Heat(
                number=number,
                uri=data_uri(Image.fromarray(heat_over_image(heat, pixels, self.processor))),
                place=brightest_place(heat),
            )
            for number, heat in zip(classes, heats or (), strict=False)
        )


def illustrate(
    table: PredictionTable,
    source: Split,
    *,
    shown: np.ndarray,
    explained: np.ndarray,
    explainer: Explainer | None,
) -> tuple[dict[int, Illustration], str]:
    """Read images again and make them small.

    Args:
        table: the predictions.
        source: the whole split that they were made on.
        shown: places of the images in the table.
        explained: of these, which get heat maps.
        explainer: draws them; None for no heat maps.

    Returns:
        By place, those images that are still what was evaluated; and why reading ended early, or
        "".
    """
    exif_rotation = bool(table.facts.protocol.get("exif_rotation"))
    channels = _num_channels(table.facts.protocol)
    with_heat = set(explained.tolist())
    found: dict[int, Illustration] = {}
    bar = tqdm(total=len(np.unique(shown)), desc="images", unit=" images", leave=False)
    with bar:
        try:
            for place, data in read_images(source, table, shown):
                image = open_rgb(data, channels, exif_rotation=exif_rotation)
                image.info.clear()  # the protocol decides about EXIF data, not a processor
                heats: tuple[Heat, ...] = ()
                if explainer and place in with_heat:
                    numbers = [int(table.label[place]), int(table.top_classes[place, 0])]
                    heats = explainer.explain(image, numbers)
                found[place] = Illustration(data_uri(image), heats)
                bar.update()
        except (OSError, ValueError) as error:
            return found, expected_problem(error) or str(error)
    return found, ""


def _num_channels(protocol: Mapping[str, Any]) -> int:
    return int((protocol.get("image_processor") or {}).get("num_channels") or 3)
