"""Predictions of given probabilities, and results of them, as reports are made of."""

import hashlib

import numpy as np

from convzoo.evaluation.prediction_table import PredictionFacts, PredictionTable
from convzoo.evaluation.statistics import break_down

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(2)'>",
    "two\nlines\tand\u202eright to left",
    "{{ 7 * 7 }} & \u05d0\u05d1\u05d2",
)
DATASET = {"path": "pets", "name": "Pets", "split": "test", "fingerprint": "sha256:" + "0a" * 32}
PROTOCOL = {"views": 1, "image_processor": {"num_channels": 3}}


def objects(values):
    return np.array([*values, None], object)[:-1]


def table_of(probabilities, labels, *, names=None, top_k=10, unreadable=(), images=None):
    """The predictions of probabilities (N, C), as an evaluation writes them."""
    probabilities = np.asarray(probabilities, np.float64)
    number, classes = probabilities.shape
    labels = np.asarray(labels, np.int32)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranks = np.argmax(order == labels[:, None], axis=1).astype(np.int32)
    top = order[:, :top_k].astype(np.int32)
    chances = np.take_along_axis(probabilities, top, 1).astype(np.float32)
    each = np.arange(number)
    losses = -np.log(probabilities[each, labels].clip(1e-30)).astype(np.float32)
    squared = (probabilities**2).sum(1).astype(np.float32)
    lost = np.isin(each, unreadable)
    for array, value in ((ranks, -1), (top, -1), (chances, np.nan), (losses, np.nan)):
        array[lost] = value
    squared[lost] = np.nan
    encoded = images or [str(row).encode() for row in each]
    return PredictionTable(
        facts=PredictionFacts(
            names=tuple(names or (f"class {n}" for n in range(classes))),
            dataset=DATASET,
            protocol=PROTOCOL,
        ),
        row=each.astype(np.int64),
        image=objects(f"{row}.png" for row in each),
        digest=np.stack([np.frombuffer(hashlib.sha256(d).digest(), np.uint8) for d in encoded]),
        label=labels,
        rank=ranks,
        loss=losses,
        top_classes=top,
        top_probabilities=chances,
        squared_probabilities=squared,
        error=objects("cut <off>" if row in unreadable else None for row in each),
    )


def random_table(number, classes, seed=0, **options):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (number, classes))
    labels = rng.integers(classes, size=number)
    logits[np.arange(number), labels] += 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return table_of(probabilities, labels, **options), probabilities, labels


def result_of(table, sha256="5" * 64, **dataset):
    readable = table.readable
    hits = table.hits()
    details = break_down(table) if readable.any() else {}
    return {
        "task": "image-classification",
        "dataset": DATASET | {"num_samples": len(table)} | dataset,
        "protocol": PROTOCOL,
        "metrics": {"top1_accuracy": float(hits.mean()), "top5_accuracy": None, "loss": 1.0},
        **details,
        "model": {"sha256": sha256, "num_parameters": 181},
        "command": "convzoo evaluate <b>",
        "date": "2026-11-28T10:00:00+00:00",
    }
