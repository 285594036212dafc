"""Where the images of a tar lie: an index, made once by reading the tar through, and kept.

A tar has no table of contents: each member is a header of 512 bytes and its content. Members belong
together as in WebDataset: `dir/key.jpg`, `dir/key.cls` and `dir/key.json` are an image, its class
and what else is known of it. Which stands first does not matter, as long as a tar has all of a key.

An index is an arrow file in the folder of assets of the Hub's client, under the content's hash or,
for a local file, its path, size and time of change. Processes share it.
"""

import io
import json
import logging
import os
import re
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
from huggingface_hub.constants import HF_ASSETS_CACHE
from tqdm import tqdm

from convzoo.data.remote import READERS, patiently, read_range
from convzoo.data.row_cache import RowCache
from convzoo.files import lock_folder
from convzoo.images.allowed_formats import image_suffixes

logger = logging.getLogger(__name__)
VERSION = 1  # of an index; others are made anew
MAX_BYTES = 10_000_000_000  # of all indexes together
BLOCK = tarfile.BLOCKSIZE
READ_BYTES = 4 * 2**20  # at once, of a tar on the Hub, by each of the READERS
GZIP = b"\x1f\x8b"
REST = 2**20  # bytes after the end of a tar that are looked at
LABEL_BYTES = 65_536  # of a .cls or .json; a longer one is no label
PATIENCE_SECONDS = 7 * 24 * 3600.0  # for another process that is making the index
KEY = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)  # as WebDataset cuts names
SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "key": pa.string(),
        "suffix": pa.string(),
        "offset": pa.int64(),
        "length": pa.int64(),
        "cls": pa.string(),
        "json": pa.string(),
    }
)


@dataclass
class _Members:
    """The members of a tar that were met so far."""

    file: str
    images: list[dict[str, Any]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    labels: dict[str, dict[str, str]] = field(default_factory=lambda: {"cls": {}, "json": {}})
    others: Counter[str] = field(default_factory=Counter)

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Note a member, and read it if it is a label."""
        base = member.name.rpartition("/")[2]
        matched = KEY.fullmatch(member.name)
        if member.isdir() or not matched or base.startswith("."):
            return
        key, suffix = matched[1], matched[2].lower()
        is_image = f".{suffix.rpartition('.')[2]}" in image_suffixes()
        if not is_image and suffix not in self.labels:
            self.others[suffix] += 1
            return
        self._check(member)
        if is_image:
            self.images.append(
                {
                    "name": member.name,
                    "key": key,
                    "suffix": suffix,
                    "offset": member.offset_data,
                    "length": member.size,
                }
            )
        elif member.size <= LABEL_BYTES and (content := tar.extractfile(member)):
            self.labels[suffix][key] = content.read().decode("utf-8", errors="replace")

    def _check(self, member: tarfile.TarInfo) -> None:
        where = f"{member.name} of {self.file}"
        if member.issym() or member.islnk():
            raise ValueError(
                f"images and labels of a tar must be files; {where} is a link to "
                f"{member.linkname}. Write the tar anew with `tar --dereference --hard-dereference`"
            )
        if not member.isreg() or member.issparse():
            raise ValueError(
                f"images and labels of a tar must be plain files; {where} is none (a sparse file, "
                f"say). Write the tar anew without `tar -S`"
            )
        if member.name in self.names:
            raise ValueError(
                f"a tar must hold each member once; {where} comes twice, again at byte "
                f"{member.offset}. Write the tar anew"
            )
        self.names.add(member.name)

    def table(self) -> pa.Table:
        """Return the images, in the tar's order, with the labels of their keys."""
        keys = {image["key"] for image in self.images}
        without_image = {key for label in self.labels.values() for key in label} - keys
        for image in self.images:
            for kind, by_key in self.labels.items():
                image[kind] = by_key.get(image["key"])
        facts = {
            "others": dict(self.others),
            "without_image": len(without_image),
            "example": min(without_image, default=""),
            "num_keys": len(keys),
        }
        table = pa.Table.from_pylist(self.images, schema=SCHEMA)
        return table.replace_schema_metadata({"convzoo": json.dumps(facts)})


@dataclass(frozen=True)
class Tar:
    """A tar that is to be indexed.

    Attributes:
        file: its address.
        size: bytes.
        content: what changes when its content does.
    """

    file: str
    size: int
    content: str

    @classmethod
    def find(cls, file: str) -> "Tar":
        """Look a file up; one on the Hub is known by the hash of its content."""
        if "://" not in file:
            status = os.stat(file)
            facts = f"{os.path.realpath(file)} {status.st_size} {status.st_mtime_ns}"
            return cls(file, status.st_size, facts)
        filesystem, path = fsspec.core.url_to_fs(file)
        info = patiently(file, lambda: filesystem.info(path))
        content = (info.get("lfs") or {}).get("sha256") or info.get("blob_id") or file
        return cls(file, int(info["size"]), f"{content} {info['size']}")


def index_tars(files: Sequence[str], name: str) -> list[pa.Table]:
    """Find the images of tars: kept indexes are read, missing ones are made and kept.

    Args:
        files: addresses of the tars.
        name: what a progress bar calls them.

    Returns:
        A table for each file: `name` of the member, `key` and `suffix` (what comes before and after
        the first dot), `offset` and `length` of its content in bytes, and the texts of the members
        `cls` and `json` of the same key. Its metadata say what else the tar holds.

    Raises:
        ValueError: if a file is no whole tar, or a member cannot be used.
        OSError: if a file cannot be read, for good or in spite of several tries.
    """
    tars = [Tar.find(file) for file in files]
    folder = Path(HF_ASSETS_CACHE, "convzoo", "tar_index")
    cache = RowCache(folder, MAX_BYTES)
    missing = [tar for tar in tars if not cache.has(_key(tar))]
    if not missing:
        return [_indexed(tar, cache, advance=lambda count: None) for tar in tars]
    total = sum(tar.size for tar in missing)
    if any("://" in tar.file for tar in missing):
        logger.info(
            "%s: %d tars are read through once, %.1f GB, to find their images; the index is kept "
            "in %s",
            name,
            len(missing),
            total / 1e9,
            folder,
        )
    guard = threading.Lock()
    with (
        _one_process_at_a_time(folder),
        tqdm(total=total, desc=f"index {name}", unit="B", unit_scale=True, leave=False) as bar,
        ThreadPoolExecutor(READERS) as pool,
    ):

        def advance(count: int) -> None:
            with guard:
                bar.update(count)

        return list(pool.map(lambda tar: _indexed(tar, cache, advance=advance), tars))


def _key(tar: Tar) -> str:
    return f"{VERSION} {tar.content}"


def _indexed(tar: Tar, cache: RowCache, *, advance: Callable[[int], None]) -> pa.Table:
    return cache.get(_key(tar), lambda: _read_index(tar, advance))


@contextmanager
def _one_process_at_a_time(folder: Path) -> Iterator[None]:
    """Wait for another process that makes indexes: what it makes need not be made again."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # no home, say: the tars can be read all the same
        logger.warning("%s: the index is not kept: %s", folder, error)
        yield
        return
    refusal = OSError(f"{folder} must have one writer; another process does not end")
    lock = lock_folder(folder, refusal, patience_seconds=PATIENCE_SECONDS)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _read_index(tar: Tar, advance: Callable[[int], None]) -> pa.Table:
    """Read a tar through; of a local one the headers and labels only."""
    if "://" in tar.file:
        far = FarFile(tar.file, tar.size, advance=advance)
        return _read_members(io.BufferedReader(far, READ_BYTES), tar)
    with open(tar.file, "rb") as near:
        table = _read_members(near, tar)
    advance(tar.size)
    return table


def _read_members(handle: IO[bytes], tar: Tar) -> pa.Table:
    members = _Members(tar.file)
    if handle.read(2) == GZIP:
        raise ValueError(
            f"tars must not be compressed, because members are read one by one; {tar.file} is. "
            f"Decompress it: `gunzip FILE.tar.gz`"
        )
    handle.seek(0)
    try:
        with tarfile.open(fileobj=handle, mode="r:") as opened:
            while member := opened.next():
                members.add(opened, member)
                opened.members = []  # type: ignore[attr-defined]  # all of a large tar, else
            end = opened.offset
    except tarfile.TarError as error:
        raise ValueError(
            f"{tar.file} must be a whole tar; at byte {handle.tell()} of {tar.size}: {error}. It "
            f"may have been cut off; get it again"
        ) from error
    _check_end(handle, tar, end=end)
    return members.table()


def _check_end(handle: IO[bytes], tar: Tar, *, end: int) -> None:
    """Refuse what tarfile takes for the end of a tar, and is none."""
    handle.seek(end)
    block = handle.read(BLOCK)
    if len(block) < BLOCK:
        raise ValueError(
            f"{tar.file} must end with blocks of zeros, as every whole tar does; it ends at byte "
            f"{tar.size} without. It may have been cut off; get it again"
        )
    rest = block if any(block) else handle.read(REST)
    if any(rest):
        what = "no header of a member" if any(block) else "more after the end of the tar"
        raise ValueError(
            f"{tar.file} must be one whole tar; at byte {end} it has {what}. It is damaged, or "
            f"several tars were joined: write it anew"
        )


class FarFile(io.RawIOBase):
    """A file on the Hub as a file that can be sought, each read a range that is tried again.

    Args:
        file: its address.
        size: bytes.
        advance: gets the number of bytes that a read or a step forward has passed.
    """

    def __init__(self, file: str, size: int, *, advance: Callable[[int], None]):
        self.file = file
        self.size = size
        self.advance = advance
        self.place = self.passed = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place of the next read."""
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; nothing is read for it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        self.place = start + offset
        return self.place

    def readinto(self, buffer: Any) -> int:
        """Read a range, at most as long as the buffer."""
        start, stop = self.place, min(self.place + len(buffer), self.size)
        if start >= stop:
            return 0
        data = read_range(self.file, start, stop)
        buffer[: len(data)] = data
        self.place = stop
        if stop > self.passed:
            self.advance(stop - self.passed)
            self.passed = stop
        return len(data)
