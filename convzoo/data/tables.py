"""Open the parquet files of a dataset, on a disk or on the Hub, as a split."""

import contextlib
import functools
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convzoo.allocator import give_back_freed_memory
from convzoo.data.cards import read_card
from convzoo.data.classes import check_class_names
from convzoo.data.columns import (
    Columns,
    Tables,
    check_image_columns,
    different_values,
    find_image_column,
    find_labels,
)
from convzoo.data.folder_listing import Listing
from convzoo.data.image_paths import image_file_bytes
from convzoo.data.remote import READERS, HTTPError, may_pass, patiently, read_footer, why
from convzoo.data.row_groups import FileFacts, Footers, Numbers, Pairs
from convzoo.data.split import Split, check_split, fingerprint

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)
MANY = 100_000  # row groups
MAGIC = ("*", "?", "[", "]", "::")  # what file systems take for patterns and chains


def load_tables(path: str, listing: Listing | None, *, name: str, revision: str) -> Tables:
    """Ask `datasets` for the files of each split.

    Args:
        path: the folder or Hub id.
        listing: of a local folder; None for a dataset on the Hub.
        name: configuration of a dataset that has several.
        revision: commit, tag or branch of a Hub dataset.

    Raises:
        FileNotFoundError: if there is no such dataset.
        ValueError: if it is a script, or its card is damaged.
        ConnectionError: if the Hub cannot be reached, in spite of several tries.
    """
    if not listing:
        key = path, name, revision
        if key not in _of_hub:
            _of_hub[key] = tables = _load_of_hub(path, name, revision=revision)
            _of_hub[path, name, tables.commit] = tables
        return _of_hub[key]
    with _plain_path(listing) as folder:
        builder = _load_local_builder(folder, name, path=path)
        files = {
            split: [str(listing.root) + file.removeprefix(folder) for file in files]
            for split, files in _files(builder).items()
        }
    return Tables(
        path=path,
        files=files,
        features=builder.info.features,
        commit="",
        root=str(listing.root),
    )


_of_hub: dict[tuple[str, str, str], Tables] = {}  # asked for once by a process: its splits agree


def _load_of_hub(path: str, name: str, *, revision: str) -> Tables:
    builder = patiently(f"dataset {path}", lambda: _load_builder(path, name, revision=revision))
    return Tables(
        path=path,
        files=_files(builder),
        features=builder.info.features,
        commit=builder.hash,
        root=str(builder.base_path or path),
    )


@dataclass(frozen=True)
class TableSource:
    """A dataset of parquet files.

    Attributes:
        tables: its files.
        columns: which ones were asked for.
    """

    tables: Tables
    columns: Columns

    def split_names(self) -> list[str]:
        """List its splits, in its own order."""
        return list(self.tables.files)

    def open_split(self, name: str) -> Split:
        """Open a split.

        Raises:
            FileNotFoundError: if the split has no rows.
            ValueError: if the split or a column is not in it, or a file is no parquet file.
        """
        return _open_table(self.tables, name, self.columns)


def _open_table(tables: Tables, split: str, columns: Columns) -> Split:
    import datasets

    path = tables.path
    check_split(split, tables.files, path)
    files = tuple(tables.files[split])
    _check_suffixes(files, path)
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda file: FileFacts.of(read_footer(file)), files)
        by_file = dict(zip(files, found, strict=True))
    footers = Footers([facts.packed for facts in by_file.values()])
    features = tables.features or datasets.Features.from_arrow_schema(
        footers[0].schema.to_arrow_schema()
    )
    image_column = find_image_column(features, wanted=columns.image, path=path)
    labels = find_labels(
        path,
        features,
        wanted=columns.label,
        files=by_file,
        values=functools.partial(different_values, tables),
    )
    check_class_names(labels.names, path)
    check_image_columns(by_file, image_column)
    groups, rows, sizes = _row_groups(by_file.values(), image_column)
    sizes_of_files = image_file_bytes(by_file, image_column)
    if not any(rows):
        raise FileNotFoundError(f"split {split!r} of {path} must hold images; it has none")
    names = [file.rsplit("/", 1)[-1] for file in files]
    del by_file  # what the footers say takes more than what is kept of it
    if len(groups) >= MANY:
        give_back_freed_memory()
    return Split(
        path=path,
        name=split,
        files=files,
        label_names=labels.names,
        image_column=image_column,
        label_column=labels.column,
        label_values=labels.values,
        groups=groups,
        group_rows=rows,
        group_bytes=sizes_of_files or sizes,
        images_are_files=sizes_of_files is not None,
        footers=footers,
        fingerprint=fingerprint(names, groups, rows, sizes),
        card=read_card(tables.root),
        revision=tables.commit if files[0].startswith("hf://") else None,
    )


def _row_groups(files: Iterable[FileFacts], image_column: str) -> tuple[Pairs, Numbers, Numbers]:
    """List (file, row group), rows and bytes of images of all row groups."""
    groups, rows, sizes = [], [], []
    for number, facts in enumerate(files):
        of_image = [path.split(".")[0] == image_column for path in facts.columns]
        sizes.append(facts.sizes[:, of_image].sum(axis=1))
        rows.append(facts.rows)
        count = np.arange(len(facts.rows))
        groups.append(np.stack([np.full_like(count, number), count], axis=1))
    return (
        Pairs(np.concatenate(groups)),
        Numbers(np.concatenate(rows)),
        Numbers(np.concatenate(sizes)),
    )


def _check_suffixes(files: Sequence[str], path: str) -> None:
    other = next((file for file in files if not file.endswith(".parquet")), None)
    if other is None:
        return
    if other.endswith((".gz", ".tgz", ".bz2", ".xz", ".zst")):
        raise ValueError(
            f"tars must not be compressed, because members are read one by one; {path} has "
            f"{other}. Download it: `hf download --repo-type dataset {path} --local-dir FOLDER`, "
            f"decompress its tars with `gunzip`, and give the folder"
        )
    raise ValueError(
        f"{path} must hold parquet files or tars, or images in one folder for each class; got "
        f"{other}"
    )


def _files(builder: "datasets.DatasetBuilder") -> dict[str, list[str]]:
    data_files = builder.config.data_files or {}
    return {str(split): [str(file) for file in files] for split, files in data_files.items()}


@contextlib.contextmanager
def _plain_path(listing: Listing) -> Iterator[str]:
    """Yield the path of the folder, or of one with links to its files that is no pattern.

    Beside tars `datasets` would take small text files for the data.
    """
    if not listing.tars and not any(sign in str(listing.root) for sign in MAGIC):
        yield str(listing.root)
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder).resolve()
        root = Path(listing.root)
        card = root / "README.md"
        for path in [
            *(file.path for file in [*listing.tables, *listing.tars]),
            *(["README.md"] * card.is_file()),
        ]:
            (plain / path).parent.mkdir(parents=True, exist_ok=True)
            (plain / path).symlink_to(root / path)
        yield str(plain)


def _load_local_builder(folder: str, name: str, *, path: str) -> "datasets.DatasetBuilder":
    import datasets
    import yaml

    try:
        return datasets.load_dataset_builder(folder, name or None)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"data.path must be a folder with parquet files or images that `datasets` can tell "
            f"apart; got {path!r} ({error})"
        ) from error
    except RuntimeError as error:  # a dataset that is a script
        raise ValueError(_no_script(path, error)) from error
    except yaml.YAMLError as error:
        raise ValueError(f"README.md of {path} must start with valid YAML; {error}") from error


def _load_builder(path: str, name: str, *, revision: str) -> "datasets.DatasetBuilder":
    import datasets
    import yaml

    try:
        return datasets.load_dataset_builder(path, name or None, revision=revision or None)
    except (FileNotFoundError, datasets.exceptions.DatasetNotFoundError) as error:
        if may_pass(error) or "LocalEntryNotFoundError" in f"{type(error).__name__} {error}":
            raise _unreachable(path, error) from error
        raise FileNotFoundError(
            f"data.path must be a folder with parquet files or a Hub dataset id that this account "
            f"may read; got {path!r}. For a gated dataset accept its terms on its Hub page, then "
            f"run `hf auth login`. ({error})"
        ) from error
    except (ConnectionError, HTTPError) as error:
        raise _unreachable(path, error) from error
    except RuntimeError as error:  # a dataset that is a script
        raise ValueError(_no_script(path, error)) from error
    except yaml.YAMLError as error:
        raise ValueError(f"README.md of {path} must start with valid YAML; {error}") from error


def _unreachable(path: str, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"the Hub could not be reached for the dataset {path!r}; try again, or give a folder. "
        f"({why(error)})"
    )


def _no_script(path: str, error: Exception) -> str:
    return f"{path} must be data, not a script: convert it to parquet; {error}"
