"""Encoded image bytes to RGB pixels.

JPEG goes through libjpeg-turbo (simplejpeg), which gives the same pixels as Pillow in less time;
everything else, and JPEGs that it cannot turn into RGB (CMYK), through Pillow.
"""

import io
import warnings

import numpy as np
import simplejpeg
from PIL import Image

from modeling.image_processing_convzoo import to_pillow


def decode_rgb(data: bytes) -> np.ndarray:
    """Decode a picture, without applying its EXIF rotation.

    Args:
        data: a JPEG, PNG or any other file that Pillow reads.

    Returns:
        RGB uint8, (height, width, 3).

    Raises:
        ValueError: if the bytes are no complete picture, or a picture of absurd size.
    """
    if data[:2] == b"\xff\xd8":
        try:
            return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
        except ValueError:
            pass  # CMYK, or damaged: Pillow decides
    return np.array(open_rgb(data))  # a copy: torch wants writable memory


def open_rgb(data: bytes) -> Image.Image:
    """The same through Pillow alone, with the colour rules of the published image processor."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                return to_pillow(image, num_channels=3)
    except Exception as error:  # Pillow's format plug-ins raise nearly anything
        raise ValueError(
            f"an image must be a readable JPEG, PNG or similar; {len(data)} bytes starting with "
            f"{bytes(data[:8])!r} are not: {error}"
        ) from error
