"""Encoded image bytes to pixels, and to crops of them.

JPEG goes through libjpeg-turbo (simplejpeg), which gives the same pixels as Pillow in less time
(for CMYK within one grey level); everything else, and JPEGs that it refuses, through Pillow. Where
the optional package `turbojpeg` is installed, a JPEG is decoded only where it is cropped.
"""

import io
import logging
import re
import warnings
from collections.abc import Callable

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from convzoo.images import turbojpeg
from convzoo.images.allowed_formats import Encoded, image_formats
from modeling.image_processing_convzoo import to_pillow

logger = logging.getLogger(__name__)

# Markers of a JPEG; in coded data 0xff is followed by 0x00 or a restart marker, 0xd0 to 0xd7.
JPEG_START, JPEG_END, SCAN_START = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
EXIF_ORIENTATION = 0x0112  # 1 is upright


class UnreadableImageError(ValueError):
    """Says that bytes are no complete image, or an image of absurd size."""


def decode_rgb(data: Encoded, num_channels: int = 3, *, exif_rotation: bool = False) -> np.ndarray:
    """Decode an image.

    Args:
        data: a JPEG, PNG or another file of one of the allowed formats.
        num_channels: 3 for RGB, 1 for grey as the published image processor makes it.
        exif_rotation: whether to turn the image as its EXIF data says.

    Returns:
        uint8, (height, width, num_channels).

    Raises:
        UnreadableImageError: if the bytes are no complete image; it is a ValueError.
    """
    if _is_jpeg_as_stored(data, exif_rotation):
        try:
            return _convert(simplejpeg.decode_jpeg(data, "RGB", strict=True), num_channels)
        except ValueError:
            pass  # damaged: Pillow decides
    opened = open_rgb(data, num_channels, exif_rotation=exif_rotation)
    image = np.array(opened)  # torch wants writable memory
    return image.reshape(*image.shape[:2], num_channels)


def open_rgb(data: Encoded, num_channels: int = 3, *, exif_rotation: bool = False) -> Image.Image:
    """Decode through Pillow alone, to an image of mode RGB, or L for one channel."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=image_formats()) as image:
                image.load()
                upright = ImageOps.exif_transpose(image) if exif_rotation else image
                return to_pillow(upright, num_channels)
    except Exception as error:  # Pillow's format plug-ins raise nearly anything
        unknown = isinstance(error, UnidentifiedImageError)  # its text has a memory address
        raise UnreadableImageError(
            f"an image must be a readable JPEG, PNG or similar; {len(data)} bytes starting with "
            f"{bytes(data[:8])!r} are not: {'unknown format' if unknown else error}"
        ) from error


def open_for_cropping(
    data: Encoded, num_channels: int = 3, *, exif_rotation: bool = False
) -> "np.ndarray | JpegCrops":
    """Return what `decode_rgb` gives, or an object of the same shape that decodes what is sliced.

    The pixels are the same either way, and so are the images that are refused.
    """
    if turbojpeg.library() and _is_jpeg_as_stored(data, exif_rotation) and _ends_with_scan(data):
        decoder = turbojpeg.RegionDecoder(data)
        if decoder.height:
            return JpegCrops(data, num_channels, decoder=decoder)
    return decode_rgb(data, num_channels, exif_rotation=exif_rotation)


class JpegCrops:
    """Decode a JPEG where it is sliced: `crops[top:bottom, left:right]`.

    Args:
        data: the file.
        num_channels: 3 for RGB, 1 for grey.
        decoder: of the file.

    Attributes:
        shape: (height, width, num_channels).
    """

    def __init__(self, data: Encoded, num_channels: int, *, decoder: turbojpeg.RegionDecoder):
        self.data = data
        self.decoder = decoder
        self.shape = (decoder.height, decoder.width, num_channels)

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        """Decode these rows and columns, uint8 (rows, columns, num_channels)."""
        height, width, num_channels = self.shape
        top, bottom, _ = key[0].indices(height)
        left, right, _ = key[1].indices(width)
        # Colour is interpolated from the next sample, which may lie in the next unit.
        unit = self.decoder.unit_width
        start = max(0, left - unit // 4) // unit * unit
        stop = min(width, right + unit // 4)
        pixels = self.decoder.decode(left=start, top=top, width=stop - start, height=bottom - top)
        if pixels is None:
            return decode_rgb(self.data, num_channels)[key]
        return _convert(pixels[:, left - start : right - start], num_channels)


def _convert(rgb: np.ndarray, num_channels: int) -> np.ndarray:
    if num_channels == 3:
        return rgb
    return np.array(to_pillow(rgb, num_channels)).reshape(*rgb.shape[:2], num_channels)


def is_image(data: Encoded) -> bool:
    """Tell whether bytes begin as an image of an allowed format; what follows may be damaged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are looked at when it is decoded
        try:
            with Image.open(io.BytesIO(data), formats=image_formats()):
                return True
        except Exception:  # Pillow's format plug-ins raise nearly anything
            return False


def is_upright(data: Encoded) -> bool:
    """Return False if EXIF data turn the image, or if Pillow cannot read them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF data
        try:
            with Image.open(io.BytesIO(data), formats=image_formats()) as image:
                return bool(image.getexif().get(EXIF_ORIENTATION, 1) == 1)
        except Exception:  # Pillow's EXIF reader raises nearly anything
            return False


class DarkImages:
    """Warns, once in a process, of an image of 16 bits a pixel that uses 12 of them at most.

    Cameras and scanners of 10, 12 or 14 bits write such files. What is shown to a model are the
    upper 8 bits of the 16, so these images are nearly black.
    """

    def __init__(self) -> None:
        self.warned = False

    def look(self, data: Encoded, where: Callable[[], str]) -> None:
        """Look at an encoded image.

        Args:
            data: the file.
            where: names it.
        """
        # Of a PNG the header says it: 16 bits a pixel, grey. Colours are rare, and Pillow's own.
        is_png = bytes(data[:4]) == b"\x89PNG" and bytes(data[24:26]) == b"\x10\x00"
        if self.warned or not (is_png or bytes(data[:4]) in (b"II*\0", b"MM\0*")):
            return
        try:
            with Image.open(io.BytesIO(data), formats=image_formats()) as image:
                if not image.mode.startswith("I;16") or np.asarray(image).max() >= 1 << 12:
                    return
        except Exception:  # the decoder will say why
            return
        self.warned = True
        logger.warning(
            "%s has 16 bits a pixel and uses at most 12: it is nearly black, for only the upper 8 "
            "are read. Stretch such images to the full range first, or save them with 8 bits",
            where(),
        )


DARK_IMAGES = DarkImages()


def _is_jpeg_as_stored(data: Encoded, exif_rotation: bool) -> bool:
    """Return True if the fast decoder may have it; else open_rgb decodes it or says why not."""
    if data[:2] != JPEG_START:
        return False
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > Image.MAX_IMAGE_PIXELS:
            return False
    except Exception:  # simplejpeg raises more than ValueError
        return False
    return not exif_rotation or is_upright(data)


def _ends_with_scan(data: Encoded) -> bool:
    """Return True if only coded data lie between the last scan's header and the file's end.

    If not, the file is damaged or has an appendix. Decoding all of it would come across that;
    decoding no farther than the lower edge of a crop would not.
    """
    return data[-2:] == JPEG_END and MARKER.findall(data)[-2:] == [SCAN_START, JPEG_END]
