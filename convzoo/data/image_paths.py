"""Parquet files whose images are paths of local files instead of their bytes.

`Dataset.to_parquet` writes such files from a folder of images: each row has a path and no bytes.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convzoo.data.row_groups import FileFacts

EMBED = (
    "Embed them: ds.with_format('arrow').map(datasets.table.embed_table_storage, batched=True)"
    ".with_format(None).to_parquet(FILE)"
)


def image_file_bytes(files: Mapping[str, FileFacts], image_column: str) -> list[int] | None:
    """Find out whether images are files beside the parquet files.

    Args:
        files: parquet files and what their footers say; all have `image_column`.bytes.
        image_column: column of images.

    Returns:
        Bytes of the images of each row group, in order; None if the images are in the columns.

    Raises:
        ValueError: if images are files, and none of them is there.
    """
    column = f"{image_column}.bytes"
    rows = sum(int(facts.rows.sum()) for facts in files.values())
    missing = sum(facts.nulls[facts.columns.index(column)] for facts in files.values())
    if not missing or (not _all_local(files) and missing < rows):
        return None
    example, sizes, found = "", [], 0
    for file, facts in files.items() if _all_local(files) else ():
        parquet = pq.ParquetFile(file)
        for group in range(len(facts.rows)):
            images = parquet.read_row_group(group, [image_column])[0].combine_chunks()
            paths = _paths(images, file)
            example = example or next(filter(None, paths), "")
            of_files = [os.path.getsize(path) for path in paths if path and os.path.isfile(path)]
            found += len(of_files)
            embedded = pc.sum(pc.binary_length(images.field("bytes"))).as_py()
            sizes.append(sum(of_files) + (embedded or 0))
    if not found and missing == rows:
        file = next(iter(files))
        such = f", such as {example}, that do not exist" if example else ""
        raise ValueError(f"images of {file} must be there as bytes; got paths{such}. {EMBED}")
    return sizes if found else None


def read_images(images: pa.StructArray, file: str) -> pa.Array:
    """Return the encoded bytes of images, read from their paths where they have no bytes.

    Args:
        images: bytes and path of each.
        file: the parquet file; relative paths start in its folder.
    """
    encoded = images.field("bytes").to_pylist()
    for row, path in enumerate(_paths(images, file)):
        if path and os.path.isfile(path):
            encoded[row] = Path(path).read_bytes()
    return pa.array(encoded, pa.large_binary())


def _paths(images: pa.StructArray, file: str) -> list[str]:
    """List the path of each image that has no bytes; "" for one that has, or has no path."""
    folder = os.path.dirname(file)
    no_bytes = images.field("bytes").is_null().to_pylist()
    return [
        os.path.join(folder, path) if missing and path else ""
        for missing, path in zip(no_bytes, images.field("path").to_pylist(), strict=True)
    ]


def _all_local(files: Iterable[str]) -> bool:
    return not any("://" in file for file in files)
