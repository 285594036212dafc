import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
from PIL import Image

from convzoo.decoding import decode_rgb, open_rgb
from convzoo.sources import Rows
from tests.conftest import encode
from tests.test_transforms import picture


def test_arrow_memory_takes_the_fast_decoder(monkeypatch):
    data = pa.array([encode(picture(61, 83))], pa.binary())
    view = Rows(data, np.array([0]))[0][0]
    calls = []
    fast = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: calls.append(a) or fast(*a, **k))
    assert np.array_equal(decode_rgb(view), np.asarray(open_rgb(view)))
    assert len(calls) == 1


@pytest.mark.parametrize("quality", [50, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_the_fast_decoder_gives_pillows_pixels(quality, subsampling):
    buffer = io.BytesIO()
    Image.fromarray(picture(61, 83)).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    assert np.array_equal(decode_rgb(buffer.getvalue()), np.asarray(open_rgb(buffer.getvalue())))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    + [(mode, "TIFF") for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK")]
    + [(mode, "JPEG") for mode in ("L", "RGB", "CMYK")],
)
def test_every_colour_mode_becomes_rgb(mode, kind):
    buffer = io.BytesIO()
    Image.fromarray(picture(20, 30)).convert(mode).save(buffer, kind)
    decoded = decode_rgb(buffer.getvalue())
    assert decoded.shape == (20, 30, 3) and decoded.dtype == np.uint8
    assert decoded.std() > 5


def test_sixteen_bit_greys_keep_their_upper_byte():
    greys = np.arange(600, dtype=np.uint16).reshape(20, 30) * 109
    buffer = io.BytesIO()
    Image.fromarray(greys).save(buffer, "PNG")
    expected = (greys >> 8).astype(np.uint8)
    assert np.array_equal(decode_rgb(buffer.getvalue()), np.stack([expected] * 3, axis=-1))


def test_exif_rotation_is_not_applied():
    image = Image.fromarray(picture(20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert decode_rgb(buffer.getvalue()).shape == (20, 30, 3)


@pytest.mark.parametrize("keep", [0, 2, 10, 300])
def test_a_truncated_jpeg_is_refused(keep):
    data = encode(picture(61, 83))
    with pytest.raises(ValueError, match=f"readable JPEG, PNG or similar; {keep} bytes"):
        decode_rgb(data[:keep])


def test_text_and_bombs_are_refused():
    with pytest.raises(ValueError, match="readable JPEG"):
        decode_rgb(b"<html>not found</html>")
    # A PNG header that announces 60,000 x 60,000 pixels in a few bytes.
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))
    with pytest.raises(ValueError, match="decompression bomb"):
        decode_rgb(bomb)
