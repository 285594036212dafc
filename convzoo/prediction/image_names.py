"""Which images the words of a command line mean: files, folders, patterns, lists of names, URLs."""

import glob
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from convzoo.data.folder_listing import Identity, list_folder
from convzoo.images.allowed_formats import image_suffixes
from convzoo.images.decoding import is_image

logger = logging.getLogger(__name__)

STANDARD_INPUT = "-"
URL = re.compile(r"https?://", re.IGNORECASE)


@dataclass(kw_only=True)
class FoundImages:
    """The images to classify, in order.

    Attributes:
        names: paths, URLs, and "-" for the image that came by standard input.
        standard_input: the bytes of that image.
    """

    names: list[str] = field(default_factory=list)
    standard_input: bytes = b""


def find_images(
    words: Iterable[str], read_standard_input: Callable[[], bytes], *, allow_urls: bool = False
) -> FoundImages:
    """Find the images that the words mean; none of them is opened.

    A word is a file; a folder, for all images below it; a pattern such as `photos/**/*.jpg`, where
    the shell left it as it is; a URL; or "-" for standard input, which is one image or a list of
    names, one a line or with NUL between them. Files are taken as they are called; of folders and
    patterns what has the suffix of an image, as in training: in the order of the paths, links
    followed, without hidden files.

    Args:
        words: at least one.
        read_standard_input: called at most once.
        allow_urls: whether URLs may be among them.

    Raises:
        OSError: if a folder cannot be read.
        ValueError: if a folder or pattern has no images, or a URL is not allowed.
    """
    found = FoundImages()
    for word in words:
        if word == STANDARD_INPUT:
            if found.standard_input or STANDARD_INPUT in found.names:
                raise ValueError("standard input, -, must be named once; got it twice")
            found.standard_input = data = read_standard_input()
            found.names += [STANDARD_INPUT] if is_image(data) else split_names(data)
        elif os.path.isdir(word):
            found.names += _images_below(word)
        elif glob.has_magic(word) and not os.path.lexists(word) and not URL.match(word):
            found.names += _matching_images(word)
        else:
            found.names.append(word)
    if not found.names:
        raise ValueError("standard input must be an image or a list of names; it is empty")
    urls = [name for name in found.names if URL.match(name)]
    if urls and not allow_urls:
        raise ValueError(
            f"images on the network are read with --allow-urls only; got {urls[0]}"
            + (f" and {len(urls) - 1} more" if len(urls) > 1 else "")
        )
    return found


def split_names(data: bytes) -> list[str]:
    """Split a list of names, at NUL if it has one, else at line ends; empty names are left out."""
    parts = data.split(b"\0") if b"\0" in data else re.split(rb"\r?\n", data)
    return [os.fsdecode(part) for part in parts if part]


def _images_below(folder: str) -> list[str]:
    listing = list_folder(Path(folder))
    paths = sorted([file.path for file in listing.images] + listing.dead_links)
    left_out = listing.describe_left_out()
    if not paths:
        raise ValueError(
            f"{folder} must be an image file, or a folder with some; it has none"
            + (f" (left out: {left_out})" if left_out else "")
        )
    if left_out:
        logger.info("%s: left out: %s", folder, left_out)
    for first, second in listing.links_twice:
        logger.info("%s: %s is the folder %s again, and is read once", folder, second, first)
    return [str(Path(folder) / path) for path in paths]


def _matching_images(pattern: str) -> list[str]:
    """List the images that match, and those below folders that match, each file once."""
    matches = sorted(glob.glob(pattern, recursive=True))
    seen: set[Identity] = set()
    names = [name for name in _expanded(pattern, matches) if _is_new(name, seen)]
    if not names:
        what = f"{len(matches)} files or folders, and no image" if matches else "nothing"
        raise ValueError(f"the pattern {pattern} must match images; it matches {what}")
    return names


def _expanded(pattern: str, matches: list[str]) -> Iterator[str]:
    left_out, wanted = [], set(Path(pattern).parts)
    for match in matches:
        folders = Path(match).parts[: None if os.path.isdir(match) else -1]
        if any(name.startswith("__") and name not in wanted for name in folders):
            continue  # a hidden folder; glob itself leaves out names with a dot
        if os.path.isdir(match):
            listing = list_folder(Path(match))
            yield from (str(Path(match) / file.path) for file in listing.images)
        elif os.path.splitext(match)[1].lower() in image_suffixes():
            yield match
        else:
            left_out.append(match)
    if left_out:
        more = ", ..." if len(left_out) > 3 else ""
        logger.info(
            "left out: %d files without the suffix of an image (%s%s)",
            *(len(left_out), ", ".join(left_out[:3]), more),
        )


def _is_new(name: str, seen: set[Identity]) -> bool:
    """Tell whether no name before led to the same file; one that leads nowhere is new."""
    try:
        status = os.stat(name)
    except OSError:
        return True
    identity = (status.st_dev, status.st_ino)
    is_new = identity not in seen
    seen.add(identity)
    return is_new
