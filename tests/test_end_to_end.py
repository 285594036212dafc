"""From image bytes to a published, loadable, demonstrable model, each step in its own process."""

import fnmatch
import json
import re

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from tests.support.clients import ROOT, run, run_as_stranger, train
from tests.support.documents import Page

PREDICT = """
import json
from PIL import Image
from transformers import pipeline
classify = pipeline("image-classification", model=sys.argv[1], trust_remote_code=True)
print(json.dumps(classify(Image.open(sys.argv[2]), top_k=3)))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_recipe, colour_data):
    """A folder that went through training, evaluation and card."""
    output = tmp_path_factory.mktemp("end to end")  # a path with a space
    train(tiny_recipe, f"run.output_dir={output}", "train.epochs=8", processes=2)
    folder = output / "tiny" / "model"
    run("-m", "convzoo", "evaluate", folder, "--data", colour_data)
    run("-m", "hub_cards", "render", folder)
    return folder


def test_results_and_card_carry_the_same_numbers(model):
    (result,) = json.loads((model / "eval_results.json").read_text())["results"]
    card = ModelCard.load(model / "README.md")
    metrics = {entry.metric_name: entry.metric_value for entry in card.data.eval_results}
    assert list(metrics.values()) == [result["metrics"]["top1_accuracy"]]
    assert result["metrics"]["top5_accuracy"] is None  # of three classes it would be 1
    assert "top-5" not in card.text.lower()
    assert f"{result['metrics']['top1_accuracy'] * 100:.2f}" in card.text
    front_matter = yaml.safe_load((model / "README.md").read_text().split("---")[1])
    assert front_matter["library_name"] == "transformers"
    assert front_matter["pipeline_tag"] == "image-classification"


def test_pages_list_every_file_and_every_field(model):
    rows = Page("docs/architecture.md").table("| file | what writes it |")
    patterns = [pattern for row in rows for pattern in re.findall(r"`([^`]+)`", row[0])]
    for path in model.iterdir():
        name = path.name + "/" * path.is_dir()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name
    parts = Page("docs/result-files.md").table("| part | keys | what they hold |")
    fields = [field for row in parts for field in re.findall(r"`(\w+)`", row[0])]
    fields += re.findall(r"`(\w+)`", parts[0][1])
    (result,) = json.loads((model / "eval_results.json").read_text())["results"]
    assert set(fields) - {"unreadable"} == set(result)


def test_a_stranger_gets_the_predictions_of_the_command_line(model, tmp_path):
    image = sorted((model / "examples").iterdir())[0]
    done = run_as_stranger(PREDICT, model, image, folder=tmp_path)
    guesses = json.loads(done.stdout)
    assert np.isclose(sum(guess["score"] for guess in guesses), 1)
    printed = run("-m", "convzoo", "predict", model, image, "--top-k", 3).stdout.splitlines()
    assert printed == [str(image)] + [f"  {g['score']:6.1%}  {g['label']}" for g in guesses]


def test_the_lines_of_the_readme_run_without_our_package(model, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    folder, image = "runs/quickstart/model", "examples/00000_ankle_boot.png"
    assert f"{folder}/{image}" in code and f'"{folder}"' in code
    example = sorted((model / "examples").iterdir())[0]
    code = code.replace(f"{folder}/{image}", str(example)).replace(folder, str(model))
    lines = run_as_stranger(code, folder=tmp_path).stdout.splitlines()
    guesses = [re.fullmatch(r"(\d+)%  (\w+)", line).groups() for line in lines]
    assert {name for _, name in guesses} == {"red", "green", "blue"}
    assert 98 <= sum(int(score) for score, _ in guesses) <= 102  # rounded
