"""Folders of images: which layouts are read, as what, and which are refused with what advice."""

import json
import os

import datasets
import numpy as np
import pytest
from PIL import Image

from convzoo.data import opening
from convzoo.data.opening import DatasetReference, open_split, open_splits, split_names
from convzoo.images.allowed_formats import image_suffixes
from convzoo.images.decoding import decode_rgb
from tests.support.images import coloured_images, write_split


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """No local path leads to `datasets`, and so to the Hub; tests of parquet files allow it."""

    def refuse(*arguments, **settings):
        raise AssertionError("asked for a local path")

    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)


def write(folder, *paths):
    """Files whose sizes differ; nothing here decodes them."""
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(bytes(10 + number))
    return str(folder)


def contents(folder, split="train", **choices):
    """Path below the folder and class of every image of a split."""
    opened = open_split(DatasetReference(str(folder), **choices), split)
    names = [opened.label_names[label] for label in opened.read_labels()]
    files = [os.path.relpath(file, os.path.realpath(folder)) for file in opened.files]
    assert len(set(files)) == len(files) == opened.num_rows
    return dict(zip(files, names, strict=True))


# ---- 1: position decides ------------------------------------------------------------------------


def test_split_words_in_the_names_of_classes_mean_nothing(tmp_path):
    """36 + 18 images of {train,test}/{bullet_train,cat,test_tube}: each once, in its own split."""
    for split, count in (("train", 12), ("test", 6)):
        for name in ("bullet_train", "cat", "test_tube"):
            write(tmp_path, *(f"{split}/{name}/{number}.jpg" for number in range(count)))
    for split, count in (("train", 36), ("test", 18)):
        found = contents(tmp_path, split)
        assert len(found) == count
        assert found == {path: path.split("/")[1] for path in found}
        assert {path.split("/")[0] for path in found} == {split}


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path / "three", "train/train/1.jpg", "train/car/2.jpg", "val/train/3.jpg")
    assert contents(tmp_path / "three") == {"train/car/2.jpg": "car", "train/train/1.jpg": "train"}
    assert contents(tmp_path / "three", "validation") == {"val/train/3.jpg": "train"}
    write(tmp_path / "two", "train/1.jpg", "car/2.jpg", "test/photo of a train.jpg")
    assert contents(tmp_path / "two") == {
        "car/2.jpg": "car",
        "test/photo of a train.jpg": "test",
        "train/1.jpg": "train",
    }
    assert split_names(str(tmp_path / "two")) == ["train"]


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("Training", "train"),
        ("TRAIN", "train"),
        ("val", "validation"),
        ("Valid", "validation"),
        ("dev", "validation"),
        ("Testing", "test"),
        ("eval", "test"),
    ],
)
def test_splits_have_their_usual_names_in_any_case(tmp_path, folder, split):
    write(tmp_path, f"{folder}/cat/1.jpg", f"{folder}/dog/2.jpg")
    assert split_names(str(tmp_path)) == [split]
    assert set(contents(tmp_path, split).values()) == {"cat", "dog"}


def test_two_folders_of_one_split_are_refused(tmp_path):
    write(tmp_path, "Training/cat/1.jpg", "train/cat/2.jpg", "test/dog/1.jpg")
    message = "one folder for each split; got Training and train for split 'train'"
    with pytest.raises(ValueError, match=message):
        open_split(str(tmp_path), "train")


def test_training_and_testing_are_two_splits(tmp_path):
    write(tmp_path, "Training/cat/1.jpg", "Training/dog/2.jpg", "Testing/cat/3.jpg")
    assert split_names(str(tmp_path)) == ["train", "test"]
    assert len(contents(tmp_path)) == 2 and len(contents(tmp_path, "test")) == 1


def test_what_was_opened_before_has_the_fingerprint_it_had(tmp_path):
    """As convzoo computed it when `datasets` listed the files: old checkpoints resume."""
    paths = ["train/cat/1.jpg", "train/cat-big/1.jpg", "train/dog/B.JPEG", "train/dog/a.png"]
    paths += ["val/cat/9.webp", "val/dog/x.tif", "train/cat/10.jpg"]
    write(tmp_path / "a", *paths)
    write(tmp_path / "b", "cat/1.jpg", "cat-big/2.jpg", "dog/3.bmp", "Zebra/4.gif")
    for folder, split, expected in (
        ("a", "train", "ec030d20ac454fdb0b622422cf6b6ac80173fc88a08576b80d4a1221f7a61eac"),
        ("a", "validation", "1286c9b40e0b75d3e163aa3edab9e11f0fe3b274ef5f8d6c3a345e2055d065e7"),
        ("b", "train", "fbdf7666a5960e0de4599969d50444204a2639d68b268a9a7f07ffc8dd78ce67"),
    ):
        assert open_split(str(tmp_path / folder), split).fingerprint == f"sha256:{expected}"


# ---- 2 and 4: deeper, mixed and unlabelled layouts ----------------------------------------------


@pytest.mark.parametrize(
    ("paths", "found", "advice"),
    [
        pytest.param(
            ["train/n01/images/0.jpg", "train/n02/images/1.jpg", "val/images/2.jpg"],
            "2 as SPLIT/FOLDER/FOLDER/FILE, such as train/n01/images/0.jpg; 1 as SPLIT/FOLDER/FILE",
            "Move the files of deeper folders up into the folder of their class",
            id="Tiny-ImageNet",
        ),
        pytest.param(
            ["cat/2020/1.jpg", "dog/2021/2.jpg"],
            "2 as FOLDER/FOLDER/FILE, such as cat/2020/1.jpg",
            "Move the files of deeper folders up",
            id="years below classes",
        ),
        pytest.param(
            ["cat/1.jpg", "dog/2.jpg", "dog/more/3.jpg"],
            "2 as FOLDER/FILE, such as cat/1.jpg; 1 as FOLDER/FOLDER/FILE, such as dog/more/3.jpg",
            "Move the files of deeper folders up",
            id="mixed depth",
        ),
        pytest.param(
            ["train/cat/1.jpg", "train/dog/2.jpg", "extra/cat/3.jpg"],
            "1 as FOLDER/FOLDER/FILE, such as extra/cat/3.jpg",
            "Move",
            id="outside any split",
        ),
        pytest.param(
            ["cat/1.jpg", "dog/2.jpg", "3.jpg"], "1 as FILE, such as 3.jpg", "Move", id="no class"
        ),
        pytest.param(
            ["1.jpg", "2.jpg"], "2 as FILE", "Make one folder for each class", id="no folder"
        ),
        pytest.param(
            ["train/1.jpg", "test/2.jpg"],
            "2 as SPLIT/FILE",
            "Make one folder for each class, or a metadata.csv with file_name and label",
            id="splits without classes",
        ),
        pytest.param(
            ["photos/train/cat/1.jpg", "photos/train/dog/2.jpg"],
            "2 as FOLDER/FOLDER/FOLDER/FILE",
            "Perhaps .*/photos is the folder to give",
            id="one folder around",
        ),
    ],
)
def test_other_layouts_are_refused_with_the_one_found_and_the_one_wanted(
    tmp_path, paths, *, found, advice
):
    write(tmp_path, *paths)
    message = (
        rf"must lie as SPLIT/CLASS/FILE \(train/cat/1.jpg\), or CLASS/FILE .*{found}.*{advice}"
    )
    with pytest.raises(ValueError, match=message):
        open_split(str(tmp_path), "train")
    with pytest.raises(ValueError, match=message):
        split_names(str(tmp_path))


def test_a_split_without_classes_is_refused_only_where_it_is_asked_for(tmp_path):
    write(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "test/1.jpg", "test/2.jpg")
    opened = open_split(str(tmp_path), "train")
    assert opened.label_names == ("cat", "dog")  # no class "test"
    message = "split 'test' .* got 2 without a class, such as test/1.jpg"
    with pytest.raises(ValueError, match=message):
        open_split(str(tmp_path), "test")
    with pytest.raises(ValueError, match="Leave split 'test' out with --splits train$"):
        open_splits(str(tmp_path))
    write(tmp_path, "train/3.jpg")
    with pytest.raises(ValueError, match="'train' .* got 1 without a class, such as train/3.jpg"):
        open_split(str(tmp_path), "train")


def test_one_class_is_no_classification(tmp_path):
    write(tmp_path, "cat/1.jpg", "cat/2.jpg")
    message = "at least 2 classes, as SPLIT/CLASS/FILE .* got one class, 'cat', with 2 images"
    with pytest.raises(ValueError, match=message):
        open_split(str(tmp_path), "train")


@pytest.mark.parametrize("name", ["two\nlines", " ", "x" * 201, "\u00e9" * 101])
def test_names_that_no_file_or_card_can_have_are_refused(tmp_path, name):
    rows = [{"file_name": "1.jpg", "label": name}, {"file_name": "2.jpg", "label": "cat"}]
    write(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="must be text of 1 to 200 bytes in one line"):
        open_split(str(tmp_path), "train")


# ---- 3: metadata files --------------------------------------------------------------------------


def write_metadata(folder, *rows):
    columns = ",".join(["file_name", "label"][: len(rows[0])])
    text = "\n".join([columns, *(",".join(map(str, row)) for row in rows)]) + "\n"
    (folder / "metadata.csv").write_text(text, encoding="utf-8")


def test_the_labels_of_metadata_win_over_the_names_of_folders(tmp_path):
    write(tmp_path, "train/a/1.jpg", "train/a/2.jpg", "train/b/3.jpg", "test/b/4.jpg")
    write_metadata(tmp_path / "train", ("a/1.jpg", "dog"), ("a/2.jpg", "cat"), ("b/3.jpg", "dog"))
    write_metadata(tmp_path / "test", ("b/4.jpg", "emu"))
    expected = {"train/a/1.jpg": "dog", "train/a/2.jpg": "cat", "train/b/3.jpg": "dog"}
    assert contents(tmp_path) == expected
    opened = open_split(str(tmp_path), "test")
    assert opened.label_names == ("cat", "dog", "emu") and opened.read_labels().tolist() == [2]


def test_a_split_without_metadata_has_its_classes_as_folders(tmp_path):
    write(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "test/3.jpg")
    write_metadata(tmp_path / "test", ("3.jpg", "dog"))
    assert contents(tmp_path) == {"train/cat/1.jpg": "cat", "train/dog/2.jpg": "dog"}
    assert contents(tmp_path, "test") == {"test/3.jpg": "dog"}


def test_metadata_label_images_in_any_folder(tmp_path):
    write(tmp_path, "images/deep/1.jpg", "images/2.jpg", "3.jpg")
    rows = [("images/deep/1.jpg", "cat"), ("images/2.jpg", "dog"), ("./3.jpg", "cat")]
    write_metadata(tmp_path, *rows)
    assert contents(tmp_path) == {"3.jpg": "cat", "images/2.jpg": "dog", "images/deep/1.jpg": "cat"}


def test_jsonl_and_another_column_are_read(tmp_path):
    write(tmp_path, "1.jpg", "2.jpg")
    rows = [{"file_name": f"{n}.jpg", "label": "same", "kind": k} for n, k in ((1, "b"), (2, "a"))]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert contents(tmp_path, label_column="kind") == {"1.jpg": "b", "2.jpg": "a"}


def test_numbers_are_sorted_as_numbers(tmp_path):
    write(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    write_metadata(tmp_path, ("1.jpg", 10), ("2.jpg", 9), ("3.jpg", -1))
    assert open_split(str(tmp_path), "train").label_names == ("-1", "9", "10")


def test_other_labels_make_another_fingerprint(tmp_path):
    write(tmp_path, "1.jpg", "2.jpg")
    prints = set()
    for labels in (("a", "b"), ("b", "a")):
        write_metadata(tmp_path, *zip(("1.jpg", "2.jpg"), labels, strict=True))
        prints.add(open_split(str(tmp_path), "train").fingerprint)
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("1.jpg", "a"), ("9.jpg", "b")], "got '9.jpg' in row 2 of .*metadata.csv, and no image"),
        ([("1.jpg", "a"), ("1.jpg", "b")], "one row .* got 1.jpg again in row 2"),
        ([("1.jpg", "a"), ("2.jpg", "")], "one text, whole number .* got '' in row 2"),
        ([("1.jpg",), ("2.jpg",)], "columns file_name and label; it has file_name"),
        ([("../1.jpg", "a"), ("2.jpg", "b")], "got '../1.jpg' in row 1"),
    ],
)
def test_metadata_that_cannot_be_followed_name_the_row(tmp_path, rows, message):
    write(tmp_path, "1.jpg", "2.jpg")
    write_metadata(tmp_path, *rows)
    with pytest.raises(ValueError, match=message):
        open_split(str(tmp_path), "train")


def test_a_list_of_labels_and_a_damaged_file_are_refused(tmp_path):
    write(tmp_path, "1.jpg")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.jpg", "label": ["a", "b"]}')
    with pytest.raises(ValueError, match=r"one text, .* got \['a', 'b'\] in row 1"):
        open_split(str(tmp_path), "train")
    (tmp_path / "metadata.jsonl").write_text('{"file_name"')
    with pytest.raises(ValueError, match="metadata.jsonl must be readable as jsonl"):
        open_split(str(tmp_path), "train")


def test_images_without_a_row_are_counted_and_named(tmp_path, caplog):
    caplog.set_level("INFO")
    write(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    write_metadata(tmp_path, ("1.jpg", "a"), ("2.jpg", "b"))
    assert len(contents(tmp_path)) == 2
    assert "left out 1 images in no row of a metadata file (3.jpg)" in caplog.text


# ---- 5: suffixes, links, paths ------------------------------------------------------------------


def test_every_suffix_that_pillow_decodes_is_an_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    names = ["jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "ppm", "pgm", "pbm", "pnm"]
    names += ["tif", "tiff", "webp", "avif"]
    assert {f".{name}" for name in names} <= image_suffixes()
    for number, name in enumerate([*names, "JPG"]):
        path = tmp_path / f"class {number % 3}" / f"{number}.{name}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).convert("L" if name == "pgm" else "RGB").save(path)
    opened = open_split(str(tmp_path), "train")
    assert opened.num_rows == len(names) + 1
    for group in range(len(opened.groups)):
        rows = opened.read_group(group)
        assert all(decode_rgb(rows[row][0]).shape == (8, 9, 3) for row in range(len(rows)))


@pytest.mark.parametrize("suffix", ["eps", "pdf", "svg", "txt"])
def test_documents_are_no_images(suffix):
    assert f".{suffix}" not in image_suffixes()


def test_what_is_left_out_is_counted_and_named(tmp_path, caplog):
    caplog.set_level("INFO")
    write(
        tmp_path, "cat/__1.jpg", "dog/2.jpg", ".DS_Store", "dog/.hidden.jpg", "__MACOSX/dog/2.jpg"
    )
    write(tmp_path, "notes.txt", "cat/a.pdf", "cat/LICENSE", "README.md", "empty/nothing.txt")
    write(tmp_path, "cat/IMG_1.HEIC")
    (tmp_path / "bird").mkdir()
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")
    assert contents(tmp_path) == {"cat/__1.jpg": "cat", "dog/2.jpg": "dog"}
    open_split(str(tmp_path), "train")
    (line,) = [record.message for record in caplog.records if "left out" in record.message]
    assert line.endswith(
        "left out 1 *.heic (cat/IMG_1.HEIC); 1 *.pdf (cat/a.pdf); "
        "2 *.txt (notes.txt, empty/nothing.txt); 1 empty (bird); "
        "3 hidden (.DS_Store, __MACOSX, dog/.hidden.jpg); 1 special (cat/pipe.jpg); "
        "1 without suffix (cat/LICENSE); photographs as *.heic are not read: save them as JPEG"
    )


def test_links_to_splits_classes_and_files_are_followed(tmp_path):
    write(tmp_path / "store", "cats/1.jpg", "dogs/2.jpg", "held/cat/3.jpg", "held/dog/4.jpg")
    root = tmp_path / "links"
    (root / "train").mkdir(parents=True)
    (root / "train" / "cat").symlink_to(tmp_path / "store" / "cats")
    (root / "train" / "dog").mkdir()
    (root / "train" / "dog" / "one.jpg").symlink_to(tmp_path / "store" / "dogs" / "2.jpg")
    (root / "val").symlink_to(tmp_path / "store" / "held")
    (tmp_path / "around").symlink_to(root)
    for folder in (root, tmp_path / "around"):
        assert contents(folder) == {"train/cat/1.jpg": "cat", "train/dog/one.jpg": "dog"}
        assert set(contents(folder, "validation").values()) == {"cat", "dog"}


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_an_image_that_is_there_twice_is_refused(tmp_path, link):
    write(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "val/dog/3.jpg")
    (tmp_path / "val" / "cat").mkdir()
    link(tmp_path / "train" / "cat" / "1.jpg", tmp_path / "val" / "cat" / "9.jpg")
    message = "each image once; train/cat/1.jpg and val/cat/9.jpg are the same file"
    with pytest.raises(ValueError, match=message):
        open_split(str(tmp_path), "train")


@pytest.mark.parametrize("target", ["train", "."])
def test_a_folder_that_is_there_twice_is_refused_even_in_itself(tmp_path, target):
    write(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg")
    (tmp_path / "val").symlink_to(tmp_path / target)
    names = {"train": "train and val", ".": r"\. and val"}[target]
    with pytest.raises(ValueError, match=f"each image once; {names} are the same folder"):
        open_split(str(tmp_path), "train")


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    write(tmp_path, "cat/1.jpg", "dog/2.jpg")
    (tmp_path / "cat" / "gone.jpg").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match="cat/gone.jpg leads nowhere"):
        open_split(str(tmp_path), "train")


ODD = ["data [1]", "a::b", "with space", "h\u00f6hle", "50%", "star*?", "#1"]


@pytest.mark.parametrize("name", ODD)
def test_a_folder_may_have_any_name(tmp_path, name):
    write(tmp_path / name, f"{name}/1.jpg", "dog [x]/2.jpg")
    assert set(contents(tmp_path / name).values()) == {name, "dog [x]"}


@pytest.mark.parametrize("name", ODD)
def test_a_folder_of_parquet_files_may_have_any_name(tmp_path, name, monkeypatch):
    monkeypatch.undo()
    images, labels = coloured_images(7, seed=0)
    write_split(tmp_path / name, "train", images, labels)
    write_split(tmp_path / name, "test", *coloured_images(3, seed=1))
    (tmp_path / name / "README.md").write_text("---\npretty_name: Seven\n---\n")
    train, test = open_splits(str(tmp_path / name))
    assert (train.name, test.name) == ("train", "test") and test.num_rows == 3
    assert train.read_labels().tolist() == labels
    assert train.files[0].startswith(f"{tmp_path}/{name}/data/train-0")
    assert bytes(train.read_row(6)[0]) == images[6]
    assert train.describe()["name"] == "Seven"


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "pets", "cat/1.jpg", "dog/2.jpg")
    assert open_split("~/pets", "train").num_rows == 2


@pytest.mark.parametrize("path", ["/no/where", "./pets", "../pets", "~/pets", "a/b/c", "my [pets]"])
def test_a_mistyped_path_is_said_to_be_none_without_asking_the_hub(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="there is no folder '/.*'"):
        open_split(path, "train")


def test_a_file_or_a_folder_of_other_things_is_said_to_be_that(tmp_path):
    write(tmp_path, "notes.txt", "more/table.csv")
    with pytest.raises(ValueError, match="must be a folder, or a list .* got the file .*Give the"):
        open_split(str(tmp_path / "notes.txt"), "train")
    with pytest.raises(FileNotFoundError, match=r"holds 1 \*\.csv .*; 1 \*\.txt") as caught:
        open_split(str(tmp_path), "train")
    assert "Hub" not in str(caught.value)
    assert str(caught.value).endswith(f"Give a list of images itself: {tmp_path}/more/table.csv")


def test_parquet_files_and_images_do_not_mix(tmp_path, monkeypatch):
    monkeypatch.undo()
    write_split(tmp_path, "train", *coloured_images(7, seed=0))
    write(tmp_path, "assets/plot.png")
    assert open_split(str(tmp_path), "train").num_rows == 7
    write(tmp_path, "cat/1.jpg", "dog/2.jpg")
    with pytest.raises(ValueError, match="or images, not both; got 2 parquet files, such as data/"):
        open_split(str(tmp_path), "train")


def test_choices_that_a_folder_of_images_does_not_offer_are_warned_of(tmp_path, caplog):
    write(tmp_path, "cat/1.jpg", "dog/2.jpg")
    open_split(DatasetReference(str(tmp_path), revision="main", image_column="photo"), "train")
    assert caplog.messages == [f"{tmp_path} is a folder of images; ignored: revision, image_column"]


def test_a_hub_id_is_no_path():
    for name in ("imagenet", "ILSVRC/imagenet-1k"):
        assert opening.HUB_ID.fullmatch(name)
