"""Preparing a model for inference: the same answers, and what was done is told."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from convzoo.inference import has_bfloat16_instructions, prepare
from modeling import CNN, AlexNet, AlexNetConfig, CNNConfig, QLNet, QLNetConfig

SMALL = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 5}
BUILDERS = {
    "cnn": lambda: CNN(CNNConfig(stem="small", **SMALL)),
    "qlnet": lambda: QLNet(QLNetConfig(stem="small", **SMALL)),
    "alexnet": lambda: AlexNet(
        AlexNetConfig(stem="small", hidden_sizes=[8] * 5, classifier_hidden_size=8)
    ),
}


@pytest.mark.parametrize("family", BUILDERS)
def test_a_prepared_model_gives_the_same_answers_faster(family):
    torch.manual_seed(0)
    model, x = BUILDERS[family]().eval(), torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        before = model(x).logits
        done = prepare(model)
        assert (model(x).logits - before).abs().max() < 1e-5
        assert (done.fused, done.dtype) == (family != "alexnet", "float32")
        weights = [value for value in model.parameters() if value.ndim == 4]
        assert all(value.is_contiguous(memory_format=torch.channels_last) for value in weights)
        assert prepare(model, precision="bfloat16").dtype == "bfloat16"
        logits = model(x.bfloat16()).logits
        assert logits.dtype == torch.bfloat16
        assert (logits - before).abs().max() < 0.05 * before.abs().max()


def test_any_other_network_is_laid_out_and_kept():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = copy.deepcopy(model)(x)
    assert not prepare(model).fused
    torch.testing.assert_close(model(x), expected)
    with pytest.raises(ValueError, match=r"must be in evaluation mode to be prepared"):
        prepare(model.train())


def test_auto_takes_bfloat16_where_the_processor_multiplies_in_it():
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    has_them = has_bfloat16_instructions(torch.device("cpu"))
    assert has_them == ("avx512_bf16" in flags or "amx_tile" in flags)
    assert not has_bfloat16_instructions(torch.device("meta"))
    dtype = prepare(BUILDERS["cnn"]().eval(), precision="auto").dtype
    assert dtype == ("bfloat16" if has_them else "float32")
