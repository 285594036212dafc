"""The part of libjpeg-turbo's C interface that decodes a region of a JPEG.

The optional package `turbojpeg` brings the library, but its Python functions decode whole images,
hence ctypes. Its header: libjpeg-turbo 3, turbojpeg.h.
"""

import ctypes
import functools
import importlib.util

import numpy as np

from convzoo.images.allowed_formats import Encoded

# Numbers of parameters.
STOP_ON_WARNING, SUBSAMPLING, WIDTH, HEIGHT, PROGRESSIVE = 0, 4, 5, 6, 12
# Widths of the units that are decoded together, pixels, by number of subsampling: 4:4:4, 4:2:2,
# 4:2:0, grey, 4:4:0, 4:1:1.
UNIT_WIDTHS = (8, 16, 16, 8, 8, 32)


class _Region(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("x", "y", "width", "height")]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Load the C library; None where the package is missing, or hides it as on Windows."""
    spec = importlib.util.find_spec("turbojpeg")
    if spec is None:
        return None
    try:
        functions = ctypes.CDLL(spec.origin)  # the extension module; names resolve through it
        functions.tj3Init.restype = ctypes.c_void_p
        pointer, number = ctypes.c_void_p, ctypes.c_int
        for name, *arguments in (
            ("tj3Init", number),
            ("tj3Destroy", pointer),
            ("tj3Get", pointer, number),
            ("tj3Set", pointer, number, number),
            ("tj3DecompressHeader", pointer, pointer, ctypes.c_size_t),
            ("tj3SetCroppingRegion", pointer, _Region),
            ("tj3Decompress8", pointer, pointer, ctypes.c_size_t, pointer, number, number),
        ):
            getattr(functions, name).argtypes = arguments
    except (AttributeError, OSError):
        return None
    return functions


class RegionDecoder:
    """Decode regions of a JPEG whose header has been read.

    It has a handle of its own: one that is used again would lend the tables of the last image to
    a damaged one that lacks them.

    Args:
        data: the file.

    Attributes:
        height: of the image, pixels; 0 if it must be decoded as a whole. That is so if its header
            cannot be read, and for progressive files: regions save them no time, and where the last
            scans are missing, blocks are smoothed by farther neighbours.
        width: of the image, pixels.
        unit_width: of the blocks that are decoded together, pixels.
    """

    def __init__(self, data: Encoded):
        functions = library()
        assert functions, "only where the library is"
        self.library = functions
        self.data = np.frombuffer(data, np.uint8)
        self.handle = self.library.tj3Init(1)  # to decompress
        self.library.tj3Set(self.handle, STOP_ON_WARNING, 1)
        self.height = self.width = self.unit_width = 0
        if self.library.tj3DecompressHeader(self.handle, *self._source()):
            return
        subsampling = self.library.tj3Get(self.handle, SUBSAMPLING)
        progressive = self.library.tj3Get(self.handle, PROGRESSIVE)
        if not progressive and 0 <= subsampling < len(UNIT_WIDTHS):
            self.height = self.library.tj3Get(self.handle, HEIGHT)
            self.width = self.library.tj3Get(self.handle, WIDTH)
            self.unit_width = UNIT_WIDTHS[subsampling]

    def __del__(self) -> None:
        self.library.tj3Destroy(self.handle)

    def decode(self, *, left: int, top: int, width: int, height: int) -> np.ndarray | None:
        """Decode a region to RGB pixels, uint8 (height, width, 3); None if anything is wrong.

        Nothing below the region is read. `left` must be a multiple of `unit_width`.
        """
        region = _Region(left, top, width, height)
        pixels = np.empty((height, width, 3), np.uint8)
        if self.library.tj3SetCroppingRegion(self.handle, region):
            return None
        target = pixels.ctypes.data, 0, 0  # rows without gaps, RGB
        failed = self.library.tj3Decompress8(self.handle, *self._source(), *target)
        return None if failed else pixels

    def _source(self) -> tuple[int, int]:
        return self.data.ctypes.data, len(self.data)
