"""The same images in every format that convzoo reads, for tests of what they have in common."""

import csv

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
