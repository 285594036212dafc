"""Hash files as the Hub does, to compare them with its list of files."""

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileHashes:
    """Size in bytes, and the names that the Hub gives a content: SHA-256 in LFS, else git's."""

    size: int
    sha256: str
    git_oid: str


def hash_files(folder: Path) -> dict[str, FileHashes]:
    """Hash the files of a folder, by their path there with slashes."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): _hash(path) for path in paths}


def _hash(path: Path) -> FileHashes:
    size = path.stat().st_size
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            sha1.update(block)
    return FileHashes(size, sha256=sha256.hexdigest(), git_oid=sha1.hexdigest())


def megabytes(size: int) -> str:
    """Write a number of bytes for reading."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
