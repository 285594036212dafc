"""What is found in a tar, and which tars are refused; compared with what tarfile extracts."""

import gzip
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from convzoo.data.tar_index import index_tars
from tests.support.image_datasets import add_member


def write(path, *members, **settings):
    """A tar of (name, bytes) or TarInfo."""
    with tarfile.open(path, "w", **settings) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                add_member(tar, *member)
    return str(path)


def index(path):
    (table,) = index_tars([path], "a test")
    return table


def extracted(path, table):
    """The bytes of each image by its place in the index, and by tarfile."""
    data = Path(path).read_bytes()
    places = zip(*(table[key].to_pylist() for key in ("offset", "length")), strict=True)
    with tarfile.open(path) as tar:
        expected = [tar.extractfile(name).read() for name in table["name"].to_pylist()]
    return [data[start : start + length] for start, length in places], expected


LONG = "d/" * 60 + "n" * 120


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_images_are_found_with_their_labels_whatever_the_order(tmp_path, kind):
    members = [
        ("a/1.cls", b"3"),
        ("a/1.jpg", b"one"),
        ("2.JPG", b"second"),
        ("\u00e9.jpg" if kind != tarfile.USTAR_FORMAT else "e.jpg", b""),
        ("2.json", b'{"label": 1}'),
        ("2.txt", b"a caption"),
        ("2.CLS", b"cat\n"),
        ("lone.cls", b"9"),
        ("._1.jpg", b"of a Mac"),
    ]
    if kind != tarfile.USTAR_FORMAT:
        members.append((f"{LONG}.png", b"long"))
    folder = tarfile.TarInfo("a")
    folder.type = tarfile.DIRTYPE
    path = write(tmp_path / "x.tar", folder, *members, format=kind)
    table = index(path)
    assert table["cls"].to_pylist()[:3] == ["3", "cat\n", None]
    assert table["json"].to_pylist()[:2] == [None, '{"label": 1}']
    assert table["suffix"].to_pylist()[:2] == ["jpg", "jpg"]
    assert table["key"].to_pylist()[:2] == ["a/1", "2"]
    assert table.num_rows == len(members) - 6
    found, expected = extracted(path, table)
    assert found == expected


def test_a_gnu_tar_of_long_names_is_read(tmp_path):
    """Written by the tar of the system, where it is GNU's."""
    (tmp_path / "in" / "d").mkdir(parents=True)
    name = "in/d/" + "x" * 150 + ".jpg"
    (tmp_path / name).write_bytes(b"content")
    subprocess.run(["tar", "-cf", "x.tar", name], cwd=tmp_path, check=True)
    found, expected = extracted(tmp_path / "x.tar", index(str(tmp_path / "x.tar")))
    assert found == expected == [b"content"]


def link(kind):
    member = tarfile.TarInfo("b.jpg")
    member.type, member.linkname = kind, "a.jpg"
    return member


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", b"1"), link(tarfile.SYMTYPE)], "b.jpg of .*x.tar is a link to a.jpg. Write t"),
        ([("a.jpg", b"1"), link(tarfile.LNKTYPE)], "tar --dereference --hard-dereference"),
        ([("a.jpg", b"1"), link(tarfile.FIFOTYPE)], "must be plain files; b.jpg of .* is none"),
        ([("a.jpg", b"1"), ("a.jpg", b"2")], "a.jpg of .* comes twice, again at byte 1024. Wri"),
        ([("a.cls", b"1"), ("a.cls", b"1")], "must hold each member once; a.cls of"),
    ],
)
def test_members_that_cannot_be_read_in_place_are_refused(tmp_path, members, message):
    with pytest.raises(ValueError, match=message):
        index(write(tmp_path / "x.tar", *members))


def test_a_sparse_member_is_refused(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1_000_000)
    subprocess.run(["tar", "-S", "-cf", "x.tar", "a.jpg"], cwd=tmp_path, check=True)
    with pytest.raises(ValueError, match="a sparse file, say.*without `tar -S`"):
        index(str(tmp_path / "x.tar"))


WHOLE = io.BytesIO()
with tarfile.open(fileobj=WHOLE, mode="w") as _tar:
    for _number in range(3):
        add_member(_tar, f"{_number}.jpg", bytes([_number + 1]) * 700)  # 512 + 1024 bytes each
WHOLE = WHOLE.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be a whole tar; at byte 0 of 0: empty file"),
        (WHOLE[:300], "at byte 300 of 300: truncated header"),
        (WHOLE[:1000], "must be a whole tar; at byte .* of 1000: unexpected end of data"),
        (WHOLE[: 1536 * 2 + 100], "3172.*It may have been cut off"),
        (WHOLE[: 1536 * 3], "must end with blocks of zeros, .* it ends at byte 4608 without"),
        (WHOLE[: 1536 * 3] + b"x" * 512, "at byte 4608 it has no header of a member"),
        (WHOLE + WHOLE, "at byte 4608 it has more after the end of the tar"),
        (gzip.compress(WHOLE), "tars must not be compressed, .* x.tar is. Decompress it: `gunz"),
        (b"a text that is no tar" * 99, "must be a whole tar; at byte .*: "),
    ],
)
def test_a_tar_that_is_cut_off_damaged_or_none_is_refused_with_its_place(
    tmp_path, content, message
):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(ValueError, match=message.replace(" x.tar", " .*x.tar")):
        index(str(tmp_path / "x.tar"))


def test_an_index_is_kept_until_the_file_changes(tmp_path):
    path = write(tmp_path / "x.tar", ("a.jpg", b"1"))
    first = index(path)
    status = os.stat(path)
    (tmp_path / "x.tar").write_bytes(bytes(status.st_size))  # in place: size and time as before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert index(path).equals(first)
    write(tmp_path / "x.tar", ("b.jpg", b"2"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert index(path)["name"].to_pylist() == ["b.jpg"]


def test_a_folder_that_cannot_be_written_costs_the_index_only(tmp_path, monkeypatch):
    path = write(tmp_path / "x.tar", ("a.jpg", b"1"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("convzoo.data.tar_index.HF_ASSETS_CACHE", str(tmp_path / "file"))
    assert index(path).num_rows == 1
