"""Parquet files as `Dataset.to_parquet` writes them from a folder of images: with paths."""

import datasets
import pytest

from convzoo.data.opening import open_split
from convzoo.images.decoding import decode_rgb
from tests.support.images import COLOURS, coloured_images, write_image_folder

FEATURES = datasets.Features(
    {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(COLOURS))}
)


def write_paths(folder, paths, labels):
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"image": [str(path) for path in paths], "label": labels}
    dataset = datasets.Dataset.from_dict(rows, features=FEATURES)
    dataset.to_parquet(folder / "train.parquet")
    return dataset


def test_existing_files_are_read_and_their_bytes_counted(tmp_path):
    images, labels = write_image_folder(tmp_path / "images")
    paths = [
        tmp_path / "images" / "train" / list(COLOURS)[label] / f"{number:03d}.jpg"
        for number, label in enumerate(labels)
    ]
    write_paths(tmp_path / "table", paths, labels)
    opened = open_split(str(tmp_path / "table"), "train")
    rows = opened.read_group(0)
    assert [bytes(rows[row][0]) for row in range(len(rows))] == images
    assert rows.labels.tolist() == labels
    assert opened.group_bytes == (sum(map(len, images)),)


def test_relative_paths_start_in_the_folder_of_the_parquet_file(tmp_path, monkeypatch):
    images, labels = coloured_images(3, seed=0)
    (tmp_path / "table" / "sub").mkdir(parents=True)
    paths = [f"sub/{number}.bin" for number in range(3)]
    for path, data in zip(paths, images, strict=True):
        (tmp_path / "table" / path).write_bytes(data)
    monkeypatch.chdir(tmp_path / "table")  # where `datasets` looks for them
    write_paths(tmp_path / "table", paths, labels)
    monkeypatch.chdir(tmp_path)
    opened = open_split(str(tmp_path / "table"), "train")
    assert [bytes(opened.read_row(row)[0]) for row in range(3)] == images


def test_missing_files_are_refused_with_the_way_to_embed_them(tmp_path):
    images, labels = coloured_images(3, seed=0)
    for number, data in enumerate(images):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    dataset = write_paths(tmp_path / "table", paths, labels)
    embedded = dataset.with_format("arrow").map(
        datasets.table.embed_table_storage, batched=True, keep_in_memory=True
    )  # what the message says
    (tmp_path / "embedded").mkdir()
    embedded.with_format(None).to_parquet(tmp_path / "embedded" / "train.parquet")
    for path in paths:
        path.unlink()
    message = r"got paths, such as .*/0.jpg, that do not exist\. Embed them: ds.with_format\('arr"
    with pytest.raises(ValueError, match=message):
        open_split(str(tmp_path / "table"), "train")
    opened = open_split(str(tmp_path / "embedded"), "train")
    assert [bytes(opened.read_row(row)[0]) for row in range(3)] == images
    assert decode_rgb(opened.read_row(0)[0]).ndim == 3
