"""Open a dataset, of a folder or the Hub, as a table of row groups.

Folders of images are listed by us (see `convzoo.data.folders`), and so are images in a list
(`image_lists`), in zips and as single files on the Hub (`packed_folders`). Folders of
`save_to_disk` say themselves what they hold (`saved_datasets`). Of everything else `datasets`
decides which files make up a split; tars are read by an index (`tar_index`, `tar_shards`), and of
parquet files it knows the columns, and the rows are read with pyarrow (see `convzoo.data.split`).
"""

import logging
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from convzoo.data.classes import log_once
from convzoo.data.columns import Columns
from convzoo.data.folder_listing import Listing, list_folder
from convzoo.data.folders import FolderSource, UnlabelledSplitError
from convzoo.data.image_lists import ListSource
from convzoo.data.packed_folders import hub_images, packed_images
from convzoo.data.row_files import ROW_SUFFIXES
from convzoo.data.saved_datasets import SavedSource, is_saved
from convzoo.data.split import Split
from convzoo.data.tables import TableSource, load_tables
from convzoo.data.tar_shards import TarSource, only_tars
from convzoo.images.allowed_formats import image_suffixes

logger = logging.getLogger(__name__)
PACKED = ("*.gz", "*.tgz", "*.xz", "*.bz2", "*.zst", "*.7z", "*.rar")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class DatasetReference:
    """Names a dataset, and its columns; "" where there is no choice.

    Attributes:
        path: a folder of parquet files, of images in one folder for each class, of tars, of zips,
            or of `save_to_disk`, a list of images, or a Hub dataset id.
        name: configuration of a dataset that has several.
        revision: commit, tag or branch of a Hub dataset.
        image_column: column of images; the only image column if "".
        label_column: column of labels; the only class column, or the one called "label", if "".
        root: folder that the paths in a list of images are relative to; that of the list if "".
    """

    path: str
    _: KW_ONLY
    name: str = ""
    revision: str = ""
    image_column: str = ""
    label_column: str = ""
    root: str = ""

    @property
    def columns(self) -> Columns:
        """The columns that were asked for."""
        return Columns(self.image_column, self.label_column)

    def as_recorded(self, recorded: Mapping[str, Any]) -> "DatasetReference":
        """Take configuration and revision of a dataset that a result describes, if it is this one.

        Args:
            recorded: what `Split.describe` gave, and the configuration.
        """
        on_hub = self.path == recorded.get("id")
        known = on_hub or self.path == recorded.get("path")
        return replace(
            self,
            name=(known and recorded.get("config")) or "",
            revision=(on_hub and recorded.get("revision")) or "",
        )

    @classmethod
    def of(cls, dataset: "str | DatasetReference") -> "DatasetReference":
        """Return the reference itself, or one to the dataset with this path or id."""
        return cls(dataset) if isinstance(dataset, str) else dataset


class Source(Protocol):
    """A dataset that was found, of any format."""

    def split_names(self) -> list[str]:
        """List its splits, in its own order."""

    def open_split(self, name: str) -> Split:
        """Open a split."""


def open_split(dataset: str | DatasetReference, split: str) -> Split:
    """Find the files, columns, class names and row groups of a split.

    Args:
        dataset: which one; a path or an id where nothing else needs to be said.
        split: name of the split.

    Raises:
        FileNotFoundError: if there is no such dataset or no data in it.
        ValueError: if the split or a column is not in it, if a file is no parquet file, or if
            images lie as no folder of images does.
        ConnectionError: if the Hub cannot be reached, in spite of several tries.
    """
    return find_source(dataset).open_split(split)


def open_splits(dataset: str | DatasetReference, splits: Sequence[str] = ()) -> list[Split]:
    """Open several splits, so that what is wrong with one shows before work begins.

    Args:
        dataset: as for `open_split`.
        splits: which splits; all, in the dataset's own order, if empty.

    Raises:
        FileNotFoundError: if there is no such dataset, or a split is empty.
        ValueError: as `open_split`.
    """
    source = find_source(dataset)
    names = list(splits) or source.split_names()
    opened = []
    for split in names:
        try:
            opened.append(source.open_split(split))
        except (FileNotFoundError, UnlabelledSplitError) as error:
            if splits:
                raise
            raise type(error)(f"{error}{leave_out_advice(split, names)}") from error
    return opened


def leave_out_advice(split: str, names: Sequence[str]) -> str:
    """Return what to append to a message about one of several splits of a command."""
    others = " ".join(name for name in names if name != split)
    return f". Leave split {split!r} out with --splits {others}" if others else ""


def split_names(dataset: str | DatasetReference) -> list[str]:
    """List the splits of a dataset, in its own order.

    Args:
        dataset: as for `open_split`.

    Raises:
        FileNotFoundError: if there is no such dataset.
        ValueError: if it is a script, or as `open_split` for a folder of images.
    """
    return find_source(dataset).split_names()


def find_source(dataset: str | DatasetReference) -> Source:
    """Find a dataset, and out of what it is made.

    Raises:
        FileNotFoundError: if there is no such dataset or no data in it.
        ValueError: if it could be read in two ways, or in none.
        ConnectionError: if the Hub cannot be reached, in spite of several tries.
    """
    dataset = DatasetReference.of(dataset)
    path = dataset.path
    given = Path(path).expanduser()
    if given.is_file():
        if given.suffix.lower() not in ROW_SUFFIXES:
            raise ValueError(
                f"data.path must be a folder, or a list of images as {', '.join(ROW_SUFFIXES)}; "
                f"got the file {path!r}. Give the folder that holds it"
            )
        _warn_of_ignored(dataset, "a list of images", ("name", "revision"))
        return ListSource(path, given.resolve(), dataset.columns, root=dataset.root)
    if not given.is_dir():
        looks_local = path.startswith(("/", "./", "../", "~")) or not HUB_ID.fullmatch(path)
        if looks_local and "://" not in path:
            raise FileNotFoundError(
                f"data.path must be a folder that exists, or a Hub dataset id such as user/name; "
                f"there is no folder {str(given.absolute())!r}"
            )
        return _table_source(dataset, None)
    if is_saved(given):
        _warn_of_ignored(dataset, "a dataset of save_to_disk", ("name", "revision", "root"))
        return SavedSource(path, given.resolve(), dataset.columns)
    listing = list_folder(given.resolve())
    if not (listing.images or listing.tables or listing.tars or listing.zips):
        found = listing.describe_left_out() or "nothing"
        raise FileNotFoundError(
            f"data.path must be a folder with parquet files or images; got {path!r}, which holds "
            f"{found}{_advice(listing)}"
        )
    if not (listing.images or listing.tables or listing.tars):
        _warn_of_ignored(dataset, "a folder of zips", ("name", "revision", "image_column", "root"))
        return packed_images(path, listing, dataset.label_column)
    listing.leave_out("*.zip", (each.path for each in listing.zips))
    if not _holds_images(listing):
        return _table_source(dataset, listing)
    _warn_of_ignored(dataset, "a folder of images", ("name", "revision", "image_column", "root"))
    return FolderSource(path, listing, dataset.label_column)


def _table_source(dataset: DatasetReference, listing: Listing | None) -> Source:
    tables = load_tables(dataset.path, listing, name=dataset.name, revision=dataset.revision)
    suffixes = {posixpath.splitext(f)[1].lower() for files in tables.files.values() for f in files}
    if ".tar" in suffixes:
        return TarSource(only_tars(tables), dataset.columns)
    if ".parquet" not in suffixes and suffixes & {".zip", *image_suffixes()}:
        return hub_images(tables, dataset.label_column)
    return TableSource(tables, dataset.columns)


def _warn_of_ignored(dataset: DatasetReference, kind: str, settings: Sequence[str]) -> None:
    if ignored := [key for key in settings if getattr(dataset, key)]:
        logger.warning("%s is %s; ignored: %s", dataset.path, kind, ", ".join(ignored))


def _advice(listing: Listing) -> str:
    """Return what to append to a message about a folder without images."""
    if packed := [kind for kind in listing.left_out if kind in PACKED]:
        return f". Unpack {' and '.join(packed)} first"
    lists = [each for suffix in ROW_SUFFIXES for each in listing.left_out.get(f"*{suffix}", ())]
    return f". Give a list of images itself: {listing.address(lists[0])}" if lists else ""


def _holds_images(listing: Listing) -> bool:
    """Return True for a folder of images, False for one of parquet files or tars.

    Raises:
        ValueError: if it looks like several of them.
    """
    kinds = {"parquet files": listing.tables, "tars": listing.tars, "images": listing.images}
    found = {kind: files for kind, files in kinds.items() if files}
    if len(found) == 1:
        return "images" in found
    folders = {image.path.rpartition("/")[0] for image in listing.images}
    if len(found) == 2 and len(folders) == 1 and not listing.metadata:
        (kind,) = found.keys() - {"images"}
        listing.leave_out(f"images beside {kind}", (image.path for image in listing.images))
        log_once(f"{listing.root}: left out {listing.describe_left_out()}")
        return False
    named = ", and ".join(
        f"{len(files)} {kind}, such as {files[0].path}" for kind, files in found.items()
    )
    raise ValueError(
        f"{listing.root} must hold {' or '.join(found)}, not both; got {named}. Move one kind into "
        f"a folder of its own"
    )
