"""Open a dataset, of a folder or the Hub, as a table of row groups.

Folders of images are listed by us (see `convzoo.data.folders`). Of everything else `datasets`
decides which files make up a split and what their columns mean, and the rows are read with pyarrow
(see `convzoo.data.split`).
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from convzoo.data.classes import log_once
from convzoo.data.columns import Tables
from convzoo.data.folder_listing import Listing, list_folder
from convzoo.data.folders import UnlabelledSplitError, folder_layout, open_folder
from convzoo.data.split import Split
from convzoo.data.tables import load_tables, open_table, read_card

logger = logging.getLogger(__name__)
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class DatasetReference:
    """Names a dataset, and its columns; "" where there is no choice.

    Attributes:
        path: a folder of parquet files, a folder of images in one folder for each class, or a Hub
            dataset id.
        name: configuration of a dataset that has several.
        revision: commit, tag or branch of a Hub dataset.
        image_column: column of images; the only image column if "".
        label_column: column of labels; the only class column, or the one called "label", if "".
    """

    path: str
    _: KW_ONLY
    name: str = ""
    revision: str = ""
    image_column: str = ""
    label_column: str = ""

    @classmethod
    def of(cls, dataset: "str | DatasetReference") -> "DatasetReference":
        """Return the reference itself, or one to the dataset with this path or id."""
        return cls(dataset) if isinstance(dataset, str) else dataset


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
    dataset = DatasetReference.of(dataset)
    listing = _listing(dataset)
    if listing and _holds_images(listing):
        ignored = [key for key in ("name", "revision", "image_column") if getattr(dataset, key)]
        if ignored:
            logger.warning(
                "%s is a folder of images; ignored: %s", listing.root, ", ".join(ignored)
            )
        return open_folder(
            dataset.path,
            split,
            listing=listing,
            card=read_card(str(listing.root)),
            label_column=dataset.label_column,
        )
    return open_table(
        _load_tables(dataset, listing),
        split,
        image_column=dataset.image_column,
        label_column=dataset.label_column,
    )


def open_splits(dataset: str | DatasetReference, splits: Sequence[str] = ()) -> list[Split]:
    """Open several splits, so that what is wrong with one shows before work begins.

    Args:
        dataset: as for `open_split`.
        splits: which splits; all, in the dataset's own order, if empty.

    Raises:
        FileNotFoundError: if there is no such dataset, or a split is empty.
        ValueError: as `open_split`.
    """
    names = list(splits) or split_names(dataset)
    opened = []
    for split in names:
        try:
            opened.append(open_split(dataset, split))
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
    dataset = DatasetReference.of(dataset)
    listing = _listing(dataset)
    if listing and _holds_images(listing):
        return list(folder_layout(listing, dataset.label_column))
    return list(_load_tables(dataset, listing).files)


def _load_tables(dataset: DatasetReference, listing: Listing | None) -> Tables:
    return load_tables(dataset.path, listing, name=dataset.name, revision=dataset.revision)


def _listing(dataset: DatasetReference) -> Listing | None:
    """List the folder of a local dataset; None for one of the Hub."""
    path = dataset.path
    folder = Path(path).expanduser()
    if folder.is_dir():
        listing = list_folder(folder.resolve())
        if not (listing.images or listing.tables):
            found = listing.describe_left_out() or "nothing"
            raise FileNotFoundError(
                f"data.path must be a folder with parquet files or images; got {path!r}, which "
                f"holds {found}"
            )
        return listing
    if folder.exists():
        raise ValueError(
            f"data.path must be a folder; got the file {path!r}. Give the folder that holds it"
        )
    looks_local = path.startswith(("/", "./", "../", "~")) or not HUB_ID.fullmatch(path)
    if looks_local and "://" not in path:
        raise FileNotFoundError(
            f"data.path must be a folder that exists, or a Hub dataset id such as user/name; there "
            f"is no folder {str(folder.absolute())!r}"
        )
    return None


def _holds_images(listing: Listing) -> bool:
    """Return True for a folder of images, False for one of parquet files.

    Raises:
        ValueError: if it looks like both.
    """
    if not listing.tables or not listing.images:
        return bool(listing.images)
    folders = {image.path.rpartition("/")[0] for image in listing.images}
    if len(folders) == 1 and not listing.metadata:
        listing.leave_out("images beside parquet files", (image.path for image in listing.images))
        log_once(f"{listing.root}: left out {listing.describe_left_out()}")
        return False
    raise ValueError(
        f"{listing.root} must hold parquet files or images, not both; got {len(listing.tables)} "
        f"parquet files, such as {listing.tables[0].path}, and {len(listing.images)} images, such "
        f"as {listing.images[0].path}. Move one kind into a folder of its own"
    )
