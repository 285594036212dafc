"""Every shipped recipe: its header, its network, its learning rate, and two real steps."""

import json
import math
import re
import shlex

import numpy as np
import pytest
import torch

from convzoo.data.order import DataOrder
from convzoo.images.train_transform import TrainTransform
from convzoo.recipe.files import load_recipe, recipe_differences
from convzoo.training.metrics_log import read_metrics
from convzoo.training.schedule import learning_rate_at
from modeling import FAMILIES
from tests.support.clients import ROOT, run
from tests.support.golden_weights import golden

RECIPES = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.toml"))}
IMAGENET = 1_281_167  # training images
# What the originals have, counted in their own code; see tests/support/golden_weights.py.
PARAMETERS = {
    "alexnet_imagenet": 61_100_840,
    "alexnet2012_imagenet": 62_378_344,
    "cnn_prelu_imagenet": 25_602_488,
    "cnn_prelu_imagenet_16": 25_602_488,
    "cnn_prelu_imagenet_88": 25_602_488,
    "cnn_prelu_imagenet_a1": 25_602_488,
    "cnn_prelu_imagenet_a3": 25_602_488,
    "cnn_relu_imagenet": 25_579_768,
    "qlnet_imagenet": 9_993_640,
}

every_recipe = pytest.mark.parametrize("name", RECIPES)


def header(name):
    """The comment at the top as one text, its lines joined."""
    lines = RECIPES[name].read_text().partition("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in lines)
    return "\n".join(line[1:].strip() for line in lines)


def overrides(name):
    """The overrides that a header offers, block by block."""
    lines = RECIPES[name].read_text().partition("\n\n")[0].splitlines()
    blocks = [[]]
    for line in lines:
        if line.startswith("#   ") and re.match(r"#   '?\w+\.\w+=", line):
            blocks[-1] += shlex.split(line[1:])
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def num_parameters(recipe, num_labels):
    config_class = next(c for c in FAMILIES if c.model_type == recipe.model.model_type)
    with torch.device("meta"):
        model = FAMILIES[config_class](config_class(**recipe.model.config, num_labels=num_labels))
    return model.num_parameters()


@every_recipe
def test_a_header_has_source_accuracy_hardware_and_command(name):
    entries = re.findall(r"^(Source|Accuracy|Hardware|Run): +(\S.*)$", header(name), re.MULTILINE)
    assert [key for key, _ in entries] == ["Source", "Accuracy", "Hardware", "Run"]
    for key, text in entries[1:3]:
        assert re.match("measured, |quoted|not measured yet|not stated", text), (key, text)
    assert f"accelerate launch -q train_accelerate.py recipes/{name}.toml" in entries[3][1]
    if entries[1][1].startswith("measured"):
        (result,) = re.findall(r"benchmarks/results/\S+\.json", header(name))
        share = json.loads((ROOT / result).read_text())["top1_accuracy_mean"]
        assert f"{share:.2%}".replace("%", " %") in entries[1][1]


@every_recipe
def test_a_network_has_the_stated_number_of_parameters(name):
    num_labels = 1000 if "imagenet" in name else 10
    count = num_parameters(load_recipe(RECIPES[name]), num_labels)
    assert f"{count:,}" in re.search(r"([\d,]+) parameters", header(name))[0]
    assert count == PARAMETERS.get(name, count)
    assert (name in PARAMETERS) == ("imagenet" in name)


@every_recipe
def test_offered_overrides_fit_the_recipe(name):
    plain = load_recipe(RECIPES[name])
    for block in overrides(name):
        assert recipe_differences(plain, load_recipe(RECIPES[name], block))
    if name.startswith("cifar10"):
        (small,) = overrides(name)
        assert num_parameters(load_recipe(RECIPES[name], small), 10) < 1_000_000
    if name == "alexnet2012_imagenet":
        (paper,) = overrides(name)
        assert num_parameters(load_recipe(RECIPES[name], paper), 1000) == 60_965_224


@every_recipe
def test_the_number_of_steps_in_a_header_is_the_engines(name):
    train = load_recipe(RECIPES[name]).train
    steps = math.ceil(train.epochs * IMAGENET / train.global_batch_size)
    for stated in re.findall(r"([\d,]+)\s+steps", header(name)):
        assert stated == f"{steps:,}"


@pytest.mark.parametrize("name", [name for name in RECIPES if "imagenet" in name])
@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
def test_imagenet_is_read_once_per_epoch(name, gpus):
    """Its layout on the Hub: 294 files, row groups of 100 rows, 110 kB an image."""
    recipe, rows = load_recipe(RECIPES[name]), [100] * 12_811 + [67]
    order = DataOrder(
        rows,
        [count * 110_000 for count in rows],
        global_batch_size=recipe.train.global_batch_size // recipe.augmentation.repeats,
        memory_bytes=recipe.data.shuffle_memory_mb * 2**20,
        seed=recipe.run.seed,
    )
    assert order.read_amplification(gpus * recipe.data.num_workers) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("control", "original", "differing"),
    [
        ("cnn_relu_imagenet", "cnn_prelu_imagenet", {"model.use_prelu", "optimizer.slope_limits"}),
        ("cifar10_cnn_relu", "cifar10_cnn_prelu", {"model.use_prelu", "optimizer.slope_limits"}),
    ],
)
def test_a_control_differs_in_the_activation_only(control, original, differing):
    differences = recipe_differences(*(load_recipe(RECIPES[name]) for name in (original, control)))
    assert {line.partition(":")[0] for line in differences} == differing


def rate(name, epoch, images=IMAGENET):
    """Learning rate of a recipe at the first step of an epoch."""
    recipe = load_recipe(RECIPES[name])
    per_epoch = images / recipe.train.global_batch_size
    return learning_rate_at(
        math.ceil(epoch * per_epoch),
        recipe.optimizer.learning_rate,
        recipe.schedule,
        total_steps=math.ceil(recipe.train.epochs * per_epoch),
        steps_per_epoch=per_epoch,
    )


@pytest.mark.parametrize("name", ["cnn_prelu_imagenet", "cnn_relu_imagenet"])
def test_the_cnns_learning_rate_is_the_originals(name):
    """With its 1251 steps an epoch, exactly; with ours, which drop no image, nearly."""
    published = golden("schedules")["seed000"]
    steps = published["optimizer_steps_per_epoch"]
    for step, expected in published["learning_rate_by_step"].items():
        epoch = int(step) / steps
        assert rate(name, epoch, 1024 * steps) == pytest.approx(expected, rel=1e-7, abs=1e-15)
        assert rate(name, epoch) == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_qlnets_learning_rate_is_the_originals():
    for epoch, expected in golden("schedules")["qlnet50_v0"]["learning_rate_by_epoch"].items():
        ours = rate("qlnet_imagenet", int(epoch))
        assert ours == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_the_a1_recipes_learning_rate_is_timms():
    """Recorded from CosineLRScheduler of timm 1.0.31 with the recipe's settings."""
    recorded = {
        0: 1e-4,
        1: 0.00108,
        4: 0.00402,
        5: 0.004999143483776405,
        100: 0.004665130496759204,
        300: 0.0025005,
        599: 1.0342625275568519e-06,
    }
    for epoch, expected in recorded.items():
        assert rate("cnn_prelu_imagenet_a1", epoch) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("epochs", [16, 88])
def test_the_short_recipes_learning_rate_and_crops_are_ffcvs(epochs):
    """By the functions of its train_imagenet.py: np.interp between epochs, sizes by epoch."""
    name, at = f"cnn_prelu_imagenet_{epochs}", np.linspace(0, epochs, 97)[:-1]
    theirs = np.interp(at, [0, 2, epochs], [1e-4 * 0.425, 0.425, 0])
    assert [rate(name, epoch) for epoch in at] == pytest.approx(theirs, rel=1e-3, abs=1e-3)
    recipe = load_recipe(RECIPES[name])
    settings = recipe.augmentation
    begin, end = settings.growing_from_epoch, settings.growing_epochs
    transform = TrainTransform(
        settings, recipe.preprocessing, growing=range(int(1000 * begin), int(1000 * end))
    )
    for epoch in range(epochs):
        side = np.interp(epoch, [begin, end], [160, 192])
        assert transform.size_at(1000 * epoch) == int(np.round(side / 32)) * 32


def test_alexnets_learning_rate_falls_to_a_tenth_every_30_epochs():
    rates = [rate("alexnet_imagenet", epoch) for epoch in range(90)]
    assert rates == pytest.approx([1e-2] * 30 + [1e-3] * 30 + [1e-4] * 30)


# Small networks on images of 32 or, for AlexNet's large stem, 64 pixels.
SHRUNKEN = {
    "cnn": ["model.hidden_sizes=[8, 8]", "model.depths=[1, 1]", "model.embedding_size=4"],
    "qlnet": ["model.hidden_sizes=[4, 8]", "model.depths=[1, 1]", "model.embedding_size=4"],
    "alexnet": ["model.hidden_sizes=[8, 8, 8, 8, 8]", "model.classifier_hidden_size=16"],
}
GROWING = (("first_crop", 16), ("full_crop", 24), ("growing_from_epoch", 0.1))
SMALLER = {  # crops of which the images of two steps are large enough
    "cnn_prelu_imagenet_16": (*GROWING, ("growing_epochs", 0.3)),
    "cnn_prelu_imagenet_88": (*GROWING, ("growing_epochs", 0.3)),
    "cnn_prelu_imagenet_a3": (("full_crop", 24),),
}
# The recipes one after another in one process: importing the libraries takes longer than the steps.
TRAIN_ALL = """
import json, sys
import train_accelerate
from accelerate.state import AcceleratorState
for arguments in json.loads(sys.argv[1]):
    train_accelerate.main(arguments)
    AcceleratorState._reset_state(reset_partial_state=True)
"""


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory, colour_data):
    """Two steps of every recipe on colour_data: the folder of the runs."""
    output = tmp_path_factory.mktemp("runs")
    commands = []
    for path in RECIPES.values():
        recipe = load_recipe(path)
        side = 64 if path.stem.startswith("alexnet") else 32
        commands.append(
            [
                *(str(path), f"run.output_dir={output}", *SHRUNKEN[recipe.model.model_type]),
                *(f"data.path={colour_data}", "data.eval_split=test", "data.num_workers=0"),
                "data.eval_fraction=0",
                *(f"preprocessing.resize={side + 4}", f"preprocessing.crop={side}"),
                *("train.global_batch_size=12", f"train.epochs={24 / 61}", "data.examples=0"),
                *("train.mixed_precision=no", "train.log_every_steps=1"),
                "schedule.warmup_epochs=0",  # a warm-up longer than the run is refused
                *(f"augmentation.{key}={value}" for key, value in SMALLER.get(path.stem, ())),
            ]
        )
    run("-c", TRAIN_ALL, json.dumps(commands))
    return output


@every_recipe
def test_two_real_steps(name, two_steps):
    lines = read_metrics(two_steps / name / "metrics.jsonl")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2 and all(math.isfinite(loss) for loss in losses)
    assert any("eval_loss" in line for line in lines)
    written = load_recipe(two_steps / name / "model" / "recipe.toml")
    recipe = load_recipe(RECIPES[name])
    assert written.optimizer == recipe.optimizer
    assert written.schedule == recipe.schedule.model_copy(update={"warmup_epochs": 0.0})
    smaller = dict(SMALLER.get(name, ()))
    assert written.augmentation == recipe.augmentation.model_copy(update=smaller)
