import dataclasses

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from convzoo.data import remote
from convzoo.data.opening import open_split
from convzoo.data.row_cache import RowCache
from tests.support.images import coloured_images, write_split


@pytest.mark.parametrize(("wrong", "number"), [(7, 7), (-2, -2), (None, -1)])
def test_a_label_that_is_no_class_names_its_row(tmp_path, wrong, number):
    images, _ = coloured_images(4, seed=0)
    write_split(tmp_path / "bad", "train", images, [0, 1, 2, 1], files=1)
    path = tmp_path / "bad" / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    labels = pa.array([0, 1, wrong, 1], "int64")
    pq.write_table(table.set_column(1, table.schema.field("label"), labels), path)
    source = open_split(str(tmp_path / "bad"), "train")
    message = rf"label must lie in \[0, 2\]; got {number} in row 2 of row group 0"
    with pytest.raises(ValueError, match=message):
        source.read_group(0)
    with pytest.raises(ValueError, match=message):
        source.read_labels()
    assert source.labels_in_files().tolist() == [0, 1, number, 1]


def test_labels_are_read_in_the_order_of_the_rows(colour_data):
    source = open_split(str(colour_data), "train")
    assert source.read_labels().tolist() == coloured_images(61, seed=0)[1]
    groups = [source.read_group(number).labels for number in range(len(source.groups))]
    assert np.array_equal(np.concatenate(groups), source.read_labels())


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
    monkeypatch.setattr(remote, "RETRY_SECONDS", (0, 0))
    source = open_split(str(colour_data), "train")
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


def test_rows_are_found_by_their_number_alone(colour_data):
    """In the whole split and in one whose row groups lack rows."""
    whole = open_split(str(colour_data), "train")
    images, labels = coloured_images(61, seed=0)
    for split, numbers in (
        (whole, range(61)),
        (whole.choose(np.arange(1, 61, 7)), range(1, 61, 7)),
    ):
        assert split.num_rows == len(numbers)
        for index, number in enumerate(numbers):
            data, label = split.read_row(index)
            assert (bytes(data), label) == (images[number], labels[number])
        for rows in (range(len(numbers)), range(3, 8), range(5, 5)):
            found = []
            for piece in split.pieces(rows):
                assert 0 <= piece.start < piece.stop <= split.group_rows[piece.group]
                found += range(piece.first + piece.start, piece.first + piece.stop)
            assert found == list(rows)
            places = [split.locate(row) for row in rows]
            assert places == [
                (piece.group, row)
                for piece in split.pieces(rows)
                for row in range(piece.start, piece.stop)
            ]
