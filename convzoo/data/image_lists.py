"""Lists of images: a CSV, TSV, JSON lines or parquet file with a path and a label in each row.

A column `split` says which split a row belongs to. Without it all are for training, unless the
file is called like a split, `train.csv`: then `val.csv` and `test.csv` beside it are the others.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from convzoo.data.cards import read_card
from convzoo.data.classes import log_once
from convzoo.data.columns import Columns
from convzoo.data.folder_layout import Layout, Member, in_order, split_of
from convzoo.data.folder_listing import File
from convzoo.data.folder_metadata import check_label
from convzoo.data.folders import folder_split, listed_images
from convzoo.data.remote import READERS
from convzoo.data.row_files import RowFile, read_rows
from convzoo.data.split import FolderSplit
from convzoo.images.allowed_formats import image_suffixes

PATH_COLUMNS = ("path", "file_name", "filename", "file", "filepath", "image_path", "image")
LABEL_COLUMNS = ("label", "class", "category", "target", "class_name", "label_name")
WANTED = "rows with a path and a label"
MOST_NAMED = 5  # missing files in a message


@dataclass(frozen=True)
class ListSource:
    """A list of images.

    Attributes:
        path: the file, as it was asked for.
        file: where it is.
        columns: which ones were asked for.
        root: folder that its paths are relative to; that of the list if "".
    """

    path: str
    file: Path
    columns: Columns
    root: str = ""

    @cached_property
    def folder(self) -> Path:
        """The folder that paths are relative to."""
        folder = Path(self.root).expanduser() if self.root else self.file.parent
        if not folder.is_dir():
            raise FileNotFoundError(
                f"data.root (--root) must be a folder that exists; there is no folder {self.root!r}"
            )
        return folder.resolve()

    @cached_property
    def layout(self) -> Layout:
        """Its images by split."""
        layout: Layout = {}
        seen: dict[object, str] = {}
        for file, split in self._files():
            for row_split, member, where in self._members(file):
                first = seen.setdefault(member.file.identity, where)
                if first != where:
                    raise ValueError(
                        f"each image must be listed once; got {member.file.path} in {first} and "
                        f"again in {where}. Remove one of the rows"
                    )
                layout.setdefault(row_split or split, []).append(member)
        if not layout:
            raise FileNotFoundError(f"{self.path} must list images; it has no rows")
        return in_order(layout)

    def split_names(self) -> list[str]:
        """List its splits, in the usual order."""
        return list(self.layout)

    def open_split(self, name: str) -> FolderSplit:
        """Open a split.

        Raises:
            FileNotFoundError: if an image, or the root, does not exist.
            ValueError: if the split is not in it, or a row cannot be used.
        """
        listed = listed_images(self.path, self.layout, name, wanted=WANTED)
        card = read_card(str(self.file.parent))
        return folder_split(listed, root=str(self.folder), card=card, by_rows=True)

    def _files(self) -> Iterator[tuple[Path, str]]:
        """Yield the lists and the split of each."""
        split = split_of(self.file.stem)
        if not split:
            yield self.file, "train"
            return
        found: dict[str, Path] = {}
        for path in sorted(self.file.parent.iterdir()):
            each = split_of(path.stem)
            if each and path.suffix == self.file.suffix and path.is_file():
                if each in found:
                    raise ValueError(
                        f"{self.file.parent} must have one list for each split; got {found[each]} "
                        f"and {path} for split {each!r}. Merge them, or rename one"
                    )
                found[each] = path
        others = [path.name for each, path in found.items() if each != split]
        if others:
            log_once(f"{self.path}: {', '.join(others)} beside it: the other splits")
        yield from ((path, each) for each, path in found.items())

    def _members(self, file: Path) -> Iterator[tuple[str, Member, str]]:
        """Yield the split that a row asks for, its image, and what to call the row."""
        rows = read_rows(file.read_bytes(), str(file), self._names_of_two)
        if not rows.num_rows:
            return
        image = _column(rows, self.columns.image, PATH_COLUMNS, file=file)
        label = _column(rows, self.columns.label, LABEL_COLUMNS, file=file)
        log_once(f"{file}: paths are in column {image!r}, labels in column {label!r}")
        splits = rows.columns.get("split", [None] * rows.num_rows)
        files = _find_files(rows.columns[image], self.folder, file=file)
        columns = zip(splits, files, rows.values(label), strict=True)
        for number, (split, found, value) in enumerate(columns, start=1):
            where = f"row {number} of {file}"
            yield (
                _split_of_row(split, where),
                Member(found, check_label(value, where, column=label)),
                where,
            )

    def _names_of_two(self, row: list[str]) -> list[str] | None:
        """Name the columns where the first row is an image and its label already."""
        is_image = os.path.splitext(row[0].strip())[1].lower() in image_suffixes()
        return ["path", "label"] if len(row) == 2 and is_image else None


def _column(rows: RowFile, wanted: str, usual: Sequence[str], *, file: Path) -> str:
    """Find a column by the name asked for, or by one of the usual ones."""
    by_name = {str(name).lower(): str(name) for name in rows.columns}
    names = (wanted,) if wanted else usual
    found = next((by_name[name.lower()] for name in names if name.lower() in by_name), None)
    if found:
        return found
    key = "image" if usual is PATH_COLUMNS else "label"
    what = "paths of images" if usual is PATH_COLUMNS else "labels"
    raise ValueError(
        f"{file} must have a column of {what}, called {' or '.join(names)}; it has "
        f"{', '.join(map(str, rows.columns))}. Name it with data.{key}_column (--{key}-column)"
    )


def _split_of_row(value: Any, where: str) -> str:
    if value is None:
        return ""
    split = split_of(str(value).strip())
    if not split:
        raise ValueError(f"split must be train, validation or test; got {value!r} in {where}")
    return split


def _find_files(paths: Sequence[Any], folder: Path, *, file: Path) -> list[File]:
    """Look every image up.

    Raises:
        FileNotFoundError: if some do not exist; it names the first ones.
        ValueError: if a path is none.
    """
    for number, path in enumerate(paths, start=1):
        if not isinstance(path, str) or not path.strip() or "://" in path:
            got = (
                f"a column of images ({', '.join(path)})" if isinstance(path, dict) else repr(path)
            )
            raise ValueError(
                f"paths must be those of local files; got {got} in row {number} of {file}. For "
                f"images that lie in parquet files give the folder that holds them"
            )
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda path: _find_file(path, folder), paths))
    missing = [f"{path} (row {n})" for n, path in enumerate(paths, start=1) if not found[n - 1]]
    if missing:
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        raise FileNotFoundError(
            f"images of {file} must exist, relative to {folder}; {len(missing)} of {len(paths)} do "
            f"not: {', '.join(missing[:MOST_NAMED])}{more}. Choose the folder that paths are "
            f"relative to with data.root (--root)"
        )
    return [each for each in found if each]


def _find_file(path: str, folder: Path) -> File | None:
    """Look up an image by its path, which may have the separators of Windows."""
    for name in dict.fromkeys((path, path.strip(), path.strip().replace("\\", "/"))):
        place = os.path.join(folder, name)
        if os.path.isfile(place):
            status = os.stat(place)
            identity = (status.st_dev, status.st_ino) if status.st_ino else (0, hash(place))
            return File(name, status.st_size, identity)
    return None
