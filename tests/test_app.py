"""The page, started as its user starts it: a copy of app.py alone, in a folder of its own."""

import ast
import contextlib
import hashlib
import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

import app
from convzoo.images.allowed_formats import ALLOWED
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
def started(folder, *arguments, **environment):
    """Run Python in a folder that holds the app alone; yield the process and its address."""
    shutil.copy(ROOT / "app.py", folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-u", *arguments, "--port", port]
    inherited = {name: value for name, value in os.environ.items() if "CONVZOO" not in name}
    inherited.pop("PYTHONPATH", None)
    folders = {"HF_MODULES_CACHE": folder / "modules"}
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env=inherited | {"HF_HUB_OFFLINE": "1"} | folders | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        lines = []
        try:
            while "Running on" not in "".join(lines[-1:]):
                lines.append(process.stdout.readline())
                assert lines[-1], "".join(lines)
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@contextlib.contextmanager
def serve(folder, *models):
    """Run the app from a folder that holds nothing else of the project; yield its address."""
    with started(folder, "app.py", *models, GRADIO_TEMP_DIR=folder / "uploads") as (_, url):
        yield url


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
        client = Client(url, verbose=False, analytics_enabled=False)
        client.uploads = folder / "uploads"
        yield client
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
    image.info["transparency"] = image.getpixel((0, 0))
    return image


def half_transparent():
    image = picture(12).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


FILES = {
    "rgb.png": (picture(1), {}),
    "rgb.jpg": (picture(2), {}),
    "rgba.png": (picture(3).convert("RGBA"), {}),
    "seen.png": (half_transparent(), {}),
    "palette.png": (transparent(), {}),
    "palette.gif": (picture(5).convert("P"), {}),
    "grey.png": (picture(6).convert("L"), {}),
    "cmyk.jpg": (picture(7).convert("CMYK"), {}),
    "rgb.webp": (picture(8), {}),
    "turned.jpg": (picture(9), {"exif": turned()}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_gets_the_scores_of_the_pipeline(client, classifier, tmp_path, name):
    image, options = FILES[name]
    image.save(tmp_path / name, **options)
    with Image.open(tmp_path / name) as opened:
        expected = classifier(opened, top_k=5)
    got, details = predict(client, tmp_path / name)
    assert [score for _, score in got] == pytest.approx([each["score"] for each in expected])
    assert [label.split(" ")[0] for label, _ in got] == [each["label"] for each in expected]
    size = "60 x 90" if name == "turned.jpg" else "90 x 60"
    assert f"ms (median of 3 runs) for this {size} picture" in details
    assert ("does not see transparency" in details) == (name in ("palette.png", "seen.png"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_has_one_answer_however_the_phone_was_held(client, tmp_path, orientation):
    upright = picture(11)
    upright.save(tmp_path / "upright.png")
    turns = Image.Transpose
    stored_as = {  # the definition of the EXIF standard, undone
        1: [],
        2: [turns.FLIP_LEFT_RIGHT],
        3: [turns.ROTATE_180],
        4: [turns.FLIP_TOP_BOTTOM],
        5: [turns.TRANSPOSE],
        6: [turns.ROTATE_90],
        7: [turns.TRANSVERSE],
        8: [turns.ROTATE_270],
    }
    stored = upright
    for turn in stored_as[orientation]:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "phone.png", exif=exif)
    expected, _ = predict(client, tmp_path / "upright.png")
    assert predict(client, tmp_path / "phone.png")[0] == expected


def test_a_turned_picture_keeps_no_sign_to_turn_it_again(tmp_path):
    """A processor of a model that was trained with data.exif_rotation turns what says so."""
    FILES["turned.jpg"][0].save(tmp_path / "turned.jpg", exif=turned())
    image = read(tmp_path / "turned.jpg")
    assert image.size == (60, 90) and not image.info


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


@pytest.fixture(scope="module")
def elsewhere():
    """A server that has a picture; yield its address and the list of what was asked of it."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            picture(0).save(self.wfile, "PNG")

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


META = {"meta": {"_type": "gradio.FileData"}}
# What is sent in the place of an uploaded picture; F is one of the server's own files, U the
# folder of uploads, E a server elsewhere, A the app.
ATTACKS = {
    "no meta": {"path": "F"},
    "meta": {"path": "F", **META},
    "another type": {"path": "F", "meta": {"_type": "gradio.ImageData"}},
    "meta is a text": {"path": "F", "meta": "gradio.FileData"},
    "meta is null": {"path": "F", "meta": None},
    "a stream": {"path": "F", "is_stream": True, **META},
    "a URL besides": {"path": "F", "url": "A/gradio_api/file=F", **META},
    "traversal": {"path": "U/../../model0/examples/0.png"},
    "traversal with meta": {"path": "U/../../model0/examples/0.png", **META},
    "encoded traversal": {"path": "U/%2e%2e/%2e%2e/model0/examples/0.png"},
    "the folder of uploads": {"path": "U", **META},
    "root": {"path": "/"},
    "FIFO": {"path": "U/../fifo"},
    "FIFO with meta": {"path": "U/../fifo", **META},
    "FIFO among uploads": {"path": "U/fifo", **META},
    "link to a FIFO": {"path": "U/link_to_fifo", **META},
    "link": {"path": "U/link.png"},
    "link with meta": {"path": "U/link.png", **META},
    "link to a folder": {"path": "U/folder/0.png", **META},
    "link to itself": {"path": "U/loop", **META},
    "/dev/zero": {"path": "/dev/zero"},
    "/dev/stdin": {"path": "/dev/stdin", **META},
    "/proc": {"path": "/proc/self/environ"},
    "device among uploads": {"path": "U/device", **META},
    "address": {"path": "E/a.png"},
    "address with meta": {"path": "E/a.png", **META},
    "address as url": {"path": None, "url": "E/a.png", **META},
    "public address": {"path": "https://huggingface.co/front/assets/a.png", **META},
    "file URL": {"path": "file://F", **META},
    "file=": {"path": "/gradio_api/file=F", **META},
    "file= by address": {"path": "A/gradio_api/file=F", **META},
    "proxy=": {"path": "/gradio_api/proxy=E/a.png", "url": "/gradio_api/proxy=E/a.png", **META},
    "data": {"path": "data:image/png;base64,AAAA", "url": "data:image/png;base64,AAAA"},
    "much data": {"path": "data:image/png;base64," + "/A" * 10**7, **META},
    "a long path": {"path": "U" + "/a" * 10**6},
    "null byte": {"path": "F\0.png"},
    "null byte with meta": {"path": "U/a\0.png", **META},
    "half a character": {"path": "U/\ud800.png", **META},
    "path is a number": {"path": 0, **META},
    "path is a file": {"path": {"path": "E/a.png", **META}, **META},
    "file in a list": [{"path": "E/a.png", **META}],
    "file in a file": {"a": {"path": "E/a.png", **META}},
    "text": "F",
    "number": 0,
    "nothing": {},
}


def ask(client, data, route="predict"):
    """Post to the API as no library would; the answer."""
    url = f"{client.src}gradio_api/call/{route}"
    with httpx.Client(trust_env=False, timeout=20) as http:
        body, kind = json.dumps({"data": data}), {"Content-Type": "application/json"}
        call = http.post(url, content=body, headers=kind).json()
        return http.get(f"{url}/{call['event_id']}").text


@pytest.fixture(scope="module")
def traps(client, model_folder):
    """Lay what an attacker might find into the folder of uploads, and beside it."""
    uploads = client.uploads
    uploads.mkdir(exist_ok=True)
    own = model_folder / "examples/0.png"
    for fifo in (uploads / "fifo", uploads.parent / "fifo"):
        os.mkfifo(fifo)
    links = {"link.png": own, "link_to_fifo": "fifo", "folder": own.parent, "loop": "loop"}
    for name, target in (links | {"device": "/dev/zero"}).items():
        (uploads / name).symlink_to(target)
    yield own
    for path in (uploads.parent / "fifo", uploads / "fifo", *(uploads / name for name in links)):
        path.unlink()


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_but_an_uploaded_file_is_opened(client, elsewhere, traps, name):
    address, asked = elsewhere
    text = json.dumps(ATTACKS[name])
    for sign, value in {"F": traps, "U": client.uploads, "E": address}.items():
        text = re.sub(rf"\b{sign}(?=[/\"\\])", str(value), text)
    value = json.loads(text.replace("A/gradio_api", f"{client.src}gradio_api"))
    answer = ask(client, [value])
    said = "no longer here" if name == "encoded traversal" else app.NOT_GIVEN
    assert "event: error" in answer and said in answer
    assert "confidences" not in answer and not asked


@pytest.mark.parametrize(
    "path",
    [
        "file=https://1.1.1.1/a.png",
        "file=/https://1.1.1.1/a.png",
        "file=E/a.png",
        "proxy=E/a.png",
        "file=/dev/zero",
        "file=F",
        "file=U/link.png",
        "process_recording",
    ],
)
def test_no_address_fetches_for_a_visitor(client, elsewhere, traps, path):
    address, asked = elsewhere
    for sign, value in {"=F": traps, "=U": client.uploads, "=E": address}.items():
        path = path.replace(sign, f"={value}")
    method = "POST" if path == "process_recording" else "GET"
    answer = httpx.request(method, f"{client.src}gradio_api/{path}", trust_env=False, timeout=20)
    assert answer.status_code == 403 and not asked


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A QLNet with names that would write on the page: its folder, and a client of its page."""
    from gradio_client import Client

    folder = tmp_path_factory.mktemp("strange")
    random_qlnet(HOSTILE).save_pretrained(folder / "model")
    ConvZooImageProcessor(size=40, crop_size=32).save_pretrained(folder / "model")
    (folder / "model/README.md").write_text("# [Model](https://example.org) *bold*\n")
    (folder / "space").mkdir()
    with serve(folder / "space", folder / "model") as url:
        yield folder / "model", Client(url, verbose=False, analytics_enabled=False)


def test_files_sent_to_what_takes_no_file_are_refused(strange, elsewhere):
    _, client = strange
    inner = client.config["dependencies"]
    (index,) = [
        d["id"] for d in inner if len(d["inputs"]) == 2 and d["targets"][0][1:] == ["change"]
    ]
    data = [None, {"path": f"{elsewhere[0]}/a.png", **META}]
    body = {"data": data, "fn_index": index, "session_hash": "me"}
    with httpx.Client(trust_env=False, timeout=20, base_url=f"{client.src}gradio_api/") as http:
        http.post("queue/join", json=body).raise_for_status()
        answer = http.get("queue/data?session_hash=me").text
    assert app.NOT_GIVEN in answer and not elsewhere[1]


WATCHED = """
import gc, signal, sys, app
def count(*_):
    from gradio.state_holder import SessionState
    print("sessions", sum(isinstance(o, SessionState) for o in gc.get_objects()), flush=True)
signal.signal(signal.SIGUSR1, count)
app.DELETE_UPLOADS = (1, 6)  # a busy machine takes seconds to answer
app.main(sys.argv[1:])
"""


def test_uploads_are_deleted_sessions_forgotten_and_nothing_left_behind(tmp_path, model_folder):
    from gradio_client import Client

    for name in ("space", "temporary"):
        (tmp_path / name).mkdir()
    picture(0).save(tmp_path / "a.png")
    place = {"TMPDIR": tmp_path / "temporary", "GRADIO_TEMP_DIR": ""}  # as if not given
    with started(tmp_path / "space", "-c", WATCHED, model_folder, **place) as (process, url):
        client = Client(url, verbose=False, analytics_enabled=False)
        (uploads,) = (tmp_path / "temporary").glob("convzoo-demo-*")
        with (tmp_path / "a.png").open("rb") as file:
            address = f"{url}/gradio_api/upload"
            (path,) = httpx.post(address, files={"files": file}, trust_env=False).json()
        assert path.startswith(str(uploads))
        answer = ask(client, [{"path": path, **META}])
        assert "confidences" in answer
        for _ in range(app.MAX_SESSIONS + 10):
            ask(client, [None])
        process.send_signal(signal.SIGUSR1)
        line = process.stdout.readline()
        while "sessions" not in line:
            line = process.stdout.readline()
        assert int(line.split()[1]) <= app.MAX_SESSIONS + 2
        kept = {p for p in uploads.rglob("*.png") if p.parent != os.path.dirname(path)}
        deadline = time.monotonic() + 30
        while os.path.exists(path) or list(uploads.rglob("*.webp")):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert len(list(uploads.rglob("*.png"))) == 5 <= len(kept)  # the examples
        assert "it was deleted after" in ask(client, [{"path": path, **META}])
        process.terminate()
        process.wait(30)
    assert not list((tmp_path / "temporary").glob("convzoo-demo-*"))


def test_the_upload_of_too_large_a_file_is_refused(client):
    for size, status in {app.MAX_FILE_BYTES: 200, app.MAX_FILE_BYTES + 1: 413}.items():
        files = {"files": ("large.jpg", bytes(size))}
        answer = httpx.post(f"{client.src}gradio_api/upload", files=files, trust_env=False)
        assert answer.status_code == status


def test_the_page_shows_card_and_examples_and_offers_one_endpoint(client, model_folder):
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/predict"]
    assert client.config["title"] == "Tiny CNN tells 6 classes apart"
    assert not client.config["analytics_enabled"]
    values = [part["props"].get("value") for part in client.config["components"]]
    count = sum(weights.numel() for weights in CNN.from_pretrained(model_folder).parameters())
    heading = "# Tiny CNN tells 6 classes apart"
    classes = "Classes: kite, crane (1), coat, crane (3), crane (4), boot."
    assert f"{heading}\n{classes} {count:,} parameters, confidence uncalibrated" in values
    (card,) = [value for value in values if str(value).startswith("It knows  many cranes.")]
    assert "![" not in card and "<" not in card
    (examples,) = [p for p in client.config["components"] if p["type"] == "dataset"]
    assert len(examples["props"]["samples"]) == 5  # every second one of nine


def test_two_classes_and_no_card(tmp_path):
    folder = str(save_model(tmp_path / "a run" / "model", ["cat", "dog"]))
    classifier = app.load_classifier(folder)
    assert classifier.likeliest(classifier.logits(picture(0))).keys() == {"cat", "dog"}
    assert (classifier.title, classifier.card) == ("a run", "")
    assert classifier.headline() == "a run tells cat and dog apart"


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
    plain = ConvZooImageProcessor(size=64, crop_size=64, do_normalize=False, do_rescale=False)
    pixel_values = plain(image, return_tensors="pt")["pixel_values"]
    again = np.asarray(app.draw_heat(torch.zeros(4, 4), pixel_values, plain), np.float32)
    assert np.abs(again - cold).max() <= 1


def test_a_transparent_picture_is_shown_as_the_model_sees_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    half_transparent().save(tmp_path / "seen.png")
    shown = app.show_as_seen({"path": str(tmp_path / "seen.png")})
    assert shown["visible"] and shown["value"].mode == "RGB"
    assert np.array_equal(shown["value"], picture(12))
    picture(1).save(tmp_path / "rgb.png")
    for given in (None, {"path": str(tmp_path / "rgb.png")}):
        hidden = app.show_as_seen(given)
        assert not hidden["visible"] and hidden["value"] is None


def test_confidence_is_calibrated_by_the_temperature_of_the_results(tmp_path):
    folder = save_model(tmp_path / "model", LABELS)
    assert "uncalibrated" in app.load_classifier(str(folder)).facts()
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    images = {"split": "validation", "fingerprint": "sha256:0a", "num_samples": 1500}

    def result(value, sha256=sha256, views=1, **changed):
        fitted = {"value": value, "fitted_on": images, "nll_before": 1.0, "nll_after": 0.9}
        protocol = {"views": views, "image_processor": {}} | changed
        about = {"model": {"sha256": sha256}, "protocol": protocol}
        return about | {"calibration": {"temperature": fitted}}

    def write(*results):
        (folder / "eval_results.json").write_text(json.dumps({"results": results}))

    write({"metrics": {}}, result(9.0, sha256="of other weights"), result(9.0, views=10))
    assert "uncalibrated" in app.load_classifier(str(folder)).facts()
    write(result(9.0, dtype="bfloat16"), result(9.0, crop={"size": 32}))
    assert "uncalibrated" in app.load_classifier(str(folder)).facts()
    write({"metrics": {}}, result(2.5), result(9.0))
    classifier = app.load_classifier(str(folder))
    said = "(temperature 2.50, fitted on 1,500 images of the split validation)"
    assert f"confidence calibrated {said}" in classifier.facts()
    logits = torch.tensor([1.0, 3.0, -2.0, 0.5, 2.0, 0.0])
    expected = np.exp(logits.numpy() / 2.5)
    expected = np.sort(expected / expected.sum())[:0:-1]
    assert list(classifier.likeliest(logits).values()) == pytest.approx(expected.tolist())
    for value in (0, -1, None, "high"):
        write(result(value))
        with pytest.raises(ValueError, match="must be as `convzoo evaluate` writes it"):
            app.read_temperature(folder)


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


def read(path):
    with path.open("rb") as file:
        return app.read_image(file)


def test_16_bit_grey_is_scaled_not_cut_off(tmp_path):
    grey = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    image = read(tmp_path / "grey.png")
    assert (np.asarray(image)[..., 0] == grey // 256).all()


def test_formats_are_those_of_the_other_decoders():
    assert app.IMAGE_FORMATS == ALLOWED


def test_no_program_of_the_system_gets_a_file(tmp_path, monkeypatch):
    picture(0).save(tmp_path / "eps.jpg", "EPS")
    spy = tmp_path / "bin/gs"
    spy.parent.mkdir()
    spy.write_text(f"#!/bin/sh\necho called >> {tmp_path}/called\n")
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", str(spy.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    with pytest.raises(ValueError, match="no picture: give a JPEG"):
        read(tmp_path / "eps.jpg")
    assert not (tmp_path / "called").exists()
    with Image.open(tmp_path / "eps.jpg") as image, pytest.raises(OSError, match="cannot identify"):
        image.load()  # the trap works
    assert (tmp_path / "called").exists()


@pytest.mark.parametrize(
    "start",
    [
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf",
        b"\0\0\0\x18ftypmsf1\0\0\0\0hevcmsf1",
    ],
)
def test_heic_is_named_and_avif_is_read(tmp_path, start):
    (tmp_path / "photo.jpg").write_bytes(start + bytes(100))
    with pytest.raises(ValueError, match=r"This is HEIC, .* save the photo as JPEG"):
        read(tmp_path / "photo.jpg")
    picture(0).save(tmp_path / "photo.avif")
    assert read(tmp_path / "photo.avif").size == (90, 60)


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "[click](https://example.org)",
    "![](https://example.org/x.png)",
    "https://example.org www.example.org a@example.org",
    "`code` *bold* __bold__ ~~gone~~ $$x$$ &lt; \\[x]",
    "two\n\n# lines | \t1.",
    "\x1b]0;title\x07\x1b[31mred\u202e",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_as_it_is(name):
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark").enable(["strikethrough", "table"])
    shown = app.one_line(name)
    expected = f"<p>x {shown}".rstrip() + "</p>\n"
    assert html.unescape(markdown.render(f"x {app.plain(name)}")) == expected
    assert shown.isprintable() and "www." not in app.plain(name)


def test_names_of_a_model_cannot_write_on_the_page(strange):
    folder, client = strange
    classifier = app.load_classifier(str(folder))
    assert "class 7" in classifier.labels and all(map(str.isprintable, classifier.labels))
    for label in classifier.labels:
        _, text = app.explain(classifier, picture(0), label)
        assert f"\u201c{app.plain(label)}\u201d" in text
    values = [str(part["props"].get("value")) for part in client.config["components"]]
    (heading,) = [value for value in values if value.startswith("# ")]
    assert heading.startswith(f"# {app.plain(classifier.title)} tells 8 classes apart\n")


@pytest.mark.parametrize(
    ("card", "left"),
    [
        ("a ![x](https://e.org/x.png) b", "a  b"),
        ("a ![x][y] ![x][] ![x] b\n\n[y]: https://e.org/x", "a    b\n\n[y]: https://e.org/x"),
        ("!![a](b)[c](https://e.org/x.png)", ""),
        ("!<b>[c](https://e.org/x.png)", ""),
        ("[!](a)[c](https://e.org/x.png)", ""),
        ("<im<b>g src=https://e.org/x.png> a", "g src=https://e.org/x.png> a"),
        ("<img/src=https://e.org/@x.png> a", " a"),
        ("<div style='background:url(https://e.org/x.png)'>a</div>", "a"),
        ("<!-- a --><iframe src=https://e.org></iframe>", ""),
        (
            "1 < 2 and 3 > 2, <https://e.org>, <a@e.org>",
            "1 < 2 and 3 > 2, <https://e.org>, <a@e.org>",
        ),
        ("[a](https://e.org/x)", "[a](https://e.org/x)"),
    ],
)
def test_a_card_loads_nothing(tmp_path, card, left):
    (tmp_path / "README.md").write_text(card)
    assert app.read_card(tmp_path)[1] == left.lstrip()


def test_links_of_a_card_lead_to_the_hub_or_are_text(tmp_path):
    (tmp_path / "README.md").write_text("[recipe](recipe.toml) [up](#top) [it](./a/b.py)")
    assert app.read_card(tmp_path) == ("", "recipe up it")
    on_hub = "https://huggingface.co/user/model/blob/"
    for name, commit in {"user/model": "main", "user/model@abc": "abc"}.items():
        expected = f"[recipe]({on_hub}{commit}/recipe.toml) up [it]({on_hub}{commit}/a/b.py)"
        assert app.read_card(tmp_path, name) == ("", expected)


def test_the_title_names_few_classes_and_counts_many():
    config = SimpleNamespace(problem_type=None)
    model = SimpleNamespace(config=config)

    def headline(*labels):
        return app.Classifier("M", "", model, None, list(labels), None).headline()

    assert headline("cat", "dog", "owl") == "M tells cat, dog and owl apart"
    assert headline(*map(str, range(1000))) == "M tells 1,000 classes apart"
    linear = torch.nn.Linear(2, 3)
    names = ["cat", "d_o*g", *map(str, range(4))]
    facts = app.Classifier("M", "", linear, None, names, None).facts()
    assert facts.startswith("Classes: cat, d\\_o\\*g, 0, 1, 2, 3. 9 parameters, confidence")
    of_many = app.Classifier("M", "", linear, None, [*map(str, range(21))], None)
    assert of_many.facts() == "9 parameters, confidence uncalibrated"
    assert headline("cat") == "M recognises cat"
    config.problem_type = "multi_label_classification"
    assert headline("cat", "dog") == "M recognises cat and dog"


def test_damaged_and_enormous_files_are_refused_by_name_of_the_fault(tmp_path, monkeypatch):
    picture(0).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for name, data in {"empty.png": b"", "cut.png": whole[: len(whole) // 2]}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match="damaged, or no picture"):
            read(tmp_path / name)
    for side in (7_100, 14_000):  # beyond our limit, and beyond Pillow's own
        Image.new("1", (side, side)).save(tmp_path / "bomb.png")
        with pytest.raises(ValueError, match="more than 50 megapixels"):
            read(tmp_path / "bomb.png")
    monkeypatch.setattr(app, "MAX_FILE_BYTES", len(whole) - 1)
    with pytest.raises(ValueError, match="larger than"):
        read(tmp_path / "whole.png")


def test_a_model_that_is_not_there_ends_the_program_with_advice(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CONVZOO_MODEL", raising=False)
    monkeypatch.setattr(app, "QUICKSTART", tmp_path / "none")
    monkeypatch.setattr(app, "SHIPPED", tmp_path / "none")
    with pytest.raises(SystemExit, match="2"):
        app.main([])
    assert "run `make quickstart`, or give a model folder or Hub id" in capsys.readouterr().err
    monkeypatch.setenv("CONVZOO_MODEL", str(tmp_path))
    with pytest.raises(SystemExit, match="1"):
        app.main([])
    assert f"cannot show the model '{tmp_path}'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        app.main(["runs/no/model"])
    assert "there is no folder /" in capsys.readouterr().err


SHIPPED = """
import pathlib, app

app.QUICKSTART = pathlib.Path("none")
(name,) = app.default_models()
classifier = app.load_classifier(name)
print(classifier.title, len(classifier.labels), len(app.find_examples(app.fetch(name))))
"""


def test_where_nothing_was_trained_a_shipped_model_is_shown(tmp_path):
    done = run("-c", SHIPPED, cwd=tmp_path, PYTHONPATH=str(ROOT), CONVZOO_MODEL="")
    assert done.stdout.split() == ["fashion-mnist-cnn", "10", "8"]


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
