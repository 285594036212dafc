"""Fusion: outputs stay; what a fused model cannot do is refused, and so is what cannot be fused."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from modeling import CNN, AlexNet, AlexNetConfig, CNNConfig, QLNet, QLNetConfig
from modeling.modeling_convzoo import fold
from tests.support.clients import run_as_stranger

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTHS = st.sampled_from([4, 8, 12, 16])
SHAPES = {
    "embedding_size": WIDTHS,
    "hidden_sizes": st.lists(WIDTHS, min_size=2, max_size=2),
    "depths": st.lists(st.integers(1, 2), min_size=2, max_size=2),
    "stem": st.sampled_from(["small", "imagenet"]),
    "num_labels": st.sampled_from([0, 3]),
}
CNNS = st.fixed_dictionaries(
    SHAPES
    | {
        "use_prelu": st.booleans(),
        "prelu_channel_wise": st.booleans(),
        "conv_bias": st.booleans(),
        "bottleneck_expansion": st.sampled_from([1, 2, 4]),
    }
).map(lambda fields: CNN(CNNConfig(**fields)))
QLNETS = st.fixed_dictionaries(
    SHAPES
    | {
        "expansion": st.integers(1, 3),
        "expansion_limit": st.sampled_from([4, 16]),
        "depthwise_multiplier": st.integers(1, 3),
    }
).map(lambda fields: QLNet(QLNetConfig(**fields)))


def trained(model):
    """The model in evaluation mode with statistics, slopes and scales as after a training."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for value in (module.weight, module.running_var):
                    value.uniform_(0.5, 1.5)
                for value in (module.bias, module.running_mean):
                    value.normal_(0, 0.2)
            elif isinstance(module, nn.PReLU):
                module.weight.uniform_(-0.1, 1.1)
            if hasattr(module, "residual_scale"):
                module.residual_scale.normal_()
    return model.eval()


def small_cnn(**fields):
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "num_labels": 5}
    return trained(CNN(CNNConfig(stem="small", **shape, **fields)))


def small_qlnet(**fields):
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "num_labels": 5}
    return trained(QLNet(QLNetConfig(stem="small", **shape, **fields)))


def logits(model, x):
    with torch.inference_mode():
        return model(x).logits


def layer_by_layer(model, x):
    """Logits of a model whose blocks are watched, so that each layer is computed by itself."""
    hooks = [module.register_forward_hook(lambda *_: None) for module in model.modules()]
    try:
        return logits(model, x)
    finally:
        for hook in hooks:
            hook.remove()


def test_a_folded_convolution_equals_that_of_pytorch():
    conv, bn = nn.Conv2d(4, 6, 3).double(), nn.BatchNorm2d(6).double()
    trained(bn)
    weight, bias = fold(conv, bn)
    theirs = fuse_conv_bn_weights(
        conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    torch.testing.assert_close((weight, bias), theirs, rtol=1e-14, atol=1e-14)


@settings(max_examples=15, deadline=None)
@given(model=st.one_of(CNNS, QLNETS), size=st.integers(16, 24))
def test_any_network_says_the_same_when_it_is_fused(model, size):
    model, x = trained(model).double(), torch.randn(2, 3, size, size, dtype=torch.float64)
    slow = layer_by_layer(model, x)
    torch.testing.assert_close(logits(model, x), slow, rtol=1e-10, atol=1e-12)
    states = model(x, output_hidden_states=True).hidden_states
    fused = copy.deepcopy(model).fuse()
    assert fused.fused
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    torch.testing.assert_close(logits(fused, x), slow, rtol=1e-10, atol=1e-12)
    fused_states = fused(x, output_hidden_states=True).hidden_states
    torch.testing.assert_close(fused_states, states, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("build", [small_cnn, small_qlnet])
def test_a_fused_network_in_single_and_half_precision_stays_near(build):
    x, model = torch.randn(4, 3, 32, 32), build()
    exact = logits(copy.deepcopy(model).double(), x.double())
    largest = exact.abs().max()
    assert (logits(model.fuse(), x) - exact).abs().max() < 1e-5 * largest
    for dtype in (torch.bfloat16, torch.float16):
        half = logits(model.to(dtype), x.to(dtype))
        assert half.dtype == dtype
        assert (half - exact).abs().max() < 0.05 * largest


def test_a_gradient_reaches_the_images_through_a_fused_network():
    for model in (small_cnn(), small_qlnet()):
        gradients = []
        for network in (model.double(), copy.deepcopy(model).fuse()):
            x = torch.linspace(-1, 1, 3 * 16 * 16, dtype=torch.float64).view(1, 3, 16, 16)
            network(x.requires_grad_()).logits.sum().backward()
            gradients.append(x.grad)
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


def test_a_fused_model_is_neither_trained_nor_saved(tmp_path):
    with pytest.raises(ValueError, match=r"must be in evaluation mode to be fused. Call eval\(\)"):
        small_cnn().train().fuse()
    for model in (small_cnn(), small_qlnet()):
        assert model.fuse() is model.fuse()
        assert model.eval() is model
        assert not any(value.requires_grad for value in model.parameters())
        with pytest.raises(ValueError, match="must stay in evaluation mode"):
            model.train()
        with pytest.raises(ValueError, match="must not be saved"):
            model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="and not fused, to be rotated"):
        model.rotate_stream(1, torch.eye(16))
    assert not list(tmp_path.iterdir())


def test_a_network_without_batch_norms_stays_as_it_is(tmp_path):
    config = AlexNetConfig(stem="small", hidden_sizes=[4] * 5, classifier_hidden_size=8)
    model = AlexNet(config).eval().fuse()
    assert not model.fused
    model.train().save_pretrained(tmp_path)
    assert all(value.requires_grad for value in model.parameters())


def test_what_wraps_a_layer_is_named():
    with pytest.raises(ValueError, match='"builtin" for a model to be fused; got "by_hand"'):
        small_cnn(layer_implementation="by_hand").fuse()
    for model in (small_cnn(), small_qlnet()):
        model.stages[0][0].conv1 = nn.Sequential(model.stages[0][0].conv1)
        with pytest.raises(ValueError, match=r"got Sequential and BatchNorm2d\. Merge or take off"):
            model.fuse()


def test_a_watched_block_of_a_qlnet_shows_its_layers_as_they_are():
    model, seen, x = small_qlnet(), {}, torch.randn(2, 3, 16, 16)
    block = model.stages[0][1]
    for name in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"):
        block.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: (*inputs, output)})
        )
    logits(model, x)
    assert len(seen) == 6
    for name, (given_in, output) in seen.copy().items():
        with torch.inference_mode():
            expected = block.get_submodule(name)(given_in)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_a_qlnet_computes_layers_that_were_replaced():
    model, x = small_qlnet().requires_grad_(False), torch.randn(2, 3, 16, 16)
    before = logits(model, x)

    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    for block in model.stages[0]:
        doubled = Doubled(block.conv3.in_channels, 8, 1, bias=False)
        doubled.weight.data = block.conv3.weight / 2
        block.conv3 = doubled.eval()
    torch.testing.assert_close(logits(model, x), before, rtol=1e-5, atol=1e-5)


def test_channels_last_is_chosen_for_evaluation_only():
    for model in (small_cnn(), small_qlnet()):
        layouts, x = [], torch.randn(2, 3, 16, 16)
        hook = model.stem.register_forward_pre_hook(
            lambda module, inputs, seen=layouts: seen.append(
                inputs[0].is_contiguous(memory_format=torch.channels_last)
            )
        )
        logits(model, x)
        model(x)  # with gradients a QLNet goes layer by layer, which channels last makes slower
        model.train()(x)
        hook.remove()
        assert layouts == [True, isinstance(model, CNN), False]


def test_published_code_fuses_by_itself(tmp_path):
    small_cnn().save_pretrained(tmp_path / "cnn")
    small_qlnet().save_pretrained(tmp_path / "ql net")
    code = """
import sys, torch
from transformers import AutoModelForImageClassification as Auto
for name in ("cnn", "ql net"):
    model = Auto.from_pretrained(f"{sys.argv[1]}/{name}", trust_remote_code=True)
    x = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        before = model(x).logits
        print((model.fuse()(x).logits - before).abs().max().item() < 1e-5, model.fused)
"""
    assert run_as_stranger(code, tmp_path, folder=tmp_path).stdout.split() == ["True"] * 4
