"""Model folders that several test files make, and how they read cards."""

import hashlib
import json
import re

import torch
from PIL import Image
from safetensors.torch import save_file

from hub_cards.card.rendering import render_card
from hub_cards.evidence.folder import read_evidence

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


PLACES = {"id": "user/colours", "name": "Colours", "split": "test", "num_samples": 263}
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


def make_model(folder, name, correct, *, family="cnn", **changes):
    """A model folder that got `correct` of 263 images right."""
    model = make_bare(folder / name, family)
    metrics = {"top1_accuracy": correct / 263, "top5_accuracy": 0.75, "loss": 2.25}
    put(model, "recipe.toml", f'[run]\nname = "{name}"\nlicense = "mit"\n')
    put_results(model, result(model, **{"metrics": metrics, "dataset": DATASET | PLACES} | changes))
    return model
