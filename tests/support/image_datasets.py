"""The same images in every format that convzoo reads, for tests of what they have in common."""

import csv
import io
import json
import tarfile
import zipfile

import datasets

from tests.support.images import COLOURS, coloured_images, write_split

COUNT = 61
NAMES = tuple(COLOURS)


def write_parquet(folder):
    write_split(folder, "train", *coloured_images(COUNT, seed=0))
    return folder


def write_list(folder):
    """A CSV beside a folder of images."""
    (folder / "photos").mkdir(parents=True)
    rows = []
    for number, (data, label) in enumerate(zip(*coloured_images(COUNT, seed=0), strict=True)):
        (folder / "photos" / f"{number}.jpg").write_bytes(data)
        rows.append([f"photos/{number}.jpg", NAMES[label]])
    with (folder / "list.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([["path", "label"], *rows])
    return folder / "list.csv"


def coloured_dataset(count=COUNT, seed=0):
    """The images as a Dataset of the library."""
    images, labels = coloured_images(count, seed=seed)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}
    )
    rows = [{"bytes": data, "path": f"{number}.jpg"} for number, data in enumerate(images)]
    return datasets.Dataset.from_dict({"image": rows, "label": labels}, features=features)


def write_saved(folder):
    """A folder of save_to_disk with two shards."""
    coloured_dataset().save_to_disk(str(folder), num_shards=2)
    return folder


def contents_of(split):
    """Encoded bytes and name of the class of every row, in order."""
    found = []
    for group in range(len(split.groups)):
        rows = split.read_group(group)
        assert len(rows) == split.group_rows[group]
        found += [
            (bytes(rows[row][0]), split.label_names[rows[row][1]]) for row in range(len(rows))
        ]
    return found


def expected_contents(count=COUNT, seed=0):
    """What `contents_of` gives of each format, sorted."""
    images, labels = coloured_images(count, seed=seed)
    return sorted((data, NAMES[label]) for data, label in zip(images, labels, strict=True))


WRITERS = {"parquet": write_parquet, "list": write_list, "saved": write_saved}


def add_member(tar, name, data):
    """A plain file in a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_tars(folder, count=COUNT, *, shards=3, label="cls", seed=0, split="train"):
    """Tars as WebDataset's ShardWriter makes them, and the names of the classes beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = list(zip(*coloured_images(count, seed=seed), strict=True))
    for shard in range(shards):
        with tarfile.open(folder / f"{split}-{shard:04d}.tar", "w") as tar:
            for number in range(shard, count, shards):
                data, number_of_class = pairs[number]
                if label == "cls":
                    add_member(tar, f"{number:06d}.cls", b"%d" % number_of_class)
                add_member(tar, f"{number:06d}.jpg", data)
                if label == "json":
                    content = {"label": number_of_class, "filename": f"{number}.JPEG"}
                    add_member(tar, f"{number:06d}.json", json.dumps(content).encode())
    (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return folder


def write_zip(folder):
    """A zip of a folder for each class, the half of it compressed."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "train.zip", "w") as packed:
        for number, (data, label) in enumerate(zip(*coloured_images(COUNT, seed=0), strict=True)):
            method = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            packed.writestr(f"{NAMES[label]}/{number}.jpg", data, method)
        packed.writestr("__MACOSX/red/._0.jpg", b"of a Mac")
    return folder


WRITERS |= {"tars": write_tars, "zip": write_zip}
