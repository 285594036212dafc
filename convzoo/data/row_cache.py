"""Row groups of a remote dataset on the local disk, so that a second epoch needs no network.

What came first stays until the folder is full, and nothing is thrown out: an epoch reads every row
group once, and dropping the oldest would drop just what the next epoch asks for first.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

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
        held = 0
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):  # another process has just renamed it
                held += entry.stat().st_size
        if held + table.nbytes > self.max_bytes:
            return
        aside = path.with_suffix(f".{os.getpid()}.partial")
        try:
            with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
