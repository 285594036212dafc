"""`convzoo export`: the file, its card, what is refused, and a reader who has nothing of ours."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import pipeline

from convzoo.cli import main
from convzoo.evaluation.classifiers import load_classifier
from convzoo.exporting.classify import load_network, prepare
from modeling import (
    CNN,
    AlexNet,
    AlexNetConfig,
    CNNConfig,
    ConvZooImageProcessor,
    QLNet,
    QLNetConfig,
)
from tests.support.clients import run
from tests.support.documents import Page, result_file
from tests.support.images import COLOURS, coloured_images

SMALL = {"stem": "small", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
NETWORKS = {
    "cnn": lambda names: CNN(CNNConfig(**SMALL, id2label=names)),
    "qlnet": lambda names: QLNet(QLNetConfig(**SMALL, id2label=names)),
    "alexnet": lambda names: AlexNet(
        AlexNetConfig(hidden_sizes=[4, 4, 4, 4, 4], classifier_hidden_size=8, id2label=names)
    ),
}
FREE = ["batch", 3, "height", "width"]


def save_model(folder, family):
    """A network whose batch norms have statistics that a wrong fusion would show in."""
    torch.manual_seed(0)
    model = NETWORKS[family](dict(enumerate(COLOURS)))
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        for value, low, high in ((norm.weight, 0.5, 1.5), (norm.running_mean, -1, 1)):
            torch.nn.init.uniform_(value, low, high)
    for values in (each.data for each in model.parameters() if each.ndim == 1):
        values += 0.01 * torch.rand_like(values)  # equal ones, such as slopes, would be stored once
    model.eval().save_pretrained(folder)
    size = 72 if family == "alexnet" else 36
    ConvZooImageProcessor(size, crop_size=size - 4).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return model


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with eight coloured images, a grey one and a palette with transparency."""
    folder = tmp_path_factory.mktemp("my photos")
    images, _ = coloured_images(8, seed=0, side=(60, 90))
    for number, image in enumerate(images):
        (folder / f"{number} a.jpg").write_bytes(image)
    Image.new("I;16", (50, 41), 9000).save(folder / "grey.png")
    Image.new("RGBA", (50, 41), (9, 200, 30, 0)).quantize().save(folder / "palette.png")
    return folder


def exported(model, photos, *options, output):
    assert main(["export", str(model), str(output), "--images", str(photos), *options]) == 0
    return json.loads((output / "export.json").read_text())


@pytest.mark.parametrize(
    ("family", "form"),
    [
        ("cnn", "onnx"),
        ("qlnet", "onnx"),
        ("alexnet", "onnx"),
        ("qlnet", "torch-export"),
        ("cnn", "torch-export"),
        ("alexnet", "torch-export"),
    ],
)
def test_an_export_gives_the_logits_of_the_model(family, form, *, tmp_path, photos, capsys):
    model = save_model(tmp_path / "a model", family)
    output = tmp_path / "the export"
    facts = exported(tmp_path / "a model", photos, "--format", form, output=output)
    said = capsys.readouterr().out
    assert f"{facts['check']['largest_difference']:.1e}" in said and str(output) in said
    assert facts["input"]["shape"] == (FREE if family != "alexnet" else ["batch", 3, 68, 68])
    assert facts["check"]["num_images"] == facts["check"]["same_decisions"] == 10
    fused = model.fuse() if hasattr(model, "fuse") else model
    assert facts["num_parameters"] == sum(each.numel() for each in (fused or model).parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, *[68 if family == "alexnet" else 32] * 2))
    assert facts["num_multiply_adds"] == counter.get_total_flops() // 2
    assert f"{facts['num_multiply_adds']:,} multiply-adds for an image" in said
    network = load_network(output / facts["file"])
    side = 68 if family == "alexnet" else 47
    for count, width in ((1, side), (5, side)):
        x = torch.randn(count, 3, side, width)
        with torch.inference_mode():
            expected = model(x).logits.numpy()
        assert np.abs(network(x.numpy()) - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "transformers", "convzoo", "modeling", "onnx", "huggingface_hub", "scipy"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_int8_runs_where_nothing_but_onnxruntime_is(tmp_path, photos, capsys):
    model = save_model(tmp_path / "model", "cnn")
    output = tmp_path / "exported"
    options = ["--format", "int8-onnx", "--base-model", "me/tiny", "--least-agreement", "0"]
    facts = exported(tmp_path / "model", photos, *options, "--quiet", "--json", output=output)
    assert json.loads(capsys.readouterr().out) == facts | {"output": str(output)}
    assert facts["check"]["num_images"] == facts["check"]["calibration_images"] == 5
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    model.fuse()
    assert facts["num_multiply_adds"] == counter.get_total_flops() // 2
    assert facts["num_parameters"] == sum(each.numel() for each in model.parameters())
    assert load_classifier(str(output)).facts["num_parameters"] == facts["num_parameters"]
    assert 0 < facts["check"]["largest_difference"] < 0.2 * facts["check"]["largest_logit"]
    image = photos / "3 a.jpg"
    done = run("-I", "-c", WITHOUT_TORCH, output / "classify.py", image, tmp_path, check=False)
    assert done.returncode == 1 and "error: " in done.stderr and "Traceback" not in done.stderr
    (block,) = Page("docs/export.md").blocks("python")
    (output / "photo.jpg").write_bytes(image.read_bytes())
    said = run("-c", block, cwd=output, PYTHONPATH=str(output)).stdout.strip()
    assert f": {said} " in done.stdout
    name, _, answers = done.stdout.strip().partition(": ")
    assert name == str(image)
    found = [answer.rpartition(" ") for answer in answers.split(", ")]
    expected = pipeline("image-classification", str(tmp_path / "model"), device="cpu")(str(image))
    assert {label for label, _, _ in found} == {each["label"] for each in expected}
    by_label = {each["label"]: each["score"] for each in expected}
    for label, _, score in found:
        assert float(score) == pytest.approx(by_label[label], abs=0.05)
    front, _, text = (output / "README.md").read_text().removeprefix("---\n").partition("---\n")
    front = yaml.safe_load(front)
    assert front["license"] == "mit" and front["library_name"] == "onnx"
    assert (front["base_model"], front["base_model_relation"]) == ("me/tiny", "quantized")
    assert f"On 5 images (the given files) {facts['check']['same_decisions']} decisions" in text
    assert f"has {facts['num_parameters']:,} parameters, and an image of the usual" in text
    assert "shorter side to 36 pixels (bilinear" in text and "Crop 32 x 32" in text
    assert "[0.485, 0.456, 0.406]" in text and "red, green, blue" in text
    assert "-0" not in facts["command"] and str(facts["input"]["shape"][0]) == "batch"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tolerance", "1e-15"], "logits must agree to 1e-15 of the largest"),
        (["--tolerance", "0"], "--tolerance must be more than 0; got 0"),
        (["--least-agreement", "2"], "--least-agreement must be in [0, 1]; got 2"),
        (["--format", "int8-onnx", "--limit", "3"], "needs at least 4 images; got 3"),
        (["--data", "x"], "images must come from --images or --data; got both"),
    ],
)
def test_what_is_refused_leaves_nothing(options, message, *, tmp_path, photos, capsys):
    save_model(tmp_path / "model", "cnn")
    command = ["export", str(tmp_path / "model"), str(tmp_path / "out"), "--images", str(photos)]
    assert main([*command, *options]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_files_is_not_replaced(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["export", "nobody/nothing", str(tmp_path)]) == 1
    assert "must be new or an empty folder" in capsys.readouterr().err


def test_a_file_that_is_no_image_is_named(tmp_path, capsys):
    save_model(tmp_path / "model", "cnn")
    (tmp_path / "notes.jpg").write_text("none")
    command = ["export", str(tmp_path / "model"), str(tmp_path / "out")]
    assert main([*command, "--images", str(tmp_path / "notes.jpg")]) == 1
    assert "notes.jpg must be an image; " in capsys.readouterr().err


@pytest.mark.parametrize(
    "switch", [{}, {"do_center_crop": False}, {"do_rescale": False}, {"do_normalize": False}]
)
@pytest.mark.parametrize("grey", [False, True])
def test_the_script_makes_the_pixels_of_the_processor(switch, grey, *, photos):
    fields = {"num_channels": 1, "image_mean": [0.3], "image_std": [0.2]} if grey else {}
    for size, crop in ((36, 32), (33, {"height": 30, "width": 27})):
        processor = ConvZooImageProcessor(size, resample=3, crop_size=crop, **fields, **switch)
        for path in photos.iterdir():
            with Image.open(path) as image:
                found = prepare(image, processor.to_dict())
                expected = processor(images=image, return_tensors="np")["pixel_values"]
            assert found.dtype == np.float32 and np.array_equal(found, expected)


def largest(batches, key):
    return max(facts[key] for facts in batches.values())


def test_the_page_repeats_how_exact_the_formats_are():
    page, rows = Page("docs/export.md"), result_file("export_parity")["rows"]
    batches = {(row["network"], row["format"]): row["batches"] for row in rows}
    table, exact = [], []
    for name in dict.fromkeys(row["network"] for row in rows):
        formats = [batches[name, form] for form in ("onnx", "torch-export", "int8-onnx")]
        exact += formats[:2]
        differences = [largest(each, "largest_difference_of_a_logit") for each in formats]
        same = [facts["same_first_class"] for facts in formats[2].values()]
        table.append(
            [
                name,
                f"{largest(formats[0], 'largest_logit'):.1f}",
                *(f"{value:.1e}" for value in differences),
                f"{', '.join(map(str, same))} of {formats[2]['1']['n']}",
            ]
        )
    assert page.table("| network | largest logit |") == table
    assert all(f["same_first_class"] == f["n"] for each in exact for f in each.values())
    probability = max(largest(each, "largest_difference_of_a_probability") for each in exact)
    assert f"no probability differs by more than {probability:.1e}" in page.sentences


def test_the_pages_repeat_what_8_bits_cost():
    content = result_file("export_parity")
    rows, log = [], Page("docs/log.md").sentences
    for row in content["rows"]:
        facts = row["batches"]["1"]
        if row["format"] in ("onnx", "torch-export") or "mcnemar_p_value" not in facts:
            continue
        low, high = (100 * end for end in facts["change_of_accuracy_interval_95"])
        shares = [facts["same_first_class"] / facts["n"]]
        shares += [facts["top1_accuracy_of_model"], facts["top1_accuracy"]]
        rows.append(
            [
                f"{row['network'].removesuffix(', trained')}, {row['format']}",
                *(f"{100 * share:.2f} %" for share in shares),
                f"{low:+.2f} to {high:+.2f}",
                f"{facts['mcnemar_p_value']:.2f}",
            ]
        )
    assert Page("docs/export.md").table("| network | same decisions |") == rows
    assert f"ranges from {content['images_for_ranges']}" in Page("docs/export.md").sentences
    cnn, cnn_bfloat16, qlnet, qlnet_bfloat16 = (row[1] for row in rows)
    sentence = f"trained weights {cnn} stay in a CNN ({cnn_bfloat16} in bfloat16) and {qlnet} in a "
    assert f"{sentence}QLNet ({qlnet_bfloat16})" in log
    before, after = (value.removesuffix(" %") for value in rows[2][2:4])
    assert f"falls from {before} to {after} %" in log
