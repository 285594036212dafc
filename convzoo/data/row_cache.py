"""Row groups of a remote dataset on the local disk, so that a second epoch needs no network.

What came first stays until the folder is full, and nothing is thrown out: an epoch reads every row
group once, and dropping the oldest would drop just what the next epoch asks for first.
"""

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

TOTAL = "held_bytes"  # a file with the sum of all tables, so that no store counts them again
ABANDONED_SECONDS = 3600  # a file still unfinished after this is of a process that was killed
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowCache:
    """A folder of row groups that processes and runs may share.

    Attributes:
        folder: where they are; created when the first one comes.
        max_bytes: what the folder may hold; what does not fit is not kept.
    """

    folder: Path
    max_bytes: int

    def get(self, key: str, read: Callable[[], pa.Table]) -> pa.Table:
        """Return the table stored under `key`, or what `read` gives, stored if there is room.

        Args:
            key: address, revision and number of the row group; any text.
            read: gets the table from where it is.
        """
        path = self._path(key)
        try:
            with pa.memory_map(str(path)) as stored:
                return pa.ipc.open_file(stored).read_all()
        except (OSError, pa.ArrowInvalid):  # absent, or damaged by a crash
            table = read()
        try:
            self._store(path, table)
        except OSError as error:  # a full disk, say: the data is there all the same
            logger.warning("%s: a row group is not kept: %s", self.folder, error)
        return table

    def has(self, key: str) -> bool:
        """Return whether a table is stored under `key`."""
        return self._path(key).is_file()

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.arrow"

    def _store(self, path: Path, table: pa.Table) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        total = self.folder / TOTAL
        if self.folder not in _counted:  # what a crash left, or somebody removed
            with _locked(total) as file:
                _write_total(file, _count(self.folder))
            _remove_abandoned(self.folder)
            _counted.add(self.folder)
        if _read_total(total) + table.nbytes > self.max_bytes:
            return
        aside = path.with_suffix(f".{os.getpid()}.partial")
        try:
            with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            with _locked(total) as file:
                held = _read_total(total) + aside.stat().st_size - _size(path)
                if held <= self.max_bytes:
                    aside.replace(path)
                    _write_total(file, held)
        finally:
            aside.unlink(missing_ok=True)


# The sum of the sizes in a folder ------------------------------------------------------------

_counted: set[Path] = set()  # folders whose files this process has counted


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that one process writes at a time; on Windows, which has no such lock, any."""
    path.touch()
    with path.open("r+b") as file:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _read_total(path: Path) -> int:
    digits = path.read_bytes()
    return int(digits) if digits.isdigit() else 0


def _write_total(file: IO[bytes], total: int) -> None:
    """Replace the number by one write of the same length, which no reader sees half."""
    file.seek(0)
    file.write(b"%020d" % total)
    file.flush()


def _count(folder: Path) -> int:
    """Sum the stored tables: what another process is writing it adds itself, under the lock."""
    return sum(_size(path) for path in folder.glob("*.arrow"))


def _remove_abandoned(folder: Path) -> None:
    oldest = time.time() - ABANDONED_SECONDS
    for path in folder.glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):  # another process was first
            if path.stat().st_mtime < oldest:
                path.unlink()


def _size(path: Path) -> int:
    """Size of a file; 0 if there is none, which another process may have removed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
