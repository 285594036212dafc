import json

import pytest
from PIL import Image

from convzoo.inspection.dataset import Demand, inspect_dataset
from convzoo.inspection.dataset_report import dataset_report_text
from tests.support.clients import ROOT
from tests.support.images import coloured_images, write_split


def test_the_text_the_json_and_the_images_say_it(tmp_path):
    images, labels = coloured_images(40, seed=3)
    images[25] = images[25][:300]  # row 5 of the second file, whose row groups have 7 rows
    images[30] = b"no image"
    images[31] = images[1]
    write_split(tmp_path / "data", "train", images, labels)
    others, other_labels = coloured_images(11, seed=4)
    others[9] = images[2]
    write_split(tmp_path / "data", "test", others, other_labels)
    report = inspect_dataset(str(tmp_path / "data"), command="", output=str(tmp_path / "out"))
    assert json.loads(json.dumps(report)) == report
    text = dataset_report_text(report)
    for part in ("[train] 40 images", "unreadable     2 (5.00%)", "1 within a split, 1 across"):
        assert part in text
    second = tmp_path / "data" / "data" / "train-00001-of-00002.parquet"
    assert f"row 5 of row group 0 of {second}: " in text
    first = tmp_path / "data" / "data" / "train-00000-of-00002.parquet"
    assert f"is row 2 of row group 0 of {first}\n" in text
    assert report["speed"]["split"] == "train"
    assert len(report["figures"]) == 2
    for name in report["figures"]:
        assert name in text
        with Image.open(name) as image:
            image.load()


def test_labels_outside_the_classes_are_reported_and_not_fatal(tmp_path):
    images, labels = coloured_images(9, seed=0)
    write_split(tmp_path / "hidden", "train", images, labels)
    write_split(tmp_path / "hidden", "test", images, [-1] * 9)
    report = inspect_dataset(str(tmp_path / "hidden"), command="")
    test = report["splits"]["test"]
    assert test["labels"]["outside_the_classes"] == {"-1": 9}
    assert test["rows_read"] == 0 and report["splits"]["train"]["rows_read"] == 9
    assert "labels outside [0, 2] (-1: 9 rows)" in dataset_report_text(report)


def test_an_empty_split_stops_it_before_any_image_is_read(tmp_path, capsys):
    write_split(tmp_path / "data", "train", *coloured_images(9, seed=0))
    write_split(tmp_path / "data", "test", [], [], files=1)
    with pytest.raises(FileNotFoundError, match="Leave split 'test' out with --splits train"):
        inspect_dataset(str(tmp_path / "data"), command="")
    assert "inspect train" not in capsys.readouterr().err  # the progress bar of reading


def test_a_split_without_a_readable_image_is_described(tmp_path):
    write_split(tmp_path / "bad", "train", [b"?"] * 4, [0, 1, 2, 0], files=1)
    report = inspect_dataset(str(tmp_path / "bad"), command="", output=str(tmp_path / "out"))
    assert len(report["splits"]["train"]["unreadable"]) == 4
    assert report["speed"] is None and report["doctor"] is None
    assert "unreadable     4" in dataset_report_text(report)


def test_settings_and_data_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="gpus at least 1 .*; got 0, 0 and 2500"):
        inspect_dataset(str(ROOT / "data/fashion-mnist"), command="", demand=Demand(num_gpus=0))
    with pytest.raises(FileNotFoundError, match="must be a folder that exists, or a Hub"):
        inspect_dataset(str(tmp_path / "nothing"), command="")
