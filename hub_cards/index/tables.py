"""Make the zoo's tables, as Markdown and in a README.

There is one table for each dataset, split and protocol, so that numbers which stand under each
other may be compared. In a file the tables stand between two marker lines; nothing else is touched.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hub_cards.card.model_facts import short_count
from hub_cards.files import replace_bytes
from hub_cards.index.rows import Accuracy, Row

BEGIN, END = "<!-- zoo table: begin -->", "<!-- zoo table: end -->"
Table = tuple[str, list[Row]]


def make_tables(rows: Sequence[Row]) -> list[Table]:
    """Group rows that may be compared, the most accurate first.

    Returns:
        Title and rows of each table, in the order in which the rows brought them up. Results on
        different images under the same name get different titles.
    """
    titles: dict[str, list[Row]] = {}
    for row in rows:
        titles.setdefault(row.setting, []).append(row)
    tables = []
    for title, found in titles.items():
        prints = dict.fromkeys(row.fingerprint for row in found)
        several = len(set(prints) - {None}) > 1
        for print_ in prints if several else [None]:
            part = [row for row in found if not several or row.fingerprint == print_]
            images = (print_ or "unknown").removeprefix("sha256:")[:8]
            part.sort(key=lambda row: (-row.top1.value, row.name))
            tables.append((f"{title}, fingerprint {images}" if several else title, part))
    return tables


def render_tables(tables: Sequence[Table], folder: Path | None = None) -> str:
    """Tables with their titles and a legend, as Markdown.

    Args:
        tables: as `make_tables` gives them.
        folder: where the text will lie, for links to result files; no links if None.
    """
    rows = [row for _, table in tables for row in table]
    values = [value for row in rows for value in (row.top1, row.top5) if value]
    legend = [
        "Compare rows within a table only. Image size: the crop, of the shorter side before it.",
        "Speed is of the machine that is named." if any(row.speed for row in rows) else "",
        "Brackets: 95 % interval." if any(value.low is not None for value in values) else "",
        "\u00b1: standard deviation over training seeds."
        if any(value.deviation is not None for value in values)
        else "",
    ]
    parts = [part for title, table in tables for part in (f"{title}:", _grid(table, folder))]
    return "\n\n".join([*parts, "\n".join(filter(None, legend))])


def _grid(rows: Sequence[Row], folder: Path | None) -> str:
    columns: list[tuple[str, str, Callable[[Row], object]]] = [
        ("model", "---", lambda row: row.model),
        ("family", "---", lambda row: row.family),
        ("parameters", "---:", lambda row: f"{row.num_parameters:,}"),
        ("multiply-adds", "---:", lambda row: row.multiply_adds and short_count(row.multiply_adds)),
        ("speed", "---", lambda row: row.speed),
        ("image size", "---:", lambda row: row.image_size),
        ("top-1 %", "---:", lambda row: _percent(row.top1)),
        ("top-5 %", "---:", lambda row: row.top5 and _percent(row.top5)),
        ("evidence", "---", lambda row: _evidence(row, folder)),
        ("licence", "---", lambda row: row.license),
    ]
    columns = [column for column in columns if any(column[2](row) for row in rows)]
    lines = [[name for name, _, _ in columns], [line for _, line, _ in columns]]
    lines += [[_cell(value(row)) for _, _, value in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(accuracy: Accuracy) -> str:
    text = f"{100 * accuracy.value:.2f}"
    if accuracy.low is not None and accuracy.high is not None:
        return f"{text} [{100 * accuracy.low:.2f}, {100 * accuracy.high:.2f}]"
    if accuracy.deviation is not None:
        text += f" \u00b1 {100 * accuracy.deviation:.2f}"
    return f"{text} (n = {accuracy.seeds})" if accuracy.seeds else text


def _evidence(row: Row, folder: Path | None) -> str:
    if row.file and folder:
        link = Path(os.path.relpath(row.file.resolve(), folder.resolve())).as_posix()
        return f"[measured]({link})"
    return "measured" if row.measured else "quoted"


def _cell(text: object) -> str:
    return str(text or "-").replace("|", r"\|").replace("\n", " ")


def put_tables(text: str, tables: str, *, where: str | Path) -> str:
    """Replace what stands between the two markers of a text, and nothing else.

    Args:
        text: with each marker once, on a line of its own.
        tables: what is to stand there.
        where: the file, for messages.

    Raises:
        ValueError: if the markers are not there once each, the first one first.
    """
    found = [list(re.finditer(rf"^{mark}[ \t]*\r?$", text, re.MULTILINE)) for mark in (BEGIN, END)]
    if [len(marks) for marks in found] != [1, 1] or found[0][0].start() > found[1][0].start():
        counts = " and ".join(str(len(marks)) for marks in found)
        raise ValueError(
            f"{where} must have the lines {BEGIN} and {END} once each, in this order; got "
            f"{counts} of them. Put them where the tables are to stand."
        )
    begin, end = found[0][0].end(), found[1][0].start()
    block = f"\n\n{tables}\n\n"
    if found[0][0][0].endswith("\r"):
        begin -= 1
        block = block.replace("\n", "\r\n")
    return text[:begin] + block + text[end:]


def write_readme(path: str | Path, tables: Sequence[Table], *, check: bool = False) -> bool:
    """Bring the tables of a README up to date.

    Args:
        path: a file with the two markers.
        tables: as `make_tables` gives them.
        check: write nothing.

    Returns:
        Whether the file was up to date already.

    Raises:
        OSError: if it cannot be read or written.
        ValueError: if its markers are missing, doubled or in the wrong order.
    """
    path = Path(path)
    old = path.read_bytes()
    new = put_tables(old.decode("utf-8"), render_tables(tables, path.parent), where=path).encode()
    if new != old and not check:
        replace_bytes(path, new)
    return new == old
