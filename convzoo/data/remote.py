"""Read parquet footers and files from a disk or the Hub, with patience."""

import logging
from collections.abc import Callable, Iterator
from typing import IO, Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import tenacity
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub import is_offline_mode
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # it may be httpx or httpx2

HTTPError = httpx.HTTPError
logger = logging.getLogger(__name__)
RETRY_SECONDS = (1, 4, 16, 60, 120)  # after the client's own tries, about 24 s; then give up
FOOTER_BYTES = 16 * 1024  # of 100 row groups with two columns; a longer footer is read in full
READERS = 16  # threads for the small parts of many files
Result = TypeVar("Result")


def patiently(name: str, action: Callable[[], Result]) -> Result:
    """Return what `action` gives; after a failure that may pass it is tried again and again.

    Args:
        name: what log lines call it.
        action: has no effects that a second try could spoil.

    Raises:
        Exception: the last failure of `action`, or the first that cannot pass.
    """

    def log(state: tenacity.RetryCallState) -> None:
        assert state.outcome and state.next_action, "called between two tries"
        reason, delay = why(state.outcome.exception()), state.next_action.sleep
        logger.warning("%s: %s; trying again in %g s", name, reason, delay)

    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_pass),
        wait=tenacity.wait_chain(*(tenacity.wait_fixed(delay) for delay in RETRY_SECONDS)),
        stop=tenacity.stop_after_attempt(len(RETRY_SECONDS) + 1),
        before_sleep=log,
        reraise=True,
    )
    return tries(action)


def read_footer(file: str) -> pq.FileMetaData:
    """Read the metadata of a parquet file, in one short read where it is short.

    Raises:
        ValueError: if it is no parquet file.
        OSError: if it cannot be read, for good or in spite of several tries.
    """

    def read(handle: IO[bytes]) -> pq.FileMetaData:
        size = handle.seek(0, 2)
        handle.seek(-min(FOOTER_BYTES, size), 2)
        tail = handle.read()
        if int.from_bytes(tail[-8:-4], "little") + 8 > len(tail):
            return pq.read_metadata(handle)
        return pq.read_metadata(pa.BufferReader(tail))

    return read_file(file, read)


def read_file(file: str, read: Callable[[IO[bytes]], Result]) -> Result:
    """Return read(open file); a failure that may pass is tried again, with patience.

    Raises:
        ValueError: if pyarrow finds the content damaged.
        OSError: if the file cannot be read, for good or in spite of several tries.
    """
    # Not fsspec.open: it would read 5 MiB ahead of every range of a file on the Hub. And a local
    # path with "::" is no chain of file systems.
    if "://" in file:
        filesystem, path = fsspec.core.url_to_fs(file)
    else:
        filesystem, path = LocalFileSystem(), file

    def attempt() -> Result:
        with filesystem.open(path, "rb", cache_type="none") as handle:
            return read(handle)

    try:
        return patiently(file, attempt)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} must be a readable parquet file; {error}") from error
    except (OSError, HTTPError) as error:
        raise OSError(f"{file} could not be read; {why(error)}") from error


def read_range(file: str, start: int, stop: int) -> bytes:
    """Read bytes of a file; a failure that may pass is tried again, with patience.

    Raises:
        ValueError: if the file is shorter.
        OSError: if it cannot be read, for good or in spite of several tries.
    """

    def read(handle: IO[bytes]) -> bytes:
        handle.seek(start)
        return handle.read(stop - start)

    data = read_file(file, read)
    if len(data) != stop - start:
        raise ValueError(
            f"{file} must be as long as it was; it ends at byte {start + len(data)}, before "
            f"{stop}. It has changed or was cut off"
        )
    return data


def why(error: BaseException | None) -> str:
    """Say why a request failed: the HTTP status where there is one, else the first cause."""
    chain = list(_with_causes(error))
    statuses = [status for each in chain if (status := _status(each))]
    return f"HTTP status {statuses[0]}" if statuses else f"{type(chain[-1]).__name__}: {chain[-1]}"


def may_pass(error: BaseException) -> bool:
    """Return True for broken connections, late answers and servers in trouble."""
    if is_offline_mode() and isinstance(error, ConnectionError):
        return False
    chain = list(_with_causes(error))
    statuses = [status for each in chain if (status := _status(each))]
    if statuses:
        return statuses[0] == 429 or statuses[0] >= 500
    passing = (ConnectionError, TimeoutError, httpx.TransportError)
    return any(isinstance(each, passing) for each in chain)


def _status(error: BaseException) -> int | None:
    response: Any = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the ones that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__
