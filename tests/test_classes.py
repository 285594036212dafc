"""Names of classes, and what the log says of them."""

import pytest

from convzoo.data.classes import (
    check_class_names,
    check_mixed_labels,
    log_classes,
    sorted_labels,
    unlabelled_splits,
)
from convzoo.data.opening import open_split
from convzoo.data.subset import subset
from tests.support.images import coloured_images, write_split


def test_labels_are_sorted_by_value_or_as_text():
    assert sorted_labels([10, 9, -1, 9]) == [-1, 9, 10]
    assert sorted_labels(["10", "9", "b"]) == ["10", "9", "b"]
    assert sorted_labels([True, False, True]) == [False, True]


def test_minus_one_is_a_class_unless_it_is_all_that_a_split_has():
    for none in (-1, "-1", ""):
        found = unlabelled_splits({"train": {0, 1}, "test": {none}, "more": {none}})
        assert found == {"test", "more"}
    for labels in ({"train": {-1, 1}, "test": {-1}}, {"train": {-1}}, {"a": {1}, "b": {-1}}):
        assert unlabelled_splits(labels) == set()
    assert unlabelled_splits({"train": {0, 1}, "test": set(), "more": {1}}) == set()


@pytest.mark.parametrize("kind", ["parquet", "save_to_disk", "list"])
def test_an_unlabelled_test_split_adds_no_class(kind, tmp_path):
    """Its -1 was a class of its own, the first: a network had an output more, and shifted ones."""
    import datasets

    images, labels = coloured_images(6, seed=0)
    given = {"train": labels, "test": [-1] * 6}
    path = tmp_path / "train.csv" if kind == "list" else tmp_path
    for number, image in enumerate(images if kind == "list" else ()):
        for split in given:
            (tmp_path / f"{split}{number}.jpg").write_bytes(image)
    if kind == "list":
        for split, values in given.items():
            rows = [f"{split}{number}.jpg,{label}" for number, label in enumerate(values)]
            (tmp_path / f"{split}.csv").write_text("\n".join(["path,label", *rows]))
    else:
        features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
        found = datasets.DatasetDict()
        for split, values in given.items():
            rows = {"image": [{"bytes": data, "path": None} for data in images], "label": values}
            found[split] = datasets.Dataset.from_dict(rows, features=features)
        if kind == "parquet":
            for split, each in found.items():
                each.to_parquet(tmp_path / f"{split}.parquet")
        else:
            found.save_to_disk(tmp_path)
    train = open_split(str(path), "train")
    assert train.label_names == ("0", "1", "2") and train.read_labels().tolist() == labels
    with pytest.raises(ValueError, match=r"split 'test' of .* must (have labels|be rows with)"):
        open_split(str(path), "test").read_labels()


@pytest.mark.parametrize("name", ["", " \t", "a\nb", "a\rb", "a\u2028b", "x" * 201, "\udc80"])
def test_names_that_cannot_be_written_are_refused(name):
    with pytest.raises(ValueError, match="class names of pets must be text of 1 to 200 bytes"):
        check_class_names(["cat", name], "pets")
    check_class_names(["cat", "x" * 200, "\u00e9" * 100, "two words"], "pets")


def write_classes(folder, count, present):
    images, _ = coloured_images(2 * len(present), seed=0)
    names = tuple(f"c{number}" for number in range(count))
    write_split(folder, "train", images, 2 * list(present), names=names)
    return open_split(str(folder), "train")


def test_the_first_ten_classes_are_logged_and_those_without_images(tmp_path, caplog):
    caplog.set_level("INFO")
    log_classes(write_classes(tmp_path, 12, [0, 2, 3, 4, 5, 6, 7, 8, 9, 10]))
    assert "12 classes: c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, ..." in caplog.messages
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert warning == f"2 classes of {tmp_path} have no image in split 'train': c1, c11"


def test_classes_that_all_have_images_are_only_logged(tmp_path, caplog):
    caplog.set_level("INFO")
    opened = write_classes(tmp_path, 3, [0, 2])
    log_classes(subset(opened, ["c0", "c2"]))
    assert caplog.messages == ["2 classes: c0, c2"]
    log_classes(subset(opened, ["c2", "c1"]))
    assert caplog.messages[1:] == [
        "2 classes: c1, c2",
        f"1 classes of {tmp_path} have no image in split 'train': c1",
    ]


@pytest.mark.parametrize("name", ["cat,dog", "cat+dog", "dog & bird", "cat, dog", "a|b"])
def test_a_class_of_several_classes_is_refused(name):
    with pytest.raises(ValueError, match=r"must be of one class; got the class .* rename it"):
        check_mixed_labels(["bird", "cat", "dog", name], "pets")


def test_names_with_commas_are_classes_all_the_same():
    names = ["tench, Tinca tinca", "crane", "crane, machine", "black & white", "1+"]
    check_mixed_labels(names, "pets")
