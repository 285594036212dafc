"""The two file formats by which clients upload to Xet, as far as a store must read them.

A xorb is a row of compressed chunks; a shard says of which chunks of which xorbs each new file is
made. Hashes of chunks and xorbs are taken as they come, because the SHA-256 of every finished file
is checked when it is committed.

Source: https://huggingface.co/docs/xet/xorb and https://huggingface.co/docs/xet/shard
"""

import struct

import numpy as np
import pyarrow as pa

XORB_FOOTER = b"XETBLOB"
RECORD = 48  # bytes of each record of a shard
WITH_VERIFICATION, WITH_METADATA = 1 << 31, 1 << 30


def chunks_of(xorb: bytes) -> list[bytes]:
    """The contents of a xorb, chunk by chunk."""
    chunks, at = [], 0
    while at < len(xorb) and not xorb.startswith(XORB_FOOTER, at):
        packed = int.from_bytes(xorb[at + 1 : at + 4], "little")
        scheme, size = xorb[at + 4], int.from_bytes(xorb[at + 5 : at + 8], "little")
        chunks.append(_unpack(scheme, xorb[at + 8 : at + 8 + packed], size))
        at += 8 + packed
    return chunks


def _unpack(scheme, data, size):
    if scheme == 0:
        return data
    data = pa.Codec("lz4").decompress(data, size).to_pybytes()
    if scheme == 1:
        return data
    if scheme != 2:
        raise ValueError(f"compression must be 0, 1 or 2; got {scheme}")
    # Every fourth byte was put together: first those at 0, 4, 8, then those at 1, 5, 9 ...
    content, at = np.empty(size, np.uint8), 0
    for first in range(4):
        count = len(content[first::4])
        content[first::4] = np.frombuffer(data, np.uint8, count, at)
        at += count
    return content.tobytes()


def files_of(shard: bytes) -> list[list[tuple[str, int, int]]]:
    """For each file in a shard, its pieces in order: name of a xorb, first chunk, end of chunks."""
    files, at = [], RECORD  # behind the header
    while shard[at : at + 32] != b"\xff" * 32:  # the mark of the end
        flags, count = struct.unpack_from("<II", shard, at + 32)
        pieces = []
        for number in range(1, count + 1):
            record = at + number * RECORD
            start, end = struct.unpack_from("<II", shard, record + 40)
            pieces.append((_hex(shard[record : record + 32]), start, end))
        files.append(pieces)
        extra = count * bool(flags & WITH_VERIFICATION) + bool(flags & WITH_METADATA)
        at += RECORD * (1 + count + extra)
    return files


def _hex(digest):
    """A hash as it stands in addresses: four numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))
