"""What a card says of the training."""

import json
import re

import pytest
from huggingface_hub import ModelCard

from tests.support.clients import ROOT
from tests.support.model_folders import cells, put, render, section


def test_training_sections_show_recipe_run_and_curve(full):
    card = render(full)
    recipe = dict(cells(section(card, "Training procedure"))[2:])
    assert recipe == {"Start": "fresh weights, seed 42", "Learning rate": "peak 0.0001"}
    results = section(card, "Training results")
    rows = [row for row in cells(results) if len(row) == 2]
    shown = dict(rows)
    assert shown["Training time"] == "1 h 2 min 5 s" and shown["Images seen"] == "72,000"
    assert shown["Waiting for data"] == "25.00 % of the time"
    assert shown["Software"] == "Python 3.11.7, torch 2.13.0, convzoo 0.1.0"
    progress = [row for row in cells(results) if len(row) == 3][2:]
    assert len(progress) <= 10 and progress[-1] == ["42", "1.5", "42.00 %"]
    assert "](training_curve.png)" in results


def test_an_early_end_and_the_step_of_the_published_weights_are_told(full):
    put(full, "recipe.toml", "[train]\nepochs = 90.0\nglobal_batch_size = 12\n")
    train = json.loads((full / "train_results.json").read_text())
    assert ["Length", "90 epochs, 12 images a step"] in cells(render(full))
    train |= {"stopped_early": True, "epochs": 12.5, "published_step": 1400}
    put(full, "train_results.json", train | {"optimizer_steps": 1500})
    rows = {row[0]: row[1] for row in cells(render(full)) if len(row) == 2}
    assert rows["Length"] == "12.5 of at most 90 epochs, 12 images a step"
    assert (rows["Optimizer steps"], rows["Published weights"]) == ("1,500", "of step 1,400")


@pytest.mark.parametrize(
    ("split", "part", "title"),
    [
        ("validation", None, "Validation images during training:"),
        ("train", "validation", "Validation images during training:"),
        ("train", None, "Images that were trained on, evaluated during training:"),
    ],
)
def test_evaluations_of_images_that_were_trained_on_are_called_so(full, split, *, part, title):
    train = json.loads((full / "train_results.json").read_text())
    taken = {"of": 9, "taken": [{"eval_fraction": 0.5, "seed": 1, "part": part}]}
    validation = {"split": split, "subset": taken if part else None}
    put(full, "train_results.json", train | {"validation": validation})
    assert title in section(render(full), "Training results")


ALL_ON = """
[run]
seed = 7
[finetune]
pretrained = "someone/cnn-big"
revision = "0123abc"
frozen_stages = 2
layer_decay = 0.75
[train]
epochs = 90.0
global_batch_size = 1024
accumulation_steps = 4
loss = "bce"
bce_target_threshold = 0.2
label_smoothing = 0.1
max_grad_norm = 1.0
mixed_precision = "bf16"
ema_decay = 0.9998
ema_warmup = true
compile = true
gradient_checkpointing = true
[optimizer]
name = "lamb"
learning_rate = 5e-3
weight_decay = 0.02
weight_decay_on = "not_bias"
betas = [0.9, 0.999]
slope_limits = [0, 1]
[schedule]
name = "cosine"
warmup_epochs = 5.0
min_learning_rate = 1e-6
[augmentation]
crop = "random_resized"
scale = [0.35, 1.0]
first_crop = 128
full_crop = 192
growing_from_epoch = 5.0
growing_epochs = 20.0
horizontal_flip = 0.5
policy = "rand-m7-mstd0.5"
color_jitter = [0.4]
pca_noise = "offset"
erasing = 0.25
mixup_alpha = 0.2
cutmix_alpha = 1.0
mix_probability = 1.0
repeats = 3
"""


def test_a_recipe_with_everything_on_is_told_in_words(full):
    put(full, "recipe.toml", ALL_ON)
    card = render(full)
    link = "[someone/cnn-big](https://huggingface.co/someone/cnn-big)"
    assert dict(cells(section(card, "Training procedure"))[2:]) == {
        "Start": f"the weights of {link}, revision `0123abc`, the stem and stages up to 1 "
        "frozen, each stage with 0.75 times the learning rate of the next, seed 7",
        "Length": "90 epochs, 1,024 images a step, gradients accumulated over 4 micro-batches",
        "Optimizer": "LAMB, betas (0.9, 0.999), weight decay 0.02 on all parameters but biases, "
        "PReLU slopes kept in [0, 1]",
        "Learning rate": "peak 0.005, linear warm-up over 5 epochs, half a cosine to 1e-06",
        "Loss": "one binary cross entropy for each class, label smoothing 0.1, targets above 0.2 "
        "set to 1",
        "Augmentation": "random resized crop of 0.35 to 1 of the area, crops growing from 128 to "
        "192 pixels from epoch 5 to 20, mirrored with probability 0.5, policy `rand-m7-mstd0.5`, "
        "colour jitter (0.4), PCA colour noise (offset), random erasing with probability 0.25, "
        "MixUp (alpha 0.2) or CutMix (alpha 1) with probability 1, 3 views of an image in a pass",
        "Averaged weights": "the published weights are an exponential moving average, decay "
        "0.9998, rising from 0.1",
        "Computation": "bf16 autocast, gradients clipped to norm 1, torch.compile, gradient "
        "checkpointing",
    }
    data = ModelCard(card).data
    assert (data.base_model, data["base_model_relation"]) == ("someone/cnn-big", "finetune")


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*.toml")), ids=lambda path: path.stem)
def test_what_is_off_in_a_published_recipe_is_not_mentioned(full, path):
    from convzoo.recipe.files import load_recipe, recipe_to_tables, recipe_to_toml

    recipe = load_recipe(path)
    text = recipe_to_toml(recipe)
    put(full, "recipe.toml", re.sub(r"\[model\]\n(.+\n)*", "", text))
    rows = dict(cells(section(render(full), "Training procedure"))[2:])
    tables = recipe_to_tables(recipe)
    assert {"Start", "Length", "Optimizer", "Learning rate", "Loss"} <= rows.keys()
    assert f"peak {recipe.optimizer.learning_rate:g}" in rows["Learning rate"]
    assert ("Averaged weights" in rows) == bool(tables["train"]["ema_decay"])
    for words, on in (
        ("MixUp", recipe.augmentation.mixup_alpha),
        ("CutMix", recipe.augmentation.cutmix_alpha),
        ("erasing", recipe.augmentation.erasing),
        ("jitter", any(recipe.augmentation.color_jitter)),
        ("accumulated", recipe.train.accumulation_steps > 1),
        ("clipped", recipe.train.max_grad_norm),
        ("autocast", recipe.train.mixed_precision != "no"),
        ("smoothing", recipe.train.label_smoothing),
    ):
        assert (words in " ".join(rows.values())) == bool(on), words
    for noise in ("none", "None", "False", "[]", "``", ", ,", "  "):
        assert noise not in "|".join(rows.values())


@pytest.mark.parametrize(
    ("train", "data", "loss", "sampling"),
    [
        (
            'class_weights = "balanced"',
            "balance = 0.5",
            "cross entropy, classes weighted by inverse frequency",
            "classes by the square root of their size, 5 to 900 images of a class in an epoch",
        ),
        (
            'class_weights = "effective"\nclass_weight_beta = 0.99',
            "balance = 1.0",
            "cross entropy, classes weighted by inverse effective number of images (beta 0.99)",
            "all classes equally often, 5 to 900 images of a class in an epoch",
        ),
        (
            'class_weights = {"a*b" = 2.0, c = 0.5}',
            "balance = 0.25",
            "cross entropy, classes weighted (a\\*b 2, c 0.5; others 1)",
            "classes by their size to the power of 0.75, 5 to 900 images of a class in an epoch",
        ),
        ("", "balance = 0.0", "cross entropy", None),
    ],
)
def test_balanced_classes_are_told(full, train, *, data, loss, sampling):
    put(full, "recipe.toml", f'[train]\nloss = "cross_entropy"\n{train}\n[data]\n{data}\n')
    results = json.loads((full / "train_results.json").read_text())
    results["classes"] = {"samples_per_epoch": [5, 0, 900]}
    put(full, "train_results.json", json.dumps(results))
    rows = dict(cells(section(render(full), "Training procedure"))[2:])
    assert (rows["Loss"], rows.get("Sampling")) == (loss, sampling)


def test_only_a_model_of_the_hub_is_a_base_model(full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    for path in ("runs/first", "/models/first", "./first", "runs/first/model", ""):
        put(full, "recipe.toml", f'[finetune]\npretrained = "{path}"\n')
        card = render(full)
        assert ModelCard(card).data.base_model is None
        assert (f"the weights of `{path}`" in card) == bool(path)


def test_an_evaluation_that_a_resumed_run_has_repeated_is_shown_once(full):
    lines = [
        {"step": step, "epoch": step / 10, "eval_loss": 1.5, "eval_top1_accuracy": accuracy}
        for step, accuracy in ((10, 0.1), (20, 0.2), (20, 0.2), (30, 0.3))
    ]
    put(full, "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    rows = [row for row in cells(section(render(full), "Training results")) if len(row) == 3][2:]
    assert [row[0] for row in rows] == ["1", "2", "3"]
