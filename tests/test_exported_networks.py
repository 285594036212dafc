"""Networks in files: as accurate as a plain loop says, with results of their own, or refused."""

import io
import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from convzoo.cli import main
from convzoo.evaluation.classifiers import load_classifier
from convzoo.evaluation.protocols import Computation
from convzoo.evaluation.results import read_results, results_folder
from convzoo.files import file_sha256
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.documents import Page, result_file
from tests.support.evaluations import evaluate
from tests.support.exported_files import BIAS, WEIGHTS, describe, write_onnx
from tests.support.images import COLOURS, coloured_images


@pytest.fixture
def folder(tmp_path):
    """A folder with a space in its name and one network."""
    folder = tmp_path / "my nets"
    folder.mkdir()
    write_onnx(folder / "colours 1.onnx")
    describe(folder)
    return folder


@pytest.fixture(scope="module")
def expected():
    """Accuracy and loss by numpy and Pillow alone; the processor's crop is checked elsewhere."""
    images, labels = coloured_images(23, seed=1)
    processor, losses, hits = ConvZooImageProcessor(18, crop_size=16), [], []
    for data, label in zip(images, labels, strict=True):
        pixels = processor(Image.open(io.BytesIO(data)))["pixel_values"][0]
        scores = WEIGHTS @ pixels.mean(axis=(1, 2), dtype=np.float64) + BIAS
        losses.append(np.log(np.exp(scores).sum()) - scores[label])
        hits.append(scores.argmax() == label)
    return {"top1_accuracy": np.mean(hits), "loss": np.mean(losses)}


@pytest.mark.parametrize(
    "form", [{}, {"softmax": True}, {"batch": 3, "side": 16, "output": "scores_of_classes"}]
)
def test_a_file_of_onnx_is_as_accurate_as_a_plain_loop(form, folder, colour_data, expected):
    file = folder / "colours 1.onnx"
    write_onnx(file, **form)  # batches of 4 images, and a file that takes 3 at a time
    result = evaluate(file, colour_data)
    assert result["metrics"]["top1_accuracy"] == expected["top1_accuracy"] < 1
    assert result["metrics"]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert result["model"] == {
        "file": file.name,
        "sha256": file_sha256(file),
        "num_parameters": 12,
        "num_multiply_adds": 9,
        "format": "onnx",
    }
    ten = evaluate(file, colour_data, crops=10)
    assert ten["protocol"]["views"] == 10


def test_a_pretrained_network_answers_as_in_a_plain_loop():
    """What benchmarks/pretrained_onnx.py measured, and what the page says of it."""
    measured = result_file("pretrained_onnx")
    images, loop, ours = (measured[key] for key in ("num_images", "plain_loop", "convzoo"))
    right, wrong = loop["num_correct"].values()
    assert ours["same_answers"] == images and ours["num_correct"] == right > wrong
    assert ours["loss"] == pytest.approx(loop["loss"], rel=1e-6)
    assert f"to {images}, of which {right} are right" in Page("docs/any-model.md").sentences
    assert f"instead of its own {wrong} would be" in Page("docs/any-model.md").sentences


def test_results_of_networks_in_one_folder_do_not_drop_each_other(folder, colour_data):
    torch.manual_seed(0)
    model = CNN(
        CNNConfig(
            stem="small",
            embedding_size=4,
            hidden_sizes=[4, 4],
            depths=[1, 1],
            id2label=dict(enumerate(COLOURS)),
        )
    )
    model.save_pretrained(folder)
    first, second = folder / "colours 1.onnx", folder / "other.onnx"
    write_onnx(second, softmax=True)
    for each in (first, second, folder):
        evaluate(each, colour_data)
    homes = [results_folder(str(each)) for each in (first, second, folder)]
    assert homes == [
        first.with_suffix(".onnx.results"),
        second.with_suffix(".onnx.results"),
        folder,
    ]
    for home, file in zip(homes, (first, second, folder / "model.safetensors"), strict=True):
        (found,) = read_results(home)
        assert found["model"]["sha256"] == file_sha256(file)
        assert (home / found["predictions"]["file"]).is_file()


def test_a_described_file_is_its_folder(tmp_path, colour_data):
    write_onnx(tmp_path / "model.onnx")
    describe(tmp_path, file="model.onnx", model={"sha256": "ab" * 32})
    by_folder = evaluate(tmp_path, colour_data)
    by_file = evaluate(tmp_path / "model.onnx", colour_data)
    assert by_folder["model"] == by_file["model"]
    assert by_folder["model"]["exported_from"] == "ab" * 32
    assert len(read_results(tmp_path)) == 1
    assert not [*tmp_path.glob("*.results")]


def test_the_folder_of_another_exporter_needs_its_configuration_only(folder, colour_data, expected):
    (folder / "export.json").unlink()
    names = dict(enumerate(COLOURS))
    (folder / "config.json").write_text(json.dumps({"model_type": "resnet", "id2label": names}))
    result = evaluate(folder, colour_data)
    assert result["metrics"]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert result["dataset"].get("class_matching") is None


def test_a_program_of_torch_export_is_a_network_too(folder, colour_data, expected):
    class Colours(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.from_numpy(WEIGHTS))
            self.bias = torch.nn.Parameter(torch.from_numpy(BIAS))

        def forward(self, pixel_values):
            return pixel_values.mean((2, 3)) @ self.weight.T + self.bias

    free = {"pixel_values": {0: torch.export.Dim("batch")}}
    program = torch.export.export(Colours(), (torch.zeros(2, 3, 16, 16),), dynamic_shapes=free)
    torch.export.save(program, folder / "colours.pt2")
    result = evaluate(folder / "colours.pt2", colour_data)
    assert result["metrics"]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert result["model"]["format"] == "torch-export"
    assert (result["model"]["num_parameters"], result["model"]["num_multiply_adds"]) == (12, 9)
    classifier = load_classifier(str(folder / "colours.pt2"))
    with pytest.raises(ValueError, match=r"takes images \(3, 16, 16\); got \(3, 20, 20\)"):
        classifier.model(torch.zeros(1, 3, 20, 20))


def external(folder):
    model = onnx.load(folder / "colours 1.onnx")
    onnx.save(
        model,
        folder / "colours 1.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "export.json").unlink(), r"must have its classes described .*imagenet-1k"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "must say how images are prepared"),
        (lambda f: describe(f, classes=["red"]), r"score for each of its 1 classes; .*\(2, 3\)"),
        (lambda f: describe(f, classes="imagenet-1k"), "score for each of its 1000 classes"),
        (lambda f: describe(f, sha256="00"), "must be the file that export.json describes"),
        (lambda f: (f / "colours 1.onnx").write_bytes(b"no graph"), "must be"),
        (lambda f: write_onnx(f / "colours 1.onnx", side=20), r"takes images \(3, 20, 20\); got"),
        (lambda f: write_onnx(f / "2.onnx"), "must have one network; it has 2.onnx, colours 1"),
        (external, "weights in itself"),
    ],
)
def test_what_is_not_described_or_fits_not_is_refused(change, said, *, folder):
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        load_classifier(str(folder))


def test_a_file_that_is_not_there_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"there is no .*my nets/other.onnx"):
        load_classifier(str(folder / "other.onnx"))


def test_a_network_computes_as_it_was_exported(folder, colour_data):
    for settings in ({"dtype": "bfloat16"}, {"fused": True}, {"compiled": True}):
        with pytest.raises(ValueError, match="computes as it was exported"):
            evaluate(folder, colour_data, computation=Computation(**settings))


def test_exports_are_compared_reported_and_corrupted(folder, colour_data, *, tmp_path, capsys):
    export = tmp_path / "export"
    shutil.copytree(folder, export)
    (export / "colours 1.onnx").rename(export / "model.onnx")
    write_onnx(export / "model.onnx", softmax=True)
    describe(export, file="model.onnx", model={"sha256": "ab" * 32})
    for each in (folder / "colours 1.onnx", export):
        assert main(["evaluate", str(each), "--data", str(colour_data)]) == 0
    names = [str(folder / "colours 1.onnx"), str(export)]
    capsys.readouterr()
    assert main(["compare", *names, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in report["models"]] == ["colours 1.onnx", "export"]
    costs = [(each["num_parameters"], each["num_multiply_adds"]) for each in report["models"]]
    assert costs == [(12, 9), (12, 9)]
    assert report["models"][0]["num_correct"] == report["models"][1]["num_correct"]
    assert main(["report", names[0], "--images", "2"]) == 0
    page = (folder / "colours 1.onnx.results" / "report.html").read_text()
    assert "No heat maps are drawn: of a model as onnx" in page
    write_onnx(export / "model.onnx", side=16)
    assert main(["report", names[1]]) == 1
    assert "must be the weights that were evaluated" in capsys.readouterr().err


def test_a_result_that_was_written_to_a_file_is_a_baseline(
    folder, colour_data, *, tmp_path, capsys
):
    written = tmp_path / "baseline.json"
    data = ["--data", str(colour_data)]
    assert main(["evaluate", str(folder), *data, "--output", str(written)]) == 0
    shutil.move(folder / "predictions", tmp_path / "predictions")
    write_onnx(folder / "colours 1.onnx", softmax=True)
    assert main(["evaluate", str(folder), *data]) == 0
    capsys.readouterr()
    assert main(["compare", str(written), str(folder), "--json"]) == 0
    baseline, other = json.loads(capsys.readouterr().out)["models"]
    assert (baseline["name"], other["name"]) == ("baseline", "my nets")
    assert baseline["images_per_second"] and baseline["num_parameters"] == 12
    written.write_text("[{}, {}]")
    assert main(["compare", str(written), str(folder)]) == 1
    assert "must have one result; it has 2" in capsys.readouterr().err
