import os

import pytest
from PIL import Image

from convzoo.prediction.image_names import find_images
from tests.support.images import encode, smooth_image

PNG = encode(smooth_image(8, 8), "PNG")


def nothing():
    raise AssertionError("standard input was read")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Messy names: spaces, umlauts, brackets, upper case, hidden, links."""
    monkeypatch.chdir(tmp_path)
    names = ["b.png", "a [1].PNG", "sub dir/\u00fcber.png", "sub dir/deep/c.png", ".hidden.png"]
    for name in [*names, "sub dir/.git/x.png", "sub dir/__MACOSX/y.png", "none/readme.md"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


FOUND = ["a [1].PNG", "b.png", "sub dir/deep/c.png", "sub dir/\u00fcber.png"]


def names(*words, data=None):
    return find_images(words, nothing if data is None else lambda: data).names


def test_a_folder_is_listed_as_training_lists_it(folder):
    (folder / "sub dir/loop").symlink_to(folder)
    (folder / "gone.png").symlink_to("nowhere")  # will be reported as unreadable
    assert names(".") == [*FOUND[:2], "gone.png", *FOUND[2:]]
    assert names(str(folder / "sub dir")) == [
        *(str(folder / "sub dir/deep/c.png"), str(folder / "sub dir/loop/a [1].PNG")),
        *(str(folder / "sub dir/loop/b.png"), str(folder / "sub dir/loop/gone.png")),
        str(folder / "sub dir/\u00fcber.png"),
    ]


def test_patterns_that_the_shell_left_are_followed(folder):
    assert names("*.png") == ["b.png"]
    assert names("**/*.png") == FOUND[1:]
    assert names("a [1].PNG") == ["a [1].PNG"]  # there is such a file
    assert sorted(names("**")) == sorted(FOUND)
    assert names("sub*") == ["sub dir/deep/c.png", "sub dir/\u00fcber.png"]
    (folder / "sub dir/loop").symlink_to(folder)
    assert len(names("**/*.png")) == 3


def test_files_are_taken_as_they_are_called_and_as_often(folder):
    words = ["b.png", "notes.txt", "missing.png", "b.png"]
    assert names(*words) == words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], r"none must be an image file, or a folder .*none \(left out: 1 \*\.md"),
        (["*.gif"], r"the pattern \*\.gif must match images; it matches nothing"),
        (["*.txt"], r"it matches 1 files or folders, and no image"),
        (["-", "-"], "standard input, -, must be named once"),
        (["b.png", "https://a/x.png", "HTTP://b"], "--allow-urls only; got https://a/x.png and 1"),
    ],
)
def test_what_means_no_image_stops_before_the_first(folder, words, message):
    with pytest.raises(ValueError, match=message):
        names(*words, data=PNG)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"b.png\na b.png\n\n", ["b.png", "a b.png"]),
        (b"b.png\r\n \r\n", ["b.png", " "]),
        (b"new\nline.png\0b.png\0", ["new\nline.png", "b.png"]),
        (b"BM.bmp\n*.png", ["BM.bmp", "*.png"]),  # no pattern, and no image that starts with BM
        (b"\xff\xfe.png", [os.fsdecode(b"\xff\xfe.png")]),
    ],
)
def test_standard_input_has_names(data, expected):
    assert names("-", data=data) == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "TGA"])
def test_standard_input_may_be_an_image(kind):
    data = encode(smooth_image(8, 8), kind)
    found = find_images(["x.png", "-"], lambda: data)
    assert found.names == ["x.png", "-"] and found.standard_input == data


def test_an_empty_standard_input_is_no_list():
    with pytest.raises(ValueError, match="standard input must be an image or a list of names"):
        names("-", data=b"\n")


def test_urls_are_names_where_they_are_allowed():
    urls = ["https://a.org/x.png?size=[1]", "http://b"]
    assert find_images(urls, nothing, allow_urls=True).names == urls
    found = find_images(["-"], lambda: "\n".join(urls).encode(), allow_urls=True)
    assert found.names == urls


def test_a_large_image_on_standard_input_is_known_by_its_header():
    """Nothing of it is decoded: 100 megapixels of one colour are a file of 0.3 MB."""
    from io import BytesIO

    buffer = BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG")
    assert names("-", data=buffer.getvalue()) == ["-"]
