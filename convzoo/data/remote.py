"""Read parquet footers and files from a disk or the Hub, with patience."""

import logging
import time

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.utils import httpx

logger = logging.getLogger(__name__)
RETRY_SECONDS = (1, 4, 16, 60, 120)  # after the client's own tries, about 24 s; then give up
FOOTER_BYTES = 16 * 1024  # of 100 row groups with two columns; a longer footer is read in full
READERS = 16  # threads for the small parts of many files


def read_footer(file: str) -> pq.FileMetaData:
    """Metadata of a parquet file, in one short read where it is short.

    Raises:
        ValueError: if it is no parquet file.
        OSError: if it cannot be read, for good or in spite of several tries.
    """

    def read(handle):
        handle.seek(-min(FOOTER_BYTES, handle.size), 2)
        tail = handle.read()
        if int.from_bytes(tail[-8:-4], "little") + 8 > len(tail):
            return pq.read_metadata(handle)
        return pq.read_metadata(pa.BufferReader(tail))

    return read_file(file, read)


def read_file(file: str, read):
    """The result of read(open file); a failure that may pass is tried again, with patience.

    Raises:
        ValueError: if pyarrow finds the content damaged.
        OSError: if the file cannot be read, for good or in spite of several tries.
    """
    # Not fsspec.open: it would read 5 MiB ahead of every range of a file on the Hub.
    filesystem, path = fsspec.core.url_to_fs(file)
    for delay in (*RETRY_SECONDS, None):
        try:
            with filesystem.open(path, "rb", cache_type="none") as handle:
                return read(handle)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file} must be a readable parquet file; {error}") from error
        except (OSError, httpx.HTTPError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            passing = status == 429 or (status or 0) >= 500
            passing |= isinstance(error, ConnectionError | TimeoutError | httpx.TransportError)
            reason = f"HTTP status {status}" if status else f"{type(error).__name__}: {error}"
            if not passing or delay is None:
                raise OSError(f"{file} could not be read; {reason}") from error
            logger.warning("%s: %s; trying again in %s s", file, reason, delay)
            time.sleep(delay)
