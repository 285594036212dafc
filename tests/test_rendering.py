"""Model cards: what they say, where it comes from, and what is refused."""

import ast
import hashlib
import json
import math
import re
import shutil
import tomllib

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import save_file

from hub_cards.__main__ import main
from hub_cards.card.architecture import layer_rows
from hub_cards.card.rendering import render_card, write_card
from hub_cards.card.validation import card_problems
from hub_cards.evidence.folder import read_evidence
from tests.support.clients import ROOT, STRANGER, run
from tests.support.hub_server import GUARD, HubServer

NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"]
CONFIGS = {
    "cnn": {
        "num_channels": 3,
        "embedding_size": 4,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "bottleneck_expansion": 4,
        "stem": "small",
        "use_prelu": True,
        "prelu_channel_wise": True,
        "prelu_init": 0.25,
        "conv_bias": True,
        "batch_norm_momentum": 0.1,
        "batch_norm_eps": 1e-5,
        "drop_path_rate": 0.05,
    },
    "alexnet": {
        "num_channels": 3,
        "hidden_sizes": [64, 192, 384, 256, 256],
        "groups": [1, 1, 1, 1, 1],
        "stem": "imagenet",
        "stem_padding": 2,
        "use_lrn": False,
        "pooled_size": 6,
        "classifier_hidden_size": 4096,
        "dropout_rate": 0.5,
        "final_relu": False,
    },
    "qlnet": {
        "num_channels": 3,
        "embedding_size": 64,
        "hidden_sizes": [64, 128, 256, 512],
        "depths": [3, 4, 6, 3],
        "expansion": 4,
        "expansion_limit": 128,
        "expansion_beyond": 2,
        "depthwise_multiplier": 2,
        "stem": "imagenet",
    },
}
PREPROCESSOR = {
    "image_processor_type": "ConvZooImageProcessor",
    "auto_map": {"AutoImageProcessor": "image_processing_convzoo.ConvZooImageProcessor"},
    "size": {"shortest_edge": 235},
    "crop_size": {"height": 224, "width": 224},
    "num_channels": 3,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
ENVIRONMENT = {
    "python": "3.11.7",
    "platform": "Linux-6.1",
    "processor": "Some CPU",
    "cpu_count": 2,
    "accelerator": None,
    "versions": {"torch": "2.13.0", "convzoo": "0.1.0", "simplejpeg": None},
}
DATASET = {
    "path": "data/fashion-mnist",
    "id": None,
    "name": "Fashion-MNIST sample",
    "source_datasets": ["zalando-datasets/fashion_mnist", "original"],
    "config": None,
    "split": "test",
    "revision": None,
    "fingerprint": "sha256:" + "0a" * 32,
    "num_samples": 263,
}
NUM_PARAMETERS, NUM_BUFFERS = 4 * 27 + 4 + 4 + 9 * 4 + 9, 4 + 4 + 1


BREAKDOWN = {
    "intervals_95": {"top1_accuracy": [0.2553, 0.3662], "top5_accuracy": [0.6943, 0.7985]},
    "calibration": {
        "expected_calibration_error": 0.0625,
        "mean_confidence": 0.3511,
        "bins": [
            {"low": 0.2, "high": 0.2667, "num_samples": 163, "num_correct": 31},
            {"low": 0.4667, "high": 0.5333, "num_samples": 100, "num_correct": 50},
        ],
    },
    "classes": [
        {"name": name, "num_samples": 40, "num_correct": hits, "top1_accuracy": hits / 40}
        for name, hits in zip(NAMES[:5], (20, 4, 30, 8, 10), strict=True)
    ]
    + [{"name": "Sandal", "num_samples": 63, "num_correct": 9, "top1_accuracy": 9 / 63}],
    "confusions": [
        {"name": "Sandal", "predicted": "Sneaker", "count": 50, "share": 50 / 63},
        {"name": "Trouser", "predicted": "Dress", "count": 20, "share": 0.5},
    ],
}


def put(folder, name, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")


def weights_hash(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def result(folder, **changes):
    """One entry of eval_results.json; 81 of 263 is Newcombe's example of a Wilson interval."""
    entry = {
        "task": "image-classification",
        "dataset": DATASET,
        "protocol": {"views": 1, "image_processor": PREPROCESSOR},
        "metrics": {"top1_accuracy": 81 / 263, "top5_accuracy": 0.75, "loss": 2.25},
        "model": {
            "file": "model.safetensors",
            "sha256": weights_hash(folder),
            "num_parameters": NUM_PARAMETERS,
        },
        "command": "python -m convzoo evaluate runs/x/model --data data/fashion-mnist",
        "date": "2026-11-22T10:11:12+00:00",
        "images_per_second": 162.6,
        "environment": ENVIRONMENT,
    }
    return entry | ({} if "metrics" in changes else BREAKDOWN) | changes


def put_results(folder, *results):
    put(folder, "eval_results.json", {"schema_version": 1, "results": results})


def make_bare(folder, model_type="cnn", labels=NAMES, **config):
    """What every model folder has."""
    folder.mkdir()
    auto_map = {
        "AutoConfig": f"configuration_{model_type}.Config",
        "AutoModelForImageClassification": f"modeling_{model_type}.Model",
    }
    config = {
        "model_type": model_type,
        "auto_map": auto_map,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        **CONFIGS[model_type],
        **config,
    }
    put(folder, "config.json", config)
    put(folder, "preprocessor_config.json", PREPROCESSOR)
    for name in (
        "image_processing_convzoo",
        f"configuration_{model_type}",
        f"modeling_{model_type}",
    ):
        put(folder, f"{name}.py", "")
    tensors = {
        "stem.conv.weight": torch.zeros(4, 3, 3, 3),
        "stem.bn.weight": torch.zeros(4),
        "stem.bn.bias": torch.zeros(4),
        "stem.bn.running_mean": torch.zeros(4),
        "stem.bn.running_var": torch.zeros(4),
        "stem.bn.num_batches_tracked": torch.tensor(0),
        "classifier.weight": torch.zeros(9, 4),
        "classifier.bias": torch.zeros(9),
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_full(folder, model_type="cnn", **config):
    """A trained and evaluated model folder."""
    make_bare(folder, model_type, **config)
    put_results(folder, result(folder))
    train = {
        "schema_version": 1,
        "recipe": "tiny",
        "command": "accelerate launch train_accelerate.py recipes/tiny.toml",
        "date": "2026-11-21T10:00:00+00:00",
        "dataset": DATASET | {"split": "train", "num_samples": 12000},
        "epochs": 6.0,
        "optimizer_steps": 558,
        "images_seen": 72000,
        "duration_seconds": 3725.4,
        "images_per_second": 719.0,
        "final_train_loss": 0.31,
        "num_parameters": NUM_PARAMETERS,
        "environment": ENVIRONMENT,
    }
    put(folder, "train_results.json", train)
    put(
        folder,
        "recipe.toml",
        '[run]\nname = "tiny"\nseed = 42\n[optimizer]\nlearning_rate = 1e-4\n',
    )
    lines = [{"step": 1, "epoch": 0.5, "loss": 2.0, "data_wait_fraction": 0.25}]
    lines += [
        {"step": n, "epoch": float(n), "eval_loss": 1.5, "eval_top1_accuracy": n / 100}
        for n in range(1, 43)
    ]
    put(folder, "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    Image.new("RGB", (8, 8)).save(folder / "training_curve.png")
    return folder


def render(folder, **options):
    return render_card(read_evidence(folder), **options)


def section(card, title):
    """Text between a heading and the next one."""
    return re.search(rf"^#+ {title}\n(.*?)(?=^#+ |^<!-- |\Z)", card, re.S | re.M)[1].strip()


def cells(text):
    """Rows of the tables of a text, cell by cell."""
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


@pytest.fixture
def bare(tmp_path):
    return make_bare(tmp_path / "bare")


@pytest.fixture
def full(tmp_path):
    return make_full(tmp_path / "full")


# What a card says


def test_metadata_holds_the_numbers_of_the_results_file(full):
    other = DATASET | {"id": "ILSVRC/imagenet-1k", "name": "ImageNet", "revision": "abc"}
    metrics = {"top1_accuracy": 0.1234567890123, "top5_accuracy": 0.5, "loss": 1.0}
    put_results(full, result(full), result(full, dataset=other, metrics=metrics))

    data = ModelCard.load(write_card(full, repo_id="someone/tiny-cnn")).data

    assert data.model_name == "tiny-cnn"
    assert data.license == "apache-2.0"
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-classification")
    assert data.datasets == ["zalando-datasets/fashion_mnist", "ILSVRC/imagenet-1k"]
    assert data.tags == ["convzoo", "cnn", "vision"] and data.metrics == ["accuracy"]
    assert {r.task_type for r in data.eval_results} == {"image-classification"}
    assert data.eval_results[2].dataset_type == "ILSVRC/imagenet-1k"
    found = [
        (r.dataset_name, r.dataset_split, r.dataset_revision, r.metric_name, r.metric_value)
        for r in data.eval_results
    ]
    assert found == [
        ("Fashion-MNIST sample", "test", None, "Top-1 accuracy", 81 / 263),
        ("Fashion-MNIST sample", "test", None, "Top-5 accuracy", 0.75),
        ("ImageNet", "test", "abc", "Top-1 accuracy", 0.1234567890123),
        ("ImageNet", "test", "abc", "Top-5 accuracy", 0.5),
    ]


def test_a_sample_is_not_indexed_as_the_dataset_it_is_from(full):
    entry = ModelCard(render(full)).data.eval_results[0]
    assert entry.dataset_type == "fashion-mnist-sample"
    assert "[zalando-datasets/fashion_mnist](https://huggingface.co/datasets/" in render(full)


def test_ten_views_and_other_preprocessing_are_named(full):
    processor = PREPROCESSOR | {"crop_size": {"height": 200, "width": 200}}
    protocol = {"views": 10, "averaged": "probabilities", "image_processor": processor}
    put_results(full, result(full), result(full, protocol=protocol | {"exif_rotation": True}))
    card = render(full)
    names = [entry.metric_name for entry in ModelCard(card).data.eval_results]
    label = "10 views, mean of the probabilities, turned by EXIF, "
    label += '`crop_size = {"height": 200, "width": 200}`'
    headlines = [line for line in card.splitlines() if line.startswith("**30.80 %")]
    assert headlines[0].endswith("split `test`.") and headlines[1].endswith(f" ({label}).")
    assert names[0] == "Top-1 accuracy" and names[2] == f"Top-1 accuracy ({label})"
    assert f"Fashion-MNIST sample ({label})" in section(card, "Evaluation")


def test_a_part_of_a_split_never_passes_for_the_whole(full):
    taken = [{"classes": ["a", "b"]}, {"limit": 263, "spaced": True}]
    whole = DATASET | {"id": "ILSVRC/imagenet-1k", "name": "ImageNet", "subset": None}
    part = whole | {"subset": {"of": 50_000, "taken": taken}}
    put_results(full, result(full, dataset=whole), result(full, dataset=part))
    card = render(full)
    entries = ModelCard(card).data.eval_results
    assert entries[0].dataset_type == "ILSVRC/imagenet-1k" and entries[0].dataset_name == "ImageNet"
    assert entries[2].dataset_type == "imagenet-part-of-50-000-images-0a0a0a0a"
    assert entries[2].dataset_name == "ImageNet, part of 50,000 images"
    headlines = [line for line in card.splitlines() if line.startswith("**30.80 %")]
    assert "on the 263 images of ImageNet, split" in headlines[0]
    assert "on 263 images of ImageNet, part of 50,000 images, split" in headlines[1]
    assert '`classes = ["a", "b"]`; `limit = 263`, `spaced = true`' in section(card, "Measurement")


def test_evaluation_table_shows_counts_and_intervals(full):
    header, _, row = cells(section(render(full), "Evaluation"))[:3]
    shown = dict(zip(header, row, strict=True))
    assert shown == {
        "Dataset": "Fashion-MNIST sample",
        "Split": "test",
        "Images": "263",
        "Top-1 accuracy": "30.80 % [25.53, 36.62]",
        "Top-5 accuracy": "75.00 % [69.43, 79.85]",
        "Loss": "2.25",
        "Calibration error": "6.25 %",
    }


def test_top5_is_left_out_where_it_means_nothing(tmp_path):
    folder = make_full(tmp_path / "three", labels=["red", "green", "blue"])
    assert "Top-5" not in render(folder)
    assert "topk(3)" in render(folder)


def test_details_count_parameters_without_buffers(full):
    details = dict(cells(section(render(full), "Model details")))
    assert details["Parameters"] == f"{NUM_PARAMETERS} ({NUM_PARAMETERS})"
    assert details["Batch-norm buffers"] == str(NUM_BUFFERS)
    assert details["SHA-256 of the weights"] == f"`{weights_hash(full)}`"
    assert details["Classes"] == f"9: {', '.join(NAMES)}"
    assert details["Input"] == "3 x 224 x 224"


def test_preprocessing_is_that_of_the_processor(full):
    steps = section(render(full), "Preprocessing")
    assert "shorter side to 235 pixels, keeping the aspect ratio (bicubic)" in steps
    assert "224 x 224" in steps and "Divide the values by 255." in steps
    assert "mean (0.485, 0.456, 0.406) and divide by (0.229, 0.224, 0.225)" in steps
    raw = {"rescale_factor": 1.0, "image_mean": [123.675, 116.28, 103.53], "image_std": [1.0] * 3}
    put(full, "preprocessor_config.json", PREPROCESSOR | raw)
    put_results(full)
    steps = section(render(full), "Preprocessing")
    assert "Divide the values" not in steps and "mean (123.675, 116.28, 103.53)" in steps


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
        "Length": "90 epochs, 1,024 images a step, gradients accumulated over 4 parts",
        "Optimizer": "LAMB, betas (0.9, 0.999), weight decay 0.02 on all parameters but biases, "
        "PReLU slopes kept in [0, 1]",
        "Learning rate": "peak 0.005, linear warm-up over 5 epochs, half a cosine to 1e-06",
        "Loss": "one binary cross entropy for each class, label smoothing 0.1, targets above 0.2 "
        "set to 1",
        "Augmentation": "random resized crop of 0.35 to 1 of the area, crops growing from 128 "
        "pixels over 20 epochs, mirrored with probability 0.5, policy `rand-m7-mstd0.5`, colour "
        "jitter (0.4), PCA colour noise (offset), random erasing with probability 0.25, MixUp "
        "(alpha 0.2) or CutMix (alpha 1) with probability 1, 3 views of an image in a pass",
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


def test_only_a_model_of_the_hub_is_a_base_model(full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    for path in ("runs/first", "/models/first", "./first", "runs/first/model", ""):
        put(full, "recipe.toml", f'[finetune]\npretrained = "{path}"\n')
        card = render(full)
        assert ModelCard(card).data.base_model is None
        assert (f"the weights of `{path}`" in card) == bool(path)


def test_weak_spots_are_the_worst_classes_and_the_most_frequent_errors(full):
    text = section(render(full), "Weak spots")
    assert "the accuracy of a class is between 10.00 % and 75.00 %" in text
    classes = [row for row in cells(text) if len(row) == 3][2:]
    assert classes == [
        ["Trouser", "40", "10.00 %"],
        ["Sandal", "63", "14.29 %"],
        ["Dress", "40", "20.00 %"],
        ["Coat", "40", "25.00 %"],
        ["T-shirt/top", "40", "50.00 %"],
    ]
    errors = [row for row in cells(text) if len(row) == 4][2:]
    assert errors == [
        ["Sandal", "Sneaker", "50", "79.37 %"],
        ["Trouser", "Dress", "20", "50.00 %"],
    ]


def test_calibration_says_in_which_direction_the_model_errs(full):
    text = section(render(full), "Calibration")
    assert "a probability of 35.11 % on average and is right in 30.80 % of the cases" in text
    assert "on average it is too sure" in text and "reliability_diagram" not in text
    cautious = BREAKDOWN["calibration"] | {"mean_confidence": 0.2}
    put_results(full, result(full, calibration=cautious))
    assert "on average it is too cautious" in section(render(full), "Calibration")


def blue(path):
    """Height of the blue in each column of an image, rows."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return ((pixels[..., 2] > 120) & (pixels[..., 0] < 60)).sum(axis=0)


def test_the_reliability_diagram_is_drawn_from_the_bins_and_goes_with_them(full):
    picture = full / "reliability_diagram.png"
    assert f"]({picture.name})" in section(write_card(full).read_text(), "Calibration")
    before, drawn = blue(picture), picture.read_bytes()
    write_card(full)
    assert picture.read_bytes() == drawn
    bins = BREAKDOWN["calibration"]["bins"]
    swapped = [bins[0] | {"num_correct": 0}, bins[1] | {"num_correct": 81}]
    put_results(full, result(full, calibration=BREAKDOWN["calibration"] | {"bins": swapped}))
    write_card(full)
    after, middle = blue(picture), len(before) // 2
    assert after[:middle].sum() < before[:middle].sum()
    assert after[middle:].sum() > before[middle:].sum()
    put_results(full, result(full, metrics={"top1_accuracy": 0.5}))
    assert section(write_card(full).read_text(), "Calibration") == "Not measured."
    assert not picture.exists()


def test_robustness_is_what_was_measured_on_other_datasets(full):
    assert section(render(full), "Robustness") == "Not measured."
    other = DATASET | {"path": "x/sketch", "id": "x/sketch", "name": "Sketches"}
    other |= {"source_datasets": ["original"]}
    put_results(full, result(full), result(full, dataset=other))
    text = section(render(full), "Robustness")
    assert text.count("top-1 accuracy") == 1 and "263 images of Sketches, split `test`" in text


def test_a_split_that_steered_the_training_is_named_as_such(full):
    plateau = '[schedule]\nname = "plateau"\n[data]\neval_split = "{}"\n'
    for split, named in (("test", True), ("validation", False)):
        put(full, "recipe.toml", plateau.format(split))
        text = section(render(full), "Limitations and bias")
        assert (f"by what the split `{split}` showed" in text) == named


def test_weak_spots_are_those_of_the_published_protocol(full):
    protocol = {"views": 10, "averaged": "probabilities", "image_processor": PREPROCESSOR}
    other = result(full, protocol=protocol, classes=BREAKDOWN["classes"][::-1])
    put_results(full, other, result(full))
    assert "Fashion-MNIST sample: the accuracy of a class" in section(render(full), "Weak spots")


def test_known_datasets_come_with_what_is_published_about_them(full):
    text = section(render(full), "Training data")
    assert "https://arxiv.org/abs/1708.07747" in text and "1409.0575" not in text


def test_emissions_are_those_of_codecarbon_summed_over_runs(full):
    names = "run_id,duration,emissions,energy_consumed,country_name,region,gpu_model,cpu_model"
    rows = ["a,60,0.001,0.01,Norway,oslo,,Some CPU", "a,3600,0.25,1.5,Norway,oslo,,Some CPU"]
    rows += ["b,1800,0.125,0.5,Norway,oslo,,Some CPU"]
    put(full, "emissions.csv", "\n".join([names, *rows]) + "\n")
    card = render(full)
    assert dict(cells(section(card, "Environmental impact"))[2:]) == {
        "CO2 equivalents": "375 g, by CodeCarbon",
        "Energy": "2 kWh",
        "Time": "1 h 30 min",
        "Place": "oslo, Norway",
        "Hardware": "Some CPU",
    }
    assert ModelCard(card).data["co2_eq_emissions"] == {
        "emissions": 375.0,
        "source": "CodeCarbon",
        "training_type": "pre-training",
        "geographical_location": "oslo, Norway",
        "hardware_used": "Some CPU",
    }


def test_example_images_are_offered_where_the_hub_will_have_them(full):
    (full / "examples").mkdir()
    for name in ("00000_ankle_boot.png", "00250_t#1.jpg"):
        Image.new("RGB", (8, 8)).save(full / "examples" / name)
    assert "widget" not in render(full)
    assert ModelCard(render(full, repo_id="someone/tiny")).data["widget"] == [
        {
            "src": f"https://huggingface.co/someone/tiny/resolve/main/examples/{name}",
            "example_title": title,
        }
        for name, title in (("00000_ankle_boot.png", "ankle boot"), ("00250_t%231.jpg", "t#1"))
    ]


SMALL = {"embedding_size": 4, "hidden_sizes": [8, 16, 8], "depths": [1, 2, 1]}
SMALL_ALEXNET = {"hidden_sizes": [4, 8, 4, 8, 4], "classifier_hidden_size": 16}
SHAPES = {
    "cnn": ("cnn", SMALL | {"stem": "small"}, (30, 29)),
    "cnn, imagenet": ("cnn", SMALL | {"stem": "imagenet"}, (75, 64)),
    "qlnet": ("qlnet", SMALL | {"stem": "imagenet"}, (75, 64)),
    "alexnet": ("alexnet", SMALL_ALEXNET | {"stem": "imagenet", "stem_padding": 5}, (96, 80)),
    "alexnet, small": ("alexnet", SMALL_ALEXNET | {"stem": "small", "pooled_size": 2}, (32, 40)),
}


@pytest.mark.parametrize("case", SHAPES)
def test_the_diagram_has_the_shapes_that_the_model_computes(tmp_path, case):
    from modeling import FAMILIES, ConvZooImageProcessor

    model_type, fields, (height, width) = SHAPES[case]
    (config_class,) = (family for family in FAMILIES if family.model_type == model_type)
    model = FAMILIES[config_class](config_class(num_labels=9, **fields)).eval()
    model.save_pretrained(tmp_path)
    crop = {"height": height, "width": width}
    ConvZooImageProcessor(size=99, crop_size=crop).save_pretrained(tmp_path)
    with torch.no_grad():
        output = model(torch.zeros(1, 3, height, width), output_hidden_states=True)
    shapes = [shape for _, shape in layer_rows(read_evidence(tmp_path))]
    assert shapes[0] == (3, height, width) and shapes[-1] == (9,)
    places = [shapes.index(tuple(state.shape[1:])) for state in output.hidden_states]
    assert places == sorted(places)


def test_reproduce_repeats_the_recorded_commands(full):
    code = section(render(full), "Reproduce")
    assert "accelerate launch train_accelerate.py recipes/tiny.toml\npython -m convzoo eval" in code


def test_missing_evidence_is_said_and_nothing_else(bare):
    card = render(bare)
    for title in (
        "Training data",
        "Training procedure",
        "Training results",
        "Evaluation",
        "Weak spots",
        "Calibration",
        "Robustness",
        "Measurement",
        "Environmental impact",
        "Reproduce",
    ):
        assert section(card, title) == "Not measured."
    data = ModelCard(card).data
    assert data.eval_results is None and data.datasets is None and data.metrics is None
    assert " %" not in card


@pytest.mark.parametrize("model_type", CONFIGS)
@pytest.mark.parametrize("make", [make_bare, make_full])
def test_no_card_has_a_placeholder(tmp_path, model_type, make):
    card = render(make(tmp_path / "model", model_type))
    for text in ("More Information", "your-", "TODO", "{{", "None", "path/to", "<", "nan", "null"):
        assert text not in card.replace("<!-- hub_cards", "")


PAPERS = {
    "cnn": ["he2015delving", "he2016deep"],
    "alexnet": ["krizhevsky2012imagenet", "krizhevsky2014one"],
    "qlnet": ["liu2023novel"],
}


@pytest.mark.parametrize("model_type", CONFIGS)
def test_every_family_cites_its_papers(tmp_path, model_type):
    citation = section(render(make_bare(tmp_path / "model", model_type)), "Citation")
    assert re.findall(r"@\w+{(\w+),", citation) == PAPERS[model_type]
    assert citation.count("{") == citation.count("}")


def test_description_follows_the_configuration(tmp_path):
    relu = render(make_bare(tmp_path / "relu", use_prelu=False, drop_path_rate=0.0))
    assert "PReLU" not in relu and "Stochastic depth" not in relu
    prelu = render(make_bare(tmp_path / "prelu"))
    assert "one learned slope for each channel" in prelu and "to 0.05 at the last" in prelu
    lrn = {"use_lrn": True, "final_relu": True, "hidden_sizes": [96, 256, 384, 384, 256]}
    paper = render(make_bare(tmp_path / "paper", "alexnet", **lrn))
    assert "ReLU on the logits" in paper and "one-tower" not in paper
    assert "normalisation** follows the first two" in paper


def test_code_loads_from_the_hub_only_when_the_id_is_known(full):
    local, published = render(full), render(full, repo_id="someone/tiny-cnn")
    assert 'model="."' in local and "someone" not in local
    assert 'model="someone/tiny-cnn"' in published and '"."' not in published
    for card in (local, published):
        blocks = re.findall(r"```python\n(.*?)```", card, re.S)
        assert len(blocks) == 3
        for block in blocks:
            ast.parse(block)
            assert "trust_remote_code=True" in block


def test_class_names_cannot_break_a_table(tmp_path):
    folder = make_bare(tmp_path / "odd", labels=["a|b", "c\nd", "e"])
    row = next(line for line in render(folder).splitlines() if line.startswith("| Classes"))
    assert row == r"| Classes | 3: a\|b, c d, e |"


def test_unnamed_and_many_classes_are_not_listed(tmp_path):
    unnamed = make_bare(tmp_path / "unnamed", labels=[f"LABEL_{i}" for i in range(9)])
    assert "| Classes | 9, without names |" in render(unnamed)
    many = make_bare(tmp_path / "many", labels=[f"kind {i}" for i in range(1200)])
    assert "| Classes | 1,200, named in [config.json](config.json) |" in render(many)


# Quoted results


def make_imagenet(folder, model_type, num_parameters, labels=1000, **config):
    """A folder that says it is the original architecture: as many parameters, 1000 classes."""
    make_bare(folder, model_type, labels=[f"class {i}" for i in range(labels)], **config)
    save_file({"all": torch.zeros(num_parameters, dtype=torch.uint8)}, folder / "model.safetensors")
    return folder


QUOTED = {
    ("cnn", 25_602_488): ["78.01 %", "93.89 %"],
    ("alexnet", 61_100_840): ["56.52 %", "79.07 %"],
    ("qlnet", 9_993_640): ["78.40 %", "not reported"],
}


@pytest.mark.parametrize(("model_type", "num_parameters"), QUOTED)
def test_quoted_numbers_are_marked_and_never_ours(tmp_path, model_type, num_parameters):
    card = render(make_imagenet(tmp_path / "model", model_type, num_parameters))
    (row,) = cells(section(card, "Quoted, not measured here"))[2:]
    assert row[1:3] == QUOTED[model_type, num_parameters]
    assert "](https://" in row[4]
    assert card.count(row[1]) == 1 and ModelCard(card).data.eval_results is None
    assert section(card, "Evaluation") == "Not measured."


def test_other_architectures_get_no_quoted_numbers(tmp_path):
    others = [
        make_imagenet(tmp_path / "classes", "cnn", 25_602_488, labels=10),
        make_imagenet(tmp_path / "size", "cnn", 25_602_487),
        make_imagenet(tmp_path / "family", "qlnet", 25_602_488),
        make_imagenet(tmp_path / "field", "alexnet", 61_100_840, use_lrn=True),
    ]
    for folder in others:
        assert "Quoted" not in render(folder)


def test_converted_weights_keep_the_license_of_their_project(bare):
    conversion = {
        "source": {"file": "alexnet.pth", "sha256": "ab" * 32},
        "format": "AlexNet of torchvision",
        "project": "https://github.com/pytorch/vision",
        "num_parameters": NUM_PARAMETERS,
        "converter": "convzoo 0.1.0",
    }
    put(bare, "conversion.json", conversion)
    card = render(bare)
    assert ModelCard(card).data.license == "bsd-3-clause"
    origin = dict(cells(section(card, "Model details")))["Converted from"]
    assert "[AlexNet of torchvision](https://github.com/pytorch/vision)" in origin
    assert f"`alexnet.pth`, SHA-256 `{'ab' * 32}`, by convzoo 0.1.0" in origin
    put(bare, "conversion.json", conversion | {"project": "https://example.org"})
    assert ModelCard(render(bare)).data.license == "unknown"


def test_a_recipe_can_name_another_license(full):
    put(full, "recipe.toml", '[run]\nlicense = "cc-by-nc-4.0"\n')
    assert ModelCard(render(full)).data.license == "cc-by-nc-4.0"
    assert "The weights: `cc-by-nc-4.0`." in section(render(full), "License")


# Evidence that is refused


def change_json(name, **changes):
    def change(folder):
        put(folder, name, json.loads((folder / name).read_text()) | changes)

    return change


def change_result(**changes):
    return lambda folder: put_results(folder, result(folder, **changes))


def new_weights(folder):
    save_file({"classifier.weight": torch.ones(NUM_PARAMETERS)}, folder / "model.safetensors")


def drop_depths(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["depths"]
    put(folder, "config.json", config)


METRICS = {"top1_accuracy": 0.5}
REFUSED = {
    "no folder": (shutil.rmtree, "model folder .* does not exist"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "broken config": (lambda f: put(f, "config.json", "{"), "config.json must be valid JSON"),
    "list as config": (lambda f: put(f, "config.json", []), "must hold a JSON object; got list"),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\xff"), "must be UTF-8 text"),
    "other family": (
        change_json("config.json", model_type="resnet"),
        "model_type .* alexnet, cnn, qlnet; got 'resnet'",
    ),
    "no labels": (change_json("config.json", id2label=None), "id2label .* must name the classes"),
    "no field": (drop_depths, "must have all fields of a cnn configuration; 'depths'"),
    "no auto_map": (change_json("config.json", auto_map=None), "must have an auto_map"),
    "no code": (lambda f: (f / "modeling_cnn.py").unlink(), "missing in .*: modeling_cnn.py"),
    "no preprocessor": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        "preprocessor_config.json is missing",
    ),
    "no crop": (
        change_json("preprocessor_config.json", crop_size={}),
        "crop_size.height of .* must be of type int; got None",
    ),
    "no filter": (change_json("preprocessor_config.json", resample=9), "resample .* 0 to 5"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "cut weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{"),
        "must be a safetensors file",
    ),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "safetensors file"),
    "stale results": (new_weights, r"results\[0\] of eval_results.json .* is stale"),
    "other count": (
        change_result(model={"sha256": "", "num_parameters": 1}),
        r"results\[0\] of eval_results.json .* is stale",
    ),
    "other trained count": (
        change_json("train_results.json", num_parameters=7),
        f"num_parameters of train_results.json .* {NUM_PARAMETERS}; got 7",
    ),
    "newer schema": (change_json("eval_results.json", schema_version=2), "schema_version .* be 1"),
    "no list": (change_json("eval_results.json", results=None), "results in .* must be a list"),
    "no split": (
        change_result(dataset=DATASET | {"split": None}),
        r"dataset.split of results\[0\] in .* must be of type str; got None",
    ),
    "no images": (change_result(dataset=DATASET | {"num_samples": 0}), "num_samples .* at least 1"),
    "no top-1": (change_result(metrics={}), "metrics.top1_accuracy of .* must be of type float"),
    "percent": (change_result(metrics={"top1_accuracy": 87.6}), r"in \[0, 1\]; got 87.6"),
    "text as top-5": (
        change_result(metrics=METRICS | {"top5_accuracy": "high"}),
        "top5_accuracy of .* must be of type float; got 'high'",
    ),
    "other interval": (
        change_result(intervals_95={"top1_accuracy": [0.4, 0.5]}),
        r"intervals_95.top1_accuracy of results\[0\] .* must agree",
    ),
    "other classes": (change_result(classes=BREAKDOWN["classes"][:3]), "classes of .* must agree"),
    "other class": (
        change_result(
            classes=[BREAKDOWN["classes"][0] | {"top1_accuracy": 1.0}, *BREAKDOWN["classes"][1:]]
        ),
        "classes of .* must agree",
    ),
    "no counts": (change_result(classes=[{"name": "a"}]), "the breakdown of .*'num_samples'"),
    "other bins": (
        change_result(
            calibration=BREAKDOWN["calibration"] | {"bins": BREAKDOWN["calibration"]["bins"][:1]}
        ),
        "calibration.bins of .* must agree",
    ),
    "sure": (
        change_result(calibration=BREAKDOWN["calibration"] | {"mean_confidence": 35.1}),
        "mean_confidence of .* must agree",
    ),
    "no share": (
        change_result(confusions=[BREAKDOWN["confusions"][0] | {"share": 50}]),
        "confusions of .* must agree",
    ),
    "no emissions": (
        lambda f: put(f, "emissions.csv", "run_id,duration\na,1\n"),
        "emissions.csv must be as CodeCarbon writes it; .*'emissions'",
    ),
    "nan": (
        change_result(metrics=METRICS | {"loss": math.nan}),
        "eval_results.json must be valid JSON; NaN is no finite number",
    ),
    "broken recipe": (lambda f: put(f, "recipe.toml", "[run"), "recipe.toml must be valid TOML"),
    "flat recipe": (lambda f: put(f, "recipe.toml", "seed = 1"), "seed in .* must be a section"),
    "other recipe": (
        lambda f: put(f, "recipe.toml", "[model]\nhidden_sizes = [8, 8]"),
        r"\[model\] hidden_sizes in .* \[8, 16\]; got \[8, 8\]",
    ),
    "broken metrics": (
        lambda f: put(f, "metrics.jsonl", '{"step": 1}\n{"step"'),
        "line 2 of .*metrics.jsonl must be valid JSON",
    ),
    "unknown license": (
        lambda f: put(f, "recipe.toml", '[run]\nlicense = "Apache"'),
        r"breaks 1 rule\(s\), and was not written:\n- license must be an identifier",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_evidence_is_refused_and_nothing_written(full, capsys, case):
    spoil, message = REFUSED[case]
    spoil(full)
    assert main(["render", str(full)]) == 1
    assert not (full / "README.md").exists()
    error = capsys.readouterr().err
    assert error.startswith("error: ") and re.search(message, error)


def test_a_result_with_the_right_hash_and_another_count_is_refused(full):
    model = {"sha256": weights_hash(full), "num_parameters": NUM_PARAMETERS + 1}
    put_results(full, result(full, model=model))
    with pytest.raises(ValueError, match=r"num_parameters of results\[0\] of eval_results.json"):
        render(full)


@pytest.mark.parametrize("repo_id", ["tiny", "a/b/c", "some one/tiny", ""])
def test_repo_id_must_be_a_hub_id(full, repo_id):
    with pytest.raises(ValueError, match="repo_id must look like user/name"):
        render(full, repo_id=repo_id)


# Writing


def test_rendering_twice_changes_nothing(full):
    path = write_card(full)
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert write_card(full) == path
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_the_same_evidence_elsewhere_gives_the_same_bytes(full, tmp_path):
    shutil.copytree(full, tmp_path / "copy")
    assert write_card(full).read_bytes() == write_card(tmp_path / "copy").read_bytes()


def test_a_card_edited_by_hand_is_kept(full, capsys):
    path = write_card(full)
    edited = path.read_text().replace("# cnn-tiny", "# My model")
    path.write_text(edited)
    assert main(["render", str(full)]) == 1
    assert "edited by hand" in capsys.readouterr().err and path.read_text() == edited
    assert main(["render", str(full), "--force"]) == 0
    assert "# cnn-tiny" in path.read_text()


def test_a_foreign_readme_is_kept(full):
    put(full, "README.md", "mine")
    with pytest.raises(FileExistsError, match="--force"):
        write_card(full)
    assert (full / "README.md").read_text() == "mine"


def test_new_evidence_and_other_line_ends_are_no_hand_edit(full):
    path = write_card(full)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    put_results(full, result(full, metrics={"top1_accuracy": 0.25}))
    assert "**25.00 % top-1 accuracy**" in write_card(full).read_text()


def test_output_goes_to_another_file(full, tmp_path, capsys):
    target = tmp_path / "card.md"
    assert main(["render", str(full), "--output", str(target), "--repo-id", "someone/tiny"]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert "# tiny\n" in target.read_text() and not (full / "README.md").exists()


# The validator


def good_card(folder):
    card = render(folder)
    assert card_problems(card, folder) == []
    return card


BAD_CARDS = {
    "no front matter": (r"\A---\n", "", "must start with metadata"),
    "bad yaml": ("license:", "license: [", "must be valid YAML"),
    "text as metadata": (r"(?s)\A---\n.*?\n---\n", "---\ntext\n---\n", "keys with values"),
    "no license": ("(?m)^license: .*$", "license:", "metadata must have license"),
    "license": ("license: apache-2.0", "license: Apache 2", "license must be .* got 'Apache 2'"),
    "other license": ("license: apache-2.0", "license: other", "'other' needs license_name"),
    "no library": ("library_name: transformers\n", "", "metadata must have library_name"),
    "task": ("pipeline_tag: .*", "pipeline_tag: cats", "pipeline_tag must be a task .* 'cats'"),
    "tags": (r"tags:\n(- \w+\n)+", "tags: vision\n", "tags must be a list of texts"),
    "numbers as tags": ("- vision", "- 12", "tags must be a list of texts"),
    "dataset id": ("- zalando-datasets/", "- a/b/", "datasets must hold Hub ids"),
    "base model": ("license:", "base_model: /models/first\nlicense:", "base_model must be a Hub"),
    "relation": (
        "license:",
        "base_model: a/b\nbase_model_relation: child\nlicense:",
        "base_model_relation must be one of adapter, .* got 'child'",
    ),
    "emissions": (
        "license:",
        "co2_eq_emissions:\n  emissions: little\nlicense:",
        "co2_eq_emissions must be grams, .* got 'little'",
    ),
    "model-index": (r"model-index:\n", "other:\n", None),
    "index no list": ("model-index:", "model-index: 3\nother:", "must be a list of models"),
    "index name": ("- name: cnn-tiny", "- name:", r"model-index\[0\] must have a name"),
    "results": ("  results:", "  results: []\n  other:", r"\[0\].results must be a list"),
    "task type": ("      type: image-classification", "      type:", "must have task.type"),
    "dataset type": ("type: fashion-mnist-sample", "type: Fashion MNIST", "dataset.type must look"),
    "dataset name": ("      name: Fashion-MNIST sample", "      name:", "must have dataset.name"),
    "metrics": ("    metrics:\n", "    metrics: []\n    other:\n", "metrics must be a list"),
    "metric type": ("- type: accuracy", "- type:", r"metrics\[0\] must have a type"),
    "metric text": ("value: 0.75", "value: high", r"metrics\[1\].value must be a finite number"),
    "metric nan": ("value: 0.75", "value: .nan", r"metrics\[1\].value must be a finite number"),
    "metric percent": ("value: 0.75", "value: 75.0", r"must be a fraction in \[0, 1\]; got 75.0"),
    "metric twice": ("name: Top-5 accuracy", "name: Top-1 accuracy", "two metrics"),
    "section": (
        "## Limitations and bias",
        "## Limits",
        "section 'Limitations and bias' is missing",
    ),
    "empty section": ("(?s)(## License\n).*?(<!--)", r"\1\n\2", "section 'License' is empty"),
    "half measured": ("Not measured.", "Not measured. About 1 kg.", "'Not measured.' alone"),
    "template text": (
        "# cnn-tiny",
        "# [More Information Needed]",
        "says 'More Information Needed'",
    ),
    "user name": ("# cnn-tiny", "# your-username/cnn", "says 'your-username'"),
    "todo": ("# cnn-tiny", "# TODO", "says 'TODO'"),
    "template code": ("# cnn-tiny", "# {{ title }}", "says '{{'"),
    "path": ("photo.jpg", "path/to/photo.jpg", "says 'path/to/'"),
    "None cell": (r"\| 2.25 \|", "| None |", "a table has the cell 'None'"),
    "nan cell": (r"\| 2.25 \|", "| nan |", "a table has the cell 'nan'"),
    "image": (r"\(training_curve.png\)", "(curve.png)", "link to curve.png, which is not in"),
    "link": (r"\(recipe.toml\)", "(../recipe.toml)", "link to ../recipe.toml"),
    "absolute link": (r"\(recipe.toml\)", "(/etc/hostname)", "link to /etc/hostname"),
    "html image": ("# cnn-tiny", '# x\n<img src="logo.png">', "link to logo.png"),
}


@pytest.mark.parametrize("case", BAD_CARDS)
def test_the_validator_finds(full, case):
    pattern, replacement, message = BAD_CARDS[case]
    bad, count = re.subn(pattern, replacement, good_card(full), count=1)
    assert count == 1
    problems = card_problems(bad, full)
    if message is None:  # a card without results is a good card, too
        assert problems == []
    else:
        assert len(problems) == 1 and re.search(message, problems[0])


def test_the_validator_lists_all_problems(full):
    bad = (
        good_card(full).replace("license: apache-2.0", "license: x").replace("# cnn-tiny", "# TBD")
    )
    assert len(card_problems(bad, full)) == 2


def test_the_validator_accepts_other_license_with_name_and_file(full):
    named = good_card(full).replace("license: apache-2.0", "license: other\nlicense_name: mine")
    assert "LICENSE" in card_problems(named, full)[0]
    put(full, "LICENSE", "text")
    assert card_problems(named, full) == []


def test_links_and_cells_in_code_are_not_checked(full):
    code = "```\n[a](missing.md)\n| None | nan |\n```\n"
    card = good_card(full).replace("## License\n", f"## License\n\n{code}")
    assert card_problems(card, full) == []


# The package


def test_hub_cards_imports_none_of_our_packages():
    files = sorted((ROOT / "hub_cards").rglob("*.py"))
    assert len(files) >= 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module]
            if isinstance(node, ast.Import | ast.ImportFrom):
                tops = {name.split(".")[0] for name in names}
                assert not tops & {"modeling", "convzoo", "app", "train_accelerate", "torch"}


def test_help_does_not_load_the_libraries():
    code = (
        "import sys; from hub_cards.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: assert not {'jinja2', 'yaml', 'huggingface_hub'} & set(sys.modules)"
    )
    assert "render" in run("-c", code).stdout


def test_every_data_file_of_the_package_is_shipped():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    shipped = {
        file
        for pattern in patterns["package-data"]["hub_cards"]
        for file in (ROOT / "hub_cards").glob(pattern)
    }
    present = {
        f
        for f in (ROOT / "hub_cards").rglob("*")
        if f.is_file() and f.suffix not in (".py", ".pyc")
    }
    assert shipped == present


@pytest.mark.parametrize("place", ["clone", "hub"])
def test_the_code_on_a_card_runs(tmp_path, place):
    """In a clone, or on the Hub; in a process that cannot import our packages."""
    from modeling import CNN, CNNConfig, ConvZooImageProcessor

    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    elsewhere.mkdir()
    labels = dict(enumerate(NAMES))
    CNN(CNNConfig(id2label=labels, **CONFIGS["cnn"])).save_pretrained(folder)
    ConvZooImageProcessor(size=32, crop_size=28).save_pretrained(folder)
    card = write_card(folder, repo_id="someone/tiny" if place == "hub" else None)
    blocks = re.findall(r"```python\n(.*?)```", card.read_text(), re.S)
    code = "\n".join(blocks) + "\nprint(features, model.config.num_labels)"
    where = folder if place == "clone" else elsewhere
    Image.new("RGB", (40, 60), "red").save(where / "photo.jpg")
    with HubServer(tmp_path / "hub", {"hf_someone": "someone"}) as hub:
        hub.add_repo("models", "someone/tiny", folder)
        program = ("-I", "-S", "-c", GUARD + STRANGER + code)
        done = hub.run(*program, home=tmp_path / "home", cwd=where)
        assert bool(hub.requests("model.safetensors")) == (place == "hub")
    shown = re.findall(r"^0\.\d{3}  (.*)$", done.stdout, re.M)
    assert len(shown) == 5 and set(shown) < set(NAMES)
    assert "(classifier): Identity()" in done.stdout and done.stdout.rstrip().endswith(" 7")
