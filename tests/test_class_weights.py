"""Class weights against other libraries' numbers, repeated images and closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from convzoo.images.mixing import MixupCutmix
from convzoo.recipe.settings import Train
from convzoo.training.class_weights import LabelWeights, class_weights
from convzoo.training.losses import classification_loss
from convzoo.training.metrics_log import read_metrics
from tests.support.clients import run, train

NAMES = ("cat", "dog", "eel", "fox")
SAMPLES = np.array([300, 60, 0, 1])


def test_balanced_weights_are_scikit_learns():
    """Recorded from compute_class_weight("balanced"), scikit-learn 1.9, for the present ones."""
    weights = class_weights(Train(class_weights="balanced"), NAMES, SAMPLES)
    assert weights.tolist() == pytest.approx(
        [0.4011111111111111, 2.0055555555555555, 0, 120.33333333333333]
    )


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.999999])
def test_effective_weights_in_closed_form(beta):
    settings = Train(class_weights="effective", class_weight_beta=beta)
    weights = class_weights(settings, NAMES, SAMPLES)
    effective = [sum(beta**k for k in range(n)) for n in (300, 60, 1)]  # a geometric series
    inverse = np.array([1 / each for each in effective])
    assert weights[[0, 1, 3]] == pytest.approx(inverse * 3 / inverse.sum(), rel=1e-9)
    assert weights[2] == 0


def test_a_table_names_classes():
    settings = Train(class_weights={"dog": 3})
    assert class_weights(settings, NAMES, None).tolist() == [1, 3, 1, 1]
    with pytest.raises(ValueError, match="must name classes; 0 classes are called 'dgo'. They are"):
        class_weights(Train(class_weights={"dgo": 3}), NAMES, None)
    with pytest.raises(ValueError, match="2 classes are called 'crane'"):
        class_weights(Train(class_weights={"crane": 3}), ("crane", "crane"), None)
    assert class_weights(Train(), NAMES, SAMPLES) is None


LOSSES = [
    {"loss": "cross_entropy"},
    {"loss": "cross_entropy", "label_smoothing": 0.1},
    {"loss": "bce", "label_smoothing": 0.1},
    {"loss": "bce", "label_smoothing": 0.1, "bce_target_threshold": 0.2},
]


@pytest.mark.parametrize("loss", LOSSES)
def test_an_image_counts_as_if_it_were_there_so_many_times(loss):
    """Of the mean over repeated images the weighted one cannot be told."""
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 3, 1, 0])
    weights, settings = torch.tensor([1.0, 3.0, 9.0, 2.0]), Train(**loss)
    weighted = classification_loss(
        logits, labels, settings=settings, num_classes=4, weights=weights
    )
    times = weights[labels].long()
    repeated = classification_loss(
        logits.repeat_interleave(times, 0),
        labels.repeat_interleave(times),
        settings=settings,
        num_classes=4,
    )
    torch.testing.assert_close(weighted, repeated)
    if loss == LOSSES[0]:
        torch.testing.assert_close(weighted, F.cross_entropy(logits, labels, weight=weights))


@pytest.mark.parametrize("loss", LOSSES[:3])
def test_a_share_of_a_mixed_label_counts_with_the_weight_of_its_class(loss):
    torch.manual_seed(0)
    weights, settings = torch.tensor([0.5, 3.0, 9.0, 2.0]), Train(**loss)
    images, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 3, 1, 0, 2])
    mix = MixupCutmix(
        mixup_alpha=0.4,
        cutmix_alpha=1.0,
        probability=1.0,
        switch_probability=0.5,
        label_smoothing=0.0,
        num_labels=4,
        mode="elem",
    )
    _, shares = mix(images, labels, np.random.default_rng(0))
    logits = torch.randn(6, 4)
    weighted = classification_loss(
        logits, shares, settings=settings, num_classes=4, weights=weights
    )
    kept = torch.from_numpy(mix.drawn[0]).float()
    total, norm = 0.0, 0.0
    for row, share in enumerate(kept.tolist()):
        for label, part in ((labels[row], share), (labels[5 - row], 1 - share)):
            one = classification_loss(
                logits[row : row + 1], label[None], settings=settings, num_classes=4
            )
            total += part * weights[label] * one
            norm += part * weights[label]
    torch.testing.assert_close(weighted, total / norm)


def test_a_threshold_looks_at_the_shares_before_they_are_weighed():
    settings = Train(loss="bce", bce_target_threshold=0.2)
    logits, shares = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[0.7, 0.3, 0.0]])
    losses = [
        classification_loss(logits, shares, settings=settings, num_classes=3, weights=weights)
        for weights in (None, torch.tensor([1.0, 1e-3, 1.0]))
    ]
    torch.testing.assert_close(*losses)


def test_half_precision_does_not_round_weights_inside_autocast():
    torch.manual_seed(0)
    weights = torch.rand(1000) + 0.1
    logits, labels = torch.randn(8, 1000), torch.rand(8, 1000).softmax(1)
    arguments = {"settings": Train(), "num_classes": 1000, "weights": weights}
    with torch.autocast("cpu", torch.bfloat16):
        loss = classification_loss(logits, labels, **arguments)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, classification_loss(logits, labels, **arguments))


def test_without_weights_labels_are_counted():
    plain = LabelWeights(None, 12, accelerator=Accelerator(cpu=True))
    assert (plain.of(torch.arange(5)), plain.of_global_batch(torch.arange(5))) == (5, 12)


WEIGHTED = """
[run]
name = "weighted"
[model]
model_type = "alexnet"
stem = "small"
hidden_sizes = [8, 8, 8, 8, 8]
classifier_hidden_size = 16
pooled_size = 2
dropout_rate = 0.0
[data]
path = "{data}"
eval_split = "test"
num_workers = 0
[preprocessing]
resize = 32
crop = 32
[optimizer]
learning_rate = 0.02
[train]
epochs = 3
global_batch_size = 13
accumulation_steps = 2
log_every_steps = 1
label_smoothing = 0.1
class_weights = {{red = 1.0, green = 7.0, blue = 0.2}}
evaluate_every_epochs = 0
"""


WEIGHED_BY_TWO = """
import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator, debug_launcher

from convzoo.recipe.settings import Train
from convzoo.training.class_weights import LabelWeights
from convzoo.training.losses import classification_loss

torch.manual_seed(0)
LOGITS, LABELS = torch.randn(13, 3), torch.tensor([0] * 7 + [2] * 4 + [1] * 2)
WEIGHTS = np.array([1.0, 7.0, 0.2])


def loss_of_a_share():
    # What one of two processes adds to the mean over both, in two micro-batches.
    accelerator = Accelerator(cpu=True)
    weighing = LabelWeights(WEIGHTS, 13, accelerator=accelerator)
    share = torch.arange(13)[: 8] if accelerator.is_main_process else torch.arange(13)[8 :]
    whole, loss = weighing.of_global_batch(LABELS[share]), torch.zeros(())
    for part in share.tensor_split(2):
        mean = classification_loss(
            LOGITS[part], LABELS[part], settings=Train(), num_classes=3, weights=weighing.weights
        )
        loss += mean * (weighing.of(LABELS[part]) * accelerator.num_processes / whole)
    assert accelerator.num_processes == 2
    weights = torch.tensor(WEIGHTS, dtype=torch.float32)
    expected = F.cross_entropy(LOGITS, LABELS, weight=weights)
    torch.testing.assert_close(accelerator.reduce(loss, "mean"), expected)


debug_launcher(loss_of_a_share, num_processes=2)
print("the same")
"""


def test_the_weighted_mean_is_that_of_the_global_batch():
    """Shares of a batch differ in size and in weight; means of their means would be others."""
    assert "the same" in run("-c", WEIGHED_BY_TWO).stdout


@pytest.mark.slow
def test_a_weighted_training_has_the_same_losses_on_two_processes(tmp_path, colour_data):
    recipe = tmp_path / "weighted.toml"
    recipe.write_text(WEIGHTED.format(data=colour_data))
    losses = []
    for processes in (1, 2):
        output = tmp_path / f"on{processes}"
        done = train(recipe, f"run.output_dir={output}", processes=processes)
        assert "class weights of the loss: 0.2 (blue) to 7 (green)" in done.stderr
        lines = read_metrics(output / "weighted/metrics.jsonl")
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=2e-5)
    assert len(losses[0]) == 15  # 3 epochs of 61 images in steps of 13
