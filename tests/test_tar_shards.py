"""Folders and Hub datasets of tars: labels, names of classes, splits, and what is refused."""

import hashlib
import json
import logging
import tarfile

import numpy as np
import pytest

from convzoo.data.opening import DatasetReference, open_split, split_names
from tests.support.hub_server import HubServer
from tests.support.image_datasets import (
    add_member,
    contents_of,
    expected_contents,
    write_tars,
)


def write(path, *members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            add_member(tar, name, data)


def samples(*labels, kind="cls", start=0):
    """Members of images whose content is their number."""
    for number, label in enumerate(labels, start=start):
        yield f"s/{number:03d}.jpg", b"image %d" % number
        if label is not None:
            yield f"s/{number:03d}.{kind}", label if isinstance(label, bytes) else label.encode()


def labels_of(folder, split="train", **choices):
    opened = open_split(DatasetReference(str(folder), **choices), split)
    return [opened.label_names[label] for label in opened.read_labels()]


@pytest.mark.parametrize("label", ["cls", "json"])
def test_shards_are_read_with_the_names_of_a_class_file(tmp_path, label):
    folder = write_tars(tmp_path / "some shards", 250, shards=2, label=label)
    write_tars(folder, 9, shards=1, label=label, seed=1, split="validation")
    assert split_names(str(folder)) == ["train", "validation"]
    split = open_split(str(folder), "train")
    assert split.label_names == ("red", "green", "blue")
    assert split.group_rows == (100, 25, 100, 25)  # a row group lies in one tar
    assert sorted(contents_of(split)) == expected_contents(250)
    assert sum(split.group_bytes) == sum(len(data) for data, _ in contents_of(split))
    assert sorted(contents_of(open_split(str(folder), "validation"))) == expected_contents(9, 1)
    assert split.file_names(1)[0] == "000200.jpg"
    assert split.where(2, 1) == f"000003.jpg of {folder}/train-0001.tar"
    rows = np.array([0, 3, 130, 249])
    assert contents_of(split.choose(rows)) == [contents_of(split)[row] for row in rows]


def test_numbers_without_names_are_classes_up_to_the_largest_of_all_splits(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path / "train" / "0.tar", *samples("0", "2", "0"))
    write(tmp_path / "test" / "0.tar", *samples("4"))
    assert labels_of(tmp_path) == ["0", "2", "0"]
    assert open_split(str(tmp_path), "train").label_names == ("0", "1", "2", "3", "4")
    assert "its classes have no names, neither in classnames.txt or" in caplog.text
    assert "they are called 0 to 4" in caplog.text


def test_texts_are_the_classes(tmp_path):
    write(tmp_path / "0.tar", *samples("dog", "cat\n", "dog"))
    assert labels_of(tmp_path) == ["dog", "cat", "dog"]
    write(tmp_path / "0.tar", *samples('{"class": "dog"}', '{"class": "cat"}', kind="json"))
    assert labels_of(tmp_path) == ["dog", "cat"]
    (tmp_path / "classes.txt").write_text("emu\ndog\ncat\n")
    assert open_split(str(tmp_path), "train").label_names == ("emu", "dog", "cat")


CARD = """---
dataset_info:
  features:
  - name: jpg
    dtype: image
  - name: cls
    dtype:
      class_label:
        names:
          '0': ant
          '1': bee
---
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classnames.txt", "ant\nbee\n"),
        ("labels.txt", "\ufeffant\r\nbee"),
        ("_info.json", json.dumps({"splits": {}, "class_names": ["ant", "bee"]})),
        ("info.json", json.dumps({"names": {"1": "bee", "0": "ant"}})),
        ("README.md", CARD),
    ],
)
def test_names_come_from_a_class_file_an_info_or_the_card(tmp_path, name, text):
    write(tmp_path / "0.tar", *samples("1", "0"))
    (tmp_path / name).write_text(text)
    assert labels_of(tmp_path) == ["bee", "ant"]


def test_another_key_of_the_json_or_another_image_can_be_chosen(tmp_path):
    def sample(number, *contents):
        for suffix, content in zip(("jpg", "mask.png", "cls", "json"), contents, strict=True):
            yield f"{number}.{suffix}", content

    members = [
        *sample(0, b"a", b"mask a", b"0", b'{"kind": "x", "label": 7}'),
        *sample(1, b"b", b"mask b", b"1", b'{"kind": "y", "label": 8}'),
    ]
    write(tmp_path / "0.tar", *members)
    message = r"0.tar has 4 for 2 keys, that end with jpg, mask.png. .*\(--image-column\)"
    with pytest.raises(ValueError, match=message):
        labels_of(tmp_path)
    assert labels_of(tmp_path, image_column="jpg") == ["0", "1"]
    for key in ("kind", "json.kind"):
        assert labels_of(tmp_path, image_column="JPG", label_column=key) == ["x", "y"]
    masks = open_split(DatasetReference(str(tmp_path), image_column="mask.png"), "train")
    assert [data for data, _ in contents_of(masks)] == [b"mask a", b"mask b"]
    with pytest.raises(ValueError, match="one of jpg, mask.png; got 'webp'"):
        labels_of(tmp_path, image_column="webp")


@pytest.mark.parametrize(
    ("members", "names", "message"),
    [
        (samples("0", None, "1"), "", "1 of 3 have none, such as s/001.jpg. A label is a member"),
        (samples(None, None), "", "must have labels; none has. .*unpack it: `tar -xf FILE`"),
        ([*samples(None), ("s/000.txt", b"x")], "", "other members end with txt"),
        (samples("0", "2"), "ant\nbee", "among its 2 classes, 0, 1; s/001.jpg has 2"),
        (samples("ant", "elk"), "ant\nbee", 's/001.jpg has "elk"'),
        (samples("0", "0"), "", "must be of at least 2 classes; got one class, '0'"),
        (samples("a", "b", "a,b"), "", "must be of one class; got the class 'a,b'"),
        (samples('{"label": [1, 2]}', kind="json"), "", r"got \[1, 2\] in the .json of s/000.jpg"),
        (samples('{"label": ', kind="json"), "", "the .json of s/000.jpg must be JSON"),
        ([("a.txt", b"x")], "", "must hold images; it has none"),
        ([], "", "must hold images; it has none"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path, members, names, message):
    write(tmp_path / "0.tar", *members)
    if names:
        (tmp_path / "classnames.txt").write_text(names)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_split(str(tmp_path), "train")


def test_an_unlabelled_split_opens_and_says_so_when_it_is_used(tmp_path):
    write(tmp_path / "train" / "0.tar", *samples("0", "1"))
    write(tmp_path / "test" / "0.tar", *samples(None, None))
    split = open_split(str(tmp_path), "test")
    with pytest.raises(ValueError, match="it is an unlabelled split"):
        split.read_group(0)
    write(tmp_path / "test" / "0.tar", *samples("-1", "-1"))
    with pytest.raises(ValueError, match="it is an unlabelled split"):
        open_split(str(tmp_path), "test").read_labels()


def test_what_lies_beside_is_told_or_refused(tmp_path, colour_data, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path / "a" / "0.tar", *samples("0", "1"), ("lone.cls", b"1"))
    (tmp_path / "a" / "sample.png").write_bytes(b"x")
    assert labels_of(tmp_path / "a") == ["0", "1"]
    assert "left out 1 images beside tars (sample.png)" in caplog.text
    assert "left out 1 keys without an image, such as lone" in caplog.text
    (tmp_path / "a" / "x.parquet").write_bytes(b"x")
    with pytest.raises(ValueError, match="must hold parquet files or tars or images, not both"):
        labels_of(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "0.tar.gz").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"holds 1 \*.gz .*Unpack \*.gz first"):
        labels_of(tmp_path / "b")


READS = """
import hashlib, json, sys
from convzoo.data import remote
from convzoo.data.opening import open_split, split_names

remote.RETRY_SECONDS = (0.1,) * 5
names = split_names("user/shards")
split = open_split("user/shards", "train")
rows = [split.read_group(group) for group in range(len(split.groups))]
images = [(hashlib.sha256(part[i][0]).hexdigest(), split.label_names[part[i][1]])
          for part in rows for i in range(len(part))]
json.dump([names, images, split.describe()], open(sys.argv[1], "w"))
"""


def digests(count):
    return sorted(
        [hashlib.sha256(data).hexdigest(), name] for data, name in expected_contents(count)
    )


def test_tars_on_the_hub_are_read_through_once_and_then_by_ranges(tmp_path):
    folder = write_tars(tmp_path / "shards", 90, shards=2)
    write_tars(folder, 9, shards=1, seed=1, split="validation")
    sizes = [path.stat().st_size for path in sorted(folder.glob("train-*"))]
    saw, sent = [], []
    with HubServer(tmp_path / "hub", {"hf_user": "user"}) as hub:
        hub.add_repo("datasets", "user/shards", folder)
        hub.fail("GET /storage/datasets/user/shards/", drop_after=20_000)
        hub.fail("GET /storage/datasets/user/shards/", status=503, skip=1)
        for run in ("1", "2"):
            before = len(hub.requests())
            hub.run("-c", READS, run, home=tmp_path / "home", token="hf_user", cwd=tmp_path)
            sent.append(hub.requests()[before:])
            saw.append(json.loads((tmp_path / run).read_text()))
    (names, images, described), again = saw
    assert names == ["train", "validation"] and again == [names, images, described]
    assert sorted(images) == digests(90)
    assert described["revision"] and described["num_samples"] == 90
    for requests, passes in zip(sent, (2, 1), strict=True):
        data = [one for one in requests if one.path.startswith("/storage/")]
        whole = [one for one in data if one.status == 206 and one.sent > 50_000]
        assert len(whole) == 2 * passes and len(data) - len(whole) <= 3
        assert sum(one.sent for one in whole) <= passes * sum(sizes)
        assert all(one.range for one in data)
        calls = [f"{one.method} {one.path}" for one in requests if one not in data]
        assert sum("/api/" in call for call in calls) <= 5  # the dataset is asked for once
