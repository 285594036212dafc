"""Label columns of parquet files: class numbers, and what else can be read as labels."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convzoo.data.opening import DatasetReference, open_split
from tests.support.images import coloured_images, write_split


def write_labels(folder, split, labels, *, kind):
    """A split whose labels are no class numbers, with the metadata that `datasets` writes."""
    images, _ = coloured_images(len(labels), seed=0)
    rows = [{"bytes": data, "path": None} for data in images]
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    table = pa.table({"image": rows, "label": labels}, schema=features.arrow_schema)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize(
    ("kind", "train", "test", "names", "numbers"),
    [
        ("string", ["dog", "cat", "dog"], ["emu"], ("cat", "dog", "emu"), [1, 0, 1]),
        ("int64", [10, 9, -1], [9], ("-1", "9", "10"), [2, 1, 0]),
        ("bool", [True, False, True], [False], ("False", "True"), [1, 0, 1]),
    ],
    ids=["texts", "numbers", "booleans"],
)
def test_the_sorted_values_of_all_splits_are_the_classes(
    tmp_path, caplog, *, kind, train, test, names, numbers
):
    caplog.set_level("INFO")
    write_labels(tmp_path, "train", train, kind=datasets.Value(kind))
    write_labels(tmp_path, "test", test, kind=datasets.Value(kind))
    opened = open_split(str(tmp_path), "train")
    assert opened.label_names == names and opened.read_labels().tolist() == numbers
    assert opened.read_group(0).labels.tolist() == numbers
    assert open_split(str(tmp_path), "test").read_labels().tolist() == [
        names.index(str(value)) for value in test
    ]
    message = f"column 'label' has no class names; its {len(names)} values, sorted, are the classes"
    assert message in caplog.text


def test_a_row_without_a_label_is_named(tmp_path):
    write_labels(tmp_path, "train", ["a", None, "b"], kind=datasets.Value("string"))
    opened = open_split(str(tmp_path), "train")
    assert opened.label_names == ("a", "b")
    with pytest.raises(ValueError, match=r"label must lie in \[0, 1\]; got -1 in row 1 of row gro"):
        opened.read_labels()


def test_lists_and_fractions_are_no_labels(tmp_path):
    write_labels(tmp_path / "fraction", "train", [0.5, 1.5], kind=datasets.Value("float64"))
    cast = r"got float64.*--label-column\), or cast it: ds.cast_column\('label', datasets.ClassLab"
    with pytest.raises(ValueError, match=cast):
        open_split(str(tmp_path / "fraction"), "train")
    with pytest.raises(ValueError, match=cast):
        open_split(DatasetReference(str(tmp_path / "fraction"), label_column="label"), "train")
    kind = datasets.List(datasets.ClassLabel(names=["a", "b"]))
    write_labels(tmp_path / "several", "train", [[0], [0, 1]], kind=kind)
    message = r"one for each image; got List.*--label-column\), or .*ds.map\(lambda row"
    with pytest.raises(ValueError, match=message):
        open_split(str(tmp_path / "several"), "train")


def test_files_that_number_the_classes_differently_are_refused(tmp_path):
    images, labels = coloured_images(6, seed=0)
    write_split(tmp_path, "train", images, labels, files=2)
    write_split(
        tmp_path / "other", "train", images, labels, files=2, names=("red", "blue", "green")
    )
    name = "train-00001-of-00002.parquet"
    (tmp_path / "other" / "data" / name).replace(tmp_path / "data" / name)
    (tmp_path / "other" / "data" / name.replace("00001", "00000", 1)).unlink()
    message = (
        "number the classes alike; class 1 is 'green' in .*train-00000-of-00002.parquet and 'blue' "
        "in .*train-00001-of-00002.parquet"
    )
    with pytest.raises(ValueError, match=message):
        open_split(str(tmp_path), "train")


@pytest.mark.parametrize("name", ["two\nlines", "", "x" * 201])
def test_class_names_that_no_file_or_card_can_have_are_refused(tmp_path, name):
    write_split(tmp_path, "train", *coloured_images(3, seed=0), names=("a", "b", name))
    with pytest.raises(ValueError, match="must be text of 1 to 200 bytes in one line"):
        open_split(str(tmp_path), "train")
