import io
import re
import struct
import sys
import zlib

import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
from PIL import Image, ImageFile

from convzoo.data.split import Rows
from convzoo.images import turbojpeg
from convzoo.images.decoding import (
    JpegCrops,
    UnreadableImageError,
    decode_rgb,
    is_upright,
    open_for_cropping,
    open_rgb,
)
from modeling import ConvZooImageProcessor
from tests.support.images import encode, jpeg, smooth_image, without


def test_arrow_memory_takes_the_fast_decoder(monkeypatch):
    data = pa.array([encode(smooth_image(61, 83))], pa.binary())
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
    Image.fromarray(smooth_image(61, 83)).save(
        buffer, "JPEG", quality=quality, subsampling=subsampling
    )
    assert np.array_equal(decode_rgb(buffer.getvalue()), np.asarray(open_rgb(buffer.getvalue())))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    + [(mode, "TIFF") for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK")]
    + [(mode, "JPEG") for mode in ("L", "RGB", "CMYK")],
)
def test_every_colour_mode_becomes_rgb(mode, kind):
    buffer = io.BytesIO()
    Image.fromarray(smooth_image(20, 30)).convert(mode).save(buffer, kind)
    decoded = decode_rgb(buffer.getvalue())
    assert decoded.shape == (20, 30, 3) and decoded.dtype == np.uint8
    assert decoded.std() > 5


def test_sixteen_bit_greys_keep_their_upper_byte():
    greys = np.arange(600, dtype=np.uint16).reshape(20, 30) * 109
    buffer = io.BytesIO()
    Image.fromarray(greys).save(buffer, "PNG")
    expected = (greys >> 8).astype(np.uint8)
    assert np.array_equal(decode_rgb(buffer.getvalue()), np.stack([expected] * 3, axis=-1))


def rotated(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(smooth_image(20, 30)).save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_rotation_is_applied_only_when_asked_for(kind):
    # Orientation 1 to 8 of the EXIF standard: the side where row 0, then column 0 belongs.
    turns = {
        1: lambda p: p,  # top, left
        2: lambda p: p[:, ::-1],  # top, right
        3: lambda p: p[::-1, ::-1],  # bottom, right
        4: lambda p: p[::-1],  # bottom, left
        5: lambda p: p.swapaxes(0, 1),  # left, top
        6: lambda p: p.swapaxes(0, 1)[:, ::-1],  # right, top
        7: lambda p: p.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
        8: lambda p: p.swapaxes(0, 1)[::-1],  # left, bottom
    }
    for orientation, turn in turns.items():
        data = rotated(kind, orientation)
        stored = decode_rgb(data)
        assert stored.shape == (20, 30, 3)
        expected = turn(stored)
        assert np.array_equal(decode_rgb(data, exif_rotation=True), expected)
        assert np.array_equal(np.asarray(open_rgb(data, exif_rotation=True)), expected)
        crops = open_for_cropping(data, exif_rotation=True)
        assert crops.shape == expected.shape
        assert np.array_equal(crops[2:17, 3:19], expected[2:17, 3:19])


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("LA", "PNG")],
)
def test_grey_pixels_are_those_of_the_image_processor(mode, kind):
    buffer = io.BytesIO()
    Image.fromarray(smooth_image(20, 30)).convert(mode).save(buffer, kind)
    grey = decode_rgb(buffer.getvalue(), num_channels=1)
    processor = ConvZooImageProcessor(
        20, crop_size=20, num_channels=1, rescale_factor=1.0, image_mean=[0], image_std=[1]
    )
    expected = processor(Image.open(buffer))["pixel_values"][0, 0]
    assert grey.shape == (20, 30, 1)
    off = np.abs(grey[:, 5:25, 0] - expected).max()
    assert off <= (1 if mode == "CMYK" else 0)  # the fast decoder rounds CMYK differently
    assert np.array_equal(np.asarray(open_rgb(buffer.getvalue(), 1))[:, 5:25], expected)
    crop = open_for_cropping(buffer.getvalue(), 1)[3:11, 7:20]
    assert np.array_equal(crop, grey[3:11, 7:20])


@pytest.mark.parametrize("keep", [0, 2, 10, 300])
def test_a_truncated_jpeg_is_refused(keep):
    data = encode(smooth_image(61, 83))
    with pytest.raises(ValueError, match=f"readable JPEG, PNG or similar; {keep} bytes"):
        decode_rgb(data[:keep])


def test_text_and_bombs_are_refused():
    with pytest.raises(ValueError, match="readable JPEG.* are not: unknown format$"):
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


@pytest.mark.parametrize("open_image", [decode_rgb, open_rgb, open_for_cropping])
def test_a_jpeg_of_more_pixels_than_pillow_allows_is_refused(open_image, monkeypatch):
    data = encode(smooth_image(16, 16))
    open_image(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 255)
    with pytest.raises(UnreadableImageError, match="256 pixels.* decompression bomb"):
        open_image(data)


needs_turbojpeg = pytest.mark.skipif(not turbojpeg.library(), reason="turbojpeg is not installed")


def boxes(rng, height, *, width, count):
    """Slices of random rows and columns."""
    for _ in range(count):
        top, left = rng.integers(height), rng.integers(width)
        bottom, right = rng.integers(top, height) + 1, rng.integers(left, width) + 1
        yield slice(top, bottom), slice(left, right)


@needs_turbojpeg
@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("restart", [0, 2])
@pytest.mark.parametrize(
    "subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "grey", "rgb"]
)
def test_a_decoded_crop_is_bit_equal_to_the_crop_of_the_decoded_image(
    subsampling, restart, num_channels
):
    rng = np.random.default_rng(0)
    for number in range(12):
        height, width = rng.integers(1, 130, 2)
        data = jpeg(
            smooth_image(height, width, number), subsampling, 50 + 4 * number, restart=restart
        )
        whole = decode_rgb(data, num_channels)
        crops = open_for_cropping(data, num_channels)
        assert isinstance(crops, JpegCrops) and crops.shape == whole.shape
        for box in boxes(rng, height, width=width, count=8):
            assert np.array_equal(crops[box], whole[box])
        assert np.array_equal(crops[:, :], whole)


def outcome(open_image, data, box):
    """Pixels of the crop, or None if the image is refused."""
    try:
        return open_image(data)[box].tobytes()
    except UnreadableImageError:
        return None


@pytest.mark.parametrize("progressive", [False, True])
def test_a_damaged_jpeg_is_cropped_or_refused_as_its_full_decode_is(progressive, monkeypatch):
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 2**17)
    rng = np.random.default_rng(0)
    good = jpeg(smooth_image(90, 120), progressive=progressive, restart=3)
    scans = [match.start() for match in re.finditer(b"\xff\xda", good)]
    files = [good + b"appendix", good[:-2], good[: scans[-1]] + b"\xff\xd9", good[: scans[0]]]
    files += [good, without(good, b"\xff\xdb"), good, without(good, b"\xff\xc4")]
    for _ in range(150):
        data = bytearray(good)
        first = int(rng.integers(scans[0], len(data) - 2))
        damage = rng.integers(256, size=int(rng.integers(1, 30)), dtype=np.uint8).tobytes()
        data[first : first + len(damage)] = damage[: len(data) - 2 - first]
        files.append(bytes(data))
        files.append(good[:first] + b"\xff\xd9")  # cut off and closed
    refused = set()
    for data in files:
        for box in boxes(rng, 90, width=120, count=3):
            expected = outcome(decode_rgb, data, box)
            assert outcome(open_for_cropping, data, box) == expected
            refused.add(expected is None)
    assert refused == {False, True}


def test_without_turbojpeg_crops_are_the_same(monkeypatch):
    data = jpeg(smooth_image(40, 50))
    crop = open_for_cropping(data)[3:30, 7:40]
    monkeypatch.setitem(sys.modules, "turbojpeg", None)  # as if it were not installed
    turbojpeg.library.cache_clear()
    try:
        whole = open_for_cropping(data)
    finally:
        turbojpeg.library.cache_clear()
    assert isinstance(whole, np.ndarray) and np.array_equal(whole[3:30, 7:40], crop)


@pytest.mark.parametrize("rename", [".jpg", ".png"])
def test_documents_are_refused_by_every_decoder_whatever_they_are_called(tmp_path, rename):
    """Pillow would run Ghostscript on the first one."""
    grey = Image.fromarray(np.zeros((8, 8), np.uint8))
    for kind in ("EPS", "PDF"):
        path = tmp_path / f"{kind}{rename}"
        grey.save(path, kind)
        data = path.read_bytes()
        assert data[:4] in (b"%!PS", b"%PDF")
        for decode in (decode_rgb, open_rgb, open_for_cropping):
            for exif_rotation in (False, True):
                with pytest.raises(UnreadableImageError, match="are not: unknown format"):
                    decode(data, exif_rotation=exif_rotation)
        assert not is_upright(data)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG2000", "PPM", "TGA", "TIFF", "WEBP", "AVIF"])
def test_allowed_formats_are_decoded(kind):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 9, 3), 200, np.uint8)).save(buffer, kind)
    assert abs(decode_rgb(buffer.getvalue()).astype(int) - 200).max() <= 2
