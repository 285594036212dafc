"""Read JSON; write files and folders that are either whole or not there; hash and lock them."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1  # of the JSON files that convzoo writes; readers refuse any other one


def file_sha256(path: Path) -> str:
    """Hash a file; returns the hexadecimal sha256."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def json_sha256(content: Any) -> str:
    """Hash what JSON can write, whatever the order of its keys; returns the hexadecimal sha256."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no JSON.
    """
    return json.loads(path.read_bytes())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file so that a reader never sees half of it."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader never sees half of it.

    Raises:
        OSError: if the disk is full or not writable; the file is then as it was before.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"{path} could not be written; {error}") from error


def refuse_filled(output: Path) -> None:
    """Raise FileExistsError if a folder that is to be written is there already, and not empty."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} must be new or an empty folder; choose another output")


def write_folder(folder: Path, fill: Callable[[Path], object], *, manifest: bool = False) -> None:
    """Create or replace `folder` in one step.

    Args:
        folder: where the result will be.
        fill: called with the path of an empty folder aside, which it fills.
        manifest: also write a manifest of hashes.

    Raises:
        OSError: if the disk is full or not writable; `folder` is then as it was before.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)  # an earlier replacement was cut off between its two renames
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        fill(aside)
        if manifest:
            files = sorted(path for path in aside.rglob("*") if path.is_file())
            hashes = {path.relative_to(aside).as_posix(): file_sha256(path) for path in files}
            write_json(aside / MANIFEST, hashes)
        for path in [*aside.rglob("*"), aside]:
            _sync(path)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save raises RuntimeError
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
        raise OSError(f"{folder} could not be written, nothing there changed; {error}") from error


def remove_folder(folder: Path) -> None:
    """Remove a folder that is never seen half removed: it is renamed aside first.

    What a kill leaves aside, `.<name>.removed`, is nobody's; the next removal takes it along.
    """
    aside = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside)


def lock_folder(folder: Path, refusal: Exception, *, patience_seconds: float = 0.0) -> int | None:
    """Take a folder for this process, until it ends or closes the lock.

    Args:
        folder: an existing folder.
        refusal: raised when another process has the folder.
        patience_seconds: how long to wait for another process to end.

    Returns:
        The open file descriptor that holds the lock, or None on Windows, which has no such lock.
    """
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise refusal from error
            time.sleep(0.2)


def is_locked(folder: Path) -> bool:
    """Tell whether another process has a folder; False on Windows, which has no such lock."""
    try:
        import fcntl
    except ImportError:
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Shared: two who ask at a time do not see each other. A training that starts has patience.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def locked_folder(folder: Path, refusal: Exception) -> Iterator[None]:
    """Hold `lock_folder` while the block runs."""
    descriptor = lock_folder(folder, refusal)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _sync(path: Path) -> None:
    if os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
