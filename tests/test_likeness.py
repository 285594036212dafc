"""Which images look alike: those saved again or smaller do, others of the embedded sets hardly."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from convzoo.data.opening import open_split
from convzoo.images.decoding import decode_rgb
from convzoo.images.likeness import shrink, similar_pairs, tiny_image
from tests.support.clients import ROOT
from tests.support.images import encode, smooth_image


def saved_again(data, kind, **settings):
    image, buffer = Image.open(io.BytesIO(data)).convert("RGB"), io.BytesIO()
    if size := settings.pop("size", None):
        image = image.resize(size, Image.Resampling.BICUBIC)
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


@pytest.mark.parametrize("how", ["encoded", "pixels"])
def test_photographs_saved_again_are_found_and_no_others(how):
    split = open_split(str(ROOT / "data" / "photos"), "train")
    rows = [split.read_row(row)[0] for row in range(0, split.num_rows, 4)]
    again = [("JPEG", {"quality": 80}), ("JPEG", {"quality": 50})]
    if how == "pixels":  # a JPEG is not shrunk coarsely then, and a PNG the same
        again += [("PNG", {}), ("JPEG", {"size": (80, 80), "quality": 90})]
    images = [bytes(row) for row in rows]
    for kind, settings in again:
        images += [saved_again(row, kind, **settings) for row in rows]
    look = (
        tiny_image if how == "encoded" else lambda data: shrink(Image.fromarray(decode_rgb(data)))
    )
    pairs = similar_pairs(np.array([look(data) for data in images]))
    number = len(rows)
    assert all(first % number == second % number for first, second in pairs)
    expected = number * (len(again) + 1) * len(again) // 2
    assert len(pairs) >= 0.85 * expected


def test_few_different_images_of_clothes_look_alike():
    split = open_split(str(ROOT / "data" / "fashion-mnist"), "test")
    images = {bytes(data) for n in range(len(split.groups)) for data, _ in split.read_group(n)}
    pairs = similar_pairs(np.array([tiny_image(data) for data in images]))
    assert len(pairs) <= len(images) // 1000


def brute_force(tiny):
    """By the rule alone, pair by pair."""
    hashes = [(image[:, 1:] > image[:, :-1]).ravel() for image in tiny]
    return [
        (a, b)
        for a, b in itertools.combinations(range(len(tiny)), 2)
        if (hashes[a] != hashes[b]).sum() <= 3 and np.abs(tiny[a].astype(int) - tiny[b]).mean() <= 2
    ]


def test_pairs_are_those_of_comparing_all_with_all():
    rng = np.random.default_rng(0)
    originals = rng.integers(0, 256, (20, 8, 9))
    tiny = np.concatenate([originals + rng.integers(-1, 2, (20, 8, 9)) for _ in range(3)])
    tiny = tiny.clip(0, 255).astype(np.uint8)
    found = similar_pairs(tiny)
    assert found == brute_force(tiny) and len(found) > 20
    assert similar_pairs(tiny[:1]) == [] and similar_pairs(tiny[:0]) == []


def test_what_cannot_be_read_looks_like_nothing():
    assert tiny_image(b"no image") is None
    assert tiny_image(encode(smooth_image(40, 60))).shape == (8, 9)
