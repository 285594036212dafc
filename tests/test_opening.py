import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convzoo.data.opening import DatasetReference, open_split, open_splits, split_names
from tests.support.images import COLOURS, coloured_images, write_image_folder, write_split


def test_a_folder_gives_rows_classes_and_row_groups(colour_data):
    source = open_split(str(colour_data), "train")
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
    original = open_split(str(colour_data), "train").fingerprint
    assert open_split(str(tmp_path / "colours"), "train").fingerprint == original
    assert open_split(str(tmp_path / "other"), "train").fingerprint != original


def test_missing_data_says_what_to_do(tmp_path):
    missing = "must be a folder that exists, or a Hub dataset id .* there is no folder"
    with pytest.raises(FileNotFoundError, match=missing):
        open_split(str(tmp_path / "nothing"), "train")
    empty = "must be a folder with parquet files or images; got .*, which holds nothing"
    with pytest.raises(FileNotFoundError, match=empty):
        open_split(str(tmp_path), "train")
    with pytest.raises(FileNotFoundError, match=missing):
        split_names(str(tmp_path / "nothing"))


def test_splits_are_listed_and_options_given_in_one(colour_data):
    assert split_names(str(colour_data)) == ["train", "test"]
    dataset = DatasetReference(str(colour_data), image_column="image", label_column="label")
    for split, rows in (("train", 61), ("test", 23)):
        assert open_split(dataset, split).num_rows == rows


def test_an_unknown_split_or_column_is_named(colour_data):
    with pytest.raises(
        ValueError, match="split must be one of train, test in .*; got 'validation'"
    ):
        open_split(str(colour_data), "validation")
    with pytest.raises(
        ValueError,
        match=r"data.image_column \(--image-column\) must name .*, one of image; got 'x'$",
    ):
        open_split(DatasetReference(str(colour_data), image_column="x"), "train")


def test_data_without_rows_or_with_broken_files_is_refused(tmp_path, colour_data):
    write_split(tmp_path / "none", "train", [], [], files=1)
    with pytest.raises(FileNotFoundError, match="must hold images; it has none"):
        open_split(str(tmp_path / "none"), "train")
    (tmp_path / "broken" / "data").mkdir(parents=True)
    whole = next((colour_data / "data").glob("train-*")).read_bytes()
    (tmp_path / "broken" / "data" / "train-00000-of-00001.parquet").write_bytes(whole[:500])
    with pytest.raises(ValueError, match=r"train-00000.*must be a readable parquet file"):
        open_split(str(tmp_path / "broken"), "train")


def test_a_folder_of_images_is_read_by_class(tmp_path):
    images, labels = write_image_folder(tmp_path / "images")
    source = open_split(str(tmp_path / "images"), "train")
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


CARD = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype: LABEL
configs:
- config_name: default
  data_files:
  - split: train
    path: train.parquet
---
"""


def write_columns(folder, images, labels, *, label_type):
    """A split of plain columns, whose types the dataset's card says."""
    folder.mkdir()
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "train.parquet")
    (folder / "README.md").write_text(CARD.replace("LABEL", label_type))
    return str(folder)


def test_columns_of_another_type_are_named_with_the_way_to_cast_them(tmp_path):
    images, labels = coloured_images(4, seed=0)
    structs = [{"bytes": data, "path": "name.jpg"} for data in images]
    numbers = write_columns(
        tmp_path / "numbers", structs, list(map(float, labels)), label_type="float64"
    )
    cast = r"ds.cast_column\('label', datasets.ClassLabel\(names=\[...\]\)\)$"
    for column in ("", "label"):
        with pytest.raises(ValueError, match=rf"'label' of .* got float64\. .*{cast}"):
            open_split(DatasetReference(numbers, label_column=column), "train")
    message = r"data.label_column \(--label-column\) must .*, one of none; got 'class'\. "
    with pytest.raises(ValueError, match=message + r".*ds.cast_column\('class'"):
        open_split(DatasetReference(numbers, label_column="class"), "train")


def test_a_plain_column_of_bytes_is_refused_with_the_way_to_rewrite_it(tmp_path):
    classes = "{class_label: {names: {'0': red, '1': green, '2': blue}}}"
    folder = write_columns(tmp_path / "binary", *coloured_images(4, seed=0), label_type=classes)
    message = r"hold its images as image.bytes, .* it has image, label\. Rewrite it: .*to_parquet"
    with pytest.raises(ValueError, match=message):
        open_split(folder, "train")


def test_of_several_splits_the_empty_one_is_named_with_the_way_to_leave_it_out(tmp_path):
    write_split(tmp_path / "data", "train", *coloured_images(4, seed=0))
    write_split(tmp_path / "data", "test", [], [], files=1)
    message = r"split 'test' .* has none\. Leave split 'test' out with --splits train$"
    with pytest.raises(FileNotFoundError, match=message):
        open_splits(str(tmp_path / "data"))
    (source,) = open_splits(str(tmp_path / "data"), ("train",))
    assert source.num_rows == 4
