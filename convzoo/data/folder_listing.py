"""List the files of a local folder: one walk, links followed, with sizes."""

import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from convzoo.data.remote import READERS
from convzoo.images.allowed_formats import image_suffixes

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
KINDS = {".parquet": "tables", ".tar": "tars", ".zip": "zips"}  # suffix -> where a listing has it
# What phones and cameras write and Pillow alone does not read.
PHOTOGRAPHS = {"*.heic", "*.heif", "*.dng", "*.cr2", "*.cr3", "*.nef", "*.arw", "*.raf", "*.orf"}
Identity = tuple[int, int]  # device and number of a file; the same by whichever link it is reached


class File(NamedTuple):
    """A file of a listing; `path` is relative to its root, with slashes."""

    path: str
    size: int
    identity: Identity

    @property
    def parts(self) -> list[str]:
        """Names of the folders on the way, and of the file."""
        return self.path.split("/")

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.rpartition("/")[2]


@dataclass(kw_only=True)
class Listing:
    """The files of a folder.

    Attributes:
        root: the folder, or its address on the Hub.
        images: files with the suffix of an image format, in the order of their paths.
        tables: parquet files.
        tars: of images.
        zips: of images.
        metadata: files that say which label each image has.
        left_out: paths of everything else, by what it is.
        links_twice: pairs of paths that are one folder.
        dead_links: links with the name of an image that lead nowhere.
        contents: of metadata files that are no files of their own.
    """

    root: Path | str
    images: list[File] = field(default_factory=list)
    tables: list[File] = field(default_factory=list)
    tars: list[File] = field(default_factory=list)
    zips: list[File] = field(default_factory=list)
    metadata: list[File] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    links_twice: list[tuple[str, str]] = field(default_factory=list)
    dead_links: list[str] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)

    def address(self, path: str) -> str:
        """Return the address of a file of the listing."""
        return f"{self.root}/{path}"

    def leave_out(self, kind: str, paths: Iterable[str]) -> None:
        """Count files that are not read."""
        if paths := list(paths):
            self.left_out.setdefault(kind, []).extend(paths)

    def describe_left_out(self) -> str:
        """Count and name what is not read; "" where all is."""
        parts = []
        for kind, paths in sorted(self.left_out.items()):
            more = ", ..." if len(paths) > 3 else ""
            parts.append(f"{len(paths)} {kind} ({', '.join(paths[:3])}{more})")
        if unread := sorted(PHOTOGRAPHS & self.left_out.keys()):
            parts.append(f"photographs as {', '.join(unread)} are not read: save them as JPEG")
        return "; ".join(parts)


def list_folder(root: Path) -> Listing:
    """Walk through a folder, as deep as it goes.

    Raises:
        OSError: if a folder cannot be read.
    """
    listing, folders = Listing(root=root), [""]
    seen: dict[Identity, str] = {_identity(root.stat()): "."}
    with ThreadPoolExecutor(READERS) as pool:
        while folders:
            below: list[File] = []
            parts = pool.map(lambda folder: _scan(root, folder), folders)
            for parent, part in zip(folders, parts, strict=True):
                _sort_out(part, listing, below)
                if parent and not part:
                    listing.leave_out("empty", [parent])
            folders = []
            for folder in below:
                if folder.identity in seen:
                    listing.links_twice.append((seen[folder.identity], folder.path))
                else:
                    seen[folder.identity] = folder.path
                    folders.append(folder.path)
    listing.images.sort()  # by path
    listing.tables.sort()
    listing.tars.sort()
    listing.zips.sort()
    return listing


def _scan(root: Path, folder: str) -> list[tuple[File, int | None]]:
    """List one folder by name: each entry with its mode, None for a link that leads nowhere."""
    found: list[tuple[File, int | None]] = []
    with os.scandir(root / folder) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:
                status = entry.stat()
            except OSError:
                found.append((File(path, 0, (0, 0)), None))
            else:
                found.append((File(path, status.st_size, _identity(status)), status.st_mode))
    return sorted(found, key=lambda pair: pair[0])


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _sort_out(found: list[tuple[File, int | None]], listing: Listing, below: list[File]) -> None:
    """Add the entries of one folder to a listing, and its folders to `below`."""
    for file, mode in found:
        suffix = os.path.splitext(file.name)[1].lower()
        is_folder = mode is not None and stat.S_ISDIR(mode)
        if file.name.startswith(".") or (is_folder and file.name.startswith("__")):
            listing.leave_out("hidden", [file.path])
        elif is_folder:
            below.append(file)
        elif mode is None and suffix in image_suffixes():
            listing.dead_links.append(file.path)
        elif mode is None or not stat.S_ISREG(mode):
            listing.leave_out("special", [file.path])
        else:
            sort_file(file, listing)


def sort_file(file: File, listing: Listing) -> None:
    """Add a file to a listing, by its name."""
    suffix = os.path.splitext(file.name)[1].lower()
    parts = file.parts
    if any(part.startswith(".") for part in parts) or any(p.startswith("__") for p in parts[:-1]):
        listing.leave_out("hidden", [file.path])
    elif suffix in image_suffixes():
        listing.images.append(file)
    elif file.name in METADATA_NAMES:
        listing.metadata.append(file)
    elif suffix in KINDS:
        getattr(listing, KINDS[suffix]).append(file)
    elif file.path != "README.md":
        listing.leave_out(f"*{suffix}" if suffix else "without suffix", [file.path])
