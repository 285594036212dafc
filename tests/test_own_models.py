"""The small networks of data/models: what their files say is what they do."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

import modeling  # noqa: F401  registers our families
from convzoo.conversion.published import find_published
from convzoo.evaluation.prediction_file import read_recorded_predictions
from convzoo.files import file_sha256
from convzoo.recipe.files import load_recipe
from tests.support.clients import ROOT
from tests.support.documents import Page

MODELS = ROOT / "data" / "models"
NAMES = ["fashion-mnist-cnn", "fashion-mnist-qlnet"]


def test_the_page_names_every_model_and_its_figures():
    page = Page("data/models/README.md")
    page.check_form()
    rows = {row[0]: row for row in page.table("| folder")}
    assert sorted(rows) == NAMES == sorted(p.parent.name for p in MODELS.glob("*/config.json"))
    for name, row in rows.items():
        (result,) = json.loads((MODELS / name / "eval_results.json").read_text())["results"]
        assert row[2] == f"{result['model']['num_parameters']:,}"
        assert row[3] == f"{result['metrics']['top1_accuracy']:.2%}".replace("%", " %")
        recipe = load_recipe(MODELS / name / "recipe.toml")
        assert row[1].endswith(f"{recipe.train.epochs:g} epochs")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_has_the_accuracy_that_was_recorded(name):
    folder = MODELS / name
    (result,) = json.loads((folder / "eval_results.json").read_text())["results"]
    assert result["model"]["sha256"] == file_sha256(folder / "model.safetensors")
    table = pq.read_table(ROOT / "data/fashion-mnist/data/test-00000-of-00001.parquet")
    images = [Image.open(io.BytesIO(image["bytes"])) for image in table["image"].to_pylist()]
    labels = table["label"].to_numpy()
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    shown = AutoImageProcessor.from_pretrained(folder)(
        [image.convert("RGB") for image in images], return_tensors="pt"
    )["pixel_values"]
    with torch.inference_mode():
        answers = torch.cat([model(part).logits.argmax(1) for part in shown.split(250)]).numpy()
    assert (answers == labels).mean() == result["metrics"]["top1_accuracy"]
    predictions = read_recorded_predictions(folder, result["predictions"])
    assert np.array_equal(predictions.top_classes[:, 0], answers)
    published = find_published(name)
    assert published.top1_accuracy == result["metrics"]["top1_accuracy"]
