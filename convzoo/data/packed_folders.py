"""Folders of images that are no files of this machine: single files on the Hub, members of zips.

They are sorted into splits and classes as a folder is, by position. `train.zip` counts as the
folder `train`; a folder that all images share counts as none.
"""

import dataclasses
import io
import posixpath
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import fsspec
import numpy as np
import pyarrow as pa

from convzoo.data.cards import read_card
from convzoo.data.columns import Tables
from convzoo.data.folder_layout import Layout, split_of
from convzoo.data.folder_listing import File, Listing, sort_file
from convzoo.data.folders import folder_layout, listed_images
from convzoo.data.member_split import MemberSplit, Places
from convzoo.data.remote import patiently
from convzoo.data.tar_index import FarFile

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ZIP_BYTES = 2**18  # at once, of the table of contents of a zip on the Hub


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an image lies.

    Attributes:
        file: number of its file.
        offset: first byte to read.
        length: bytes to read.
        member: what the table of contents of a zip says of it; None for a whole file.
    """

    file: int
    offset: int
    length: int
    member: zipfile.ZipInfo | None = None


@dataclass(frozen=True, kw_only=True)
class PackedSource:
    """A folder of images on the Hub, or of zips.

    Attributes:
        path: the dataset, as it was asked for.
        listing: its images.
        places: where each lies, by its path in the listing.
        files: the files that they lie in.
        label_column: as for `folder_layout`.
        commit: of a dataset on the Hub, or None.
        splits: names of the splits that the Hub's own library finds; () where it was not asked.
    """

    path: str
    listing: Listing
    places: dict[str, Place] = field(repr=False)
    files: tuple[str, ...] = field(repr=False)
    label_column: str = ""
    commit: str | None = None
    splits: tuple[str, ...] = ()

    @cached_property
    def layout(self) -> Layout:
        """Its images by split."""
        layout = folder_layout(self.listing, self.label_column)
        if self.splits and set(self.splits) != set(layout):
            raise ValueError(
                f"splits of {self.path} must be those of its folders, {', '.join(layout)}; its "
                f"card has {', '.join(self.splits)}. Download it: `hf download --repo-type dataset "
                f"{self.path} --local-dir FOLDER`, and sort the images into folders"
            )
        return layout

    def split_names(self) -> list[str]:
        """List its splits, in the usual order."""
        return list(self.layout)

    def open_split(self, name: str) -> MemberSplit:
        """Open a split.

        Raises:
            ValueError: if the split is not in it, or as `folder_layout`.
        """
        listed = listed_images(self.path, self.layout, name)
        found = [self.places[member.file.path] for member in listed.members]
        members = [place.member for place in found if place.member]
        places = Places(
            names=pa.array([member.file.path for member in listed.members]),
            files=np.array([place.file for place in found]),
            offsets=np.array([place.offset for place in found]),
            lengths=np.array([place.length for place in found]),
        )
        if members:
            places = places.zipped(members)
        starts, counts, sizes = places.row_groups()
        return MemberSplit(
            path=self.path,
            name=name,
            files=self.files,
            label_names=listed.label_names,
            groups=tuple((start, 0) for start in starts),
            group_rows=counts,
            group_bytes=sizes,
            fingerprint=listed.fingerprint(by_rows=bool(self.listing.metadata)),
            card=read_card(str(self.listing.root)),
            revision=self.commit,
            labels=listed.labels,
            places=places,
        )


def hub_images(tables: Tables, label_column: str) -> PackedSource:
    """Find the images of a Hub dataset that lie there as single files or in zips.

    Args:
        tables: what the Hub's own library finds.
        label_column: as for `folder_layout`.

    Raises:
        ValueError: if a zip cannot be read.
        OSError: if the Hub cannot be reached, in spite of several tries.
    """
    filesystem, root = fsspec.core.url_to_fs(tables.root)
    found = patiently(tables.root, lambda: filesystem.find(root, detail=True))
    chosen = {file.removeprefix("hf://") for files in tables.files.values() for file in files}
    listing = Listing(root=tables.root)
    for address, info in sorted(found.items()):
        if address in chosen:
            path = address.removeprefix(f"{root}/")
            sort_file(File(path, int(info["size"]), (0, 0)), listing)
    return packed_images(
        tables.path, listing, label_column, commit=tables.commit, splits=tuple(tables.files)
    )


def packed_images(
    path: str,
    listing: Listing,
    label_column: str = "",
    *,
    commit: str | None = None,
    splits: tuple[str, ...] = (),
) -> PackedSource:
    """Find the images of a listing: its single files or, where it has none, members of its zips.

    Args:
        path: the dataset, as it was asked for.
        listing: of its files.
        label_column: as for `folder_layout`.
        commit: of a dataset on the Hub.
        splits: as for `PackedSource`.

    Raises:
        FileNotFoundError: if there are no images.
        ValueError: if a zip cannot be read.
        OSError: if a file cannot be read, for good or in spite of several tries.
    """
    if listing.images:
        files = [listing.address(image.path) for image in listing.images]
        places = {
            image.path: Place(file=number, offset=0, length=image.size)
            for number, image in enumerate(listing.images)
        }
    else:
        files, places = [listing.address(each.path) for each in listing.zips], {}
        for number, each in enumerate(listing.zips):
            _list_zip(each, number, listing=listing, places=places)
        listing.images.sort()
        splits = ()  # those of the names of the zips alone
        if not listing.images:
            raise FileNotFoundError(f"zips of {path} must hold images; {files[0]} has none")
    shared = _shared_folder([] if listing.metadata else [image.path for image in listing.images])
    images = [image._replace(path=image.path.removeprefix(shared)) for image in listing.images]
    return PackedSource(
        path=path,
        listing=dataclasses.replace(listing, images=images),
        places={name.removeprefix(shared): place for name, place in places.items()},
        files=tuple(files),
        label_column=label_column,
        commit=commit,
        splits=splits,
    )


def _list_zip(file: File, number: int, *, listing: Listing, places: dict[str, Place]) -> None:
    """Add the images in a zip to a listing, as if it were unpacked."""
    address = listing.address(file.path)
    handle = io.BufferedReader(FarFile(address, file.size, advance=lambda count: None), ZIP_BYTES)
    try:
        with handle, zipfile.ZipFile(handle) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            names = [member.filename.replace("\\", "/") for member in members]
            ordered = sorted(opened.infolist(), key=lambda member: member.header_offset)
            ends = [*(member.header_offset for member in ordered[1:]), opened.start_dir]
            end_of = dict(zip(ordered, ends, strict=True))
            for member, path in zip(members, _virtual_paths(file, names), strict=True):
                before = len(listing.images)
                sort_file(File(path, member.file_size, (0, 0)), listing)
                if listing.metadata and listing.metadata[-1].path == path:
                    listing.contents[path] = opened.read(member)
                if len(listing.images) == before:
                    continue
                _check_member(member, address, known=path in places)
                start = member.header_offset
                length = end_of[member] - start
                places[path] = Place(file=number, offset=start, length=length, member=member)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"{address} must be a whole zip; {error}. It may have been cut off; get it again"
        ) from error


def _check_member(member: zipfile.ZipInfo, address: str, *, known: bool) -> None:
    where = f"{member.filename} of {address}"
    if known:
        raise ValueError(f"a zip must hold each image once; {where} comes twice. Pack it anew")
    if member.flag_bits & 1 or member.compress_type not in METHODS:
        raise ValueError(
            f"images in a zip must be stored or deflated, without a password; {where} is not. "
            f"Unpack it, or pack it anew with `zip -r`"
        )


def _virtual_paths(file: File, names: list[str]) -> list[str]:
    """Name the members of a zip as files of the folder that it stands for.

    That of train.zip is `train`, unless the folders in it are splits; that of images.zip is none.
    """
    hidden = [name.startswith((".", "__")) for name in names]
    shared = _shared_folder([name for name, hide in zip(names, hidden, strict=True) if not hide])
    names = [name.removeprefix(shared) for name in names]
    tops = {name.partition("/")[0] for name, hide in zip(names, hidden, strict=True) if not hide}
    stem = posixpath.splitext(file.name)[0]
    if not split_of(stem) or all(map(split_of, tops)):
        return names
    return [f"{stem}/{name}" for name in names]


def _shared_folder(paths: Sequence[str]) -> str:
    """Return the folder, with its slash, that lies above splits or classes of all; "" for none."""
    shared = ""
    while paths:
        rest = [path.removeprefix(shared).split("/") for path in paths]
        top = rest[0][0]
        if any(parts[0] != top or len(parts) < 3 for parts in rest) or split_of(top):
            break
        shared += f"{top}/"
    return shared
