"""The page, started as its user starts it: a copy of app.py alone, in a folder of its own."""

import ast
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import app
from modeling import (
    CNN,
    AlexNet,
    AlexNetConfig,
    CNNConfig,
    ConvZooImageProcessor,
    QLNet,
    QLNetConfig,
)
from tests.support.clients import ROOT, run

LABELS = ["kite", "crane", "coat", "crane", "crane", "boot"]  # ImageNet too has "crane" twice
CARD = (
    "---\nlicense: mit\n---\n\n# Tiny CNN\n\nIt knows ![](https://example.org/x.png) many cranes.\n"
    "![a picture][x] ![x] <video poster='https://example.org/x.png'>\n\n"
    "[x]: https://example.org/x.png\n"
)


@contextlib.contextmanager
def serve(folder, *models):
    """Run the app from a folder that holds nothing else of the project; yield its address."""
    shutil.copy(ROOT / "app.py", folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-u", "app.py", *models, "--port", port]
    inherited = {name: value for name, value in os.environ.items() if "CONVZOO" not in name}
    inherited.pop("PYTHONPATH", None)
    folders = {"HF_MODULES_CACHE": folder / "modules", "GRADIO_TEMP_DIR": folder / "uploads"}
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env=inherited | {"HF_HUB_OFFLINE": "1"} | folders,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        lines = []
        try:
            while "Running on" not in "".join(lines[-1:]):
                lines.append(process.stdout.readline())
                assert lines[-1], "".join(lines)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def save_model(folder, labels):
    torch.manual_seed(len(labels))
    shape = {"embedding_size": 8, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1]}
    model = CNN(CNNConfig(**shape, id2label=dict(enumerate(labels))))
    torch.nn.init.normal_(model.classifier.weight, std=0.5)  # scores that differ
    model.save_pretrained(folder)
    ConvZooImageProcessor(size=72, crop_size=64).save_pretrained(folder)
    (folder / "examples").mkdir()
    for number in range(9):
        picture(number, 40, 40).save(folder / f"examples/{number}.png")
    return folder


def random_qlnet(labels):
    torch.manual_seed(0)
    shape = {"embedding_size": 8, "hidden_sizes": [16, 24, 33], "depths": [1, 1, 2]}
    model = QLNet(QLNetConfig(stem="small", **shape, id2label=dict(enumerate(labels))))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                torch.nn.init.uniform_(values, 0.5, 1.5)
    torch.nn.init.normal_(model.classifier.weight)
    return model.eval()


def picture(seed, width=90, height=60):
    """A picture with large structures, which resizing keeps."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("model"), LABELS)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory, model_folder):
    from gradio_client import Client

    folder = tmp_path_factory.mktemp("space")
    with serve(folder, model_folder) as url:
        yield Client(url, verbose=False, analytics_enabled=False)
    assert {path.name for path in folder.iterdir()} == {"app.py", "modules", "uploads"}


@pytest.fixture(scope="module")
def classifier(model_folder):
    from transformers import pipeline

    return pipeline("image-classification", model=str(model_folder), trust_remote_code=True)


def predict(client, path):
    from gradio_client import handle_file

    classes, details, _, _ = client.predict(handle_file(path), api_name="/predict")
    return [(each["label"], each["confidence"]) for each in classes["confidences"]], details


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees for display
    return exif


def transparent():
    image = picture(4).convert("P")
    image.info["transparency"] = 0
    return image


FILES = {
    "rgb.png": (picture(1), {}),
    "rgb.jpg": (picture(2), {}),
    "rgba.png": (picture(3).convert("RGBA"), {}),
    "palette.png": (transparent(), {}),
    "palette.gif": (picture(5).convert("P"), {}),
    "grey.png": (picture(6).convert("L"), {}),
    "cmyk.jpg": (picture(7).convert("CMYK"), {}),
    "rgb.webp": (picture(8), {}),
    "turned.jpg": (picture(9), {"exif": turned()}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_gets_the_scores_of_the_pipeline_for_its_upright_pixels(
    client, classifier, tmp_path, name
):
    image, options = FILES[name]
    image.save(tmp_path / name, **options)
    with Image.open(tmp_path / name) as opened:
        colours = ImageOps.exif_transpose(opened).convert("RGBA").convert("RGB")
        upright = Image.fromarray(np.asarray(colours))
    expected = classifier(upright, top_k=5)
    got, details = predict(client, tmp_path / name)
    assert [score for _, score in got] == pytest.approx([each["score"] for each in expected])
    assert [label.split(" ")[0] for label, _ in got] == [each["label"] for each in expected]
    size = "60 x 90" if name == "turned.jpg" else "90 x 60"
    assert details.endswith(f"ms (median of 3 runs) for this {size} picture")
    if name == "turned.jpg":
        best = classifier(str(tmp_path / name))[0]
        assert best["score"] == pytest.approx(expected[0]["score"])


def test_five_classes_of_which_those_of_one_name_are_told_apart(client, tmp_path):
    picture(0).save(tmp_path / "a.png")
    got, _ = predict(client, tmp_path / "a.png")
    labels = {label for label, _ in got}
    assert len(labels) == 5
    assert labels < {"kite", "crane (1)", "coat", "crane (3)", "crane (4)", "boot"}


def test_what_is_no_picture_gets_an_answer_that_says_what_to_give(client, tmp_path):
    from gradio_client.exceptions import AppError

    (tmp_path / "text.jpg").write_text("This is no picture.")
    with pytest.raises(AppError, match="no picture: give a JPEG, PNG"):
        predict(client, tmp_path / "text.jpg")
    picture(0, 2020, 20).save(tmp_path / "strip.png")
    with pytest.raises(AppError, match="factor of 100"):
        predict(client, tmp_path / "strip.png")


def test_files_of_the_server_cannot_be_named(client, model_folder):
    data = [{"path": str(model_folder / "examples/0.png"), "meta": {"_type": "gradio.FileData"}}]
    call = httpx.post(
        f"{client.src}gradio_api/call/predict", json={"data": data}, trust_env=False
    ).json()
    stream = httpx.get(
        f"{client.src}gradio_api/call/predict/{call['event_id']}", trust_env=False
    ).text
    assert "event: error" in stream and "confidences" not in stream


def test_the_upload_of_too_large_a_file_is_refused(client):
    for size, status in {app.MAX_FILE_BYTES: 200, app.MAX_FILE_BYTES + 1: 413}.items():
        files = {"files": ("large.jpg", bytes(size))}
        answer = httpx.post(f"{client.src}gradio_api/upload", files=files, trust_env=False)
        assert answer.status_code == status


def test_the_page_shows_card_and_examples_and_offers_one_endpoint(client, model_folder):
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/predict"]
    assert client.config["title"] == "Tiny CNN: image classifier"
    assert not client.config["analytics_enabled"]
    values = [part["props"].get("value") for part in client.config["components"]]
    count = sum(weights.numel() for weights in CNN.from_pretrained(model_folder).parameters())
    assert f"# Tiny CNN\n{count:,} parameters, 6 classes, confidence uncalibrated" in values
    (card,) = [value for value in values if str(value).startswith("It knows  many cranes.")]
    assert "![" not in card and "<" not in card
    (examples,) = [p for p in client.config["components"] if p["type"] == "dataset"]
    assert len(examples["props"]["samples"]) == 5  # every second one of nine


def test_two_classes_and_no_card(tmp_path):
    folder = str(save_model(tmp_path / "model", ["cat", "dog"]))
    classifier = app.load_classifier(folder)
    assert classifier.likeliest(classifier.logits(picture(0))).keys() == {"cat", "dog"}
    assert (classifier.title, classifier.card) == (folder, "")


def test_the_answer_has_a_heat_map_of_the_likeliest_class(client, tmp_path):
    from gradio_client import handle_file

    picture(1).save(tmp_path / "a.png")
    answer = client.predict(handle_file(tmp_path / "a.png"), api_name="/predict")
    with Image.open(answer[2]) as heat_map:
        assert heat_map.size == (64, 64)  # the crop that the model sees
    assert answer[0]["label"] in answer[3]


def test_the_example_of_the_documentation_runs(client, tmp_path):
    text = app.__doc__.split("    from gradio_client", 1)[1]
    code = "    from gradio_client" + text
    code = code.replace("http://127.0.0.1:7860", client.src).replace("    ", "", 1)
    picture(0).save(tmp_path / "photo.jpg")
    done = run("-c", code.replace("\n    ", "\n"), cwd=tmp_path)
    assert done.stdout.count("'confidence': ") == 5


@pytest.mark.parametrize("family", ["cnn", "qlnet", "alexnet"])
def test_grad_cam_is_the_closed_form_of_the_class_activation_map(family):
    torch.manual_seed(0)
    if family == "cnn":
        shape = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]}
        model = CNN(CNNConfig(**shape, num_labels=5)).eval()
    elif family == "qlnet":
        model = random_qlnet(LABELS)
    else:
        shape = {"hidden_sizes": [8, 8, 8, 8, 12], "classifier_hidden_size": 16}
        model = AlexNet(AlexNetConfig(stem="small", **shape, num_labels=5)).eval()
    pixel_values = torch.randn(1, 3, 48, 48)
    heat = app.grad_cam(model, pixel_values, 3)
    maps = model(pixel_values, output_hidden_states=True).hidden_states[-1].detach()
    assert heat.shape == maps.shape[2:] and not heat.requires_grad
    if family == "cnn":  # average pooling and a linear layer: Zhou et al., arXiv:1512.04150
        weights = model.classifier.weight[3].detach()
        expected = torch.einsum("c,chw->hw", weights, maps[0]).relu() / maps[0, 0].numel()
    else:  # the derivative of the logit by finite differences, channel by channel
        tail = model.double()
        maps = maps.double()
        expected = torch.zeros(maps.shape[2:], dtype=maps.dtype)
        for channel in range(maps.shape[1]):
            change = torch.zeros_like(maps)
            change[0, channel] = 1e-6
            with torch.no_grad():
                ends = [after_stages(tail, maps + sign * change)[0, 3] for sign in (1, -1)]
            weight = (ends[0] - ends[1]) / 2e-6 / maps[0, 0].numel()
            expected += weight * maps[0, channel]
        expected = expected.relu().float()
    assert expected.max() > 0
    assert torch.allclose(heat, expected, rtol=1e-3, atol=1e-5 * expected.max().item())


def after_stages(model, maps):
    """The logits that follow from the output of the last stage, written down once more."""
    if isinstance(model, QLNet):
        norm = maps.norm(dim=1, keepdim=True)
        radius = maps.shape[1] ** 0.5
        ball = torch.where(norm > radius, maps * radius / norm, maps)
        return model.classifier(ball.mean((2, 3)))
    x = model.pool(maps).flatten(1)
    return model.classifier(model.fc7(model.fc6(x).relu()).relu())


def test_a_model_of_transformers_is_explained_and_one_without_feature_maps_says_so():
    from transformers import (
        ResNetConfig,
        ResNetForImageClassification,
        ViTConfig,
        ViTForImageClassification,
    )

    torch.manual_seed(0)
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 4}
    resnet = ResNetForImageClassification(ResNetConfig(layer_type="basic", **shape)).eval()
    pixel_values = torch.randn(1, 3, 64, 64)
    maps = resnet(pixel_values, output_hidden_states=True).hidden_states[-1][0].detach()
    weights = resnet.classifier[-1].weight.detach()
    for index in range(4):
        expected = torch.einsum("c,chw->hw", weights[index], maps).relu() / maps[0].numel()
        assert torch.allclose(app.grad_cam(resnet, pixel_values, index), expected, atol=1e-6)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vit = ViTForImageClassification(ViTConfig(**size, intermediate_size=8, image_size=64))
    assert app.grad_cam(vit.eval(), pixel_values, 0) is None


def test_heat_lies_over_what_the_model_sees():
    processor = ConvZooImageProcessor(size=64, crop_size=64)
    image = picture(3, 64, 64)
    pixel_values = processor(image, return_tensors="pt")["pixel_values"]
    heat = torch.zeros(4, 4)
    grey = np.asarray(image, np.float32).mean(-1, keepdims=True)
    cold = np.asarray(app.draw_heat(heat, pixel_values, processor), np.float32)
    assert np.abs(cold - (grey + app.INFERNO[0]) / 2).max() <= 1
    heat[0, 3] = 7
    hot = np.asarray(app.draw_heat(heat, pixel_values, processor), np.float32)
    assert np.abs(hot[0, -1] - (grey[0, -1] + app.INFERNO[-1]) / 2).max() <= 1
    assert np.array_equal(hot[32:], cold[32:])


def test_confidence_is_calibrated_by_the_temperature_of_the_results(tmp_path):
    folder = save_model(tmp_path / "model", LABELS)
    assert "uncalibrated" in app.load_classifier(str(folder)).facts()
    results = [{"metrics": {}}, {"calibration": {"temperature": 2.5}}]
    (folder / "eval_results.json").write_text(json.dumps({"results": results}))
    classifier = app.load_classifier(str(folder))
    assert "confidence calibrated (temperature 2.50)" in classifier.facts()
    logits = torch.tensor([1.0, 3.0, -2.0, 0.5, 2.0, 0.0])
    expected = np.exp(logits.numpy() / 2.5)
    expected = np.sort(expected / expected.sum())[:0:-1]
    assert list(classifier.likeliest(logits).values()) == pytest.approx(expected.tolist())


def test_classes_that_do_not_exclude_each_other_get_the_scores_of_the_pipeline(tmp_path):
    from transformers import pipeline

    folder = save_model(tmp_path / "model", LABELS[:3])
    config = json.loads((folder / "config.json").read_text())
    config["problem_type"] = "multi_label_classification"
    (folder / "config.json").write_text(json.dumps(config))
    classifier = app.load_classifier(str(folder))
    expected = pipeline("image-classification", model=str(folder), trust_remote_code=True)(
        picture(1), top_k=3
    )
    scores = classifier.likeliest(classifier.logits(picture(1)))
    assert scores == pytest.approx({each["label"]: each["score"] for each in expected})
    assert sum(scores.values()) != pytest.approx(1)


@pytest.mark.parametrize("channels", [2, 7, 32])
def test_the_rotation_turns_every_paired_direction_by_the_angle(channels):
    matrix = app.rotation(channels, 40)
    assert torch.allclose(matrix @ matrix.T, torch.eye(channels, dtype=matrix.dtype))
    angles = torch.linalg.eigvals(matrix).angle().rad2deg().abs()
    expected = [40.0] * (channels - channels % 2) + [0.0] * (channels % 2)
    assert sorted(angles.tolist(), reverse=True) == pytest.approx(expected, abs=1e-6)
    assert torch.equal(app.rotation(channels, 0), torch.eye(channels, dtype=matrix.dtype))


def test_rotated_weights_give_the_same_classes_and_the_model_keeps_its_own(tmp_path):
    model = random_qlnet(LABELS)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    processor = ConvZooImageProcessor(size=40, crop_size=32)
    classifier = app.Classifier("QLNet", "", model, processor, list("abcdef"), None)
    image = picture(2)
    expected = classifier.likeliest(classifier.logits(image))
    got, details = app.rotate(classifier, image, 75)
    assert list(got) == list(expected)
    assert list(got.values()) == pytest.approx(list(expected.values()), abs=1e-4)
    weight, logit = map(float, re.findall(r": (\S+)\. ", details))
    assert weight > 0.1 and logit < 1e-3
    assert all(torch.equal(before[name], weights) for name, weights in model.state_dict().items())


def test_the_chart_of_slopes_has_a_mark_for_each_layer_at_its_median():
    shape = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2]}
    model = CNN(CNNConfig(**shape, num_labels=5))
    layers = [module for module in model.modules() if isinstance(module, torch.nn.PReLU)]
    for number, layer in enumerate(layers):
        torch.nn.init.constant_(layer.weight, number / 10)
    chart = app.draw_slopes(model)
    svg = ElementTree.fromstring(chart[chart.index("<svg") :])
    heights = [float(circle.get("cy")) for circle in svg.iter("circle")]
    assert heights == pytest.approx(np.linspace(130, 10, len(layers)).tolist(), abs=0.1)
    assert f"Slopes of {len(layers)} layers" in svg.get("aria-label")
    assert app.draw_slopes(random_qlnet(LABELS)) == ""


def test_the_environment_chooses_the_examples(tmp_path, monkeypatch):
    pictures = save_model(tmp_path / "model", ["cat", "dog"]) / "examples"
    monkeypatch.setenv("CONVZOO_EXAMPLES", str(pictures))
    assert app.find_examples(tmp_path)[:2] == [str(pictures / "0.png"), str(pictures / "2.png")]
    monkeypatch.setenv("CONVZOO_EXAMPLES", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="CONVZOO_EXAMPLES must be a folder"):
        app.find_examples(tmp_path)


def test_16_bit_grey_is_scaled_not_cut_off(tmp_path):
    grey = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    image = app.read_image(tmp_path / "grey.png")
    assert (np.asarray(image)[..., 0] == grey // 256).all()


def test_damaged_and_enormous_files_are_refused_by_name_of_the_fault(tmp_path, monkeypatch):
    picture(0).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for name, data in {"empty.png": b"", "cut.png": whole[: len(whole) // 2]}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match="damaged, or no picture"):
            app.read_image(tmp_path / name)
    for side in (7_100, 14_000):  # beyond our limit, and beyond Pillow's own
        Image.new("1", (side, side)).save(tmp_path / "bomb.png")
        with pytest.raises(ValueError, match="more than 50 megapixels"):
            app.read_image(tmp_path / "bomb.png")
    monkeypatch.setattr(app, "MAX_FILE_BYTES", len(whole) - 1)
    with pytest.raises(ValueError, match="larger than"):
        app.read_image(tmp_path / "whole.png")


def test_a_model_that_is_not_there_ends_the_program_with_advice(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CONVZOO_MODEL", raising=False)
    monkeypatch.setattr(app, "QUICKSTART", tmp_path / "none")
    with pytest.raises(SystemExit, match="2"):
        app.main([])
    assert "run `make quickstart`, or give a model folder or Hub id" in capsys.readouterr().err
    monkeypatch.setenv("CONVZOO_MODEL", str(tmp_path))
    with pytest.raises(SystemExit, match="1"):
        app.main([])
    assert f"cannot show the model '{tmp_path}'" in capsys.readouterr().err


def test_help_and_import_load_no_large_library():
    large = "{'gradio', 'torch', 'transformers', 'PIL'}"
    run("-c", f"import app, sys; sys.exit({large} & set(sys.modules) or 0)")


def test_the_app_imports_nothing_of_the_project():
    allowed = {"gradio", "huggingface_hub", "transformers", "torch", "PIL"} | set(
        sys.stdlib_module_names
    )
    for node in ast.walk(ast.parse((ROOT / "app.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module.split(".")[0] in allowed
        elif isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
