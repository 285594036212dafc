import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from convzoo.resizing.rows import Presize


def smooth_image(height, width):
    """Smooth colours, which JPEG keeps to a few grey levels."""
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [128 + 100 * np.sin((x + 40 * c) / 37) * np.cos(y / (29 + 9 * c)) for c in range(3)],
        axis=-1,
    ).astype(np.uint8)


def saved(pixels, kind="JPEG", mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(120, 301), (333, 90)])
def test_pixels_are_pillows_resize_up_to_jpeg(interpolation, size):
    source = smooth_image(*size)
    data = Presize(64, interpolation=interpolation, quality=100, subsampling="444")(
        saved(source, "PNG")
    )
    scaled = tuple(side * 64 // min(size) for side in size)
    expected = Image.fromarray(source).resize(scaled[::-1], Image.Resampling[interpolation.upper()])
    result = opened(data)
    assert (result.format, result.mode, result.size) == ("JPEG", "RGB", scaled[::-1])
    difference = np.asarray(result).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 4 and np.abs(difference).mean() < 0.6


def test_the_crop_is_the_one_of_the_published_image_processor():
    # 81 - 40 is odd: torchvision rounds the half to even, where others round down.
    columns = np.arange(81, dtype=np.uint8) * 3
    source = np.broadcast_to(columns[None, :, None], (40, 81, 3)).copy()
    ours = opened(Presize(40, crop=True, quality=100, subsampling="444")(saved(source, "PNG")))
    left = round((81 - 40) / 2)
    assert left == 20
    assert np.abs(np.asarray(ours).astype(int) - source[:, left : left + 40]).max() <= 2


@pytest.mark.parametrize(
    ("size", "settings", "expected"),
    [
        ((100, 80), Presize(40), (40, 50)),  # (width, height)
        ((100, 80), Presize(40, crop=True), (40, 40)),
        ((30, 50), Presize(40), (50, 30)),
        ((30, 50), Presize(40, crop=True), (40, 30)),
        ((30, 50), Presize(40, enlarge=True), (66, 40)),
        ((30, 50), Presize(40, enlarge=True, crop=True), (40, 40)),
    ],
)
def test_sizes(size, settings, expected):
    assert opened(settings(saved(smooth_image(*size), "PNG"))).size == expected


def test_quality_and_subsampling_are_those_of_pillow():
    source = saved(smooth_image(90, 90), "PNG")
    for quality, subsampling, pillows in ((90, "420", 2), (75, "444", 0)):
        ours = opened(Presize(64, quality=quality, subsampling=subsampling)(source))
        theirs = opened(saved(smooth_image(64, 64), quality=quality, subsampling=pillows))
        assert ours.quantization == theirs.quantization
        assert ours.layer == theirs.layer  # sampling factors of each component


def test_small_jpegs_keep_their_bytes_and_nothing_else_does():
    small, large = smooth_image(40, 50), smooth_image(70, 60)
    presize = Presize(48)
    for kept in (saved(small, quality=55), saved(small, mode="L"), saved(smooth_image(48, 99))):
        assert presize(kept) == kept
    for changed in (saved(small, "PNG"), saved(small, mode="CMYK"), saved(large)):
        assert presize(changed) != changed
        assert opened(presize(changed)).mode == "RGB"
    cropped = saved(smooth_image(48, 99))
    assert Presize(48, crop=True)(cropped) != cropped


@pytest.mark.parametrize("side", [40, 70])  # left at its size, and made smaller
def test_no_copy_has_an_exif_rotation_and_all_are_turned_or_none(side):
    exif = Image.Exif()
    exif[0x0112] = 6  # the left side belongs to the top
    turned = saved(smooth_image(side, side + 20), quality=95, exif=exif)
    upright = saved(smooth_image(side, side + 20), quality=95)
    for exif_rotation, expected in (
        (False, opened(turned)),
        (True, ImageOps.exif_transpose(opened(turned))),
    ):
        presize = Presize(48, quality=95, subsampling="444", exif_rotation=exif_rotation)
        result = opened(presize(turned))
        assert 0x0112 not in result.getexif()
        scale = min(48, side) / side
        assert result.size == tuple(int(length * scale) for length in expected.size)
        wanted = np.asarray(expected.resize(result.size, Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(np.asarray(result) - wanted).mean() < 1.5
        assert (presize(upright) == upright) == (side == 40)


def test_cmyk_and_transparent_images_keep_their_colours():
    cmyk = saved(smooth_image(80, 80), mode="CMYK", quality=100)
    expected = np.asarray(opened(cmyk).convert("RGB").resize((40, 40), Image.Resampling.BILINEAR))
    ours = np.asarray(opened(Presize(40, quality=100, subsampling="444")(cmyk)))
    assert np.abs(ours.astype(int) - expected).mean() < 1.5
    palette = saved(smooth_image(80, 80), "PNG", mode="P")
    assert opened(Presize(40)(palette)).mode == "RGB"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be at least 1 pixel; got 0"),
        ({"quality": 101}, r"quality must lie in \[1, 100\]; got 101"),
        ({"interpolation": "nearest"}, "interpolation must be bilinear or bicubic; got 'nearest'"),
        ({"subsampling": "411"}, "subsampling must be 420 or 444; got '411'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Presize(**settings)
