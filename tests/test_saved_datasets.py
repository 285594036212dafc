"""Folders of save_to_disk, compared with what the library's own load_from_disk gives."""

import json

import datasets
import numpy as np
import pytest

from convzoo.data.opening import DatasetReference, open_split, split_names
from tests.support.image_datasets import coloured_dataset, contents_of


def loaded(folder, split=None):
    """Encoded bytes and name of the class of every row, as the library sees them."""
    dataset = datasets.load_from_disk(str(folder))
    dataset = dataset[split] if split else dataset
    names = dataset.features["label"]
    dataset = dataset.cast_column("image", datasets.Image(decode=False))
    return [(row["image"]["bytes"], names.int2str(row["label"])) for row in dataset]


@pytest.mark.parametrize("shards", [1, 3])
def test_rows_come_as_the_library_loads_them(tmp_path, shards):
    coloured_dataset().save_to_disk(str(tmp_path / "a saved one"), num_shards=shards)
    split = open_split(str(tmp_path / "a saved one"), "train")
    assert contents_of(split) == loaded(tmp_path / "a saved one")
    assert split.label_names == ("red", "green", "blue") and split.num_rows == 61
    assert len(split.files) == shards and not split.is_remote
    assert split.file_names(0)[:2] == ["0.jpg", "1.jpg"]
    assert sum(split.group_bytes) == sum(len(data) for data, _ in contents_of(split))
    assert split.where(0, 5) == f"row 5 of {tmp_path / 'a saved one'} [train]"
    some = split.choose(np.array([1, 7, 60]))
    assert contents_of(some) == [contents_of(split)[row] for row in (1, 7, 60)]
    assert list(some.read_labels()) == [1, 1, 0]


def test_the_splits_of_a_dict_are_read(tmp_path):
    parts = {"train": coloured_dataset(20), "test": coloured_dataset(9, seed=1)}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    assert split_names(str(tmp_path / "saved")) == ["train", "test"]
    for name in parts:
        found = contents_of(open_split(str(tmp_path / "saved"), name))
        assert found == loaded(tmp_path / "saved", name) and len(found) == len(parts[name])
    with pytest.raises(ValueError, match="split must be one of train, test in .*; got 'valid"):
        open_split(str(tmp_path / "saved"), "validation")
    (tmp_path / "saved" / "test" / "state.json").unlink()
    with pytest.raises(FileNotFoundError, match="must have .*test/state.json, which is not there"):
        open_split(str(tmp_path / "saved"), "test")


def test_a_shuffled_dataset_keeps_its_order(tmp_path):
    shuffled = coloured_dataset().shuffle(seed=3).select(range(40))
    shuffled.save_to_disk(str(tmp_path / "saved"))
    assert contents_of(open_split(str(tmp_path / "saved"), "train")) == loaded(tmp_path / "saved")


def save_with_indices(folder, order):
    """As `datasets` before 2.0 saved a shuffled dataset: whole data and a file of its order."""
    coloured_dataset().save_to_disk(str(folder), num_shards=2)
    with (folder / "indices.arrow").open("wb") as sink:
        table = datasets.table.pa.table({"indices": np.array(order, np.uint64)})
        with datasets.table.pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    state = json.loads((folder / "state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))


def test_an_order_in_a_file_of_its_own_is_followed(tmp_path):
    order = [60, 3, 3, 17, 0]
    save_with_indices(tmp_path / "saved", order)
    split = open_split(str(tmp_path / "saved"), "train")
    assert contents_of(split) == [loaded(tmp_path / "saved")[row] for row in order]
    assert split.where(0, 0).endswith("[train], row 60 of its files")
    save_with_indices(tmp_path / "other", [*order[:4], 1])
    assert open_split(str(tmp_path / "other"), "train").fingerprint != split.fingerprint
    save_with_indices(tmp_path / "wrong", [61])
    with pytest.raises(ValueError, match=r"indices.arrow must number rows of .* has 61; got 61"):
        open_split(str(tmp_path / "wrong"), "train")


def test_plain_labels_and_other_columns_are_read(tmp_path):
    names = coloured_dataset().features["label"]
    plain = coloured_dataset(12).map(lambda row: {"kind": names.int2str(row["label"])})
    plain.remove_columns("label").save_to_disk(str(tmp_path / "saved"))
    split = open_split(DatasetReference(str(tmp_path / "saved"), label_column="kind"), "train")
    assert split.label_names == ("blue", "green", "red")
    assert contents_of(split) == contents_of(open_split(write(tmp_path / "all"), "train"))


def write(folder, count=12):
    coloured_dataset(count).save_to_disk(str(folder))
    return str(folder)


@pytest.mark.parametrize("lost", [1, 8, 600])
def test_a_file_that_was_cut_off_is_refused(tmp_path, lost):
    (path,) = (tmp_path / "saved").glob("*.arrow") if write(tmp_path / "saved") else ()
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(ValueError, match=r"data-00000.*must be a whole arrow file as save_to_disk"):
        open_split(str(tmp_path / "saved"), "train")


def test_no_rows_no_bytes_and_no_labels_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold images; it has none"):
        open_split(write(tmp_path / "none", 0), "train")
    coloured_dataset(3).map(lambda row: {"image": None}).save_to_disk(str(tmp_path / "nulls"))
    with pytest.raises(ValueError, match=r"must be there as bytes; none of the 3 is\. Embed them"):
        open_split(str(tmp_path / "nulls"), "train")
    coloured_dataset(3).remove_columns("label").save_to_disk(str(tmp_path / "unlabelled"))
    with pytest.raises(ValueError, match="must have a column of type ClassLabel; got none"):
        open_split(str(tmp_path / "unlabelled"), "train")
