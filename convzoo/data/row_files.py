"""Read the small files that have a row for each image: CSV, TSV, JSON lines, parquet."""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

INTEGER = re.compile(r"-?(0|[1-9]\d*)")
ROW_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
Header = Callable[[list[str]], list[str] | None]  # names of the columns, where a row has none


@dataclass(frozen=True)
class RowFile:
    """The rows of a file.

    Attributes:
        columns: values of each column, row by row.
        num_rows: how many rows.
        is_text: whether all values are texts, because the file has no types.
    """

    columns: Mapping[str, Sequence[Any]]
    num_rows: int
    is_text: bool = False

    def values(self, column: str) -> Sequence[Any]:
        """Return a column; one of nothing but whole numbers as numbers, where they are texts."""
        values = self.columns[column]
        if self.is_text and all(INTEGER.fullmatch(value) for value in values):
            return [int(value) for value in values]
        return values


def read_rows(data: bytes, where: str, header: Header = lambda row: None) -> RowFile:
    """Read all rows of a file.

    Args:
        data: its content.
        where: its address; the suffix says its format.
        header: gets the first row of a CSV or TSV file, and gives the names of the columns if that
            row has none.

    Raises:
        ValueError: if it cannot be read.
    """
    suffix = os.path.splitext(where)[1].lower()
    try:
        if suffix == ".parquet":
            table = pq.read_table(pa.BufferReader(data))
            columns = {name: table[name].to_pylist() for name in table.column_names}
            return RowFile(columns, table.num_rows)
        text = data.decode("utf-8-sig")
        return _json_lines(text) if suffix == ".jsonl" else _separated(text, suffix, header)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where} must be text in UTF-8; {error}. Save it as CSV in UTF-8"
        ) from error
    except (ValueError, csv.Error) as error:  # pyarrow's errors are some, too
        raise ValueError(f"{where} must be readable as {suffix[1:]}; {error}") from error


def _json_lines(text: str) -> RowFile:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} must be an object, as {{...}}; got {line[:50]!r}")
            rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return RowFile({name: [row.get(name) for row in rows] for name in names}, len(rows))


def _separated(text: str, suffix: str, header: Header) -> RowFile:
    """Read lines of fields; the separator of a CSV is that of its first line."""
    first = text.partition("\n")[0]
    separators = ("\t",) if suffix == ".tsv" else (",", ";", "\t")
    found = [each for each in separators if len(next(csv.reader([first], delimiter=each), [])) > 1]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=(found or separators)[0])
    rows = [row for row in reader if any(field.strip() for field in row)]
    if not rows:
        return RowFile({}, 0)
    names = header(rows[0])
    body = rows if names else rows[1:]
    names = [name.strip() for name in names or rows[0]]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"columns must have different names; got {double!r} twice")
    for number, row in enumerate(body, start=1):
        if len(row) != len(names):
            raise ValueError(
                f"each row must have {len(names)} fields, {', '.join(names)}; got {len(row)} in "
                f"row {number}: {row}. Put fields that contain the separator into quotes"
            )
    columns = {name: [row[place] for row in body] for place, name in enumerate(names)}
    return RowFile(columns, len(body), is_text=True)
