"""A family that is added by the steps of CONTRIBUTING.md works to the end, and cards know it.

The steps are done in a copy of the project. There the family is trained, evaluated, rendered and
pushed; a process that has none of our packages loads it from the Hub.
"""

import json
import re
import shutil

import pytest
from PIL import Image

from tests.support.clients import ROOT, STRANGER
from tests.support.documents import Page
from tests.support.hub_server import GUARD, HubServer
from tests.support.images import COLOURS
from tests.support.model_folders import section

CONFIGURATION = '''
"""Configuration of Plain, a chain of convolutions with ReLUs."""

from huggingface_hub.dataclasses import strict

from .configuration_convzoo import ConvZooConfig


@strict
class PlainConfig(ConvZooConfig):
    """Shape of a Plain network."""

    model_type = "plain"

    num_channels: int = 3
    hidden_sizes: list[int] | tuple[int, ...] = (8, 16)

    @property
    def stage_channels(self):
        """Channels that leave the stem and each stage."""
        return list(self.hidden_sizes)

    @property
    def stage_strides(self):
        """Pixels of the image for one of the map that leaves the stem and each stage."""
        return [2 ** (1 + number) for number in range(len(self.hidden_sizes))]


__all__ = ["PlainConfig"]
'''
MODEL = '''
"""Plain: a chain of convolutions with ReLUs."""

from torch import nn

from .configuration_plain import PlainConfig
from .modeling_convzoo import ConvZooModel, classifier_layer


class Plain(ConvZooModel):
    """Image classifier of the Plain family."""

    config: PlainConfig
    config_class = PlainConfig

    def __init__(self, config):
        super().__init__(config)
        first, *rest = config.hidden_sizes
        self.stem = nn.Sequential(nn.Conv2d(config.num_channels, first, 5, 2, 2), nn.ReLU())
        self.stages = nn.ModuleList()
        channels = first
        for size in rest:
            self.stages.append(nn.Sequential(nn.Conv2d(channels, size, 3, 2, 1), nn.ReLU()))
            channels = size
        self.classifier = classifier_layer(config, channels)
        self.post_init()

    def forward_pool(self, x):
        """Average over all pixels."""
        return x.mean((2, 3))

    def _init_weights(self, module):
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()


__all__ = ["Plain"]
'''
PROSE = """{% extends "model_card.md.jinja" %}
{% block summary %}
a chain of {{ config.hidden_sizes | length }} convolutions.
{% endblock %}
{% block description %}
Each convolution is followed by a ReLU.
{% endblock %}
"""
RECIPE = """
[run]
name = "plain"
[model]
model_type = "plain"
hidden_sizes = [4, 8]
[data]
eval_split = "test"
num_workers = 0
examples = 1
[preprocessing]
resize = 18
crop = 16
[train]
epochs = 1
global_batch_size = 12
"""
# What a user types, in one process because its imports take longer than its work.
JOURNEY = """
import contextlib, os, runpy, sys

recipe, data, card_of_no_prose = sys.argv[1:]

from convzoo.cli import main as convzoo
from hub_cards.cli import main as hub_cards

sys.argv = ["train_accelerate.py", recipe, f"data.path={data}"]
with contextlib.suppress(SystemExit):
    runpy.run_path("train_accelerate.py", run_name="__main__")
model = "runs/plain/model"
assert convzoo(["evaluate", model, "--data", data, "--quiet"]) in (0, None)
assert hub_cards(["push", model, "user/plain", "--quiet"]) == 0
assert hub_cards(["render", model]) == 0
os.remove("hub_cards/card/plain.md")
assert hub_cards(["render", model, "--output", card_of_no_prose, "--force"]) == 0
import modeling
assert modeling.__file__.startswith(os.getcwd()), modeling.__file__
"""
LOAD = """
import json
from PIL import Image
from transformers import pipeline

classify = pipeline("image-classification", "user/plain", trust_remote_code=True, device="cpu")
guesses = classify(Image.open("image.png"))
about = [type(classify.model).__module__, classify.model.config.model_type]
print(json.dumps([about, guesses]))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project in which the steps were followed."""
    copy = tmp_path_factory.mktemp("my project")  # a path with a space
    for part in ("modeling", "convzoo", "hub_cards", "data/photos"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("train_accelerate.py", "pyproject.toml"):
        shutil.copy(ROOT / part, copy)
    steps = Page("CONTRIBUTING.md").text.partition("## Add a family of models")[2]
    steps = steps.partition("\n## ")[0].replace("_x.py", "_plain.py").replace("/x.md", "/plain.md")
    made = {
        "modeling/configuration_plain.py": CONFIGURATION,
        "modeling/modeling_plain.py": MODEL,
        "hub_cards/card/plain.md": PROSE,
    }
    for file, text in made.items():
        assert f"`{file}`" in steps
        (copy / file).write_text(text.lstrip())
    assert "`recipes/`" in steps and "`modeling/__init__.py`" in steps and "`FAMILIES`" in steps
    (copy / "recipes").mkdir()
    (copy / "recipes/plain.toml").write_text(RECIPE)
    package = copy / "modeling/__init__.py"
    text = package.read_text()
    imports = "from .configuration_plain import PlainConfig\nfrom .modeling_plain import Plain\n"
    assert text.count("\nFAMILIES: ") == 1
    text = text.replace("\nFAMILIES: ", f"{imports}\nFAMILIES: ")
    line = "    QLNetConfig: QLNet,\n"
    assert line in text
    package.write_text(text.replace(line, line + "    PlainConfig: Plain,\n"))
    return copy


def test_a_new_family_is_trained_evaluated_rendered_pushed_and_loaded(
    project, colour_data, tmp_path
):
    (project / "journey.py").write_text(JOURNEY)
    with HubServer(tmp_path / "hub", {"hf_user": "user"}) as hub:
        about = {"home": tmp_path / "home", "token": "hf_user"}
        no_prose = tmp_path / "no prose.md"
        journey = ("journey.py", "recipes/plain.toml", colour_data, no_prose)
        hub.run(*journey, cwd=project, **about)
        Image.new("RGB", (20, 30), COLOURS["red"]).save(tmp_path / "image.png")
        stranger = ("-I", "-S", "-c", STRANGER + GUARD + LOAD)
        done = hub.run(*stranger, cwd=tmp_path, home=tmp_path / "stranger", token="hf_user")
    (module, family), guesses = json.loads(done.stdout)
    assert module.startswith("transformers_modules.") and family == "plain"
    assert {guess["label"] for guess in guesses} == set(COLOURS)

    card = (project / "runs/plain/model/README.md").read_text()
    rows = ["image                      3 x 16 x 16", "convolution 5x5, stride 2  4 x 8 x 8"]
    rows += ["convolution 3x3, stride 2  8 x 4 x 4", "features                   8"]
    rows += ["linear                     3"]
    assert section(card, "Architecture") == "\n".join(["```text", *rows, "```"])
    assert "a chain of 2 convolutions." in card and "PReLU" not in card and "qlnet" not in card
    assert section(card, "Model description") == "Each convolution is followed by a ReLU."
    facts = no_prose.read_text()  # of a family without prose
    assert "a network of the family `plain`." in facts and section(facts, "Key features")
    assert section(facts, "Architecture") == section(card, "Architecture")
    assert re.search(r"@misc{plain,\n  title = {plain-plain}", section(facts, "Citation"))
