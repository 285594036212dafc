"""`convzoo predict` gives the answers of the pipeline of Transformers, in batches."""

import csv
import io
import json
import os
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from convzoo.cli import main
from convzoo.prediction.classifier import load_classifier
from convzoo.prediction.classifying import Pace, classify
from convzoo.prediction.image_names import FoundImages
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.clients import run
from tests.support.images import encode, smooth_image

LABELS = {0: "cat", 1: "dog, hound", 2: 'a "bird"', 3: "\u00fc"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "my model"
    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [8], "depths": [1]}
    network = CNN(CNNConfig(stem="small", num_labels=4, id2label=LABELS, **sizes))
    torch.nn.init.normal_(network.classifier.weight, std=3.0)  # so that scores differ
    network.save_pretrained(folder)
    ConvZooImageProcessor(18, crop_size=16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """One image of every kind that could be read in two ways, under messy names."""
    folder = tmp_path_factory.mktemp("photos") / "my photos"
    folder.mkdir()
    colours = Image.fromarray(smooth_image(40, 30))
    alpha = Image.fromarray(smooth_image(40, 30, seed=1)[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    colours.save(folder / "on its side.jpg", exif=exif)
    colours.save(folder / "on its side.png", exif=exif)
    with_alpha = colours.copy()
    with_alpha.putalpha(alpha)
    with_alpha.save(folder / "see-through.png")
    with_alpha.save(folder / "see-through.webp", lossless=True)
    colours.quantize(16).save(folder / "palette [1].gif", transparency=3)
    colours.quantize(16).save(folder / "palette.png", transparency=bytes(range(16)))
    colours.convert("CMYK").save(folder / "print.jpg")
    colours.convert("LA").save(folder / "grey,alpha.png")
    colours.convert("1").save(folder / "fax.tiff")
    return folder


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # of the pipeline's way
@pytest.mark.parametrize("problem", [None, "multi_label_classification", "regression"])
def test_all_kinds_of_images_get_the_answers_of_the_pipeline(model, photos, problem):
    network = AutoModelForImageClassification.from_pretrained(model)
    network.config.problem_type = problem
    paths = sorted(map(str, photos.iterdir()))
    processor = ConvZooImageProcessor.from_pretrained(model)
    peer = pipeline("image-classification", model=network, image_processor=processor)
    expected = []
    for path in paths:
        with Image.open(path) as image:
            expected.append(peer(image, top_k=4))
    classifier = load_classifier(str(model))
    from convzoo.prediction.classifier import SCORES, kind_of_scores

    ours = type(classifier)(**vars(classifier) | {"scores": SCORES[kind_of_scores(network.config)]})
    batches = classify(FoundImages(names=paths), ours, top_k=4, pace=Pace(batch_size=4))
    answers = [answer for batch in batches for answer in batch]
    assert [answer.image for answer in answers] == paths
    assert len({answer.guesses[0] for answer in answers}) > 3
    for answer, guesses in zip(answers, expected, strict=True):
        assert [label for label, _ in answer.guesses] == [guess["label"] for guess in guesses]
        scores = [guess["score"] for guess in guesses]
        assert [score for _, score in answer.guesses] == pytest.approx(scores, abs=1e-6)


def test_images_of_several_sizes_are_batched_by_size(model, photos, tmp_path):
    """A processor that crops nothing gives each image its own size."""
    folder = tmp_path / "uncropped"
    AutoModelForImageClassification.from_pretrained(model).save_pretrained(folder)
    ConvZooImageProcessor(18, crop_size=16, do_center_crop=False).save_pretrained(folder)
    for number, size in enumerate([(30, 20), (20, 30), (30, 20), (64, 20)]):
        Image.fromarray(smooth_image(*size, seed=number)).save(tmp_path / f"{number}.png")
    names = [str(tmp_path / f"{number}.png") for number in range(4)]
    classifier = load_classifier(str(folder))
    (answers,) = classify(FoundImages(names=names), classifier, top_k=1, pace=Pace())
    peer = pipeline("image-classification", model=str(folder))
    for answer in answers:
        with Image.open(answer.image) as image:
            (expected,) = peer(image, top_k=1)
        assert answer.guesses == [(expected["label"], pytest.approx(expected["score"], abs=1e-6))]


BROKEN = {
    "cut off.jpg": encode(smooth_image(40, 40))[:400],
    "empty.png": b"",
    "phone.heic": b"\0\0\0\x18ftypheic" + bytes(40),
    "strip.png": encode(np.zeros((2, 900, 3), np.uint8), "PNG"),
}


@pytest.fixture(scope="module")
def mixed(photos, tmp_path_factory):
    """Names of the photos with broken files between them, and of one that is missing."""
    folder = tmp_path_factory.mktemp("broken")
    names = sorted(map(str, photos.iterdir()))
    for number, (name, data) in enumerate(BROKEN.items()):
        (folder / name).write_bytes(data)
        names.insert(3 * number, str(folder / name))
    return [*names, str(folder / "missing.png")]


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_reported_and_counted(model, mixed, *, workers, capsys, caplog):
    words = ["--batch-size", "3", "--num-workers", str(workers), "--format", "jsonl"]
    assert main(["predict", str(model), *mixed, *words]) == 1
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["image"] for line in lines] == mixed
    errors = {line["image"].rpartition("/")[2]: line["error"] for line in lines if "error" in line}
    assert set(errors) == {*BROKEN, "missing.png"}
    assert errors["phone.heic"] == "HEIC is not supported; convert it to JPEG"
    assert "sides must differ at most by a factor of 100" in errors["strip.png"]
    assert errors["missing.png"] == "No such file or directory"
    assert said.err.count("error: ") == 5 and f"error: {mixed[0]}: an image must be" in said.err
    assert "9 of 14 images classified" in caplog.text


def test_every_form_says_the_same(model, mixed, tmp_path, capsys):
    def answers(name, *words):
        file = tmp_path / name
        file.write_text("before")
        assert main(["predict", str(model), *mixed, "-k2", "--output", str(file), *words]) == 1
        assert list(tmp_path.iterdir()) == [file]  # nothing is left beside it
        text = file.read_bytes()
        file.unlink()
        return text

    lines = [json.loads(line) for line in answers("a.jsonl").splitlines()]
    good = [line for line in lines if "predictions" in line]
    assert json.loads(answers("a.json")) == good
    assert main(["predict", str(model), *mixed, "-k2", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == good
    rows = list(csv.DictReader(io.StringIO(answers("a.csv").decode(), newline="")))
    assert list(rows[0]) == ["image", "label_1", "score_1", "label_2", "score_2", "error"]
    for row, line in zip(rows, lines, strict=True):
        assert row["image"] == line["image"] and row["error"] == line.get("error", "")
        first = line.get("predictions", [{"label": "", "score": ""}])[0]
        assert row["label_1"] == first["label"] and row["score_1"] == str(first["score"])
    table = pq.read_table(io.BytesIO(answers("a.parquet"))).to_pylist()
    for row, line in zip(table, lines, strict=True):
        assert row["image"] == line["image"] and row["error"] == line.get("error")
        given = line.get("predictions", [])
        assert row["labels"] == [guess["label"] for guess in given]
        assert row["scores"] == pytest.approx([guess["score"] for guess in given])
    text = answers("a.txt", "--format", "table").decode().splitlines()
    assert len(text) == len(good) and all("%  " in line for line in text)


def test_an_output_that_cannot_be_written_or_is_not_finished_leaves_what_was_there(
    model, photos, tmp_path, capsys
):
    assert main(["predict", str(model), str(photos), "--output", str(tmp_path / "no/a.csv")]) == 1
    assert "no/a.csv could not be written" in capsys.readouterr().err
    file = tmp_path / "a.csv"
    file.write_text("before")
    network = CNN.from_pretrained(model)
    torch.nn.init.constant_(network.classifier.weight, torch.nan)
    network.save_pretrained(tmp_path / "ruined")
    ConvZooImageProcessor(18, crop_size=16).save_pretrained(tmp_path / "ruined")
    assert main(["predict", str(tmp_path / "ruined"), str(photos), "--output", str(file)]) == 1
    assert "probabilities of" in capsys.readouterr().err
    assert file.read_text() == "before" and {p.name for p in tmp_path.iterdir()} == {
        "a.csv",
        "ruined",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such names do not exist")
def test_names_that_are_no_text_are_shown_escaped_and_stay_apart(model, tmp_path, capfd):
    for name in (b"\xff.png", b"new\nline.png"):
        (tmp_path / os.fsdecode(name)).write_bytes(encode(smooth_image(20, 20), "PNG"))
    words = ("predict", str(model), str(tmp_path), "-k1", "--quiet", "--format")
    for form, lines in (("text", 4), ("table", 2), ("csv", 4), ("jsonl", 2)):
        assert main([*words, form]) == 0
        text = capfd.readouterr().out
        assert len(text.splitlines()) == lines and "\\udcff.png" in text
    names = {json.loads(line)["image"] for line in text.splitlines()}
    assert names == {str(tmp_path / "new\nline.png"), f"{tmp_path}/\udcff.png"}
    assert main([*words, "parquet", "--output", str(tmp_path / "a.parquet")]) == 0
    names = pq.read_table(tmp_path / "a.parquet")["image"].to_pylist()
    assert names == [f"{tmp_path}/new\nline.png", f"{tmp_path}/\\udcff.png"]


def test_calibrated_answers_divide_logits_by_the_recorded_temperature(model, photos, tmp_path):
    from tests.support.model_folders import put_results, result

    words = ["predict", str(model), str(photos)]
    assert main([*words, "--calibrated"]) == 1  # there is none
    network = AutoModelForImageClassification.from_pretrained(model)
    network.save_pretrained(tmp_path)
    ConvZooImageProcessor(18, crop_size=16).save_pretrained(tmp_path)
    calibration = {
        "definition": "of a test",
        "expected_calibration_error": 0.1,
        "mean_confidence": 0.5,
        "bins": [],
        "temperature": {
            "value": 2.5,
            "fitted_on": {"split": "validation", "fingerprint": "sha256:0a", "num_samples": 9},
            "nll_before": 1.0,
            "nll_after": 0.9,
        },
    }
    metrics = {"top1_accuracy": 0.5, "top5_accuracy": 1.0, "loss": 1.0}
    entry = result(tmp_path, metrics=metrics, calibration=calibration)
    for wrong in (
        {"protocol": entry["protocol"] | {"dtype": "bfloat16"}},
        {"protocol": entry["protocol"] | {"crop": {"size": 32}}},
        {"protocol": entry["protocol"] | {"views": 10, "averaged": "probabilities"}},
        {"model": entry["model"] | {"sha256": "0" * 64}},
    ):
        put_results(tmp_path, entry | wrong)
        with pytest.raises(ValueError, match="one view, its own crop and float32; it has none"):
            load_classifier(str(tmp_path), calibrated=True)
    put_results(tmp_path, entry)
    plain, calibrated = (
        load_classifier(str(tmp_path)),
        load_classifier(str(tmp_path), calibrated=True),
    )
    pixel_values = torch.randn(2, 3, 16, 16)
    for row, cooler in zip(
        plain.guess(pixel_values, 4), calibrated.guess(pixel_values, 4), strict=True
    ):
        logits = torch.tensor([score for _, score in row]).log() / 2.5
        assert [score for _, score in cooler] == pytest.approx(logits.softmax(0).tolist(), abs=1e-6)


def test_standard_input_is_an_image_or_a_list(model, photos, *, tmp_path, monkeypatch, capsys):
    def ask(data):
        (tmp_path / "input").write_bytes(data)
        with (tmp_path / "input").open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            assert main(["predict", str(model), "-", "--json", "-d", "cpu"]) == 0
        return json.loads(capsys.readouterr().out)

    names = sorted(map(str, photos.iterdir()))
    answers = ask("\0".join(names).encode())
    assert [answer["image"] for answer in answers] == names
    (answer,) = ask((photos / "see-through.png").read_bytes())
    expected = answers[names.index(str(photos / "see-through.png"))]
    assert answer["image"] == "-"
    for guess, same in zip(answer["predictions"], expected["predictions"], strict=True):
        assert guess == same | {"score": pytest.approx(same["score"], abs=1e-6)}


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("--device cuda:99", 1, "--device must be one that PyTorch has here"),
        ("--device gpu", 1, "--device must be one that PyTorch has here"),
        ("--format parquet", 2, "--format parquet needs --output FILE"),
        ("--json --format csv", 2, "--json is --format json; got --format csv, too"),
        ("--allow-private-hosts", 2, "--allow-private-hosts needs --allow-urls"),
        ("--top-k 0", 2, "--top-k: must be a whole number of at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(model, photos, *, words, status, message, capsys):
    assert main(["predict", str(model), str(photos), *words.split()]) == status
    assert message in capsys.readouterr().err


PEAK = """
import resource, sys
from convzoo.cli import main
status = main(sys.argv[1:])
everybody = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
print(*(resource.getrusage(who).ru_maxrss for who in everybody), file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes there")
def test_memory_does_not_grow_with_the_number_of_images(model, tmp_path):
    """4,500 more images of 48 kB each as the model takes them would be 216 MB."""
    for number in range(5000):
        (tmp_path / f"{number:04d}.png").write_bytes(
            encode(smooth_image(20, 20, seed=number), "PNG")
        )
    AutoModelForImageClassification.from_pretrained(model).save_pretrained(tmp_path / "model")
    ConvZooImageProcessor(72, crop_size=64).save_pretrained(tmp_path / "model")
    peaks = []
    for pattern in ("0[0-4]*.png", "*.png"):
        words = (tmp_path / "model", tmp_path / pattern, "--output", tmp_path / "a.parquet")
        done = run("-c", PEAK, "predict", *words)
        peaks.append([int(kilobytes) for kilobytes in done.stderr.split()[-2:]])
        images = 500 if "4" in pattern else 5000
        assert f"{images} of {images} images classified" in done.stderr
    for few, many in zip(*peaks, strict=True):
        assert many < few + 100_000, peaks  # allocators keep some of what was freed


def test_preparation_changes_answers_by_rounding_and_can_be_left_out(model, photos, capsys):
    answers = {}
    for option in ("--fast", "--no-fast", "--bf16"):
        assert main(["predict", str(model), str(photos), "--json", option]) == 0
        answers[option] = json.loads(capsys.readouterr().out)
    plain = answers["--no-fast"]
    for option, tolerance in (("--fast", 1e-6), ("--bf16", 0.03)):
        for ours, theirs in zip(answers[option], plain, strict=True):
            scores = {guess["label"]: guess["score"] for guess in theirs["predictions"]}
            for guess in ours["predictions"]:
                assert guess["score"] == pytest.approx(scores[guess["label"]], abs=tolerance)
    assert answers["--bf16"] != plain
    assert main(["predict", str(model), str(photos), "--bf16", "--no-fast"]) == 2
    assert "--bf16 needs --fast" in capsys.readouterr().err
