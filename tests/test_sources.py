import dataclasses

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from convzoo import sources
from convzoo.row_cache import RowCache
from convzoo.sources import open_source
from tests.conftest import COLOURS, coloured_images, write_split


def test_a_folder_gives_rows_classes_and_row_groups(colour_data):
    source = open_source(str(colour_data), "train")
    assert source.num_rows == 61
    assert source.label_names == tuple(COLOURS)
    assert source.group_rows == (7, 7, 7, 7, 3, 7, 7, 7, 7, 2)
    images, labels = coloured_images(61, seed=0)
    rows = [source.read_group(group) for group in range(len(source.groups))]
    pairs = [(bytes(row[i][0]), row[i][1]) for row in rows for i in range(len(row))]
    assert pairs == list(zip(images, labels, strict=True))


def test_the_fingerprint_follows_the_data(colour_data, tmp_path):
    write_split(tmp_path / "colours", "train", *coloured_images(61, seed=0))
    write_split(tmp_path / "other", "train", *coloured_images(61, seed=9))
    original = open_source(str(colour_data), "train").fingerprint
    assert open_source(str(tmp_path / "colours"), "train").fingerprint == original
    assert open_source(str(tmp_path / "other"), "train").fingerprint != original


def test_missing_data_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be a folder with parquet files or a Hub"):
        open_source(str(tmp_path / "nothing"), "train")
    with pytest.raises(FileNotFoundError, match="must be a folder with parquet files or a Hub"):
        open_source(str(tmp_path), "train")  # an empty folder


def test_an_unknown_split_or_column_is_named(colour_data):
    with pytest.raises(
        ValueError, match="split must be one of train, test in .*; got 'validation'"
    ):
        open_source(str(colour_data), "validation")
    with pytest.raises(ValueError, match="data.image_column must name .*, one of image; got 'x'"):
        open_source(str(colour_data), "train", image_column="x")


def test_data_without_rows_or_with_broken_files_is_refused(tmp_path, colour_data):
    write_split(tmp_path / "none", "train", [], [], files=1)
    with pytest.raises(FileNotFoundError, match="must hold images; it has none"):
        open_source(str(tmp_path / "none"), "train")
    (tmp_path / "broken" / "data").mkdir(parents=True)
    whole = next((colour_data / "data").glob("train-*")).read_bytes()
    (tmp_path / "broken" / "data" / "train-00000-of-00001.parquet").write_bytes(whole[:500])
    with pytest.raises(ValueError, match=r"train-00000.*must be a readable parquet file"):
        open_source(str(tmp_path / "broken"), "train")


def test_a_label_out_of_range_names_its_row(tmp_path):
    images, _ = coloured_images(4, seed=0)
    write_split(tmp_path / "bad", "train", images, [0, 1, 2, 1], files=1)
    path = tmp_path / "bad" / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    labels = pa.array([0, 1, 7, 1], "int64")
    pq.write_table(table.set_column(1, table.schema.field("label"), labels), path)
    source = open_source(str(tmp_path / "bad"), "train")
    with pytest.raises(
        ValueError, match=r"label must lie in \[0, 2\]; got 7 in row 2 of row group 0"
    ):
        source.read_group(0)


def write_image_folder(folder):
    """The pictures of colour_data's training split as files in folders of classes."""
    images, labels = coloured_images(61, seed=0)
    for number, (data, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "train" / list(COLOURS)[label] / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return images, labels


def test_a_folder_of_pictures_is_read_by_class(tmp_path):
    images, labels = write_image_folder(tmp_path / "pictures")
    source = open_source(str(tmp_path / "pictures"), "train")
    assert source.num_rows == 61 and source.label_names == ("blue", "green", "red")
    rows = [source.read_group(group) for group in range(len(source.groups))]
    found = [
        (bytes(data), source.label_names[label])
        for part in rows
        for data, label in (part[i] for i in range(len(part)))
    ]
    names = list(COLOURS)
    assert sorted(found) == sorted(
        (data, names[label]) for data, label in zip(images, labels, strict=True)
    )
    assert source.where(0, 0) == source.files[0]
    assert source.describe()["num_samples"] == 61


class FlakyFileSystem(LocalFileSystem):
    """Local files whose first `failures` openings break as a network does."""

    protocol = "flaky"
    failures = 0
    error = ConnectionError("reset by peer")

    def _open(self, path, *args, **kwargs):
        if type(self).failures:
            type(self).failures -= 1
            raise self.error
        return super()._open(path, *args, **kwargs)


@pytest.fixture
def flaky_source(colour_data, monkeypatch):
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    monkeypatch.setattr(sources, "RETRY_SECONDS", (0, 0))
    source = open_source(str(colour_data), "train")
    files = tuple(f"flaky://{file}" for file in source.files)
    return source, dataclasses.replace(source, files=files)


def test_a_broken_connection_is_tried_again(flaky_source, monkeypatch, caplog):
    source, flaky = flaky_source
    monkeypatch.setattr(FlakyFileSystem, "failures", 2)
    assert flaky.read_group(3).images.equals(source.read_group(3).images)
    assert caplog.text.count("reset by peer; trying again") == 2


def test_a_connection_that_stays_broken_names_the_file(flaky_source, monkeypatch):
    monkeypatch.setattr(FlakyFileSystem, "failures", 3)
    with pytest.raises(OSError, match="train-00000.* could not be read; ConnectionError: reset by"):
        flaky_source[1].read_group(3)


def test_a_missing_file_is_not_tried_again(flaky_source, monkeypatch):
    monkeypatch.setattr(FlakyFileSystem, "failures", 1)
    monkeypatch.setattr(FlakyFileSystem, "error", FileNotFoundError("gone"))
    with pytest.raises(OSError, match="could not be read; FileNotFoundError: gone"):
        flaky_source[1].read_group(3)
    assert FlakyFileSystem.failures == 0  # one try


def test_a_cached_source_opens_each_file_once_for_a_row_group(flaky_source, monkeypatch, tmp_path):
    source, flaky = flaky_source
    cached = dataclasses.replace(flaky, cache=RowCache(tmp_path, 10**7))
    assert cached.read_group(3).images.equals(source.read_group(3).images)
    monkeypatch.setattr(FlakyFileSystem, "failures", 10)  # no file can be opened any more
    again = cached.read_group(3)
    assert again.images.equals(source.read_group(3).images)
    assert (again.labels == source.read_group(3).labels).all()
