import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from convzoo.inspection import Survey, contact_sheet, inspect_dataset, summary
from convzoo.sources import open_source
from tests.conftest import ROOT, coloured_images, encode, write_split

NAMES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """All that can be wrong with pictures, at known rows of two splits of 2 files each."""
    folder = tmp_path_factory.mktemp("data") / "mixed"
    images, labels = coloured_images(40, seed=3, side=(30, 31))
    wide = np.full((50, 120, 3), 90, np.uint8)
    images[5] = encode(wide, "PNG")
    images[6] = as_mode(wide, "CMYK")
    images[7] = as_mode(wide, "L")
    images[25] = images[25][:300]  # row 5 of the second file
    images[30] = b"no picture"
    images[31] = images[1]  # the same class
    images[32] = images[0]  # another class
    images[33] = as_mode(wide, "RGB", exif=orientation(6))
    write_split(folder, "train", images, labels)
    others, other_labels = coloured_images(11, seed=4)
    others[9] = images[2]
    write_split(folder, "test", others, other_labels)
    return folder


def as_mode(pixels, mode, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.fixture(scope="module")
def report(mixed, tmp_path_factory):
    output = tmp_path_factory.mktemp("inspection")
    return inspect_dataset(str(mixed), "command", output=str(output)) | {"output": output}


def test_rows_classes_and_sizes_are_those_that_were_written(report):
    train = report["splits"]["train"]
    assert (train["num_rows"], train["rows_read"], train["num_files"]) == (40, 40, 2)
    assert train["num_row_groups"] == 6  # 20 rows of each file in groups of 7
    assert train["labels"]["counts"] == [14, 13, 13]
    assert train["labels"]["names"] == list(NAMES)
    assert train["labels"]["imbalance"] == pytest.approx(14 / 13)
    assert train["sizes"]["width"] == {"min": 30, "5%": 30, "median": 30, "95%": 120, "max": 120}
    assert train["sizes"]["megapixels"]["max"] == pytest.approx(120 * 50 / 1e6)
    assert report["splits"]["test"]["labels"]["counts"] == [4, 4, 3]


def test_formats_modes_and_rotations_are_counted(report):
    train = report["splits"]["train"]
    assert train["formats"] == {"JPEG": 37, "PNG": 1}
    assert train["modes"] == {"RGB": 36, "CMYK": 1, "L": 1}
    assert train["rotated_by_exif"] == 1


def test_unreadable_pictures_are_found_with_file_and_row(report, mixed):
    found = report["splits"]["train"]["unreadable"]
    assert [entry["row"] for entry in found] == [25, 30]
    # The second file begins at row 20; its row groups have 7 rows.
    second = mixed / "data" / "train-00001-of-00002.parquet"
    assert [entry["where"] for entry in found] == [
        f"row 5 of row group 0 of {second}",
        f"row 3 of row group 1 of {second}",
    ]


def test_duplicates_are_counted_within_and_across_splits(report):
    assert report["duplicates"] == {
        "within_splits": 2,
        "across_splits": 1,
        "other_label": 2,  # row 32, and row 9 of test is of class 0 where row 2 is of class 2
        "examples": [
            [["train", 1], ["train", 31]],
            [["train", 0], ["train", 32]],
            [["train", 2], ["test", 9]],
        ],
    }


def test_a_png_named_jpeg_is_found(tmp_path):
    images, labels = coloured_images(6, seed=0)
    images[4] = encode(np.zeros((9, 9, 3), np.uint8), "PNG")
    write_split(tmp_path / "named", "train", images, labels, files=1)
    path = tmp_path / "named" / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    rows = [{"bytes": data, "path": f"n{i}.JPEG"} for i, data in enumerate(images)]
    column = pa.array(rows, table.schema.field("image").type)
    pq.write_table(table.set_column(0, table.schema.field("image"), column), path)
    misnamed = inspect_dataset(str(tmp_path / "named"), "")["splits"]["train"]["misnamed"]
    expected = {"row": 4, "where": f"row 4 of row group 0 of {path}"}
    expected |= {"name": "n4.JPEG", "format": "PNG"}
    assert misnamed == {"count": 1, "examples": [expected]}


def test_a_folder_of_pictures_is_inspected(tmp_path):
    images, labels = coloured_images(7, seed=0)
    images[3] = encode(np.zeros((9, 9, 3), np.uint8), "PNG")
    for number, (data, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "train" / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(data)
    train = inspect_dataset(str(tmp_path), "")["splits"]["train"]
    assert dict(zip(train["labels"]["names"], train["labels"]["counts"], strict=True)) == {
        "blue": 2,
        "green": 2,
        "red": 3,
    }
    (misnamed,) = train["misnamed"]["examples"]
    assert misnamed["name"] == str(tmp_path / "train" / "red" / "3.jpg")


def test_the_text_and_the_json_say_it(report):
    text = summary(report)
    for part in ("[train] 40 pictures", "unreadable     2", "2 within a split, 1 across splits"):
        assert part in text
    numbers = {key: value for key, value in report.items() if key != "output"}
    assert json.loads(json.dumps(numbers)) == numbers


def test_pictures_are_drawn(report):
    with Image.open(report["output"] / "contact_sheet.png") as sheet:
        assert sheet.size[0] > sheet.size[1]  # 3 rows of 10
        sheet = np.asarray(sheet).astype(int)
    third = len(sheet) // 3
    for row, channel in ((0, 0), (1, 1), (2, 2)):  # red, green and blue pictures
        cells = sheet[row * third : row * third + 100, 16:100].mean(axis=(0, 1))
        assert cells.argmax() == channel
    with Image.open(report["output"] / "histograms.png") as histograms:
        assert len(np.unique(np.asarray(histograms.convert("L")))) > 50


def test_many_classes_get_one_thumbnail_each_up_to_100(tmp_path):
    pixels = [np.full((8, 8, 3), [label, 0, 255 - label], np.uint8) for label in range(130)]
    images = [encode(image, "PNG") for image in pixels]
    names = [f"class {label}" for label in range(130)]
    write_split(tmp_path / "many", "train", images, list(range(130)), names=names)
    sheet = contact_sheet(Survey(open_source(str(tmp_path / "many"), "train"), 0))
    colours = {colour for _, colour in sheet.getcolors(2**24) if colour[0] + colour[2] == 255}
    assert {red for red, green, _ in colours if not green} == {130 * i // 100 for i in range(100)}


def test_a_limit_reads_rows_spread_over_the_whole_split(tmp_path):
    # Wider pictures toward the end: the widths that were read show where the rows were.
    images = [encode(np.zeros((8, 8 + row, 3), np.uint8), "PNG") for row in range(400)]
    labels = [row % 3 for row in range(400)]
    write_split(tmp_path / "wide", "train", images, labels, rows_per_group=9)
    train = inspect_dataset(str(tmp_path / "wide"), "", limit=80)["splits"]["train"]
    assert train["rows_read"] == 80
    for limit, read in ((399, 399), (400, 400), (1000, 400)):
        report = inspect_dataset(str(tmp_path / "wide"), "", limit=limit)
        assert report["splits"]["train"]["rows_read"] == read
    assert train["labels"]["counts"] == [134, 133, 133]  # labels are counted in all rows
    width = train["sizes"]["width"]
    assert width["min"] == 8 and width["max"] > 8 + 340
    assert width["median"] == pytest.approx(8 + 200, abs=40)


def test_labels_outside_the_classes_are_reported_and_not_fatal(tmp_path):
    images, labels = coloured_images(9, seed=0)
    write_split(tmp_path / "hidden", "train", images, labels)
    write_split(tmp_path / "hidden", "test", images, [-1] * 9)
    report = inspect_dataset(str(tmp_path / "hidden"), "")
    test = report["splits"]["test"]
    assert test["labels"]["outside_the_classes"] == {"-1": 9}
    assert test["rows_read"] == 0 and report["splits"]["train"]["rows_read"] == 9
    assert "labels outside [0, 2] (-1: 9 rows)" in summary(report)


def test_a_split_without_a_readable_picture_is_described(tmp_path):
    write_split(tmp_path / "bad", "train", [b"?"] * 4, [0, 1, 2, 0], files=1)
    report = inspect_dataset(str(tmp_path / "bad"), "", output=str(tmp_path / "out"))
    assert len(report["splits"]["train"]["unreadable"]) == 4
    assert report["speed"] is None and report["doctor"] is None
    assert "unreadable     4" in summary(report)


def test_settings_and_data_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="gpus at least 1 .*; got 0, 0 and 2500"):
        inspect_dataset(str(ROOT / "data/fashion-mnist"), "", num_gpus=0)
    with pytest.raises(FileNotFoundError, match="must be a folder with parquet files or a Hub"):
        inspect_dataset(str(tmp_path / "nothing"), "")
