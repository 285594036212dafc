"""The image formats that are decoded, and the file names that have them.

One list for every decoder: Pillow would hand EPS to Ghostscript, whatever the file is called, and
knows formats that are documents, films or scientific data.
"""

import functools

from PIL import Image

Encoded = bytes | memoryview  # an image file
# The frequent ones first, as they are tried in this order.
ALLOWED = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"),
    *("DIB", "ICO", "JPEG2000", "PCX", "QOI", "SGI", "TGA"),
)


@functools.cache
def image_formats() -> tuple[str, ...]:
    """Return the allowed formats that this Pillow can decode."""
    Image.init()
    return tuple(name for name in ALLOWED if name in Image.OPEN)


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of these formats, in lower case with the dot."""
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if name in image_formats())
