"""From a folder of photographs to a published, explained model, each step in its own process."""

import csv
import fnmatch
import json
import re
import shlex

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from modeling import CNN, ConvZooImageProcessor
from tests.support.clients import ROOT, STRANGER, run_as_stranger
from tests.support.documents import Page
from tests.support.hub_server import GUARD, HubServer
from tests.support.images import COLOURS, coloured_images

MODULES = {"convzoo": "convzoo", "hub-cards": "hub_cards"}
QUICK = ("train.epochs=3", "data.num_workers=0", "data.examples=2")
PREDICT = """
import json, sys
from PIL import Image
from transformers import pipeline
classify = pipeline("image-classification", model=sys.argv[1], trust_remote_code=True)
print(json.dumps(classify(Image.open(sys.argv[2]), top_k=3)))
"""


def documented_commands():
    """The commands of sections 2 to 5 of the page, of which the others are variants."""
    page = Page("docs/images.md")
    page.text = page.text[page.text.index("## 2. ") : page.text.index("## 6. ")]
    for command in page.commands():
        words = shlex.split(command)
        if words[0] in MODULES and "--from" not in words and "data/fashion-mnist" not in words:
            yield words


def write_photos(folder):
    """Forty images of each class as a person has them: a name with a space, and other files."""
    images, labels = coloured_images(120, seed=0)
    for number, (data, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / list(COLOURS)[label] / f"IMG {number}.{('jpg', 'JPG')[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "red" / "Thumbs.db").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub"), {"hf_user": "user"}) as server:
        yield server


@pytest.fixture(scope="module")
def journey(hub, tmp_path_factory):
    """The folder where the commands of docs/images.md were typed, and what each printed."""
    here = tmp_path_factory.mktemp("my things")
    write_photos(here / "pets")
    images, _ = coloured_images(7, seed=1)
    (here / "photos").mkdir()
    for number, data in enumerate(images):
        (here / "photos" / f"{number}.jpg").write_bytes(data)
    (here / "photo.jpg").write_bytes(images[0])
    printed = {}
    for program, *words in documented_commands():
        words = [word.replace("USER", "user") for word in words]
        extra = QUICK if words[0] == "finetune" else ()
        done = hub.run(
            *("-m", MODULES[program], *words, *extra),
            home=here / "home",
            token="hf_user",
            cwd=here,
        )
        printed[" ".join(words)] = done.stdout
    return here, printed


@pytest.fixture(scope="module")
def model(journey):
    """The model folder, which went through training, evaluation, report and card."""
    return journey[0] / "runs" / "pets" / "model"


def test_from_a_folder_of_photographs_to_a_published_explained_model(journey, hub, model):
    here, printed = journey
    names = [command.split()[0] for command in printed]
    steps = "finetune evaluate report predict predict render push push space"
    assert names == steps.split()
    # What the training offers is what the page has.
    offered = printed["finetune pets"].partition("Next:\n")[2].splitlines()
    commands = {line.partition("  #")[0].strip() for line in offered}
    assert {command.replace("IMAGE", "photo.jpg") for command in commands} <= set(
        Page("docs/images.md").commands()
    )
    assert any(command.startswith("convzoo report ") for command in commands)
    # The accuracy is that of the images that were kept aside, and the training's own.
    record = json.loads((model / "train_results.json").read_text())
    (result,) = json.loads((model / "eval_results.json").read_text())["results"]
    assert result["dataset"]["num_samples"] == record["validation"]["num_samples"] == 24
    accuracy = result["metrics"]["top1_accuracy"]
    assert accuracy >= 0.75
    assert f"{accuracy:.2%}" in printed["evaluate runs/pets/model --data pets --validation-share"]
    page = (model / "report.html").read_text()
    assert all(name in page for name in COLOURS) and "http://" not in page
    assert f"{100 * accuracy:.1f}" in page or f"{100 * accuracy:.2f}" in page
    with (here / "answers.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == 7
    assert [answer["label_1"] for answer in answers[:3]] == list(COLOURS)
    # On the Hub are the card and the weights; images, their names and the report stayed here.
    files = hub.files("models", "user/pets")
    assert files["model.safetensors"].read_bytes() == (model / "model.safetensors").read_bytes()
    assert not [name for name in files if name.startswith(("predictions", "report"))]
    assert f"{100 * accuracy:.2f}" in files["README.md"].read_text()
    assert "app.py" in hub.files("spaces", "user/pets-demo")
    # A fresh process that knows the name alone says what the command said.
    about = {"home": here / "stranger", "token": "hf_user", "cwd": here}
    code = STRANGER + GUARD + PREDICT
    done = hub.run("-I", "-S", "-c", code, "user/pets", "photos/0.jpg", **about)
    scores = {guess["label"]: guess["score"] for guess in json.loads(done.stdout)}
    for place in "123":
        score = float(answers[0][f"score_{place}"])
        assert scores[answers[0][f"label_{place}"]] == pytest.approx(score, abs=2e-4)


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
    assert set(fields) - {"unreadable", "real_labels"} == set(result)


def test_an_answer_of_the_command_line_is_that_of_the_network(journey, model):
    printed = journey[1]["predict runs/pets/model photo.jpg"].splitlines()
    batch = ConvZooImageProcessor.from_pretrained(model)(
        Image.open(journey[0] / "photo.jpg"), return_tensors="pt"
    )
    network = CNN.from_pretrained(model)
    scores = network(**batch).logits.softmax(1)[0].tolist()
    guesses = sorted(zip(scores, network.config.id2label.values(), strict=True), reverse=True)
    assert printed == ["photo.jpg"] + [f"  {score:6.1%}  {label}" for score, label in guesses]
    assert np.isclose(sum(scores), 1)


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
