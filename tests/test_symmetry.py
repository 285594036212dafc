"""`convzoo symmetry`: other weights, the same answers, and what is written of it."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from convzoo.inspection.symmetry import (
    Motion,
    move,
    random_orthogonal,
    rotatable_stages,
    show_symmetry,
    symmetry_text,
    weight_changes,
)
from modeling import CNN, CNNConfig, ConvZooImageProcessor, QLNet, QLNetConfig
from tests.support.clients import run
from tests.support.images import COLOURS
from tests.support.models import with_random_norms


def random_qlnet(**fields):
    return with_random_norms(QLNet(QLNetConfig(num_labels=3, stem="small", **fields)).eval())


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(2, 9), st.integers(1, 3)), min_size=1, max_size=3),
    st.integers(2, 6),
    st.integers(1, 3),
    st.integers(1, 3),
    st.floats(1, 8),
)
def test_networks_of_any_depth_and_width_stay_the_same(stages, stem, expansion, outputs, factor):
    torch.manual_seed(0)
    model = random_qlnet(
        embedding_size=stem,
        hidden_sizes=[size for size, _ in stages],
        depths=[depth for _, depth in stages],
        expansion=expansion,
        depthwise_multiplier=outputs,
    ).double()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    moved = move(model, Motion(largest_factor=factor, seed=1))
    with torch.inference_mode():
        before, after = model(x).logits, moved(x).logits
    assert (after - before).abs().max() < 1e-10 * before.abs().max().clamp(min=1)
    assert moved.state_dict().keys() == model.state_dict().keys()
    assert 1 in rotatable_stages(model) or stages[0][0] == stem
    changes = weight_changes(model, moved)
    for number in rotatable_stages(model):
        assert changes[f"stage{number}"] > 0.01
    scaled = move(model, Motion(stages=(), largest_factor=factor))
    with torch.no_grad():  # the scales are a symmetry of training, too
        before, after = copy.deepcopy(model).train()(x).logits, scaled.train()(x).logits
    assert torch.allclose(before, after, rtol=1e-9, atol=1e-9)


def test_matrices_are_orthogonal_and_follow_the_seed():
    first, again, other = (
        random_orthogonal(9, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.allclose(first @ first.T, torch.eye(9, dtype=torch.float64), atol=1e-12)
    assert torch.equal(first, again) and not torch.allclose(first, other)


@pytest.mark.parametrize(
    ("motion", "message"),
    [
        (Motion(stages=(1,)), r"must be of \[2\], which start with a shortcut.*; got 1"),
        (Motion(stages=(7,)), r"must be of \[2\]"),
        (Motion(largest_factor=0.5), "largest_factor must be at least 1; got 0.5"),
    ],
)
def test_what_is_no_symmetry_is_refused(motion, message):
    model = random_qlnet(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1])
    with pytest.raises(ValueError, match=message):
        move(model, motion)
    factors = torch.ones(model.stages[0][0].bn1.num_features // 2)
    for wrong in (factors[1:], 0 * factors, factors / 0):
        with pytest.raises(ValueError, match="factors must be"):
            model.scale_products(0, 0, wrong)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A QLNet and six images of its classes, below a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("a folder")
    torch.manual_seed(0)
    model = random_qlnet(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2])
    model.config.id2label = dict(enumerate(COLOURS))
    model.config.label2id = {name: number for number, name in enumerate(COLOURS)}
    model.save_pretrained(folder / "qlnet")
    ConvZooImageProcessor(size=20, crop_size=16).save_pretrained(folder / "qlnet")
    for number, name in enumerate(COLOURS):
        (folder / "data" / "val" / name).mkdir(parents=True)
        for i in range(2):
            image = Image.new("RGB", (24, 20), (90 * number, 40 * i, 200 - 80 * number))
            image.save(folder / "data" / "val" / name / f"{i}.png")
    return folder


def test_the_command_prints_and_writes_what_changed(folder):
    moved = folder / "moved model"
    done = run(
        *("-m", "convzoo", "symmetry", folder / "qlnet", "--data", folder / "data"),
        *("--split", "validation", "--output", moved, "--seed", "3"),
    )
    assert "stages [2] by rotations of 66 free numbers" in done.stdout
    assert "0 of 6 images" in done.stdout and str(moved) in done.stdout
    report = json.loads((moved / "symmetry.json").read_text())
    assert report["logits"]["float64"]["largest_change"] < 1e-12
    assert report["logits"]["float32"]["largest_change"] < 1e-4
    assert report["accuracy"]["before"] == report["accuracy"]["after"]
    assert report["scales"] == 32 + 32 + 48 and report["weights"]["stage2"] > 0.5
    before, after = QLNet.from_pretrained(folder / "qlnet"), QLNet.from_pretrained(moved)
    x = torch.randn(4, 3, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(before(x).logits, after(x).logits, atol=1e-4)
    assert not torch.allclose(before.classifier.weight, after.classifier.weight)
    with Image.open(moved / "symmetry.png") as drawing:
        assert drawing.width > 1000 and len(drawing.convert("RGB").getcolors(1 << 20)) > 50
    with pytest.raises(FileExistsError, match="must be new or an empty folder"):
        show_symmetry(folder / "qlnet", None, split="", limit=0, motion=Motion(), output=moved)


def test_without_data_noise_is_compared_and_nothing_is_written(folder):
    before = sorted(folder.rglob("*"))
    none = {"split": "", "limit": 0, "motion": Motion(stages=(2,)), "output": None}
    report = show_symmetry(str(folder / "qlnet"), None, **none)
    assert report["accuracy"] is None and report["logits"]["float64"]["num_images"] == 8
    assert "largest change" in symmetry_text(report) and "top-1" not in symmetry_text(report)
    assert sorted(folder.rglob("*")) == before
    fields = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "num_labels": 2}
    CNN(CNNConfig(**fields)).save_pretrained(folder / "cnn")
    ConvZooImageProcessor().save_pretrained(folder / "cnn")
    with pytest.raises(ValueError, match="must be a QLNet.*; it is a cnn"):
        show_symmetry(str(folder / "cnn"), None, **none)
