"""The metrics for `evaluate`, loaded from their folders, against scikit-learn and closed forms."""

import re
from pathlib import Path

import evaluate
import numpy as np
import pytest
import sklearn.metrics as peer

from convzoo.evaluation.statistics import calibration

METRICS = Path(__file__).parent.parent / "convzoo" / "evaluation" / "metrics"
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 300)
SCORES = np.exp(RNG.normal(size=(300, 4)) + 2 * np.eye(4)[LABELS])
PROBABILITIES = SCORES / SCORES.sum(axis=1, keepdims=True)
ANSWERS = PROBABILITIES.argmax(axis=1)
TRUE = RNG.random((200, 5)) < [0.1, 0.5, 0.3, 0.7, 0.02]
TRUE[0] = True
GUESSES = np.round(np.clip(TRUE * 0.3 + RNG.random((200, 5)) * 0.7, 0, 1), 2)  # with equal scores


def load(name):
    return evaluate.load(str(METRICS / name))


def compute(name, predictions, references, **options):
    return load(name).compute(predictions=predictions, references=references, **options)


@pytest.mark.parametrize("name", sorted(path.name for path in METRICS.iterdir() if path.is_dir()))
def test_a_metric_says_how_it_is_used_and_that_is_true(name):
    about = (METRICS / name / f"{name}.py").read_text().split('"""')[1]
    assert f'evaluate.load("convzoo/evaluation/metrics/{name}")' in about
    found = re.search(r"metric\.compute\(\s+(predictions=.*)\s+\)  # (\{.*\})", about)
    if found:
        arguments, printed = found.groups()
        answer = eval(f"load(name).compute({arguments})")
        assert answer == pytest.approx(eval(printed), abs=5e-3)


def test_metrics_of_classes_are_those_of_scikit_learn():
    one_of_four = compute("negative_log_likelihood", PROBABILITIES, LABELS)
    assert one_of_four["negative_log_likelihood"] == pytest.approx(
        peer.log_loss(LABELS, PROBABILITIES)
    )
    brier = compute("brier_score", PROBABILITIES, LABELS)["brier_score"]
    each = [peer.brier_score_loss(n == LABELS, PROBABILITIES[:, n]) for n in range(4)]
    assert brier == pytest.approx(sum(each))
    f1 = compute("macro_f1", ANSWERS, LABELS)["macro_f1"]
    assert f1 == pytest.approx(peer.f1_score(LABELS, ANSWERS, average="macro"))
    balanced = compute("balanced_accuracy", ANSWERS, LABELS)["balanced_accuracy"]
    assert balanced == pytest.approx(peer.balanced_accuracy_score(LABELS, ANSWERS))
    scores = np.round(PROBABILITIES[:, 1], 1)  # many are equal
    auroc = compute("auroc", scores, LABELS == 1)["auroc"]
    assert auroc == pytest.approx(peer.roc_auc_score(LABELS == 1, scores))


def test_metrics_of_several_labels_are_those_of_scikit_learn():
    found = compute("multilabel_average_precision", GUESSES, TRUE)["mean_average_precision"]
    expected = peer.average_precision_score(TRUE, GUESSES, average="macro")
    assert found == pytest.approx(expected)
    f1 = compute("multilabel_f1", GUESSES, TRUE, threshold=0.4)
    for average in ("micro", "macro"):
        expected = peer.f1_score(TRUE, GUESSES >= 0.4, average=average)
        assert f1[f"{average}_f1"] == pytest.approx(expected)


def test_the_calibration_error_is_that_of_results_and_has_bins_of_equal_mass():
    confidences, hits = PROBABILITIES.max(axis=1), ANSWERS == LABELS
    name = "expected_calibration_error"
    expected = calibration(confidences, hits)[name]
    assert compute(name, confidences, hits)[name] == pytest.approx(expected)
    order = np.argsort(confidences).reshape(10, 30)
    gaps = abs(hits[order].mean(axis=1) - confidences[order].mean(axis=1))
    equal = compute(name, confidences, hits, strategy="equal_mass", num_bins=10)[name]
    assert equal == pytest.approx(gaps.mean())


def test_what_has_no_value_is_refused():
    with pytest.raises(ValueError, match="must be 0 or 1, and have both"):
        compute("auroc", [0.1, 0.2], [1, 1])
    with pytest.raises(ValueError, match="strategy must be"):
        compute("expected_calibration_error", [0.5], [1], strategy="equal")
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\]"):
        compute("negative_log_likelihood", [[2.0, -1.0]], [0])


@pytest.mark.parametrize("k", [None, [1, 4], [0]])
def test_top_k_beyond_the_classes_is_refused(k):
    """Also by default, which is 1 and 5: of three classes no label is outside of five."""
    options = {"k": k} if k else {}
    with pytest.raises(ValueError, match=r"k must lie in \[1, 3\], the predictions per image; got"):
        compute("topk_accuracy", [[0, 1, 2], [2, 1, 0]], [1, 2], **options)
    found = compute("topk_accuracy", [[0, 1, 2], [2, 1, 0]], [1, 2], k=[1, 2, 3])
    assert found == {"top1_accuracy": 0.5, "top2_accuracy": 1.0, "top3_accuracy": 1.0}
