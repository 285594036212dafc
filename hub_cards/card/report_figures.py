"""Figures that `convzoo report --figures` left in a model folder, if they are of a result."""

import json
import logging

from PIL import Image, PngImagePlugin

from hub_cards.evidence.folder import Evidence
from hub_cards.files import Record

logger = logging.getLogger(__name__)

CONFUSION, CALIBRATION = "confusion_matrix.png", "calibration.png"
KEY = "convzoo"  # of the PNG's text, which says what the figure is of


def figure_of(evidence: Evidence, result: Record | None, *, name: str) -> str | None:
    """Return the name of a figure that is of a result; None if it is of another or not there.

    Args:
        evidence: what the folder holds.
        result: of the evidence.
        name: the file.
    """
    path = evidence.folder / name
    if result is None or not path.is_file():
        return None
    dataset, protocol = result["dataset"], result.get("protocol") or {}
    wanted = {
        "weights": result["model"]["sha256"],
        "fingerprint": dataset.get("fingerprint"),
        "split": dataset["split"],
        "views": protocol.get("views", 1),
    }
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = image.text if isinstance(image, PngImagePlugin.PngImageFile) else {}
        origin = json.loads(text[KEY])
        if {key: origin.get(key) for key in wanted} == wanted:
            return name
    except (OSError, ValueError, KeyError, AttributeError):
        pass  # of another program
    logger.warning(
        "%s is not on the card: it shows another result than that of the card. Draw it again with "
        "`convzoo report MODEL --figures`; --result chooses one",
        name,
    )
    return None
