"""Names of classes, and what the log says of them."""

import pytest

from convzoo.data.classes import (
    check_class_names,
    check_mixed_labels,
    log_classes,
    sorted_labels,
)
from convzoo.data.opening import open_split
from convzoo.data.subset import subset
from tests.support.images import coloured_images, write_split


def test_labels_are_sorted_by_value_or_as_text():
    assert sorted_labels([10, 9, -1, 9]) == [-1, 9, 10]
    assert sorted_labels(["10", "9", "b"]) == ["10", "9", "b"]
    assert sorted_labels([True, False, True]) == [False, True]


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
