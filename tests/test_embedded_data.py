"""The embedded data: what is checked in, and the readers and writers that made it."""

import collections
import gzip
import hashlib
import io
import json
import re
import struct
import zlib
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image, ImageCms

from convzoo.data.opening import open_split
from data import make_fashion_mnist, make_photos

DATA = Path(__file__).parents[1] / "data"
FASHION_MNIST = DATA / "fashion-mnist"
PHOTOS = DATA / "photos"


# Fashion-MNIST: the files


@pytest.fixture(scope="module")
def fashion_mnist():
    """Split to decoded images (N, 28, 28) and labels (N,), read with pyarrow and Pillow only."""
    splits = {}
    for split in ("train", "test"):
        tables = [pq.read_table(path) for path in sorted(FASHION_MNIST.glob(f"data/{split}-*"))]
        rows = [row for table in tables for row in table["image"].to_pylist()]
        images = [Image.open(io.BytesIO(row["bytes"])) for row in rows]
        assert {(image.format, image.mode) for image in images} == {("PNG", "L")}
        labels = np.concatenate([table["label"].to_numpy() for table in tables])
        splits[split] = np.stack([np.asarray(image) for image in images]), labels
    return splits


@pytest.fixture(scope="module")
def card():
    return yaml.safe_load((FASHION_MNIST / "README.md").read_text("utf-8").split("---\n")[1])


def test_every_class_occurs_equally_often_in_a_split(fashion_mnist):
    for split, count in (("train", 1200), ("test", 200)):
        images, labels = fashion_mnist[split]
        assert images.shape == (10 * count, 28, 28)
        assert collections.Counter(labels.tolist()) == dict.fromkeys(range(10), count)


def test_no_image_occurs_twice_in_or_across_splits(fashion_mnist):
    images = np.concatenate([images for images, _ in fashion_mnist.values()])
    assert len({image.tobytes() for image in images}) == 14_000


def test_labels_belong_to_their_images(fashion_mnist):
    train_images, train_labels = fashion_mnist["train"]
    test_images, test_labels = fashion_mnist["test"]
    means = np.stack([train_images[train_labels == label].mean(axis=0) for label in range(10)])
    distances = ((test_images[:, None] - means[None]) ** 2).sum(axis=(2, 3))
    accuracy = (distances.argmin(axis=1) == test_labels).mean()
    # The whole data set, 60,000 against 10,000 images, gives 0.6768 by the same rule.
    assert accuracy == pytest.approx(0.6768, abs=0.03)


def test_rows_are_shuffled(fashion_mnist):
    _, labels = fashion_mnist["train"]
    assert all(len(set(labels[start : start + 100])) == 10 for start in range(0, 12_000, 100))


def test_shards_have_the_layout_of_the_hub():
    row_groups = {
        path.name: [
            metadata.row_group(index).num_rows
            for metadata in [pq.read_metadata(path)]
            for index in range(metadata.num_row_groups)
        ]
        for path in (FASHION_MNIST / "data").iterdir()
    }
    train = {f"train-{shard:05d}-of-00004.parquet": [500] * 6 for shard in range(4)}
    assert row_groups == train | {"test-00000-of-00001.parquet": [500] * 4}
    assert sum(path.stat().st_size for path in FASHION_MNIST.rglob("*")) < 8_000_000


def test_class_names_of_card_and_every_shard_agree(card):
    image, label = card["dataset_info"]["features"]
    names = label["dtype"]["class_label"]["names"]
    assert list(names) == [str(index) for index in range(10)]
    assert (names["0"], names["9"]) == ("T - shirt / top", "Ankle boot")
    assert image == {"name": "image", "dtype": "image"}
    for path in (FASHION_MNIST / "data").iterdir():
        features = json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]
        assert features["label"] == {"_type": "ClassLabel", "names": list(names.values())}
        assert features["image"] == {"_type": "Image"}


def test_datasets_loads_the_folder_as_its_card_says(card, fashion_mnist, tmp_path):
    # load_dataset itself refuses other numbers of examples than the card states.
    dataset = datasets.load_dataset(str(FASHION_MNIST), cache_dir=str(tmp_path))
    info = card["dataset_info"]
    assert dataset["train"].info.download_size == info["download_size"]
    for split in info["splits"]:
        assert dataset[split["name"]].info.splits[split["name"]].num_bytes == split["num_bytes"]
        assert dataset[split["name"]].features["label"].int2str(9) == "Ankle boot"
        images, labels = fashion_mnist[split["name"]]
        example = dataset[split["name"]][-1]
        np.testing.assert_array_equal(np.asarray(example["image"]), images[-1])
        assert example["label"] == labels[-1]


def test_fashion_mnist_readme_lists_the_checksum_of_every_file():
    text = (FASHION_MNIST / "README.md").read_text("utf-8")
    stated = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", text, re.M)}
    files = (FASHION_MNIST / "data").iterdir()
    actual = {f"data/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert stated == actual


# Fashion-MNIST: the script


compress = partial(gzip.compress, mtime=0)  # the same bytes in every process


def idx_bytes(sizes, data, header=b"\x00\x00\x08"):
    return header + bytes([len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + bytes(data)


def test_read_idx_returns_the_array_in_the_shape_of_the_header(tmp_path):
    path = tmp_path / "tiny.gz"
    content = idx_bytes((2, 1, 3), [0, 1, 2, 253, 254, 255])
    path.write_bytes(compress(content))
    array = make_fashion_mnist.read_idx(path, hashlib.sha256(content).hexdigest())
    assert array.dtype == np.uint8
    assert array.tolist() == [[[0, 1, 2]], [[253, 254, 255]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plainly not gzip", "must be a complete gzip file"),
        (compress(idx_bytes((2,), [1, 2]))[:-9], "must be a complete gzip file"),
        (compress(b""), "must begin with an IDX header"),
        (compress(b"\x00\x00\x08\x03\x00\x00"), "must begin with an IDX header"),
        (compress(idx_bytes((2,), [1, 2], b"\x00\x00\x0d")), "must begin with an IDX header"),
        (compress(idx_bytes((2, 2), [1, 2, 3])), r"4 bytes after its header.*\(2, 2\); got 3"),
        (compress(idx_bytes((2,), [1, 2, 3])), r"2 bytes after its header.*got 3"),
        (compress(idx_bytes((2,), [1, 2])), "must uncompress to the original"),
    ],
)
def test_read_idx_refuses_what_is_not_the_expected_idx(tmp_path, content, message):
    path = tmp_path / "wrong.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"wrong.gz .*{message}"):
        make_fashion_mnist.read_idx(path, "0" * 64)


def test_fashion_mnist_script_writes_nothing_from_wrong_sources(tmp_path):
    arguments = ["--source", str(tmp_path), "--output", str(tmp_path / "output")]
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte.gz must exist"):
        make_fashion_mnist.main(arguments)
    tiny = compress(idx_bytes((1, 2, 2), range(4)))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(tiny)
    with pytest.raises(ValueError, match="must uncompress to the original"):
        make_fashion_mnist.main(arguments)
    assert not (tmp_path / "output").exists()


def test_choose_follows_the_hash_of_the_position():
    # `printf 42/train/<position> | sha256sum` puts 0 to 5 in the order 3 1 4 0 5 2, and in the
    # order 3 1 0 2 4 5 when the bytes of each hash are reversed.
    assert make_fashion_mnist.choose(np.zeros(6, np.uint8), "train", 6) == [3, 1, 0, 2, 4, 5]
    assert make_fashion_mnist.choose(np.array([0, 1, 1, 1, 0, 0]), "train", 2) == [3, 1, 0, 4]
    with pytest.raises(ValueError, match=r"every class of train must have 2 images; got .*1: 1"):
        make_fashion_mnist.choose(np.array([0, 1, 0]), "train", 2)


def test_write_shards_keeps_every_pixel_and_repeats_its_bytes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1205, 4, 6), dtype=np.uint8)
    labels = (np.arange(1205) % 10).astype(np.uint8)
    paths = make_fashion_mnist.write_shards(
        tmp_path / "first", "test", images=pixels, labels=labels, num_shards=2
    )
    assert [path.name for path in paths] == [f"test-0000{i}-of-00002.parquet" for i in range(2)]
    assert [pq.read_metadata(path).num_row_groups for path in paths] == [2, 2]
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows])
    np.testing.assert_array_equal(decoded, pixels)
    assert [row["label"] for row in rows] == labels.tolist()
    again = make_fashion_mnist.write_shards(
        tmp_path / "again", "test", images=pixels, labels=labels, num_shards=2
    )
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


# Photographs: the files


@pytest.fixture(scope="module")
def credit_rows():
    lines = (PHOTOS / "CREDITS.md").read_text("utf-8").splitlines()
    rows = [line[2:-2].split(" | ") for line in lines if line.startswith("| ")]
    assert rows[0] == ["file", "subject", "author", "source", "licence"]
    return rows[2:]


def test_every_photo_is_credited_once_and_every_credit_has_its_photo(credit_rows):
    files = sorted(path.name for path in PHOTOS.glob("*.jpg"))
    assert [row[0] for row in credit_rows] == files
    subjects = [subject for names in make_photos.PHOTOS.values() for subject in names.values()]
    assert sorted(row[1] for row in credit_rows) == sorted(subjects)
    readme = (PHOTOS / "README.md").read_text("utf-8")
    assert f"{len(files)} colour photographs" in readme


def test_every_credit_names_author_source_and_a_free_licence(credit_rows):
    for file_name, _, author, source, licence in credit_rows:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*\.jpg", file_name)
        assert author.strip() and author.lower() not in {"anonymous", "unknown"}
        assert re.fullmatch(r"<https://\S+>", source)
        assert licence in {"public domain", "CC0-1.0"}


def test_every_photo_has_one_of_three_classes():
    lines = (PHOTOS / "metadata.csv").read_text("utf-8").splitlines()
    assert lines[0] == "file_name,label"
    classes = dict(line.split(",") for line in lines[1:])
    assert sorted(classes) == sorted(path.name for path in PHOTOS.glob("*.jpg"))
    assert collections.Counter(classes.values()) == {"animal": 37, "object": 30, "structure": 45}
    readme = (PHOTOS / "README.md").read_text("utf-8")
    assert "an animal (37), an object (30) or a structure (45)" in readme
    ours = open_split(str(PHOTOS), "train")
    assert (ours.num_rows, list(ours.label_names)) == (112, ["animal", "object", "structure"])


def test_photos_are_small_colour_jpegs_of_many_shapes_without_metadata():
    paths = list(PHOTOS.glob("*.jpg"))
    assert 100 <= len(paths) <= 200
    assert sum(path.stat().st_size for path in paths) <= 2_500_000
    ratios = set()
    for path in paths:
        image = Image.open(path)
        image.load()
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert 300 < max(image.size) <= 384 and min(image.size) > 100
        assert not {"exif", "icc_profile", "comment"} & set(image.info)
        assert np.ptp(np.asarray(image, dtype=np.int16), axis=2).max() > 20, f"{path} is grey"
        ratios.add(round(image.width / image.height, 1))
    assert min(ratios) <= 0.5 and max(ratios) >= 2.5 and 1.0 in ratios
    assert len(ratios) > 12
    assert len({path.read_bytes() for path in paths}) == len(paths)


# Photographs: the script


def rcc_bytes():
    """A resource file of format version 3: README, plain, and a/b.webp, compressed."""

    def node(name, flags, first, second):
        return struct.pack(">IHIIQ", name, flags, first, second, 0)

    names, offsets = b"", []
    for name in ("README", "a", "b.webp"):
        offsets.append(len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    blobs = [b"text", struct.pack(">I", 60) + zlib.compress(b"pixels" * 10)]
    data = b"".join(struct.pack(">I", len(blob)) + blob for blob in blobs)
    locale = 1  # upper half country, lower half language, of a file
    tree = (
        node(0, 2, 2, 1)
        + node(offsets[0], 0, locale, 0)
        + node(offsets[1], 2, 1, 3)
        + node(offsets[2], 1, locale, 4 + len(blobs[0]))
    )
    header = struct.pack(">4s4I", b"qres", 3, 24, 24 + len(tree), 24 + len(tree) + len(data))
    return header + bytes(4) + tree + data + names


def test_read_rcc_returns_plain_and_compressed_files_by_path():
    assert make_photos.read_rcc(rcc_bytes()) == {"README": b"text", "a/b.webp": b"pixels" * 10}
    with pytest.raises(ValueError, match="must begin with 'qres'"):
        make_photos.read_rcc(b"GIF89a" + bytes(40))


def test_read_credits_keeps_only_named_authors_and_free_licences():
    text = """Copyright: Ann
Source: https://example.org/a_(1).jpg
License: Public Domain
Files:
one.webp

Files: two.webp three.webp
License: CC0-1.0
Copyright:
  Bob
Comments: cropping, sharpening
Source: https://example.org/b.jpg

Copyright: Cid
Source: https://example.org/c.jpg
License: CC-BY-SA-4.0
Files: four.webp

Copyright: Anonymous
Source: https://example.org/d.jpg
License: CC0-1.0
Files: five.webp

Copyright: Eve
License: Public domain
Files: six.webp
"""
    bob = ("Bob", "https://example.org/b.jpg", "CC0-1.0")
    assert make_photos.read_credits(text) == {
        "one.webp": ("Ann", "https://example.org/a_(1).jpg", "public domain"),
        "two.webp": bob,
        "three.webp": bob,
    }


def test_encode_jpeg_scales_down_and_converts_to_srgb():
    # A colour space whose red is the blue of sRGB, and the other way round.
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")
    for profile, colour in ((None, (200, 90, 20)), (srgb, (200, 90, 20)), (swapped, (20, 90, 200))):
        buffer = io.BytesIO()
        Image.new("RGB", (1000, 500), (200, 90, 20)).save(buffer, "PNG", icc_profile=profile)
        image = Image.open(io.BytesIO(make_photos.encode_jpeg(buffer.getvalue())))
        assert (image.format, image.size) == ("JPEG", (384, 192))
        np.testing.assert_allclose(image.getpixel((9, 9)), colour, atol=3)


def test_photo_script_writes_nothing_from_wrong_sources(tmp_path):
    arguments = ["--source", str(tmp_path), "--output", str(tmp_path / "output")]
    with pytest.raises(FileNotFoundError, match="categorization.rcc must exist"):
        make_photos.main(arguments)
    (tmp_path / "categorization.rcc").write_bytes(rcc_bytes())
    with pytest.raises(ValueError, match="categorization.rcc must have SHA-256 .*gcompris-qt-data"):
        make_photos.main(arguments)
    assert not (tmp_path / "output").exists()
