"""What convzoo promises over the Hub, with the real clients and a Hub on loopback."""

import hashlib
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from modeling import (
    CNN,
    AlexNet,
    AlexNetConfig,
    CNNConfig,
    ConvZooImageProcessor,
    QLNet,
    QLNetConfig,
)
from tests.support.clients import STRANGER
from tests.support.golden_weights import checkerboard, golden, tensor
from tests.support.hub_server import GUARD, HubServer
from tests.support.images import COLOURS, coloured_images, write_split

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = {"id2label": dict(enumerate(COLOURS))}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1]}
ALEXNET = {"hidden_sizes": (8, 8, 8, 8, 8), "classifier_hidden_size": 16, "pooled_size": 2}
IMAGES_PER_GROUP, IMAGE_BYTES = 20, 100_000


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    tokens = {"hf_user": "user", "hf_other": "other"}
    with HubServer(tmp_path_factory.mktemp("hub"), tokens) as server:
        yield server


def logits_of(model, processor, image):
    with torch.inference_mode():
        return model.eval()(**processor(image, return_tensors="pt")).logits.numpy()


def save_model(model, folder, processor=None):
    model.save_pretrained(folder)
    (processor or ConvZooImageProcessor()).save_pretrained(folder)


# A checkpoint of the original and a large dataset, in a process that has our package -----------

LOADS_AND_READS = """
import hashlib, json, os, sys, urllib.request
import numpy as np, torch
from modeling import CNN
from convzoo.data.opening import open_split

def mark(name):
    urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/api/telemetry/{name}").close()

model = CNN.from_pretrained("user/cnn-prelu-imagenet", use_prelu=True, num_classes=5)
with torch.inference_mode():
    np.save("logits.npy", model(torch.from_numpy(np.load("pixel_values.npy"))).logits.numpy())
mark("loaded")
source = open_split("user/large", "train")
mark("opened")
rows = [source.read_group(1)]
mark("read")
rows.append(source.read_group(9))
digests = [[hashlib.sha256(part[i][0]).hexdigest() for i in range(len(part))] for part in rows]
try:
    open_split("user/gated", "train")
except FileNotFoundError as error:
    gated = str(error)
json.dump([source.describe(), digests, gated], open("saw.json", "w"))
"""


@pytest.fixture(scope="module")
def reader(hub, tmp_path_factory):
    """The folder of somebody who has run the code above."""
    here = tmp_path_factory.mktemp("reader")
    small = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32]}
    reference = CNN(CNNConfig(**small, num_labels=5))
    original_names = {key: name for key, (name, _) in golden("cnn_prelu.keys").items()}
    state = {
        key: tensor(original_names[key], list(value.shape))
        for key, value in reference.state_dict().items()
    }
    reference.load_state_dict(state)
    (here / "original").mkdir()
    original = {f"_orig_mod.{original_names[key]}": value for key, value in state.items()}
    save_file(original, here / "original" / "model.safetensors")
    config = {
        "model_type": "cnn",
        "architecture": "resnet-style",
        "use_prelu": True,
        "prelu_channel_wise": True,
        "num_classes": 5,
        "use_builtin_conv": True,
        "input_size": [3, 224, 224],
        "num_parameters": 25602488,
        **small,
    }
    (here / "original" / "config.json").write_text(json.dumps(config))
    hub.add_repo("models", "user/cnn-prelu-imagenet", here / "original")
    pixel_values = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    np.save(here / "pixel_values.npy", pixel_values.numpy())
    with torch.inference_mode():
        np.save(here / "expected.npy", reference.eval()(pixel_values).logits.numpy())

    rng = np.random.default_rng(0)
    images = [rng.bytes(IMAGE_BYTES) for _ in range(12 * IMAGES_PER_GROUP)]
    labels = [0] * len(images)
    write_split(here / "large", "train", images, labels, rows_per_group=IMAGES_PER_GROUP)
    write_split(here / "gated", "train", *coloured_images(3, seed=0), files=1)
    (here / "gated" / "README.md").write_text("---\npretty_name: Secrets\n---\n")
    hub.add_repo("datasets", "user/large", here / "large")
    hub.add_repo("datasets", "user/gated", here / "gated", gated=True)
    hub.fail("GET /storage/datasets/user/large/.*train-00001", drop_after=70_000)
    hub.fail("GET /storage/datasets/user/large/.*train-00001", status=503)
    hub.run("-c", LOADS_AND_READS, home=here / "home", token="hf_other", cwd=here)
    (here / "digests.json").write_text(json.dumps([hashlib.sha256(i).hexdigest() for i in images]))
    return here


def test_a_checkpoint_of_the_original_loads_from_the_hub(reader):
    logits, expected = np.load(reader / "logits.npy"), np.load(reader / "expected.npy")
    assert logits.shape == (2, 5) and np.array_equal(logits, expected)


def bytes_between(hub, first, last):
    """Bytes of each answer from the dataset's files between two marks."""
    requests = hub.requests("/api/telemetry/|GET /storage/datasets/user/large/")
    paths = [request.path for request in requests]
    start, stop = (paths.index(f"/api/telemetry/{name}") for name in (first, last))
    return [request.sent for request in requests[start + 1 : stop]]


def test_opening_a_dataset_reads_the_ends_of_its_files(hub, reader):
    sent = bytes_between(hub, "loaded", "opened")
    assert len(sent) >= 2  # both files; one answer is a failure
    assert sum(sent) <= 2 * 65_536 + 1000


def test_a_row_group_is_read_without_its_neighbours(hub, reader):
    sent = bytes_between(hub, "opened", "read")
    group = IMAGES_PER_GROUP * IMAGE_BYTES
    assert group < sum(sent) < 1.05 * group + 65_536


def test_row_groups_come_whole_through_failures(hub, reader):
    description, digests, _ = json.loads((reader / "saw.json").read_text())
    expected = json.loads((reader / "digests.json").read_text())
    for group, found in zip((1, 9), digests, strict=True):
        start = group * IMAGES_PER_GROUP
        assert found == expected[start : start + IMAGES_PER_GROUP]
    statuses = {one.status for one in hub.requests("GET /storage/datasets/user/large/")}
    assert statuses == {206, 503}
    assert 70_000 in [one.sent for one in hub.requests("GET /storage/datasets/user/large/")]
    assert description["id"] == "user/large"
    assert description["revision"] == hub.commits("datasets", "user/large")[0]


def test_a_gated_dataset_says_how_to_get_access(reader):
    _, _, message = json.loads((reader / "saw.json").read_text())
    assert "user/gated" in message
    assert "accept its terms on its Hub page" in message and "`hf auth login`" in message


# Published folders, in a process that has nothing of ours --------------------------------------

UPLOADS = """
import sys
from huggingface_hub import HfApi

api = HfApi()
for repo, private in (("user/cnn", False), ("user/alexnet", True), ("user/qlnet", False)):
    folder = f"{sys.argv[1]}/{repo[5:]}"
    api.create_repo(repo, private=private)
    api.upload_folder(repo_id=repo, folder_path=folder)
    api.create_tag(repo, tag="v1")
"""

DOWNLOADS = """
import json, sys
import numpy as np, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

image, saw = Image.open("image.png"), {}
try:
    AutoModelForImageClassification.from_pretrained("user/alexnet", token=False)
except OSError as error:
    saw["without a token"] = str(error)
for repo, revision in (("user/cnn", None), ("user/alexnet", "v1"), ("user/qlnet", sys.argv[1])):
    which = {"revision": revision or "main", "trust_remote_code": True}
    processor = AutoImageProcessor.from_pretrained(repo, **which)
    model = AutoModelForImageClassification.from_pretrained(repo, **which)
    for thing in (processor, model, model.config):
        assert type(thing).__module__.startswith("transformers_modules."), type(thing)
    with torch.inference_mode():
        logits = model(**processor(image, return_tensors="pt")).logits
    classify = pipeline("image-classification", model=repo, device="cpu", **which)
    saw[repo] = [logits.tolist(), {guess["label"]: guess["score"] for guess in classify(image)}]
json.dump(saw, open("saw.json", "w"))
"""


@pytest.fixture(scope="module")
def stranger(hub, tmp_path_factory):
    """What a stranger saw of our models, and what we see in the folders that were pushed."""
    here = tmp_path_factory.mktemp("stranger")
    torch.manual_seed(0)
    models = {
        "cnn": CNN(CNNConfig(**LABELS, **STAGES)),
        "alexnet": AlexNet(AlexNetConfig.paper_2012(**LABELS, **ALEXNET)),
        "qlnet": QLNet(QLNetConfig(**LABELS, **STAGES)),
    }
    image = Image.fromarray(checkerboard(240, 300))
    image.save(here / "image.png")
    expected = {}
    for family, model in models.items():
        save_model(model, here / "pushed" / family)
        expected[f"user/{family}"] = logits_of(model, ConvZooImageProcessor(), image)
    home = here / "home"
    hub.run("-c", UPLOADS, here / "pushed", home=here / "pusher", token="hf_user", cwd=here)
    pinned = hub.commits("models", "user/qlnet")[0]
    shutil.copytree(here / "pushed" / "qlnet", here / "broken")
    for path in (here / "broken").glob("*.py"):
        path.write_text("raise RuntimeError('this is not the pinned revision')\n")
    hub.add_commit("models", "user/qlnet", here / "broken")
    code = STRANGER + GUARD + DOWNLOADS
    hub.run("-I", "-S", "-c", code, pinned, home=home, token="hf_user", cwd=here)
    return json.loads((here / "saw.json").read_text()), expected


@pytest.mark.parametrize("repo", ["user/cnn", "user/alexnet", "user/qlnet"])
def test_a_stranger_gets_our_numbers_from_the_hub(repo, stranger):
    """The first is public, the second private, the third pinned before its code was broken."""
    saw, expected = stranger
    logits, scores = saw[repo]
    assert np.array_equal(np.float32(logits), expected[repo])
    softmax = torch.from_numpy(expected[repo])[0].softmax(0).tolist()
    assert scores == pytest.approx(dict(zip(COLOURS, softmax, strict=True)), rel=1e-4)


def test_a_private_model_needs_a_token(stranger):
    saw, _ = stranger
    assert "user/alexnet is not a local folder and is not a valid model" in saw["without a token"]


def test_a_pinned_model_asks_for_nothing_else(hub, stranger):
    pinned = hub.commits("models", "user/qlnet")[1]
    requests = hub.requests("(GET|HEAD) /user/qlnet/resolve/")
    names = {one.path.split("/")[5] for one in requests if one.status < 400}
    assert {"config.json", "modeling_qlnet.py", "image_processing_convzoo.py"} <= names
    assert {one.path.split("/")[4] for one in requests} == {pinned}


# Evaluation on the command line ----------------------------------------------------------------

COMMANDS = """
import json, runpy, sys

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["convzoo", *arguments]
    try:
        runpy.run_module("convzoo", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print("exit", end.code, flush=True)
"""


@pytest.fixture(scope="module")
def evaluation(hub, tmp_path_factory, colour_data):
    """A model folder, the dataset's commits, and what three commands said."""
    here = tmp_path_factory.mktemp("evaluation")
    torch.manual_seed(0)
    model = CNN(CNNConfig(**LABELS, **STAGES, stem="small"))
    processor = ConvZooImageProcessor(size=18, crop_size=16)
    save_model(model, here / "model", processor)
    hub.add_repo("models", "user/colour-model", here / "model")
    write_split(here / "old", "test", *coloured_images(5, seed=2))
    first = hub.add_repo("datasets", "user/colours", here / "old")
    shutil.copytree(colour_data, here / "new")
    card = "---\npretty_name: Colours\nsource_datasets: [original]\n---\n# Colours\n"
    (here / "new" / "README.md").write_text(card)
    second = hub.add_commit("datasets", "user/colours", here / "new")
    write_split(here / "gated", "test", *coloured_images(3, seed=0), files=1)
    hub.add_repo("datasets", "user/closed", here / "gated", gated=True)
    data = ["--data", "user/colours", "--split", "test"]
    commands = [
        ["evaluate", "user/colour-model", *data],
        ["evaluate", str(here / "model"), *data],
        ["evaluate", str(here / "model"), *data, "--revision", first],
        ["evaluate", "user/colour-model", "--data", "user/closed"],
    ]
    arguments = ("-c", COMMANDS, json.dumps(commands))
    done = hub.run(*arguments, home=here / "home", token="hf_other", cwd=here)
    return here / "model", (first, second), done


def test_the_command_evaluates_a_hub_model_on_a_hub_dataset(evaluation):
    folder, _, done = evaluation
    lines = [line for line in done.stdout.splitlines() if line.startswith(("exit", "user/"))]
    assert [line for line in lines if line.startswith("exit")] == ["exit 0"] * 3 + ["exit 1"]
    model = CNN.from_pretrained(folder)
    processor = ConvZooImageProcessor.from_pretrained(folder)
    images, labels = coloured_images(23, seed=1)
    hits = [
        logits_of(model, processor, Image.open(io.BytesIO(image))).argmax() == label
        for image, label in zip(images, labels, strict=True)
    ]
    begin = "user/colour-model on 23 images of user/colours [test]: "
    assert lines[0].startswith(f"{begin}top-1 {np.mean(hits):.2%}, loss ")  # 3 classes


def test_a_command_shows_its_own_messages_only(evaluation):
    """Not one line per request, with addresses that open private files."""
    _, _, done = evaluation
    assert "HTTP Request" not in done.stderr and "signature=" not in done.stderr


def test_a_result_says_which_dataset_it_was_and_which_commit(evaluation):
    folder, (first, second), _ = evaluation
    results = json.loads((folder / "eval_results.json").read_text())["results"]
    datasets = {result["dataset"]["revision"]: result["dataset"] for result in results}
    assert datasets.keys() == {first, second}
    assert datasets[first]["id"] == datasets[second]["id"] == "user/colours"
    assert datasets[second]["name"] == "Colours"
    assert datasets[second]["source_datasets"] == ["original"]
    assert datasets[second]["num_samples"] == 23
    assert datasets[first]["name"] == "colours"  # this commit has no card
    assert datasets[first]["num_samples"] == 5


def test_a_gated_dataset_ends_the_command_with_an_explanation(evaluation):
    _, _, done = evaluation
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "user/closed" in error[0]
    assert "accept its terms" in error[0] and "`hf auth login`" in error[0]
    assert "Traceback" not in done.stderr
