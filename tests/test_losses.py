"""The losses against timm's numbers, torch's formulas and each other."""

import pytest
import torch

from convzoo.recipe.settings import Train
from convzoo.training.losses import classification_loss

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -0.3]])
HARD = torch.tensor([0, 2])
SOFT = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.15, 0.75]])


@pytest.mark.parametrize(
    ("smoothing", "threshold", "hard", "soft"),
    [
        (0.0, 0.0, 0.6351929094441653, 0.7660262427774988),
        (0.1, 0.0, 0.6551929094441652, 0.7660262427774988),
        (0.1, 0.2, 0.6351929094441653, 0.8018595761108319),
    ],
)
def test_binary_cross_entropy_is_timms(smoothing, threshold, *, hard, soft):
    """Recorded from BinaryCrossEntropy of timm 1.0.31; soft labels are not smoothed again."""
    settings = Train(loss="bce", label_smoothing=smoothing, bce_target_threshold=threshold)
    for labels, expected in ((HARD, hard), (SOFT, soft)):
        loss = classification_loss(LOGITS, labels, settings=settings, num_classes=3)
        assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_in_closed_form(smoothing):
    log_probabilities = LOGITS - LOGITS.exp().sum(1, keepdim=True).log()
    target = torch.eye(3)[HARD] * (1 - smoothing) + smoothing / 3
    settings = Train(label_smoothing=smoothing)
    loss = classification_loss(LOGITS, HARD, settings=settings, num_classes=3)
    torch.testing.assert_close(loss, -(target * log_probabilities).sum(1).mean())
    loss = classification_loss(LOGITS, SOFT, settings=settings, num_classes=3)
    torch.testing.assert_close(loss, -(SOFT * log_probabilities).sum(1).mean())


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
@pytest.mark.parametrize("labels", [HARD, SOFT], ids=["hard", "soft"])
def test_a_batch_is_the_mean_of_its_images(loss, labels):
    settings = Train(loss=loss, label_smoothing=0.1)
    rows = [
        classification_loss(LOGITS[i : i + 1], labels[i : i + 1], settings=settings, num_classes=3)
        for i in (0, 1)
    ]
    whole = classification_loss(LOGITS, labels, settings=settings, num_classes=3)
    torch.testing.assert_close(whole, torch.stack(rows).mean())


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_half_precision_logits_give_a_float32_loss_inside_autocast(loss):
    """With 1000 classes a bf16 sum would be off by percents."""
    logits = torch.linspace(-3, 3, 4000).reshape(4, 1000).bfloat16()
    labels, settings = torch.tensor([1, 999, 5, 500]), Train(loss=loss, label_smoothing=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = classification_loss(logits, labels, settings=settings, num_classes=1000)
    assert loss.dtype == torch.float32
    expected = classification_loss(logits.double(), labels, settings=settings, num_classes=1000)
    torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=0)
