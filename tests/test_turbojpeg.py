from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from convzoo.images.decoding import decode_rgb, open_for_cropping
from convzoo.images.turbojpeg import RegionDecoder, library
from tests.support.images import jpeg, smooth_image, without

pytestmark = pytest.mark.skipif(not library(), reason="turbojpeg is not installed")


@pytest.mark.parametrize(
    ("subsampling", "unit"),
    [("4:4:4", 8), ("4:2:2", 16), ("4:2:0", 16), ("4:4:0", 8), ("4:1:1", 32), ("grey", 8)],
)
def test_the_header_gives_size_and_units(subsampling, unit):
    data = jpeg(smooth_image(61, 83), subsampling)
    decoder = RegionDecoder(data)
    assert (decoder.height, decoder.width, decoder.unit_width) == (61, 83, unit)
    whole = decode_rgb(data)
    assert np.array_equal(decoder.decode(left=0, top=0, width=83, height=61), whole)
    # The rightmost colour sample of a region has no neighbour, hence not to the very edge.
    assert np.array_equal(
        decoder.decode(left=0, top=17, width=60, height=20)[:, :50], whole[17:37, :50]
    )
    assert (
        decoder.decode(left=unit // 2, top=0, width=20, height=20) is None
    )  # not on the edge of a unit
    assert decoder.decode(left=0, top=50, width=20, height=20) is None  # not inside the image


@pytest.mark.parametrize(
    "data", [b"<html>not found</html>", jpeg(smooth_image(61, 83))[:90], b"\xff\xd8"]
)
def test_what_has_no_header_is_left_to_others(data):
    assert RegionDecoder(data).height == 0


def test_progressive_files_are_left_to_others():
    assert RegionDecoder(jpeg(smooth_image(61, 83), progressive=True)).height == 0


def test_an_image_does_not_lend_its_tables_to_the_next():
    RegionDecoder(jpeg(smooth_image(61, 83))).decode(left=0, top=0, width=83, height=61)
    lacking = without(jpeg(smooth_image(61, 83)), b"\xff\xdb")
    assert RegionDecoder(lacking).decode(left=0, top=0, width=83, height=61) is None


def test_threads_crop_at_the_same_time():
    files = [jpeg(smooth_image(60 + 9 * i, 150 - 7 * i, i)) for i in range(8)]
    expected = [decode_rgb(data)[5:50, 20:80] for data in files] * 20
    with ThreadPoolExecutor(8) as pool:
        crops = list(pool.map(lambda data: open_for_cropping(data)[5:50, 20:80], files * 20))
    assert all(np.array_equal(*pair) for pair in zip(crops, expected, strict=True))
