"""Look at the images of a split, in several processes, and tell in order what they are."""

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NotRequired, cast

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset
from typing_extensions import TypedDict

from convzoo.data.share import Share
from convzoo.data.split import Split
from convzoo.data.stream import worker_share
from convzoo.images.decoding import DARK_IMAGES, EXIF_ORIENTATION, decode_rgb
from convzoo.images.likeness import shrink
from convzoo.signals import outlive_signals

PIECE = 64  # images that a process tells of at a time
THUMBNAIL = 112  # pixels


class FoundImage(TypedDict):
    """An image that a report names: its row, what messages call it, the file it came from."""

    row: int
    where: str
    name: str | None
    reason: NotRequired[str]
    format: NotRequired[str]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What can be seen in an image.

    Attributes:
        width: pixels.
        height: pixels.
        format: as Pillow calls it.
        mode: as Pillow calls it.
        orientation: of its EXIF data; 1 is upright.
        digest: of its bytes.
        tiny: see `convzoo.images.likeness`.
        thumbnail: of the first images of a class.
    """

    width: int
    height: int
    format: str
    mode: str
    orientation: int
    digest: bytes
    tiny: np.ndarray
    thumbnail: Image.Image | None


@dataclass(frozen=True, kw_only=True)
class Examined:
    """An image of a split.

    Attributes:
        place: what reports call it.
        label: class number.
        num_bytes: of the encoded image.
        seen: what is in it, or the reason why it cannot be read.
        data: the encoded image, of each `keep_every`-th readable one.
    """

    place: FoundImage
    label: int
    num_bytes: int
    seen: Seen | str
    data: bytes | None


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Which images are examined, and what is kept of them.

    Attributes:
        rows: (row group, its first row, rows to read), in order.
        keep_every: encoded images are kept at this distance.
        thumbnails: of each class, in each process.
    """

    rows: Sequence[tuple[int, int, int]]
    keep_every: int
    thumbnails: int


def examine(source: Split, examination: Examination, *, num_workers: int) -> Iterator[Examined]:
    """Yield the images of a split in the order of their rows, for any number of processes.

    Args:
        source: the split.
        examination: which of its images.
        num_workers: processes; 0 for this one.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if a file is damaged. An image that cannot be read is no error.
    """
    num_workers = min(num_workers, len(examination.rows))
    loader = DataLoader(
        _Stream(source, examination),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers if num_workers > 1 else 0,
        worker_init_fn=outlive_signals,
    )
    waiting: dict[int, list[Examined]] = {}  # a process may be ahead of the others
    due = 0
    for number, piece in loader:
        waiting[number] = piece
        while due in waiting:
            yield from waiting.pop(due)
            due += 1


def _as_it_is(piece: Any) -> Any:
    """The default would make tensors of arrays."""
    return piece


class _Stream(IterableDataset[tuple[int, list[Examined]]]):
    """Numbered pieces of the row groups of this process."""

    def __init__(self, source: Split, examination: Examination):
        self.source = source
        self.examination = examination

    def __iter__(self) -> Iterator[tuple[int, list[Examined]]]:
        rows = self.examination.rows
        thumbnails: Counter[int] = Counter()
        pieces = np.cumsum([0, *(-(-count // PIECE) for _, _, count in rows)]).tolist()
        images = np.cumsum([0, *(count for _, _, count in rows)]).tolist()
        share = worker_share(Share())
        for place in range(share.index, len(rows), share.count):  # so that none gets far ahead
            piece: list[Examined] = []
            number, last = pieces[place], rows[place][2] - 1
            for index, examined in enumerate(self._group(place, images[place], thumbnails)):
                piece.append(examined)
                if len(piece) == PIECE or index == last:
                    yield number, piece
                    number, piece = number + 1, []

    def _group(self, place: int, position: int, thumbnails: "Counter[int]") -> Iterator[Examined]:
        """Images of a row group, of which the first is image number `position` of all."""
        group, first, count = self.examination.rows[place]
        rows, names = self.source.read_group(group), self.source.file_names(group)
        for index in range(count):
            data, label = rows[index]
            where = self.source.where(group, index)
            found: FoundImage = {"row": first + index, "where": where, "name": names[index]}
            DARK_IMAGES.look(data, partial(str, where))
            wanted = thumbnails[label] < self.examination.thumbnails
            seen = _look(data, with_thumbnail=wanted)
            readable = isinstance(seen, Seen)
            thumbnails[label] += readable
            kept = readable and (position + index) % self.examination.keep_every == 0
            yield Examined(
                place=found,
                label=label,
                num_bytes=len(data),
                seen=seen,
                data=bytes(data) if kept else None,
            )


def _look(data: memoryview | bytes, *, with_thumbnail: bool) -> Seen | str:
    """Say what is in an image, or why it cannot be read."""
    try:
        pixels = decode_rgb(cast(bytes, data))
    except ValueError as error:
        return str(error)
    kind, mode, orientation = _header(data)
    return Seen(
        width=pixels.shape[1],
        height=pixels.shape[0],
        format=kind,
        mode=mode,
        orientation=orientation,
        digest=hashlib.blake2b(data, digest_size=16).digest(),
        tiny=shrink(Image.fromarray(pixels)),
        thumbnail=_thumbnail(pixels) if with_thumbnail else None,
    )


def _header(data: memoryview | bytes) -> tuple[str, str, int]:
    """Format, mode and EXIF orientation of an image, as Pillow sees them."""
    kind, mode, orientation = "unknown", "unknown", 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF data, which nothing here uses
        try:
            with Image.open(io.BytesIO(data)) as image:
                kind, mode = image.format or kind, image.mode
                orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        except Exception:  # Pillow's EXIF reader raises nearly anything
            pass
    return kind, mode, orientation


def _thumbnail(pixels: np.ndarray) -> Image.Image:
    """At most THUMBNAIL pixels, small images in larger squares."""
    image = Image.fromarray(pixels)
    scale = THUMBNAIL / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize((width, height), method, reducing_gap=2.0)
