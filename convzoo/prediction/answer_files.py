"""Write answers as text, table, CSV, JSON, JSON lines or parquet, batch by batch.

A file is written aside and renamed at the end: it is whole, or not there. CSV, JSON lines and
parquet have a row for each image, with an error where it could not be read; the other forms have
the images that were classified.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from convzoo.prediction.classifying import Answer

Write = Callable[[Iterable[Answer]], None]
FORMATS = ("text", "table", "csv", "json", "jsonl", "parquet")
WIDEST = 60  # columns of a table's names and classes; longer ones push what follows aside


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a form must know beforehand.

    Attributes:
        images: names of the images.
        labels: names of the classes.
        top_k: classes of each image, at most.
    """

    images: list[str]
    labels: list[str]
    top_k: int


@contextmanager
def open_answers(
    form: str, output: Path | None, *, layout: Layout, terminal: TextIO
) -> Iterator[Write]:
    """Open what takes the answers.

    Args:
        form: one of FORMATS.
        output: a file, or None for the terminal.
        layout: what is known beforehand.
        terminal: standard output.

    Yields:
        A function that takes the answers of a batch.

    Raises:
        OSError: if the file cannot be written; what was there before stays.
    """
    if output is None:
        write, end = _text_form(form, terminal, layout)
        yield write
        end()
        return
    aside = output.with_name(f".{output.name}.partial")
    with ExitStack() as stack, ExitStack() as files:
        stack.callback(aside.unlink, missing_ok=True)
        with _naming(output):
            if form == "parquet":
                write, end = _parquet(aside, files)
            else:
                settings: Any = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
                file = files.enter_context(aside.open("w", **settings))
                write, end = _text_form(form, file, layout)

        def write_named(answers: Iterable[Answer]) -> None:
            with _naming(output):
                write(answers)

        yield write_named
        with _naming(output):
            end()
            files.close()
            aside.replace(output)


def one_line(name: str) -> str:
    """Show a name on one line: what is not printable by its escape sequence."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


@contextmanager
def _naming(output: Path) -> Iterator[None]:
    """Let errors name the file."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{output} could not be written; {error}") from error


def _text_form(form: str, stream: TextIO, layout: Layout) -> tuple[Write, Callable[[], object]]:
    forms = {
        "text": _text,
        "table": _table,
        "csv": _csv,
        "json": _json,
        "jsonl": _json_lines,
    }
    write, end = forms[form](stream, layout)

    def write_batch(answers: Iterable[Answer]) -> None:
        for answer in answers:
            write(answer)
        stream.flush()

    return write_batch, end


def _nothing() -> None:
    pass


Form = tuple[Callable[[Answer], object], Callable[[], object]]  # for each answer, and at the end


def _text(stream: TextIO, layout: Layout) -> Form:
    def write(answer: Answer) -> None:
        if not answer.error:
            lines = [one_line(answer.image)]
            lines += [f"  {score:6.1%}  {label}" for label, score in answer.guesses]
            stream.write("\n".join(lines) + "\n")

    return write, _nothing


def _table(stream: TextIO, layout: Layout) -> Form:
    width = min(WIDEST, max(len(one_line(name)) for name in layout.images))
    label_width = min(WIDEST, max(map(len, layout.labels)))

    def write(answer: Answer) -> None:
        if not answer.error:
            cells = [f"{score:6.1%}  {label:<{label_width}}" for label, score in answer.guesses]
            row = "  ".join([f"{one_line(answer.image):<{width}}", *cells])
            stream.write(row.rstrip() + "\n")

    return write, _nothing


def _csv(stream: TextIO, layout: Layout) -> Form:
    places = range(1, min(layout.top_k, len(layout.labels)) + 1)
    writer = csv.writer(stream, lineterminator="\n")
    columns = [f"{what}_{place}" for place in places for what in ("label", "score")]
    writer.writerow(["image", *columns, "error"])

    def write(answer: Answer) -> None:
        cells = [cell for guess in answer.guesses for cell in guess] or [""] * len(columns)
        writer.writerow([answer.image, *cells, answer.error])

    return write, _nothing


def _items(answer: Answer) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in answer.guesses]


def _json(stream: TextIO, layout: Layout) -> Form:
    """One item of a JSON list, on a line of its own as soon as it is known."""
    begun = False

    def write(answer: Answer) -> None:
        nonlocal begun
        if not answer.error:
            item = json.dumps({"image": answer.image, "predictions": _items(answer)})
            stream.write((",\n" if begun else "[\n") + item)
            begun = True

    def end() -> None:
        stream.write("\n]\n" if begun else "[]\n")

    return write, end


def _json_lines(stream: TextIO, layout: Layout) -> Form:
    def write(answer: Answer) -> None:
        more = {"error": answer.error} if answer.error else {"predictions": _items(answer)}
        stream.write(json.dumps({"image": answer.image, **more}) + "\n")

    return write, _nothing


def _parquet(path: Path, files: ExitStack) -> tuple[Write, Callable[[], object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names, scores = pa.list_(pa.string()), pa.list_(pa.float32())
    schema = pa.schema(
        [("image", pa.string()), ("labels", names), ("scores", scores), ("error", pa.string())]
    )
    rows: list[Answer] = []
    writer = files.enter_context(pq.ParquetWriter(path, schema))

    def flush() -> None:
        columns = {
            "image": [_utf8(row.image) for row in rows],
            "labels": [[label for label, _ in row.guesses] for row in rows],
            "scores": [[score for _, score in row.guesses] for row in rows],
            "error": [_utf8(row.error) or None for row in rows],
        }
        writer.write_table(pa.table(columns, schema=schema))
        rows.clear()

    def write(answers: Iterable[Answer]) -> None:
        rows.extend(answers)
        if len(rows) >= 4096:  # of a row group
            flush()

    return write, flush


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
