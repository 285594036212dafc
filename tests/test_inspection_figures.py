import logging

import numpy as np
from PIL import Image

from convzoo.data.opening import open_split
from convzoo.inspection.figures import contact_sheet, save_histograms
from convzoo.inspection.survey import Survey
from tests.support.images import coloured_images, encode, write_split


def test_classes_have_rows_of_thumbnails_and_histograms_are_drawn(tmp_path):
    write_split(tmp_path / "colours", "train", *coloured_images(40, seed=3, side=(30, 31)))
    survey = Survey(open_split(str(tmp_path / "colours"), "train"))
    sheet = contact_sheet(survey)
    assert sheet.size[0] > sheet.size[1]  # 3 rows of 10
    sheet = np.asarray(sheet).astype(int)
    third = len(sheet) // 3
    for row, channel in ((0, 0), (1, 1), (2, 2)):  # red, green and blue images
        cells = sheet[row * third : row * third + 100, 16:100].mean(axis=(0, 1))
        assert cells.argmax() == channel
    save_histograms(survey, tmp_path / "histograms.png")
    with Image.open(tmp_path / "histograms.png") as histograms:
        assert len(np.unique(np.asarray(histograms.convert("L")))) > 50


def test_many_classes_get_one_thumbnail_each_up_to_100(tmp_path):
    pixels = [np.full((8, 8, 3), [label, 0, 255 - label], np.uint8) for label in range(130)]
    images = [encode(image, "PNG") for image in pixels]
    names = [f"class {label}" for label in range(130)]
    write_split(tmp_path / "many", "train", images, list(range(130)), names=names)
    sheet = contact_sheet(Survey(open_split(str(tmp_path / "many"), "train")))
    colours = {colour for _, colour in sheet.getcolors(2**24) if colour[0] + colour[2] == 255}
    assert {red for red, green, _ in colours if not green} == {130 * i // 100 for i in range(100)}


def test_captions_have_the_letters_of_their_classes_or_a_warning(tmp_path, caplog):
    images, names = (
        [encode(np.zeros((8, 8, 3), np.uint8), "PNG")] * 4,
        ["\u00f6", "\u00e5", "\u0436"],
    )
    write_split(tmp_path / "letters", "train", images, [0, 1, 2, 3], names=[*names, "\u72ac"])
    with caplog.at_level(logging.WARNING, "convzoo"):
        sheet = contact_sheet(Survey(open_split(str(tmp_path / "letters"), "train")))
    assert "the letters '\u72ac', which are boxes" in caplog.text
    ink = np.asarray(sheet.convert("L"))[8:] < 128  # below the margin, a row for each class
    captions = {row[-26:].tobytes() for row in np.split(ink, 4)}
    assert len(captions) == 4  # one box would look like another
