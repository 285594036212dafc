"""Keep what is known of millions of row groups in little memory.

As tuples, place, rows and bytes of a row group take 200 bytes, and parsed parquet footers take 2 kB
more. Here the same sequences are arrays of 20 bytes a row group, and a footer is kept as the bytes
it was parsed from, compressed to some 60 a row group, and is parsed again where it is needed. What
data workers share with the process that started them stays shared, because reading an array writes
nothing into its memory.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PARSED_GROUPS = 2000  # row groups whose metadata is kept parsed, about 4 MB
CHUNK = 2**16  # numbers that are Python objects at a time
Entry = TypeVar("Entry", int, tuple[int, int])


class _Compact(Sequence[Entry], Generic[Entry]):
    """Reads like a tuple and equals one, and is an array."""

    def __init__(self, values: Sequence[Any] | np.ndarray):
        array = np.asarray(values, dtype=np.int64)
        self._array = array.astype(np.int32) if array.max(initial=0) < 2**31 else array

    def __len__(self) -> int:
        return len(self._array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._array, dtype=dtype, copy=copy)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Entry, ...]: ...
    def __getitem__(self, index: int | slice) -> Entry | tuple[Entry, ...]:
        found = self._array[index].tolist()
        return tuple(map(self._entry, found)) if isinstance(index, slice) else self._entry(found)

    def __iter__(self) -> Iterator[Entry]:
        for start in range(0, len(self), CHUNK):
            yield from self[start : start + CHUNK]

    def json_pieces(self) -> Iterator[str]:
        """Yield the parts of what `json.dumps` writes of it as a list."""
        for start in range(0, len(self), CHUNK):
            yield ", " if start else "["
            yield json.dumps(self._array[start : start + CHUNK].tolist())[1:-1]
        yield "]" if len(self) else "[]"

    def _entry(self, found: Any) -> Entry:
        raise NotImplementedError


class Numbers(_Compact[int]):
    """Holds whole numbers of at least 0: 4 bytes each if all of them fit, else 8."""

    def _entry(self, found: Any) -> int:
        return int(found)


class Pairs(_Compact[tuple[int, int]]):
    """Holds pairs of whole numbers of at least 0: 8 bytes each if all of them fit, else 16."""

    def __init__(self, values: Sequence[tuple[int, int]] | np.ndarray):
        super().__init__(np.asarray(values, dtype=np.int64).reshape(-1, 2))

    def _entry(self, found: Any) -> tuple[int, int]:
        return found[0], found[1]


class Footers(Sequence[pq.FileMetaData]):
    """Holds the metadata of each parquet file, packed by `pack`; the last ones also parsed."""

    def __init__(self, packed: Sequence[bytes]):
        self._packed = tuple(packed)
        self._begin()

    def _begin(self) -> None:
        groups = max(map(len, self._packed), default=0) // 60  # of the longest, about
        most = max(8, PARSED_GROUPS // max(1, groups))
        self._parsed = lru_cache(maxsize=most)(lambda number: unpack(self._packed[number]))

    def __getstate__(self) -> tuple[bytes, ...]:  # workers may be spawned; caches are not pickled
        return self._packed

    def __setstate__(self, state: tuple[bytes, ...]) -> None:
        self._packed = state
        self._begin()

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, index: int) -> pq.FileMetaData: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[pq.FileMetaData, ...]: ...
    def __getitem__(self, index: int | slice) -> pq.FileMetaData | tuple[pq.FileMetaData, ...]:
        if isinstance(index, slice):
            return tuple(map(unpack, self._packed[index]))
        return self._parsed(range(len(self))[index])


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """Holds what the footer of a parquet file says, read from it in one go.

    Attributes:
        packed: the footer, by `pack`.
        columns: path of each leaf column, such as image.bytes.
        features: what `datasets` wrote of the columns, JSON; empty without it.
        rows: rows of each row group, int64 (row groups,).
        sizes: uncompressed bytes of each column of each row group, int64 (row groups, columns).
        nulls: rows of each column without a value, as far as the file says.
    """

    packed: bytes
    columns: tuple[str, ...]
    features: bytes
    rows: np.ndarray
    sizes: np.ndarray
    nulls: tuple[int, ...]

    @classmethod
    def of(cls, footer: pq.FileMetaData) -> "FileFacts":
        """Read the facts from a footer."""
        sizes = np.empty((footer.num_row_groups, footer.num_columns), np.int64)
        rows, nulls = np.empty(footer.num_row_groups, np.int64), [0] * footer.num_columns
        for group in range(footer.num_row_groups):
            meta = footer.row_group(group)
            rows[group] = meta.num_rows
            for number in range(footer.num_columns):
                column = meta.column(number)
                known = column.statistics
                nulls[number] += known.null_count or 0 if known is not None else 0
                sizes[group, number] = column.total_uncompressed_size
        return cls(
            packed=pack(footer),
            columns=tuple(footer.schema.column(n).path for n in range(footer.num_columns)),
            features=(footer.metadata or {}).get(b"huggingface", b""),
            rows=rows,
            sizes=sizes,
            nulls=tuple(nulls),
        )


def pack(footer: pq.FileMetaData) -> bytes:
    """Write a footer as a parquet file without rows, compressed, behind its length."""
    sink = pa.BufferOutputStream()
    footer.write_metadata_file(sink)
    content = sink.getvalue()
    packed = pa.compress(content, "zstd", asbytes=True)
    return bytes(content.size.to_bytes(8, "little") + packed)


def unpack(packed: bytes) -> pq.FileMetaData:
    """Parse what `pack` wrote."""
    size = int.from_bytes(packed[:8], "little")
    return pq.read_metadata(pa.BufferReader(pa.decompress(packed[8:], size, "zstd")))
