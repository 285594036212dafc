"""The page, started as its user starts it: a copy of app.py alone, in a folder of its own."""

import ast
import contextlib
import os
import shutil
import socket
import subprocess
import sys

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import app
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.conftest import ROOT, run

LABELS = ["kite", "crane", "coat", "crane", "crane", "boot"]  # ImageNet too has "crane" twice
CARD = (
    "---\nlicense: mit\n---\n\n# Tiny CNN\n\nIt knows ![](https://example.org/x.png) many cranes.\n"
)


@contextlib.contextmanager
def serve(folder, model):
    """Run the app from a folder that holds nothing else of the project; yield its address."""
    shutil.copy(ROOT / "app.py", folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-u", "app.py", model, "--port", port]
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

    classes, details = client.predict(handle_file(path), api_name="/predict")
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
def test_a_file_gets_the_scores_of_the_pipeline_for_its_stored_pixels(
    client, classifier, tmp_path, name
):
    image, options = FILES[name]
    image.save(tmp_path / name, **options)
    with Image.open(tmp_path / name) as opened:
        stored = Image.fromarray(np.asarray(opened.convert("RGBA").convert("RGB")))
    expected = classifier(stored, top_k=5)
    got, details = predict(client, tmp_path / name)
    assert [score for _, score in got] == pytest.approx([each["score"] for each in expected])
    assert [label.split(" ")[0] for label, _ in got] == [each["label"] for each in expected]
    assert details.endswith("ms for this 90 x 60 picture")
    if name == "turned.jpg":  # the pipeline alone would have turned it
        best = classifier(str(tmp_path / name))[0]
        assert best["score"] != pytest.approx(expected[0]["score"], rel=0.01)


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
    assert f"# Tiny CNN\n{count:,} parameters, 6 classes" in values
    assert "It knows  many cranes." in values
    (examples,) = [p for p in client.config["components"] if p["type"] == "dataset"]
    assert len(examples["props"]["samples"]) == 5  # every second one of nine


def test_two_classes_and_no_card(tmp_path):
    folder = str(save_model(tmp_path / "model", ["cat", "dog"]))
    scores = app.load_classifier(folder)(picture(0), top_k=5)
    assert {each["label"] for each in scores} == {"cat", "dog"}
    assert app.read_card(folder) == (folder, "")


def test_the_environment_chooses_the_examples(tmp_path, monkeypatch):
    pictures = save_model(tmp_path / "model", ["cat", "dog"]) / "examples"
    monkeypatch.setenv("CONVZOO_EXAMPLES", str(pictures))
    assert app.find_examples("other")[:2] == [str(pictures / "0.png"), str(pictures / "2.png")]
    monkeypatch.setenv("CONVZOO_EXAMPLES", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="CONVZOO_EXAMPLES must be a folder"):
        app.find_examples("other")


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
    allowed = {"gradio", "transformers", "torch", "PIL"} | set(sys.stdlib_module_names)
    for node in ast.walk(ast.parse((ROOT / "app.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module.split(".")[0] in allowed
        elif isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
