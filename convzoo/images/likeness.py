"""Find images that look alike though their bytes differ: saved again, or in another size.

An image is shrunk to a tiny grey one, whose difference hash (dHash) says where brightness rises
from left to right. Two images look alike if their hashes differ in few bits and their tiny images
in few levels of grey. Mirrored, turned or clearly cropped images are not found.

Source: Krawetz, "Kind of Like That" (2013), for the difference hash; the bounds are ours, measured:
docs/small-data.md.
"""

import io

import numpy as np
from PIL import Image

from convzoo.images.allowed_formats import Encoded, image_formats

WIDTH, HEIGHT = 9, 8  # of a tiny image; a hash has a bit for each pair of neighbours in a row
MOST_BITS = 3  # in which two hashes may differ
MOST_LEVELS = 2.0  # mean difference of two tiny images, of 255
MOST_ALIKE = 64  # more images with the same part of a hash have a plain background, not a likeness


def tiny_image(data: Encoded) -> np.ndarray | None:
    """Decode an image, coarsely where it is a JPEG, and shrink it.

    Returns:
        uint8, (HEIGHT, WIDTH), grey; None if the image cannot be read.
    """
    try:
        with Image.open(io.BytesIO(data), formats=image_formats()) as image:
            image.draft("L", (8 * WIDTH, 8 * HEIGHT))
            return shrink(image)
    except Exception:  # Pillow's format plug-ins raise nearly anything; whoever trains says why
        return None


def shrink(image: Image.Image) -> np.ndarray:
    """Shrink an image to HEIGHT x WIDTH levels of grey, uint8."""
    if max(image.size) > 64 * WIDTH:
        image = image.reduce(max(1, min(image.width // (8 * WIDTH), image.height // (8 * HEIGHT))))
    return np.asarray(image.convert("L").resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def similar_pairs(tiny: np.ndarray) -> list[tuple[int, int]]:
    """Find the pairs of images that look alike.

    Two hashes that differ in at most 3 of 64 bits agree in one quarter at least, so only images
    with an equal quarter are compared, and of those no more than MOST_ALIKE.

    Args:
        tiny: of each image, (N, HEIGHT, WIDTH) uint8.

    Returns:
        Numbers of the images of each pair, the smaller first, ascending.
    """
    if len(tiny) < 2:
        return []
    bits = (tiny[:, :, 1:] > tiny[:, :, :-1]).reshape(len(tiny), -1)
    hashes = np.packbits(bits, axis=1)  # (N, 8)
    found: set[tuple[int, int]] = set()
    for quarter in hashes.view(np.uint16).T:
        order = np.argsort(quarter, kind="stable")
        borders = np.flatnonzero(np.diff(quarter[order])) + 1
        for members in np.split(order, borders):
            if not 2 <= len(members) <= MOST_ALIKE:
                continue
            left, right = np.triu_indices(len(members), 1)
            pairs = _alike(tiny, hashes, first=members[left], second=members[right])
            found.update(pairs)
    return sorted(found)


def _alike(
    tiny: np.ndarray, hashes: np.ndarray, *, first: np.ndarray, second: np.ndarray
) -> list[tuple[int, int]]:
    """Return those of the pairs (first[i], second[i]) whose images look alike."""
    differing = np.unpackbits(hashes[first] ^ hashes[second], axis=1).sum(axis=1)
    near = differing <= MOST_BITS
    first, second = first[near], second[near]
    levels = np.abs(tiny[first].astype(np.int16) - tiny[second]).mean(axis=(1, 2))
    close = levels <= MOST_LEVELS
    low, high = np.minimum(first, second)[close], np.maximum(first, second)[close]
    return list(zip(low.tolist(), high.tolist(), strict=True))
