"""A split whose images are runs of bytes: members of tars and zips, or whole files of the Hub."""

import dataclasses
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from zipfile import ZIP_DEFLATED, ZipInfo

import numpy as np
import pyarrow as pa

from convzoo.data.remote import READERS, read_range
from convzoo.data.split import ListedSplit, Rows

GROUP_ROWS = 100  # as parquet files on the Hub have them
GROUP_BYTES = 16 * 2**20
GAP = 64 * 1024  # bytes between two images that are read rather than asked around
ZIP_HEADER = struct.Struct("<4s5H3I2H")  # of a member, before its name and extra field
ZIP_SIGNATURE = b"PK\x03\x04"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where images lie, an entry of each array for each.

    Attributes:
        names: what messages call them: names of members, or paths.
        files: number of the file.
        offsets: first byte in the file.
        lengths: bytes to read.
        packed: bytes of the content of a member of a zip, behind its header; None for plain bytes.
        checksums: CRC-32 of the content of members of zips.
        deflated: whether members of zips are compressed.
    """

    names: pa.StringArray = field(repr=False)
    files: np.ndarray = field(repr=False)
    offsets: np.ndarray = field(repr=False)
    lengths: np.ndarray = field(repr=False)
    packed: np.ndarray | None = field(default=None, repr=False)
    checksums: np.ndarray | None = field(default=None, repr=False)
    deflated: np.ndarray | None = field(default=None, repr=False)

    def zipped(self, members: Sequence[ZipInfo]) -> "Places":
        """Return the places as those of members of zips.

        Args:
            members: what the tables of contents say of each.
        """
        return dataclasses.replace(
            self,
            packed=np.array([member.compress_size for member in members]),
            checksums=np.array([member.CRC for member in members]),
            deflated=np.array([member.compress_type == ZIP_DEFLATED for member in members]),
        )

    def row_groups(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Cut the images into runs of a file that are read together.

        Returns:
            First image, number of images and bytes of each run.
        """
        starts: list[int] = []
        size, before = 0, -1
        pairs = zip(self.files.tolist(), self.lengths.tolist(), strict=True)
        for row, (file, length) in enumerate(pairs):
            is_full = file != before or row - starts[-1] == GROUP_ROWS
            if is_full or size + length > GROUP_BYTES:
                starts.append(row)
                size = 0
            size, before = size + length, file
        ends = [*starts[1:], len(self.files)]
        counts = tuple(end - start for start, end in zip(starts, ends, strict=True))
        sizes = np.add.reduceat(self.lengths, starts)
        return tuple(starts), counts, tuple(sizes.tolist())


@dataclass(frozen=True, kw_only=True)
class MemberSplit(ListedSplit):
    """One split of images that are runs of bytes in files.

    Attributes:
        places: where each image of the list lies.
    """

    places: Places

    def read_group(self, number: int) -> Rows:
        """Read the images of row group `number`, neighbours in a file at once.

        Raises:
            ValueError: if a label is not a class of the dataset, or a file is damaged.
            OSError: if a file cannot be read, for good or in spite of several tries.
        """
        rows = self.rows_of(number)

        def read() -> pa.Table:
            return pa.table({"image": pa.array(self._read(rows), pa.large_binary())})

        key = f"{self.fingerprint} {self.groups[number]} {rows.tobytes().hex()}"
        table = self.cache.get(key, read) if self.cache else read()
        labels = self._check_labels(self.labels[rows], number)
        return Rows(table["image"].combine_chunks(), labels)

    def file_names(self, number: int) -> list[str | None]:
        """Return the name of each image of row group `number`."""
        names: list[str | None] = self.places.names.take(self.rows_of(number)).to_pylist()
        return names

    def where(self, number: int, row: int) -> str:
        """Name a row of row group `number`, for messages."""
        return self._where(int(self.rows_of(number)[row]))

    def _where(self, listed: int) -> str:
        name, file = self.places.names[listed].as_py(), self.files[self.places.files[listed]]
        return file if file.endswith(f"/{name}") else f"{name} of {file}"

    def _read(self, rows: np.ndarray) -> list[bytes]:
        """Read images, in the order of their rows, by ranges of their files."""
        images: dict[int, bytes] = {}
        runs = list(self._runs(rows))
        with ThreadPoolExecutor(min(READERS, len(runs))) as pool:
            for run, data in zip(runs, pool.map(self._read_run, runs), strict=True):
                first = int(self.places.offsets[run[0]])
                for row in run:
                    start = int(self.places.offsets[row]) - first
                    images[row] = self._content(row, data[start : start + self.places.lengths[row]])
        return [images[row] for row in rows.tolist()]

    def _runs(self, rows: np.ndarray) -> list[list[int]]:
        """Cut rows into those that one range has, in the order of the file."""
        places = self.places
        runs: list[list[int]] = []
        end, file = 0, -1
        for row in rows[np.lexsort((places.offsets[rows], places.files[rows]))].tolist():
            if places.files[row] != file or places.offsets[row] - end > GAP:
                runs.append([])
            runs[-1].append(row)
            file, end = places.files[row], int(places.offsets[row] + places.lengths[row])
        return runs

    def _read_run(self, run: Sequence[int]) -> bytes:
        places = self.places
        start, last = int(places.offsets[run[0]]), run[-1]
        stop = int(places.offsets[last] + places.lengths[last])
        return read_range(self.files[places.files[last]], start, stop) if stop > start else b""

    def _content(self, row: int, data: bytes) -> bytes:
        """Return an image of the bytes that were read of it."""
        places = self.places
        if places.packed is None or places.deflated is None or places.checksums is None:
            return data
        try:
            header = ZIP_HEADER.unpack_from(data)
            if header[0] != ZIP_SIGNATURE:
                raise ValueError("no header of a member is there")
            start = ZIP_HEADER.size + header[-2] + header[-1]
            content = data[start : start + int(places.packed[row])]
            if places.deflated[row]:
                content = zlib.decompress(content, -zlib.MAX_WBITS)
            if zlib.crc32(content) != places.checksums[row]:
                raise ValueError("its checksum is wrong")
        except (ValueError, struct.error, zlib.error) as error:
            raise ValueError(f"{self._where(row)} must be whole; {error}") from error
        return content
