"""Files and folders that are whole or not there: atomic writes, hashes, locks."""

import atexit
import hashlib
import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

SCHEMA_VERSION = 1  # of the JSON files that convzoo writes; readers refuse any other one


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_json(path: Path, content) -> None:
    """Write a JSON file so that a reader never sees half of it."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader never sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"{path} could not be written; {error}") from error


MANIFEST = "manifest.json"


def write_folder(folder: Path, fill, manifest: bool = False) -> None:
    """Create or replace `folder` in one step.

    Args:
        folder: where the result will be.
        fill: called with the path of an empty folder aside, which it fills.
        manifest: also write a manifest of sizes and hashes.

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
            (aside / MANIFEST).write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")
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


def lock_folder(folder: Path, patience_seconds: float = 15.0) -> int | None:
    """Take a folder for this process, until it ends.

    A killed process lets go at once, its data workers a few seconds later: hence the patience.

    Args:
        folder: the run folder; created if it is not there, and removed at the end if it is empty.
        patience_seconds: how long to wait for another process to end.

    Returns:
        What holds the lock: an open file descriptor, or None on Windows, which has no such lock.

    Raises:
        OSError: if the folder cannot be made.
        ValueError: if another process has the folder.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atexit.register(_remove_empty, created)
    except OSError as error:
        raise OSError(
            f"run.output_dir must be a folder that can be written; {folder} cannot be made "
            f"({error.strerror}). Set run.output_dir to another one"
        ) from error
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
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise ValueError(
                    f"{folder} must be used by one training at a time; another process has it. "
                    f"Wait for it, or stop it"
                ) from error
            time.sleep(0.2)


def _remove_empty(folders):
    with suppress(OSError):  # one that is not empty
        for folder in folders:
            folder.rmdir()


def _sync(path):
    if os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
