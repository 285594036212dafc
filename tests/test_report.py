"""The report of mistakes: what it chooses, that its page is safe and whole, its figures."""

import base64
import hashlib
import io
import json
import logging
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from convzoo.cli import main
from convzoo.data.opening import open_split
from convzoo.evaluation.prediction_file import write_predictions
from convzoo.evaluation.prediction_table import PredictionFacts, PredictionTable
from convzoo.evaluation.results import FILE, read_results
from convzoo.files import file_sha256, write_json
from convzoo.report.mistakes import (
    ambiguous,
    confident_errors,
    confusion_matrix,
    doubtful_labels,
)
from convzoo.report.page import Report, choose_images, render_page
from convzoo.report.png_figures import save_figures
from convzoo.report.reporting import was_trained_on
from convzoo.report.wording import percent, visible
from hub_cards.card.rendering import write_card
from hub_cards.hub.staging import stage_model
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.images import encode
from tests.support.reports import DATASET, HOSTILE, PROTOCOL, random_table, result_of, table_of


def page_of(table, limit=5, **options):
    lists = choose_images(table, limit)
    return render_page(
        Report(title=HOSTILE[0], result=result_of(table), table=table, lists=lists, **options)
    )


VOID = {"meta", "img", "line", "rect", "br"}


class Parsed(HTMLParser):
    """A page as elements; what is not closed, or closed twice, is an error."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.tables = [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open) and self.tables:
            self.tables[-1][-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def table(self, first):
        (found,) = [table for table in self.tables if table[0][0] == first]
        return found[1:]


def test_errors_and_ambiguous_images_come_in_their_order():
    table = table_of(
        [[0.9, 0.06, 0.04], [0.2, 0.3, 0.5], [0.45, 0.44, 0.11], [0.1, 0.8, 0.1], [0.9, 0.1, 0]],
        [1, 0, 0, 1, 2],
        unreadable=[3],
    )
    assert confident_errors(table).tolist() == [0, 4, 1]  # equal ones in the order of their rows
    assert ambiguous(table).tolist() == [2, 1]  # of the others one answer is far ahead
    assert ambiguous(table_of([[1.0]], [0])).tolist() == []
    assert confusion_matrix(table).tolist() == [[1, 0, 1], [1, 0, 0], [1, 0, 0]]


def doubts_by_the_paper(probabilities, labels):
    """Equations 1 and 2 of arXiv:1911.00068, image by image, from all probabilities."""
    classes = probabilities.shape[1]
    thresholds = [
        np.mean([p[j] for p, y in zip(probabilities, labels, strict=True) if y == j])
        if j in labels
        else np.inf
        for j in range(classes)
    ]
    found = []
    for place, (p, label) in enumerate(zip(probabilities, labels, strict=True)):
        confident = [j for j in range(classes) if p[j] >= thresholds[j]]
        if confident and (best := max(confident, key=lambda j: p[j])) != label:
            found.append((p[label] - p[best], place, best))
    return [(place, best) for _, place, best in sorted(found)]


@pytest.mark.parametrize(("classes", "top_k"), [(3, 10), (7, 10), (30, 30)])
def test_labels_in_doubt_are_those_of_the_paper(classes, top_k):
    table, probabilities, labels = random_table(400, classes, top_k=top_k)
    found = doubtful_labels(table)
    expected = doubts_by_the_paper(probabilities, labels)
    assert len(expected) > 10
    assert list(zip(found.places.tolist(), found.suggested.tolist(), strict=True)) == expected


def test_of_ten_kept_classes_no_label_is_in_doubt_that_is_not_for_all_of_them():
    """A class behind the kept ones is nowhere the suggestion, as its probability is small."""
    table, probabilities, labels = random_table(400, 30, seed=1, top_k=10)
    found = doubtful_labels(table)
    pairs = set(zip(found.places.tolist(), found.suggested.tolist(), strict=True))
    expected = doubts_by_the_paper(probabilities, labels)
    assert pairs <= set(expected) and len(pairs) > 0.9 * len(expected)
    order = np.sort(probabilities, axis=1)[:, ::-1]
    lost = [place for place, _ in expected if place not in {p for p, _ in pairs}]
    assert all(order[place, 10] <= 1 / 11 for place in lost)


def test_switched_labels_are_found_and_good_ones_of_a_good_model_are_not():
    rng = np.random.default_rng(0)
    true = rng.integers(4, size=300)
    probabilities = np.full((300, 4), 0.02)
    probabilities[np.arange(300), true] = 0.94
    labels = true.copy()
    switched = rng.choice(300, 12, replace=False)
    labels[switched] = (true[switched] + 1) % 4
    found = doubtful_labels(table_of(probabilities, labels))
    assert sorted(found.places.tolist()) == sorted(switched.tolist())
    assert (found.suggested == true[found.places]).all()


def test_hostile_names_are_text_and_the_page_asks_for_nothing():
    table, *_ = random_table(60, 4, names=HOSTILE, unreadable=[7])
    table.image[:] = [f"{HOSTILE[n % 4]}\udce4/{n}.jpg" for n in range(60)]
    page = page_of(table)
    page.encode()  # no lone surrogates
    parsed = Parsed(page)
    assert parsed.elements[0] == ("html", {"lang": "en"})
    assert len(parsed.all("script")) == len(parsed.all("style")) == 1
    for tag, attributes in parsed.elements:
        assert not [key for key in attributes if key.startswith("on") or key == "style"], tag
        for key in ("src", "href", "action", "data", "srcset"):
            assert attributes.get(key, "#").startswith(("#", "data:image/jpeg;base64,")), tag
    assert not re.search(r"@import|url\(|https?:", page)
    shown = {cell for table in parsed.tables for row in table for cell in row}
    assert {HOSTILE[0], HOSTILE[1], HOSTILE[3], visible(HOSTILE[2])} <= shown
    assert "\u202e" not in page and "two\\u000alines\\u0009and\\u202eright" in page
    (policy,) = [
        each["content"]
        for each in parsed.all("meta")
        if each.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("script", "style"):
        text = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_anchors_and_labels_lead_somewhere_and_images_and_columns_have_words():
    table, *_ = random_table(60, 4, unreadable=[7])
    parsed = Parsed(page_of(table))
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {each["href"] for each in parsed.all("a")} <= {f"#{each}" for each in ids}
    for _, attributes in parsed.elements:
        assert attributes.get("aria-labelledby", ids[0]) in ids
    assert all(each.get("scope") in ("col", "row") for each in parsed.all("th"))
    assert all(each.get("alt") for each in parsed.all("img"))
    assert parsed.table("Image") == [["7.png", f"class {table.label[7]}", "cut <off>"]]


def test_the_numbers_of_the_page_are_those_of_the_predictions():
    table, probabilities, labels = random_table(200, 4, unreadable=[3, 5])
    parsed = Parsed(page_of(table))
    answers = probabilities.argmax(1)
    for name, *cells in parsed.table("Class"):
        of_class = labels == int(name.split()[1])
        right = sum((answers == labels)[n] for n in np.flatnonzero(of_class) if n not in (3, 5))
        assert cells[:3] == [str(of_class.sum()), str(right), percent(right / of_class.sum())]
    accuracies = [float(row[3].split()[0]) for row in parsed.table("Class")]
    assert accuracies == sorted(accuracies)
    readable = np.delete(np.arange(200), [3, 5])
    (matrix,) = [rows for rows in parsed.tables if rows[0][0] == "" and len(rows[0]) == 5]
    for row, (name, *cells) in enumerate(matrix[1:]):
        expected = [((labels == row) & (answers == n))[readable].sum() for n in range(4)]
        assert [int(cell or 0) for cell in cells] == expected and name == f"class {row}"
    pairs = parsed.table("True class")
    assert sum(int(row[2]) for row in pairs) == (labels != answers)[readable].sum()
    losses = -np.log(probabilities[readable, labels[readable]])
    (loss,) = [row for row in parsed.table("Quantity") if row[0].startswith("Loss")]
    reach = 1.96 * losses.std(ddof=1) / 198**0.5
    ends = f"{losses.mean() - reach:.4f} to {losses.mean() + reach:.4f}"
    assert loss[1:] == [f"{losses.mean():.4f}", ends, "198"]
    assert sum(int(row[4]) for row in parsed.table("Probability of the answer")) == 198


@pytest.mark.parametrize(("number", "classes"), [(1, 2), (5, 1), (40, 2), (300, 1000), (90, 100)])
def test_few_images_two_or_many_classes_and_classes_without_images(number, classes):
    table, *_ = random_table(number, classes)
    page = page_of(table)
    parsed = Parsed(page)
    assert ("Confusion matrix" in page) == (classes <= 100)
    assert len(parsed.table("Class")) == len(np.unique(table.label))
    assert ("have no images here" in page) == (len(np.unique(table.label)) < classes)
    if classes == 1000:
        assert len(parsed.table("True class")) == 50 and "Shown: 50 of" in page


def test_a_page_without_a_readable_image_says_so():
    table, *_ = random_table(3, 2, unreadable=[0, 1, 2])
    page = page_of(table)
    Parsed(page)
    assert "They count as wrong answers." in page and "There are none." in page


def test_numbers_are_never_rounded_to_all_or_nothing():
    assert [percent(x) for x in (0, 1, 1e-9, 1 - 1e-9, 0.5)] == [
        *("0.00 %", "100.00 %", "< 0.01 %", "> 99.99 %", "50.00 %")
    ]


NAMES = ("red <b>", "green", 'blue "x"')


def save_model(folder):
    sizes = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1]}
    model = CNN(CNNConfig(stem="small", id2label=dict(enumerate(NAMES)), **sizes))
    model.save_pretrained(folder)
    ConvZooImageProcessor(18, crop_size=16).save_pretrained(folder)


@pytest.fixture
def evaluated(tmp_path):
    """A model folder, evaluated on a folder of 12 images with messy names, and that folder."""
    folder, data = tmp_path / "my runs" / "pets" / "model", tmp_path / "my pets"
    rng = np.random.default_rng(0)
    for number, name in enumerate(("a", "b #1", "c'd")):
        for image in range(4):
            path = data / "test" / NAMES[number].replace('"', "") / f"{name} {image} \u00e4?.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(rng.integers(0, 256, (20, 24, 3), np.uint8), "PNG"))
    save_model(folder)
    record(folder, data)
    return folder, data


def record(folder, data, name="pets-test", date="2026-11-28T10:00:00+00:00"):
    """Write made-up predictions of all images, as `convzoo evaluate` does."""
    source = open_split(str(data), "test")
    images = [bytes(source.read_row(row)[0]) for row in range(source.num_rows)]
    labels = source.read_labels()
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet([1, 1, 1], source.num_rows)
    table = table_of(probabilities, labels, names=NAMES, images=images)
    table.image[:] = [source.image_name(row) for row in range(source.num_rows)]
    # As evaluations write it, without the absolute path: where data lies is nobody's business.
    about = {key: value for key, value in DATASET.items() if key != "path"}
    facts = PredictionFacts(names=NAMES, dataset=about, protocol=PROTOCOL, model={})
    file = folder / "predictions" / f"{name}.parquet"
    table = PredictionTable(**{**vars(table), "facts": facts})
    write_predictions(file, table)
    facts_of_file = {"file": f"predictions/{name}.parquet", "sha256": file_sha256(file)}
    facts_of_file |= {"num_rows": len(table), "top_k": 3, "logits": False}
    result = result_of(table, file_sha256(folder / "model.safetensors"), path=str(data))
    result |= {"date": date, "predictions": facts_of_file}
    write_json(folder / FILE, {"schema_version": 1, "results": [*read_results(folder), result]})
    return table


def report(capsys, *arguments, status=0):
    assert main(["report", *map(str, arguments)]) == status
    said = capsys.readouterr()
    return said.err if status else said.out


def images_of(page):
    """The images of a page, decoded, with their texts."""
    found = Parsed(page.read_text("utf-8")).all("img")
    data = [base64.b64decode(each["src"].partition(",")[2]) for each in found]
    return [(each["alt"], Image.open(io.BytesIO(d))) for each, d in zip(found, data, strict=True)]


def test_a_folder_of_images_is_reported_with_thumbnails_and_heat(evaluated, capsys):
    folder, _ = evaluated
    page = folder / "report.html"
    assert report(capsys, folder, "--images", "3") == f"{page}\n"
    images = images_of(page)
    heats = [image for alt, image in images if alt.startswith("Heat map of ")]
    assert len(heats) == 6 and {image.size for image in heats} == {(16, 16)}
    thumbnails = [image for alt, image in images if "labelled" in alt]
    assert len(thumbnails) == 9 and {image.size for image in thumbnails} == {(24, 20)}
    text = page.read_text("utf-8")
    assert "<h1><bdi>pets</bdi></h1>" in text and "not shown" not in text
    assert not images_of_nothing(folder, capsys)
    report(capsys, folder, "--no-gradcam")
    assert not [alt for alt, _ in images_of(page) if "Heat" in alt] and images_of(page)


def images_of_nothing(folder, capsys):
    report(capsys, folder, "--images", "0", "--output", folder.parent / "a b" / "c.html")
    return images_of(folder.parent / "a b" / "c.html")


def test_data_that_moved_changed_or_is_gone(evaluated, tmp_path, capsys, caplog):
    folder, data = evaluated
    page = folder / "report.html"
    data.rename(tmp_path / "moved")
    report(capsys, folder)
    assert "No images are shown: the dataset could not be opened" in caplog.text
    assert not images_of(page)
    said = " ".join(page.read_text("utf-8").split())
    assert f"could not be opened (there is no folder or file {data}, which was evaluated)" in said
    moved = tmp_path / "moved"
    report(capsys, folder, "--data", moved)
    everything = len(images_of(page))
    assert everything and "No images" not in page.read_text("utf-8")
    # A file that came shifts the rows of the others; one has changed.
    new = next((moved / "test").rglob("a 0*.png")).with_name("0.png")
    new.write_bytes(encode(np.zeros((9, 9, 3), np.uint8), "PNG"))
    report(capsys, folder, "--data", moved)
    assert len(images_of(page)) == everything
    new.unlink()
    changed = next((moved / "test").rglob("c'd 2*.png"))
    changed.write_bytes(encode(np.zeros((20, 24, 3), np.uint8), "PNG"))
    report(capsys, folder, "--data", moved)
    said = " ".join(page.read_text("utf-8").split())
    assert "Not shown: 1 image of 11 on this page, which the dataset no longer has" in said
    assert 0 < len(images_of(page)) < everything


def test_of_several_results_the_newest_or_the_named_one_is_reported(evaluated, capsys, caplog):
    folder, data = evaluated
    record(folder, data, "older", "2026-11-27T10:00:00+00:00")
    with caplog.at_level(logging.INFO, "convzoo"):
        assert main(["report", str(folder), "--json", "--images", "0"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "page": str(folder / "report.html"),
        "figures": [],
    }
    assert "of the newest result, pets-test; --result takes another: older" in caplog.text
    assert "2026-11-28 10:00:00 UTC" in (folder / "report.html").read_text("utf-8")
    report(capsys, folder, "--result", "older", "--images", "0")
    assert "2026-11-27 10:00:00 UTC" in (folder / "report.html").read_text("utf-8")
    said = report(capsys, folder, "--result", "none", status=1)
    assert "--result must be one of those of" in said and "pets-test, older; got 'none'" in said


def test_what_does_not_belong_together_is_refused(evaluated, tmp_path, capsys):
    folder, _ = evaluated
    assert "there is no folder" in report(capsys, tmp_path / "none", status=1)
    other = tmp_path / "other"
    save_model(other)
    assert "Evaluate the model: `convzoo evaluate" in report(capsys, other, status=1)
    shutil.copytree(folder, tmp_path / "copy")
    shutil.copy(other / "model.safetensors", tmp_path / "copy")
    said = report(capsys, tmp_path / "copy", status=1)
    assert "must be the weights that were evaluated" in said
    with (folder / "predictions" / "pets-test.parquet").open("ab") as file:
        file.write(b"x")
    assert "SHA-256" in report(capsys, folder, status=1)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"split": "train"}, False),
        ({"subset": {"of": 9, "taken": [{"limit": 3, "spaced": True}]}}, True),
        ({"subset": {"of": 9, "taken": [{"eval_fraction": 0.2, "part": "validation"}]}}, False),
        ({"path": "other"}, False),
    ],
)
def test_images_of_the_training_are_no_evidence(changes, expected, tmp_path):
    table, *_ = random_table(5, 2)
    result = result_of(table, **changes)
    assert was_trained_on(tmp_path, result) is None
    write_json(tmp_path / "train_results.json", {"dataset": DATASET})
    assert was_trained_on(tmp_path, result) is expected
    page = page_of(table, trained_on=expected)
    assert ("probabilities are no evidence" in page) is expected


def test_figures_go_on_the_card_of_their_result_and_on_no_other(evaluated, capsys, caplog):
    folder, _ = evaluated
    written = report(capsys, folder, "--figures", "--images", "0").split("\n")
    names = ["confusion_matrix.png", "calibration.png"]
    assert written == [str(folder / name) for name in ("report.html", *names)] + [""]
    for name in names:
        with Image.open(folder / name) as figure:
            assert min(figure.size) > 300
    card = write_card(folder).read_text("utf-8")
    assert all(f"({name})" in card for name in names)
    assert "(reliability_diagram.png)" not in card
    stage = folder.parent / "stage"
    stage.mkdir()
    left_out = stage_model(folder, stage, None)
    assert {"predictions/", "report.html"} <= set(left_out)
    assert all((stage / name).is_file() for name in names)
    # Another evaluation of the same weights: the figures are not of it.
    content = json.loads((folder / FILE).read_text())
    content["results"][0]["dataset"]["fingerprint"] = "sha256:" + "0b" * 32
    write_json(folder / FILE, content)
    card = write_card(folder).read_text("utf-8")
    assert not any(f"({name})" in card for name in names)
    assert "(reliability_diagram.png)" in card
    assert caplog.text.count("it shows another result than that of the card") == 2
    shutil.rmtree(stage)
    stage.mkdir()
    assert set(names) <= set(stage_model(folder, stage, None))


def test_a_matrix_that_nobody_can_read_is_not_drawn(tmp_path, caplog):
    table, *_ = random_table(300, 100)
    few, *_ = random_table(9, 2, names=("$x^2$", "\u72ac" * 30))
    assert len(save_figures(tmp_path, result_of(few), few)) == 2
    assert [path.name for path in save_figures(tmp_path, result_of(table), table)] == [
        "calibration.png"
    ]
    assert not (tmp_path / "confusion_matrix.png").exists()
    (tmp_path / "confusion_matrix.png").write_bytes(b"of somebody else")
    save_figures(tmp_path, result_of(table), table)
    assert (tmp_path / "confusion_matrix.png").read_bytes() == b"of somebody else"
    assert caplog.text.count("the font lacks letters of the names") == 1
