"""Recipes, checkpoints and model folders of version 0.1.0 still do what they did."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from convzoo.files import file_sha256
from convzoo.recipe.files import load_recipe
from convzoo.training.metrics_log import read_metrics
from modeling import CNN
from tests.support.clients import ROOT, run_as_stranger, train
from tests.support.images import COLOURS
from tests.support.models import extract_published_folders

RUN = ROOT / "tests" / "golden" / "run_of_0_1_0"
MODEL = RUN / "finished_model"
RESULTS = json.loads((MODEL / "train_results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def golden_run(tmp_path_factory):
    """The run with the code that lay beside its weights."""
    folder = tmp_path_factory.mktemp("old")
    extract_published_folders(folder)
    run = shutil.copytree(RUN, folder / "run_of_0_1_0")
    for code in (folder / "cnn").glob("*.py"):
        shutil.copy(code, run / "finished_model")
        shutil.copy(code, run / "checkpoints" / "step_00000030")
    return run


def write_images(folder, count, seed):
    """Noise around the colour of each class; BMP has the same bytes from any version of Pillow."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        name = list(COLOURS)[index % len(COLOURS)]
        height, width = rng.integers(20, 44, size=2)
        noise = rng.normal(0, 40, (height, width, 3)) + COLOURS[name]
        (folder / name).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
        image.save(folder / name / f"{index:03d}.bmp")


def test_a_stopped_run_is_resumed_to_the_weights_that_the_old_code_reached(golden_run, tmp_path):
    """Almost everything is on: EMA, MixUp, CutMix, erasing, a policy, drop path, momentum."""
    write_images(tmp_path / "data" / "train", 31, seed=0)
    write_images(tmp_path / "data" / "test", 12, seed=1)
    folder = tmp_path / "run_of_0_1_0"
    shutil.copytree(
        golden_run, folder, ignore=shutil.ignore_patterns("finished_model", "README.md")
    )
    overrides = (f"run.output_dir={tmp_path}", f"data.path={tmp_path / 'data'}")
    done = train(golden_run / "recipe.toml", *overrides)
    assert "resuming from" in done.stderr and "step_00000030" in done.stderr
    results = json.loads((folder / "model" / "train_results.json").read_text(encoding="utf-8"))
    added = {"validation", "published_step", "stopped_early", "classes"}  # after 0.1.0
    added |= {"layers", "num_multiply_adds"}
    assert results.keys() == RESULTS.keys() | added
    assert results["dataset"]["fingerprint"] == RESULTS["dataset"]["fingerprint"]
    assert results["optimizer_steps"] == RESULTS["optimizer_steps"]

    lines, expected = (read_metrics(each / "metrics.jsonl") for each in (folder, MODEL))
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    assert [line.keys() for line in lines] == [line.keys() for line in expected]
    weights = folder / "model" / "model.safetensors"
    # Not to the bit: 0.1.0 summed the gradients of PReLU's slopes in another order, and with that
    # order the bits of the weights are still those of the golden run. Otherwise differences
    # were 4e-6 of the values of the log, and 8e-6 in the weights, when this was written.
    for key in ("loss", "learning_rate", "grad_norm", "eval_loss"):
        assert [line.get(key) for line in lines] == [
            line.get(key) and pytest.approx(line[key], rel=1e-4) for line in expected
        ]
    ours, theirs = load_file(weights), load_file(MODEL / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_the_golden_model_is_the_one_whose_hash_is_recorded():
    assert hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest() == (
        "5c3b1fb716635f21e124858b654b32a4c55f2b230a3fde7b163f285a301fa776"
    )
    assert file_sha256(MODEL / "model.safetensors") == RESULTS["model_sha256"]


LOADS_WITH_ITS_OWN_CODE = """
import sys, torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model).__module__
processor = AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
pixel_values = processor(torch.load(sys.argv[2]), return_tensors="pt")["pixel_values"]
torch.save((pixel_values, model(pixel_values).logits.detach()), sys.argv[3])
"""


def test_an_old_model_folder_is_the_same_with_its_own_code_and_with_ours(golden_run, tmp_path):
    image = torch.randint(0, 256, (3, 30, 24), dtype=torch.uint8)
    torch.save(image, tmp_path / "image.pt")
    model_folder = golden_run / "finished_model"
    paths = (model_folder, tmp_path / "image.pt", tmp_path / "theirs.pt")
    run_as_stranger(LOADS_WITH_ITS_OWN_CODE, *paths, folder=tmp_path)
    pixel_values, logits = torch.load(tmp_path / "theirs.pt")
    model = AutoModelForImageClassification.from_pretrained(model_folder)
    assert type(model) is CNN and model.config.id2label == dict(enumerate(sorted(COLOURS)))
    processor = AutoImageProcessor.from_pretrained(model_folder)
    ours = processor(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(ours, pixel_values)
    torch.testing.assert_close(model(ours).logits, logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("folder", [RUN, RUN / "checkpoints" / "step_00000030", MODEL])
def test_an_old_recipe_loads_with_every_key_that_it_has(folder):
    recipe = load_recipe(folder / "recipe.toml")
    assert recipe.run.name == "run_of_0_1_0" and recipe.train.ema_decay == 0.9
