"""A whole life over the Hub: train on a dataset there, push the model, use it by its name only."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from modeling import CNN, ConvZooImageProcessor
from tests.support.clients import ROOT, STRANGER, train
from tests.support.golden_weights import checkerboard
from tests.support.hub_server import GUARD, HubServer
from tests.support.images import COLOURS

SHORT = "train.epochs=1"

# Without the name of a task: the client asks the Hub what the model is for.
PIPELINES = """
import json, sys
from PIL import Image
from transformers import pipeline

image, saw = Image.open("image.png"), {}
for name, task in (("named", ("image-classification",)), ("unnamed", ())):
    for revision in ("main", sys.argv[1]):
        which = {"model": "user/trained", "revision": revision, "trust_remote_code": True}
        classify = pipeline(*task, device="cpu", **which)
        guesses = classify(image)
        saw[f"{name} {revision}"] = {guess["label"]: guess["score"] for guess in guesses}
        saw[f"{name} {revision} task"] = classify.task
json.dump(saw, open("saw.json", "w"))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub"), {"hf_user": "user"}) as server:
        yield server


@pytest.fixture(scope="module")
def trained(hub, colour_data, tiny_recipe, tmp_path_factory):
    """The model folder of a run that read its images from a private dataset on the Hub."""
    here = tmp_path_factory.mktemp("trained")
    commit = hub.add_repo("datasets", "user/colours", colour_data, private=True)
    overrides = ("data.path=user/colours", f"run.output_dir={here}", "run.name=hub", SHORT)
    about = {"home": here / "home", "token": "hf_user", "cwd": here}
    hub.run(ROOT / "train_accelerate.py", tiny_recipe, *overrides, **about)
    return here / "hub" / "model", commit


def sha256(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_training_on_a_hub_dataset_is_training_on_its_files(trained, tiny_recipe, hub, tmp_path):
    model, commit = trained
    train(tiny_recipe, f"run.output_dir={tmp_path}", "run.name=local", SHORT)
    assert sha256(model) == sha256(tmp_path / "local" / "model")
    dataset = json.loads((model / "train_results.json").read_text())["dataset"]
    assert (dataset["id"], dataset["revision"]) == ("user/colours", commit)
    assert hub.requests("GET /storage/datasets/user/colours/")


def test_what_was_pushed_is_used_with_and_without_the_name_of_a_task(trained, hub, tmp_path):
    model, _ = trained
    about = {"home": tmp_path / "home", "token": "hf_user", "cwd": tmp_path}
    push = ["-m", "hub_cards", "push", model, "user/trained"]
    hub.run(*push, "--private", **about)
    pinned = hub.commits("models", "user/trained")[0]
    image = Image.fromarray(checkerboard(40, 30))
    image.save(tmp_path / "image.png")
    code = STRANGER + GUARD + PIPELINES
    hub.run("-I", "-S", "-c", code, pinned, **about | {"home": tmp_path / "stranger"})
    batch = ConvZooImageProcessor.from_pretrained(model)(image, return_tensors="pt")
    scores = CNN.from_pretrained(model)(**batch).logits.softmax(1)[0].tolist()
    saw = json.loads((tmp_path / "saw.json").read_text())
    for how in ("named main", f"named {pinned}", "unnamed main", f"unnamed {pinned}"):
        assert saw[f"{how} task"] == "image-classification"
        assert saw[how].keys() == COLOURS.keys()
        np.testing.assert_allclose([saw[how][label] for label in COLOURS], scores, rtol=1e-4)
