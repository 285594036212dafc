"""The predictions file of a result: what a model said of every image, one row each, as parquet.

It lies in the model folder, and the entry of `eval_results.json` names it with its hash. A file is
checked when it is written and when it is read, so that whoever computes with it need not.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from convzoo.evaluation.prediction_table import (
    NO_NUMBER,
    PredictionFacts,
    PredictionTable,
    check_table,
)
from convzoo.files import file_sha256

FOLDER = "predictions"  # in the model folder
SCHEMA_VERSION = 1
METADATA_KEY = b"convzoo"
ROWS_PER_GROUP = 4096  # fixed, so that the same predictions give the same bytes
REMEDY = "Evaluate the model again"
__all__ = [
    "PredictionFacts",
    "PredictionTable",
    "read_prediction_facts",
    "read_predictions",
    "read_recorded_predictions",
    "write_prediction_parts",
    "write_predictions",
]


def write_predictions(path: Path, table: PredictionTable) -> None:
    """Write a predictions file, whole or not at all; equal tables give equal bytes.

    Raises:
        ValueError: if the table contradicts itself; see `check_table`.
        OSError: if the file cannot be written.
    """
    write_prediction_parts(path, table.facts, [table])


def write_prediction_parts(
    path: Path, facts: PredictionFacts, parts: Iterable[PredictionTable]
) -> None:
    """Write a predictions file from tables that follow each other, never all of them in memory.

    How the rows are cut into tables makes no difference to the bytes.

    Args:
        path: where to; its folder is made.
        facts: of the whole; those of the parts are not looked at.
        parts: tables, in the order of their rows.

    Raises:
        ValueError: if a table contradicts itself, or there is no row.
        OSError: if the file cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, facts, parts)
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"{path} could not be written; {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, facts: PredictionFacts, parts: Iterable[PredictionTable]) -> None:
    writer: pq.ParquetWriter | None = None
    waiting: list[pa.Table] = []
    last_row = -1
    try:
        for part in parts:
            check_table(part, facts, where=str(path), after=last_row)
            last_row = int(part.row[-1])
            if writer is None:
                writer = pq.ParquetWriter(
                    path,
                    schema_of(
                        len(facts.names), part.top_k, logits=part.logits is not None
                    ).with_metadata({METADATA_KEY: _metadata(facts)}),
                    compression="zstd",
                    use_dictionary=False,
                    write_page_checksum=True,
                )
            waiting.append(to_arrow(part, len(facts.names)))
            while sum(map(len, waiting)) >= ROWS_PER_GROUP:
                together = pa.concat_tables(waiting)
                writer.write_table(together.slice(0, ROWS_PER_GROUP).combine_chunks())
                waiting = [together.slice(ROWS_PER_GROUP)]
        if writer is None:
            raise ValueError(f"{path} must have predictions of at least one image; got none")
        if rest := pa.concat_tables(waiting).combine_chunks():
            writer.write_table(rest)
    finally:
        if writer is not None:
            writer.close()


def schema_of(num_classes: int, top_k: int, *, logits: bool) -> pa.Schema:
    """Return the columns of a predictions file, without its metadata."""
    columns: list[tuple[str, pa.DataType]] = [
        ("row", pa.int64()),
        ("image", pa.string()),
        ("digest", pa.binary(32)),
        ("label", pa.int32()),
        ("rank", pa.int32()),
        ("loss", pa.float32()),
        ("top_classes", pa.list_(pa.int32(), top_k)),
        ("top_probabilities", pa.list_(pa.float32(), top_k)),
        ("squared_probabilities", pa.float32()),
    ]
    if logits:
        columns.append(("logits", pa.list_(pa.float32(), num_classes)))
    return pa.schema([*columns, ("error", pa.string())])


def to_arrow(table: PredictionTable, num_classes: int) -> pa.Table:
    """Return the columns of a table as Arrow's; what an unreadable image lacks is null."""
    schema = schema_of(num_classes, table.top_k, logits=table.logits is not None)
    absent = ~table.readable
    arrays = {}
    for column in schema:
        values = getattr(table, column.name)
        if column.name in ("image", "error"):
            arrays[column.name] = pa.array(values.tolist(), column.type)
        elif column.name == "digest":
            content = pa.py_buffer(np.ascontiguousarray(values, np.uint8))
            arrays[column.name] = pa.Array.from_buffers(column.type, len(table), [None, content])
        elif pa.types.is_fixed_size_list(column.type):
            flat = pa.array(np.ascontiguousarray(values).ravel(), column.type.value_type)
            mask = pa.array(absent) if absent.any() else None
            arrays[column.name] = pa.FixedSizeListArray.from_arrays(
                flat, type=column.type, mask=mask
            )
        else:
            hidden = absent if column.name not in ("row", "label") else None
            arrays[column.name] = pa.array(values, column.type, mask=hidden)
    return pa.table(arrays, schema=schema)


def from_arrow(table: pa.Table, facts: PredictionFacts) -> PredictionTable:
    """Return the numpy arrays of what `to_arrow` returned."""
    arrays: dict[str, Any] = {"logits": None}
    for column in table.schema:
        values = table[column.name].combine_chunks()
        if column.name in ("image", "error"):
            arrays[column.name] = np.array([*values.to_pylist(), None], object)[:-1]
        elif column.name == "digest":
            content = np.frombuffer(b"".join(values.to_pylist()), np.uint8)
            arrays[column.name] = content.reshape(len(table), 32)
        elif pa.types.is_fixed_size_list(column.type):
            arrays[column.name] = _matrix(values, column.type)
        else:
            arrays[column.name] = _numbers(values, column.type)
    return PredictionTable(facts=facts, **arrays)


def _numbers(values: pa.Array, kind: pa.DataType) -> np.ndarray:
    absent = np.nan if pa.types.is_floating(kind) else NO_NUMBER
    filled = values.fill_null(absent) if values.null_count else values
    return np.asarray(filled.to_numpy(zero_copy_only=False))


def _matrix(values: pa.Array, kind: pa.DataType) -> np.ndarray:
    """Lists of equal length as an array (N, length)."""
    present = values.is_valid().to_numpy(zero_copy_only=False)
    absent = np.nan if pa.types.is_floating(kind.value_type) else NO_NUMBER
    shape = (len(values), kind.list_size)
    matrix = np.full(shape, absent, kind.value_type.to_pandas_dtype())
    matrix[present] = values.drop_null().flatten().to_numpy().reshape(-1, kind.list_size)
    return matrix


def _metadata(facts: PredictionFacts) -> bytes:
    content = {
        "schema_version": SCHEMA_VERSION,
        "class_names": list(facts.names),
        "dataset": dict(facts.dataset),
        "protocol": dict(facts.protocol),
        "model": dict(facts.model),
    }
    return json.dumps(content, sort_keys=True).encode()


def read_predictions(path: Path, *, logits: bool = True) -> PredictionTable:
    """Read a predictions file and check it.

    Args:
        path: the file.
        logits: whether to read the logits, too, where it has them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none of convzoo, of a newer version, damaged, or contradicts itself.
    """
    if not path.is_file():
        raise FileNotFoundError(f"predictions file {path} does not exist. {REMEDY}")
    facts = read_prediction_facts(path)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            schema = file.schema_arrow.remove_metadata()
            top = schema.field("top_classes").type
            wanted = schema_of(
                len(facts.names),
                top.list_size if pa.types.is_fixed_size_list(top) else 1,
                logits="logits" in schema.names,
            )
            if schema != wanted:
                different = {*map(str, schema)} ^ {*map(str, wanted)}
                raise ValueError(f"its columns differ: {', '.join(sorted(different)) or 'order'}")
            names = [name for name in schema.names if logits or name != "logits"]
            table = from_arrow(file.read(names), facts)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} {MUST_BE}; {_one_line(error)}. {REMEDY}") from error
    check_table(table, facts, where=str(path))
    return table


MUST_BE = "must be a predictions file as `convzoo evaluate` writes it"


def read_prediction_facts(path: Path) -> PredictionFacts:
    """Read only what a predictions file says of itself.

    Raises:
        ValueError: as `read_predictions`.
    """
    try:
        content = json.loads((pq.read_metadata(path).metadata or {})[METADATA_KEY])
        version = content["schema_version"]
    except KeyError as error:
        raise ValueError(
            f"{path} {MUST_BE}; its metadata says nothing of convzoo. {REMEDY}"
        ) from error
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} {MUST_BE}; {_one_line(error)}. {REMEDY}") from error
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"schema_version of {path} must be {SCHEMA_VERSION}; got {version!r}. A newer convzoo "
            f"wrote it: update, or evaluate the model again"
        )
    try:
        return PredictionFacts(
            names=tuple(map(str, content["class_names"])),
            dataset=dict(content["dataset"]),
            protocol=dict(content["protocol"]),
            model=dict(content["model"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} {MUST_BE}; its metadata lacks {error}. {REMEDY}") from error


def read_recorded_predictions(
    model_folder: Path, record: Mapping[str, Any] | None, *, logits: bool = True
) -> PredictionTable:
    """Read the predictions of a result, which must be those that it was computed from.

    Args:
        model_folder: where the result lies.
        record: `predictions` of the entry of `eval_results.json`; None where it has none.
        logits: as for `read_predictions`.

    Raises:
        FileNotFoundError: if the result has none, or the file is not there.
        ValueError: if the file is another one than was recorded, and as `read_predictions`.
    """
    if record is None:
        raise FileNotFoundError(
            f"the result in {model_folder} has no predictions: an older version wrote it. {REMEDY}"
        )
    path = model_folder / record["file"]
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}, the predictions of a result, does not exist: they are not pushed unless "
            f"asked for. {REMEDY}"
        )
    if file_sha256(path) != record["sha256"]:
        raise ValueError(
            f"{path} must be the file that the result was computed from; its SHA-256 is another "
            f"one than was recorded. {REMEDY}"
        )
    table = read_predictions(path, logits=logits)
    if len(table) != record["num_rows"]:
        raise ValueError(
            f"{path} must have the {record['num_rows']} rows that were recorded; got "
            f"{len(table)}. {REMEDY}"
        )
    return table


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
