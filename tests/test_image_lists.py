"""Lists of images: CSV, TSV, JSON lines and parquet files of a path and a label."""

import csv
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convzoo.data.opening import DatasetReference, open_split, split_names


def write_images(folder, *paths):
    """Files whose sizes differ; nothing here decodes them."""
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(bytes(10 + number))


def write_rows(path, *rows, encoding="utf-8", delimiter=","):
    with path.open("w", newline="", encoding=encoding) as handle:
        csv.writer(handle, delimiter=delimiter).writerows(rows)
    return path


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my photos"
    write_images(folder, "a/1.jpg", "a/2, two.JPG", "b/3.png", "b/4.jpg")
    return folder


FOUR = [("a/1.jpg", "cat"), ("a/2, two.JPG", "dog"), ("b/3.png", "dog"), ("b/4.jpg", "cat")]


def contents(path, split="train", **choices):
    """Path and class of every image."""
    opened = open_split(DatasetReference(str(path), **choices), split)
    names = [opened.label_names[label] for label in opened.read_labels()]
    assert opened.num_rows == len(names) == len(opened.paths())
    return dict(zip(opened.paths(), names, strict=True))


def below(folder, pairs=FOUR):
    return {os.path.join(os.path.realpath(folder), path): str(label) for path, label in pairs}


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "LIST.CSV", "list.jsonl", "list.parquet"])
def test_each_format_gives_the_rows_in_their_order(folder, name):
    path = folder / name
    if name.endswith("jsonl"):
        lines = [json.dumps({"path": image, "label": label}) for image, label in FOUR]
        path.write_text("\n".join([*lines, ""]))
    elif name.endswith("parquet"):
        images, labels = zip(*FOUR, strict=True)
        pq.write_table(pa.table({"path": images, "label": labels}), path)
    else:
        write_rows(path, ("path", "label"), *FOUR, delimiter="\t" if "tsv" in name else ",")
    assert list(contents(path).items()) == list(below(folder).items())
    assert split_names(str(path)) == ["train"]


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        (FOUR, {}),  # no header
        ([("file_name", "class"), *FOUR], {}),
        ([("LABEL", "Path"), *((label, path) for path, label in FOUR)], {}),
        ([("path", "label", ""), *((path, label, "x") for path, label in FOUR)], {}),
        ([("path", "label"), *FOUR], {"encoding": "utf-8-sig"}),  # as Excel saves it
        ([("path", "label"), *FOUR], {"delimiter": ";"}),
        ([("path", "label"), *((path.replace("/", "\\"), label) for path, label in FOUR)], {}),
        ([("path", "label"), *((f" {path} ", label) for path, label in FOUR)], {}),
    ],
)
def test_headers_quotes_separators_and_marks_are_understood(folder, rows, settings):
    assert contents(write_rows(folder / "list.csv", *rows, **settings)) == below(folder)


def test_columns_are_chosen_and_absolute_paths_and_another_root_followed(folder, tmp_path):
    rows = [(str(folder / path), label, "1") for path, label in FOUR]
    path = write_rows(tmp_path / "list.csv", ("where", "what", "label"), *rows)
    assert contents(path, image_column="where", label_column="what") == below(folder)
    with pytest.raises(ValueError, match=r"column of paths of images, called path or .* it has w"):
        contents(path)
    path = write_rows(tmp_path / "other.csv", ("path", "label"), *FOUR)
    assert contents(path, root=str(folder)) == below(folder)
    missing = r"4 of 4 do not: a/1.jpg \(row 1\), .*relative to with data.root \(--root\)"
    with pytest.raises(FileNotFoundError, match=missing):
        contents(path)
    with pytest.raises(FileNotFoundError, match=r"data.root \(--root\) must be a folder that"):
        contents(path, root=str(tmp_path / "nowhere"))


def test_whole_numbers_are_classes_in_the_order_of_their_values(folder):
    numbers = [(path, number) for (path, _), number in zip(FOUR, (10, 9, 9, 10), strict=True)]
    path = write_rows(folder / "list.csv", *numbers)
    assert open_split(str(path), "train").label_names == ("9", "10")
    path = write_rows(folder / "list.csv", *numbers[:3], ("b/4.jpg", "x"))
    assert open_split(str(path), "train").label_names == ("10", "9", "x")


def test_a_column_says_the_split(folder):
    splits = ("train", "VAL", "train", "test")
    rows = [(*row, split) for row, split in zip(FOUR, splits, strict=True)]
    path = write_rows(folder / "list.csv", ("path", "label", "split"), *rows)
    assert split_names(str(path)) == ["train", "validation", "test"]
    assert contents(path, "validation") == below(folder, FOUR[1:2])
    assert open_split(str(path), "test").label_names == ("cat", "dog")  # the same for all
    write_rows(path, ("path", "label", "split"), *rows[:3], (*FOUR[3], "fold 1"))
    with pytest.raises(ValueError, match="train, validation or test; got 'fold 1' in row 4 of"):
        contents(path)


def test_lists_called_like_splits_belong_together(folder):
    write_rows(folder / "train.csv", *FOUR[:3])
    write_rows(folder / "val.csv", *FOUR[3:])
    write_rows(folder / "other.csv", ("nothing.jpg", "x"))
    for path in (folder / "train.csv", folder / "val.csv"):
        assert split_names(str(path)) == ["train", "validation"]
        assert contents(path) == below(folder, FOUR[:3])
        assert contents(path, "validation") == below(folder, FOUR[3:])
    write_rows(folder / "val.csv", FOUR[0])
    with pytest.raises(ValueError, match="once; got a/1.jpg in row 1 of .*train.csv and again in"):
        contents(folder / "train.csv")
    write_rows(folder / "training.csv", *FOUR[:3])
    with pytest.raises(ValueError, match="one list for each split; got .*train.csv and .*training"):
        contents(folder / "train.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na/1.jpg,cat\n./a/1.jpg,cat\n", r"once; got ./a/1.jpg in row 1 .* in row 2"),
        ("path,label\na/1.jpg,cat\na/9.jpg,dog\n", r"1 of 2 do not: a/9.jpg \(row 2\)"),
        ("path,label\na/1.jpg,cat\n,dog\n", "paths must be those of local files; got '' in row 2"),
        ("path,label\na/1.jpg,cat\nhttp://x/1.jpg,dog\n", "local files; got 'http://x/1.jpg'"),
        ("path,label\na/1.jpg,cat\nb/3.png\n", "each row must have 2 fields, path, label; got 1"),
        ("path,label\na/2, two.JPG,cat\n", "Put fields that contain the separator into quotes"),
        ("path,label\na/1.jpg,cat\nb/3.png,\n", "label must be one text, .* got '' in row 2 of"),
        ("path,label\na/1.jpg,cat\nb/3.png,cat\n", "at least 2 classes, as rows with a path and"),
        ('path,label\na/1.jpg,cat\nb/3.png,"cat,dog"\n', "must be of one class; got the class 'c"),
        ("path,path,label\na/1.jpg,a,cat\n", "different names; got 'path' twice"),
        ("path,size\na/1.jpg,12\n", r"column of labels, called label or .* \(--label-column\)"),
        ("path,label\n", "must list images; it has no rows"),
        ("", "must list images; it has no rows"),
    ],
)
def test_rows_that_cannot_be_followed_are_refused(folder, text, message):
    (folder / "list.csv").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        contents(folder / "list.csv")


def test_another_encoding_broken_lines_and_other_files_are_refused(folder, colour_data):
    write_rows(folder / "list.csv", *FOUR, encoding="utf-16")
    with pytest.raises(ValueError, match="list.csv must be text in UTF-8; .*Save it as CSV in UTF"):
        contents(folder / "list.csv")
    (folder / "list.jsonl").write_text('{"path": "a/1.jpg", "label": "cat"}\n["b/3.png", "dog"]')
    with pytest.raises(ValueError, match="must be readable as jsonl; line 2 must be an object"):
        contents(folder / "list.jsonl")
    with pytest.raises(ValueError, match="or a list of images as .csv, .* got the file .*1.jpg"):
        contents(folder / "a/1.jpg")
    parquet = next((colour_data / "data").glob("train-*"))
    with pytest.raises(ValueError, match="lie in parquet files give the folder that holds them"):
        contents(parquet)


def test_the_fingerprint_follows_names_sizes_and_classes(folder):
    path = write_rows(folder / "list.csv", *FOUR)
    first = open_split(str(path), "train").fingerprint
    assert open_split(str(path), "train").fingerprint == first
    write_rows(path, *FOUR[:3], ("b/4.jpg", "dog"))
    assert open_split(str(path), "train").fingerprint != first
    write_rows(path, *FOUR)
    (folder / "b/4.jpg").write_bytes(bytes(99))
    assert open_split(str(path), "train").fingerprint != first
