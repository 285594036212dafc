"""Predictions that no model made, and that agree with each other."""

import hashlib

import numpy as np

from convzoo.evaluation.prediction_table import NO_NUMBER, PredictionFacts, PredictionTable


def prediction_table(num_images, *, seed=0, top_k=3, names="abcde", logits=False, unreadable=()):
    """A table of random logits; by numpy alone."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (num_images, len(names))).astype(np.float32)
    label = rng.integers(0, len(names), num_images).astype(np.int32)
    exponents = np.exp(scores.astype(np.float64))
    probabilities = exponents / exponents.sum(axis=1, keepdims=True)
    order = np.argsort(-scores, axis=1, kind="stable")
    rank = (order == label[:, None]).argmax(axis=1).astype(np.int32)
    loss = -np.log(probabilities[np.arange(num_images), label]).astype(np.float32)
    tops = order[:, :top_k].astype(np.int32)
    top_probabilities = np.take_along_axis(probabilities, tops, axis=1).astype(np.float32)
    squares = (probabilities**2).sum(axis=1).astype(np.float32)
    error = np.full(num_images, None, object)
    bad = list(unreadable)
    rank[bad], tops[bad], error[bad] = NO_NUMBER, NO_NUMBER, "cut off"
    for column in (loss, top_probabilities, squares, scores):
        column[bad] = np.nan
    digests = [hashlib.sha256(str(n).encode()).digest() for n in range(num_images)]
    facts = PredictionFacts(
        names=tuple(names),
        dataset={"name": "data"},
        protocol={"views": 1},
        model={"sha256": "0" * 64},
    )
    return PredictionTable(
        facts=facts,
        row=np.arange(num_images) * 2,
        image=np.array([f"{names[c]}/{n}.jpg" for n, c in enumerate(label)], object),
        digest=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
        label=label,
        rank=rank,
        loss=loss,
        top_classes=tops,
        top_probabilities=top_probabilities,
        squared_probabilities=squares,
        logits=scores if logits else None,
        error=error,
    )
