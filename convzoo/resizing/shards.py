"""The files of a presized copy: shards in the layout of the Hub, and the dataset card."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from convzoo.data.split import Split
from convzoo.files import write_json
from convzoo.resizing.rows import Row

REPORT = "presizing.json"
ROWS_PER_GROUP = 100  # as the Hub's image datasets have; the unit of reading and shuffling
BYTES_PER_GROUP = 10_000_000
Report = dict[str, Any]  # a part of `presizing.json`


def write_shards(
    folder: Path,
    split: Split,
    *,
    rows: Iterable[Row],
    shards: list[Report],
    shard_bytes: int,
    max_bad_share: float,
) -> Iterator[None]:
    """Write rows to shards; yield when one is on disk, after its record was added to `shards`.

    Args:
        folder: where the shards go.
        split: where the rows are from.
        rows: converted rows in order, from the first that is in no shard yet.
        shards: records of the shards that exist.
        shard_bytes: largest shard; it has at least one row group.
        max_bad_share: share of the split's images that may be unreadable.

    Raises:
        ValueError: if more are unreadable; they are listed in a file then.
    """
    bad = [entry for shard in shards for entry in shard["unreadable"]]
    shard: _Shard | None = None
    for group in _row_groups(rows):
        problems = [row.problem for row in group if row.problem]
        bad += problems
        if len(bad) > max_bad_share * split.num_rows:
            _refuse(folder, split, bad=bad, max_bad_share=max_bad_share)
        size = sum(len(row.jpeg or b"") for row in group)
        if shard and shard.bytes_out + size > shard_bytes:
            shards.append(shard.close())
            yield
            shard = None
        if not shard:
            shard = _Shard(folder, split, number=len(shards), start_row=next_row(shards))
        shard.add(group, problems)
    if shard:
        shards.append(shard.close())
        yield


def _row_groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Cut rows into lists that become row groups; they may hold some unreadable rows more."""
    group: list[Row] = []
    count = size = 0
    for row in rows:
        group.append(row)
        count += row.jpeg is not None
        size += len(row.jpeg or b"")
        if count == ROWS_PER_GROUP or size >= BYTES_PER_GROUP:
            yield group
            group, count, size = [], 0, 0
    if group:
        yield group


class _Shard:
    """Writes a parquet file that has its name only when it is complete."""

    def __init__(self, folder: Path, split: Split, *, number: int, start_row: int):
        self.path = folder / f"{split.name}-{number:05d}.parquet"
        self.aside = self.path.with_suffix(".tmp")
        self.schema = _schema(split)
        # JPEGs do not compress, and no two are alike.
        self.writer = pq.ParquetWriter(
            self.aside, self.schema, compression="none", use_dictionary=False
        )
        self.bytes_out = 0
        self.record: Report = {
            "file": self.path.name,
            "start_row": start_row,
            "stop_row": start_row,
            "images": 0,
            "unchanged": 0,
            "bytes_in": 0,
            "unreadable": [],
        }

    def add(self, rows: list[Row], problems: list[Report]) -> None:
        """Append one row group."""
        good = [row for row in rows if row.jpeg is not None]
        self.record["stop_row"] = rows[-1].number + 1
        self.record["images"] += len(good)
        self.record["unchanged"] += sum(row.unchanged for row in good)
        self.record["bytes_in"] += sum(row.bytes_in for row in rows)
        self.record["unreadable"] += problems
        self.bytes_out += sum(len(row.jpeg or b"") for row in good)
        if good:
            images = [{"bytes": row.jpeg, "path": None} for row in good]
            labels = [row.label for row in good]
            self.writer.write_table(pa.table([images, labels], schema=self.schema))

    def close(self) -> Report:
        """Bring the file to disk and give it its name; return its record."""
        self.writer.close()
        with self.aside.open("rb") as handle:
            os.fsync(handle.fileno())
        self.aside.rename(self.path)
        file_bytes = self.path.stat().st_size
        return self.record | {"bytes_out": self.bytes_out, "file_bytes": file_bytes}


def _schema(split: Split) -> pa.Schema:
    import datasets

    features = {  # a folder of images has no columns
        split.image_column or "image": datasets.Image(),
        split.label_column or "label": datasets.ClassLabel(names=list(split.label_names)),
    }
    return datasets.Features(features).arrow_schema


def _refuse(folder: Path, split: Split, *, bad: list[Report], max_bad_share: float) -> None:
    path = folder / f"{split.name}-unreadable.json"
    write_json(path, bad)
    raise ValueError(
        f"at most {max_bad_share:.2%} of the {split.num_rows} images of {split.name} may be "
        f"unreadable; got {len(bad)} so far, listed in {path}, as "
        f"{bad[0]['where']}: {bad[0]['reason']}. Raise --max-bad-share to continue without them"
    )


def next_row(shards: list[Report]) -> int:
    """Return the first row that is in no shard yet."""
    return int(shards[-1]["stop_row"]) if shards else 0


def final_name(content: Report, split: str, *, number: int) -> str:
    """Return the name of a shard in a complete split, as the Hub has it."""
    return f"{split}-{number:05d}-of-{len(content['shards']):05d}.parquet"
