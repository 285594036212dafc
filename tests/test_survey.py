import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from convzoo.data.opening import open_split
from convzoo.inspection.survey import Survey, find_duplicates
from tests.support.images import coloured_images, encode, write_split

NAMES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """All that can be wrong with images, at known rows of two splits of 2 files each."""
    folder = tmp_path_factory.mktemp("data") / "mixed"
    images, labels = coloured_images(40, seed=3, side=(30, 31))
    wide = np.full((50, 120, 3), 90, np.uint8)
    images[5] = encode(wide, "PNG")
    images[6] = as_mode(wide, "CMYK")
    images[7] = as_mode(wide, "L")
    images[25] = images[25][:300]  # row 5 of the second file
    images[30] = b"no image"
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
def surveys(mixed):
    return {split: survey(mixed, split) for split in ("train", "test")}


def survey(folder, split="train", limit=0):
    return Survey(open_split(str(folder), split), limit=limit)


def test_rows_classes_and_sizes_are_those_that_were_written(surveys):
    train = surveys["train"].describe()
    assert (train["num_rows"], train["rows_read"], train["num_files"]) == (40, 40, 2)
    assert train["num_row_groups"] == 6  # 20 rows of each file in groups of 7
    assert train["labels"]["counts"] == [14, 13, 13]
    assert train["labels"]["names"] == list(NAMES)
    assert train["labels"]["imbalance"] == pytest.approx(14 / 13)
    assert train["sizes"]["width"] == {"min": 30, "5%": 30, "median": 30, "95%": 120, "max": 120}
    assert train["sizes"]["megapixels"]["max"] == pytest.approx(120 * 50 / 1e6)
    assert surveys["test"].describe()["labels"]["counts"] == [4, 4, 3]


def test_formats_modes_and_rotations_are_counted(surveys):
    train = surveys["train"].describe()
    assert train["formats"] == {"JPEG": 37, "PNG": 1}
    assert train["modes"] == {"RGB": 36, "CMYK": 1, "L": 1}
    assert train["rotated_by_exif"] == 1


def test_unreadable_images_are_found_with_file_and_row(surveys, mixed):
    found = surveys["train"].describe()["unreadable"]
    assert [entry["row"] for entry in found] == [25, 30]
    # The second file begins at row 20; its row groups have 7 rows.
    second = mixed / "data" / "train-00001-of-00002.parquet"
    assert [entry["where"] for entry in found] == [
        f"row 5 of row group 0 of {second}",
        f"row 3 of row group 1 of {second}",
    ]


def test_duplicates_are_counted_within_and_across_splits(surveys, mixed):
    found = find_duplicates(surveys)
    examples = found.pop("examples")
    assert [[(one["split"], one["row"]) for one in pair] for pair in examples] == [
        [("train", 1), ("train", 31)],
        [("train", 0), ("train", 32)],
        [("train", 2), ("test", 9)],
    ]
    where = f"row 4 of row group 1 of {mixed / 'data' / 'train-00001-of-00002.parquet'}"
    assert examples[0][1]["where"] == where  # row 31: the second file begins at row 20
    assert found == {
        "within_splits": 2,
        "across_splits": 1,
        "other_label": 2,  # row 32, and row 9 of test is of class 0 where row 2 is of class 2
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
    misnamed = survey(tmp_path / "named").describe()["misnamed"]
    expected = {"row": 4, "where": f"row 4 of row group 0 of {path}"}
    expected |= {"name": "n4.JPEG", "format": "PNG"}
    assert misnamed == {"count": 1, "examples": [expected]}


def test_a_folder_of_images_is_surveyed(tmp_path):
    images, labels = coloured_images(7, seed=0)
    images[3] = encode(np.zeros((9, 9, 3), np.uint8), "PNG")
    for number, (data, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "train" / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(data)
    train = survey(tmp_path).describe()
    assert dict(zip(train["labels"]["names"], train["labels"]["counts"], strict=True)) == {
        "blue": 2,
        "green": 2,
        "red": 3,
    }
    (misnamed,) = train["misnamed"]["examples"]
    assert misnamed["name"] == str(tmp_path / "train" / "red" / "3.jpg")


def test_a_limit_reads_rows_spread_over_the_whole_split(tmp_path):
    # Wider images toward the end: the widths that were read show where the rows were.
    images = [encode(np.zeros((8, 8 + row, 3), np.uint8), "PNG") for row in range(400)]
    labels = [row % 3 for row in range(400)]
    write_split(tmp_path / "wide", "train", images, labels, rows_per_group=9)
    train = survey(tmp_path / "wide", limit=80).describe()
    assert train["rows_read"] == 80
    for limit, read in ((399, 399), (400, 400), (1000, 400)):
        assert survey(tmp_path / "wide", limit=limit).rows_read == read
    assert train["labels"]["counts"] == [134, 133, 133]  # labels are counted in all rows
    width = train["sizes"]["width"]
    assert width["min"] == 8 and width["max"] > 8 + 340
    assert width["median"] == pytest.approx(8 + 200, abs=40)


def facts(survey):
    return (
        *(survey.describe(), survey.rows, survey.sample, [tiny.tolist() for tiny in survey.tiny]),
        {
            label: [(image.size, image.tobytes()) for image in images]
            for label, images in survey.thumbnails.items()
        },
    )


@pytest.mark.parametrize(("limit", "piece"), [(0, 3), (20, 64)])
def test_two_processes_find_the_same_as_one(limit, piece, *, mixed, monkeypatch):
    alone = facts(survey(mixed, limit=limit))
    assert len(alone[2]) > 10 and alone[0]["rows_read"] == (limit or 40)
    monkeypatch.setattr("convzoo.inspection.examination.PIECE", piece)
    for number in (0, 2):
        source = open_split(str(mixed), "train")
        assert facts(Survey(source, limit=limit, num_workers=number)) == alone
