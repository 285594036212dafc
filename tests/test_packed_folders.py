"""Images in zips, and as single files on the Hub: layouts, what is read, what is refused."""

import hashlib
import json
import zipfile

import numpy as np
import pytest

from convzoo.data.opening import open_split, split_names
from tests.support.hub_server import HubServer
from tests.support.image_datasets import COUNT, contents_of, expected_contents, write_zip
from tests.support.images import write_image_folder


def write(path, *names, method=zipfile.ZIP_DEFLATED):
    """A zip of images whose content is their name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as packed:
        for name in names:
            packed.writestr(name, name.encode())
    return path


def layout(folder):
    """Path in the zip and class of the images of each split."""
    return {
        split: {data.decode(): label for data, label in contents_of(open_split(str(folder), split))}
        for split in split_names(str(folder))
    }


TWO = {"cat/1.jpg": "cat", "dog/2.PNG": "dog"}


def under(folder):
    return {f"{folder}/{name}": label for name, label in TWO.items()}


def test_stored_and_deflated_members_are_read(tmp_path):
    split = open_split(str(write_zip(tmp_path / "a folder")), "train")
    assert split.label_names == ("blue", "green", "red") and split.num_rows == COUNT
    assert sorted(contents_of(split)) == expected_contents()
    assert split.where(0, 0) == f"train/blue/11.jpg of {tmp_path}/a folder/train.zip"
    rows = np.array([3, 40, 60])
    assert contents_of(split.choose(rows)) == [contents_of(split)[row] for row in rows]


@pytest.mark.parametrize(
    ("zips", "expected"),
    [
        ({"images.zip": TWO}, {"train": TWO}),
        ({"images.zip": under("images")}, {"train": under("images")}),
        ({"train.zip": TWO, "val.zip": TWO}, {"train": TWO, "validation": TWO}),
        ({"train.zip": under("train")}, {"train": under("train")}),
        ({"train.zip": under("photos")}, {"train": under("photos")}),
        (
            {"pets.zip": under("pets/train") | under("pets/test")},
            {"train": under("pets/train"), "test": under("pets/test")},
        ),
        ({"data/train.zip": TWO}, {"train": TWO}),
        ({"a.zip": ["cat/1.jpg"], "b.zip": ["dog/2.PNG"]}, {"train": TWO}),
    ],
)
def test_a_zip_is_the_folder_that_it_is_called_after(tmp_path, zips, expected):
    for name, members in zips.items():
        write(tmp_path / name, *members)
    assert layout(tmp_path) == expected


def test_a_metadata_file_in_a_zip_gives_the_labels(tmp_path):
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as packed:
        for name in ("1.jpg", "2.jpg"):
            packed.writestr(name, name)
        packed.writestr("metadata.csv", "file_name,label\n1.jpg,dog\n2.jpg,cat\n")
    assert layout(tmp_path) == {"train": {"1.jpg": "dog", "2.jpg": "cat"}}


def test_names_with_the_separators_of_windows_are_understood(tmp_path):
    path = write(tmp_path / "x.zip", "cat!1.jpg", "dog!2.jpg")
    path.write_bytes(path.read_bytes().replace(b"cat!1", b"cat\\1").replace(b"dog!2", b"dog\\2"))
    assert open_split(str(tmp_path), "train").label_names == ("cat", "dog")


def encrypted(path):
    """The same zip, whose members claim to have a password."""
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.find(signature)
        while start >= 0:
            data[start + place] |= 1
            start = data.find(signature, start + 1)
    path.write_bytes(data)


def test_zips_that_cannot_be_read_are_refused(tmp_path):
    path = write(tmp_path / "x.zip", *TWO)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="x.zip must be a whole zip; File is not a zip file. It m"):
        open_split(str(tmp_path), "train")
    write(path, *TWO, method=zipfile.ZIP_LZMA)
    with pytest.raises(ValueError, match="or deflated, without a password; cat/1.jpg of .* is not"):
        open_split(str(tmp_path), "train")
    write(path, *TWO)
    encrypted(path)
    with pytest.raises(ValueError, match="without a password; cat/1.jpg of .*x.zip is not. Unpack"):
        open_split(str(tmp_path), "train")
    with pytest.warns(UserWarning, match="Duplicate name"):
        write(path, *TWO, "cat/1.jpg")
    with pytest.raises(ValueError, match="must hold each image once; cat/1.jpg of .* comes twice"):
        open_split(str(tmp_path), "train")
    write(path, "1.jpg", "2.jpg")
    with pytest.raises(ValueError, match="must lie as SPLIT/CLASS/FILE"):
        open_split(str(tmp_path), "train")
    write(path, "a.txt")
    with pytest.raises((ValueError, FileNotFoundError), match="must hold images; .*x.zip has none"):
        open_split(str(tmp_path), "train")


def test_a_damaged_member_is_named(tmp_path):
    path = write(tmp_path / "x.zip", *TWO, method=zipfile.ZIP_STORED)
    split = open_split(str(tmp_path), "train")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\0\0cat/1.jpgcat/1", b"\0\0cat/1.jpgcow/1", 1))
    assert path.read_bytes() != data
    with pytest.raises(ValueError, match="cat/1.jpg of .*x.zip must be whole; its checksum"):
        split.read_group(0)
    path.write_bytes(data[:20])
    with pytest.raises(ValueError, match="x.zip must be as long as it was; it ends at byte 20"):
        split.read_group(0)


READS = """
import hashlib, json
from convzoo.data import remote
from convzoo.data.opening import open_split, split_names

remote.RETRY_SECONDS = (0.1,) * 5
saw = {}
for name in ("user/files", "user/zipped", "user/table"):
    split = open_split(name, "train")
    rows = [split.read_group(group) for group in range(len(split.groups))]
    saw[name] = [split_names(name), split.where_is(0), sorted(
        (hashlib.sha256(part[i][0]).hexdigest(), split.label_names[part[i][1]])
        for part in rows for i in range(len(part))
    )]
json.dump(saw, open("saw.json", "w"))
"""


@pytest.fixture(scope="module")
def on_the_hub(tmp_path_factory):
    """What a stranger reads of the same images as files, in a zip, and with a metadata file."""
    here = tmp_path_factory.mktemp("hub")
    write_image_folder(here / "files" / "data")
    write_image_folder(here / "table")
    rows = ["file_name,label"]
    for path in sorted((here / "table" / "train").rglob("*.jpg")):
        path.rename(here / "table" / path.name)
        rows.append(f"{path.name},{path.parent.name}")
    (here / "table" / "metadata.csv").write_text("\n".join(rows))
    write_zip(here / "zipped")
    with HubServer(here / "server", {"hf_user": "user"}) as hub:
        for name in ("files", "table", "zipped"):
            hub.add_repo("datasets", f"user/{name}", here / name)
        hub.fail("GET .*train.zip", status=503, skip=1)
        hub.fail("GET .*011.jpg", status=503)
        hub.run("-c", READS, home=here / "home", token="hf_user", cwd=here)
        return json.loads((here / "saw.json").read_text()), hub.requests()


@pytest.mark.parametrize("name", ["files", "zipped", "table"])
def test_images_on_the_hub_are_read_in_place(on_the_hub, name):
    (splits, where, images), requests = on_the_hub[0][f"user/{name}"], on_the_hub[1]
    assert splits == ["train"]
    assert sorted(images) == sorted(
        [hashlib.sha256(data).hexdigest(), label] for data, label in expected_contents()
    )
    assert where.startswith(("hf://datasets/user/files@", "train/blue/11.jpg of hf://", "hf://"))
    calls = [one for one in requests if f"user/{name}" in one.path and "/api/" in one.path]
    print(name, [f"{one.method} {one.path}" for one in calls])
    assert len(calls) <= 8
