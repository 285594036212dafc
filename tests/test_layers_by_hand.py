"""The layers by hand: PyTorch's values and gradients, in all types, alone and in networks."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import modeling
from modeling import CNN, AlexNetConfig, CNNConfig, QLNetConfig
from modeling.layers_by_hand import BY_HAND, use_layers_by_hand

# Largest difference, relative to the largest value. One rounding of the output in half precision.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.bfloat16: 2**-7,
    torch.float16: 2**-10,
}
cases = settings(max_examples=25, deadline=None, derandomize=True)
sides = st.integers(1, 9)
types = st.sampled_from([torch.float64, torch.float64, *TOLERANCES])  # more of the sharpest


def close(actual, expected, dtype, factor=1):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    actual, expected = actual.double(), expected.double()
    largest = expected.abs().max().item() if expected.numel() else 0
    tolerance = factor * TOLERANCES[dtype] * max(largest, 1e-3)
    assert (actual - expected).abs().max().item() <= tolerance


def equal_to_pytorch(layer, x, dtype):
    """Compare outputs, gradients of input and weights, and buffers of a layer and its twin."""
    layer, x = layer.to(dtype), x.to(dtype)
    holder = nn.Sequential(copy.deepcopy(layer))
    use_layers_by_hand(holder)
    twin = holder[0]
    assert type(twin) is BY_HAND[type(layer)] and twin.state_dict().keys() == (
        layer.state_dict().keys()
    )
    results = []
    for module in (layer, twin):
        given = x.clone().requires_grad_()
        output = module(given)
        torch.manual_seed(1)
        upstream = torch.randn(output.shape, dtype=torch.float64).to(dtype)
        gradients = torch.autograd.grad(output, [given, *module.parameters()], upstream)
        results.append([output, *gradients, *(b for b in module.buffers())])
    for actual, expected in zip(results[1], results[0], strict=True):
        # Sums of PyTorch's gradients in half precision are rounded more often than ours.
        close(actual, expected, dtype, 4 if dtype.itemsize == 2 else 1)


@cases
@given(
    st.tuples(st.integers(1, 2), sides, sides),
    st.tuples(*[st.integers(1, 3)] * 3),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.fixed_dictionaries(
        {
            "stride": st.integers(1, 2),
            "padding": st.integers(0, 2),
            "dilation": st.integers(1, 2),
            "bias": st.booleans(),
        }
    ),
    types,
)
def test_convolutions(shape, channels, kernel, layout, dtype):
    torch.manual_seed(0)
    (n, *size), (groups, ins, outs), gap = shape, channels, layout["dilation"]
    conv = nn.Conv2d(groups * ins, groups * outs, kernel, groups=groups, **layout)
    size = [side + gap * places for side, places in zip(size, kernel, strict=True)]
    equal_to_pytorch(conv, torch.randn(n, groups * ins, *size), dtype)


@cases
@given(
    st.integers(1, 2), sides, sides, st.integers(1, 3), st.integers(1, 3), st.integers(1, 2),
    st.data(), types,
)  # fmt: skip
def test_max_pooling_also_where_values_are_equal(
    n, height, width, kernel, stride, gap, data, dtype
):
    padding = data.draw(st.integers(0, kernel // 2))
    torch.manual_seed(0)
    x = torch.randint(0, 3, (n, 2, height + gap * kernel, width + gap * kernel))  # many ties
    equal_to_pytorch(nn.MaxPool2d(kernel, stride, padding, gap), x, dtype)


@cases
@given(sides, sides, st.integers(1, 7), st.integers(1, 7), types, st.booleans())
def test_adaptive_pooling(height, width, rows, columns, dtype, largest):
    torch.manual_seed(0)
    x = torch.randint(0, 9, (2, 3, height, width)) / 3
    layer = (nn.AdaptiveMaxPool2d if largest else nn.AdaptiveAvgPool2d)((rows, columns))
    equal_to_pytorch(layer, x, dtype)


@cases
@given(
    st.integers(2, 4), st.integers(1, 5), sides, st.booleans(), st.booleans(),
    st.sampled_from([0.1, 0.5, None]), types,
)  # fmt: skip
def test_batch_norms_and_their_running_statistics(
    n, channels, side, training, affine, share, dtype
):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(channels, affine=affine, momentum=share).train(training)
    norm.running_var.uniform_(0.5, 2)
    norm.running_mean.normal_()
    # Of a few pixels, the gradient is a small rest of large terms.
    equal_to_pytorch(norm, 1 + torch.randn(n, channels, side + 2, side), dtype)


@cases
@given(st.integers(1, 3), st.integers(1, 5), sides, st.booleans(), types)
def test_prelu(n, channels, side, shared, dtype):
    torch.manual_seed(0)
    x = torch.randn(n, channels, side, side)
    x[:, :, 0, 0] = 0  # where the gradient is that of the negative side
    layer = nn.PReLU(1 if shared else channels)
    nn.init.uniform_(layer.weight, -0.5, 1)
    equal_to_pytorch(layer, x, dtype)


def test_not_a_number_stays_so_and_infinity_wins():
    x = torch.tensor([[[[1.0, torch.nan, 3.0, torch.inf]]]])
    for layer in (nn.MaxPool2d((1, 2)), nn.AdaptiveMaxPool2d((1, 2)), nn.AdaptiveAvgPool2d((1, 2))):
        holder = nn.Sequential(layer)
        expected = layer(x)
        use_layers_by_hand(holder)
        assert torch.equal(holder(x).nan_to_num(nan=-7.0), expected.nan_to_num(nan=-7.0))


def test_a_window_that_is_larger_than_the_map_is_refused():
    holder = nn.Sequential(nn.Conv2d(1, 1, 5))
    use_layers_by_hand(holder)
    with pytest.raises(ValueError, match=r"as large as the window, 5 pixels; got \(4, 4\)"):
        holder(torch.zeros(1, 1, 4, 4))


def test_one_pixel_is_no_batch_to_train_on():
    holder = nn.Sequential(nn.BatchNorm2d(3))
    use_layers_by_hand(holder)
    with pytest.raises(ValueError, match="more than one pixel a channel"):
        holder(torch.zeros(1, 3, 1, 1))


# Networks -------------------------------------------------------------------------------------

STAGES = {"embedding_size": 4, "hidden_sizes": [8, 12], "depths": [1, 2], "num_labels": 5}
NARROW = {"hidden_sizes": [4, 8, 8, 8, 8], "classifier_hidden_size": 16, "num_labels": 5}
NETWORKS = {
    "cnn": lambda **f: CNNConfig(**STAGES, pyramid_levels=[2, 1], **f),
    "cnn relu": lambda **f: CNNConfig(**STAGES, use_prelu=False, stem="small", **f),
    "qlnet": lambda **f: QLNetConfig(**STAGES, **f),
    "alexnet": lambda **f: AlexNetConfig.one_tower(**NARROW, **f),
    "alexnet 2012": lambda **f: AlexNetConfig.paper_2012(**NARROW, **f),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_by_hand_has_the_same_weights_logits_and_gradients(name, tmp_path):
    torch.manual_seed(0)
    config = NETWORKS[name]()
    model = modeling.FAMILIES[type(config)](config).double()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("bn3.weight"):
                value.fill_(0.5)  # QLNet's branches start at zero
    model.save_pretrained(tmp_path / "builtin")
    twin = type(model).from_pretrained(tmp_path / "builtin", layer_implementation="by_hand")
    kinds = {type(module) for module in twin.modules()}
    assert kinds & set(BY_HAND.values()) and not kinds & set(BY_HAND)
    x = torch.randn(2, 3, 80, 80, dtype=torch.float64)
    labels = torch.tensor([0, 3])
    for network in (model, twin):
        network.train()
        torch.manual_seed(2)  # dropout
        network(x, labels=labels).loss.backward()
    for (key, value), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(value.grad, other.grad, rtol=1e-8, atol=1e-9), key
    for (key, value), other in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        assert torch.allclose(value, other[1], rtol=1e-12), key
    with torch.inference_mode():
        assert torch.allclose(twin.eval()(x).logits, model.eval()(x).logits, rtol=0, atol=1e-11)
    twin.save_pretrained(tmp_path / "by hand")
    again = type(model).from_pretrained(tmp_path / "by hand")
    assert again.config.layer_implementation == "by_hand"
    assert again.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ["cnn", "qlnet"])
def test_mixed_precision_and_checkpointing_are_those_of_the_builtin_layers(name):
    torch.manual_seed(0)
    networks = []
    for how in ("builtin", "by_hand"):
        config = NETWORKS[name](layer_implementation=how)
        networks.append(modeling.FAMILIES[type(config)](config))
    networks[1].load_state_dict(networks[0].state_dict())
    networks[1].activation_checkpointing_enable()
    x, logits = torch.randn(2, 3, 64, 64), []
    for network in networks:
        with torch.autocast("cpu", torch.bfloat16):
            logits.append(network.train()(x).logits)
    assert logits[0].dtype == logits[1].dtype == torch.bfloat16
    assert torch.allclose(*logits, atol=0.05)
    tracked = [n.state_dict()["stages.1.0.bn1.num_batches_tracked"].item() for n in networks]
    assert tracked == [1, 1]
    with torch.no_grad():
        for dtype in (torch.bfloat16, torch.float16):
            halves = [copy.deepcopy(n).eval().to(dtype)(x.to(dtype)).logits for n in networks]
            assert halves[1].dtype == dtype and torch.allclose(*halves, atol=0.05)


def test_the_switch_of_the_original_is_read_and_can_be_overridden(tmp_path):
    model = CNN(CNNConfig(**STAGES))
    model.save_pretrained(tmp_path)
    assert "layer_implementation" not in (tmp_path / "config.json").read_text()  # as before
    text = (tmp_path / "config.json").read_text().replace("{", '{"use_builtin_conv": false,', 1)
    (tmp_path / "config.json").write_text(text)
    assert CNN.from_pretrained(tmp_path).config.layer_implementation == "by_hand"
    again = CNN.from_pretrained(tmp_path, layer_implementation="builtin")
    assert again.config.layer_implementation == "builtin"
    assert CNNConfig(use_builtin_conv=False).layer_implementation == "by_hand"
    assert CNNConfig(use_builtin_conv=True).layer_implementation == "builtin"
    with pytest.raises(ValueError, match='must be "builtin" or "by_hand"; got "manual"'):
        QLNetConfig(layer_implementation="manual")


# Spatial pyramid pooling ----------------------------------------------------------------------


def test_spatial_pyramid_pooling_takes_the_largest_pixel_of_each_cell_of_each_level():
    torch.manual_seed(0)
    model = CNN(CNNConfig(**STAGES, stem="small", pyramid_levels=[3, 1])).eval()
    assert model.classifier.in_features == 12 * (9 + 1)
    for side in (32, 50):  # a fixed length for images of any size
        x = torch.randn(2, 3, side, side + 7)
        with torch.inference_mode():
            _, (last,) = model.forward_intermediates(x, [-1])
            pooled = model.forward_pool(last)
        height, width = last.shape[2:]
        for i, j in ((0, 0), (1, 2), (2, 1)):
            rows = slice(i * height // 3, -((i + 1) * height // -3))
            columns = slice(j * width // 3, -((j + 1) * width // -3))
            cell = last[:, :, rows, columns].amax((2, 3))
            assert torch.equal(pooled[:, : 12 * 9].view(2, 12, 3, 3)[:, :, i, j], cell)
        assert torch.equal(pooled[:, 12 * 9 :], last.amax((2, 3)))
    with pytest.raises(ValueError, match=r"pyramid_levels must be positive; got \[0\]"):
        CNNConfig(pyramid_levels=[0])
    assert CNNConfig(pyramid_levels=(4, 2, 1)).to_diff_dict()["pyramid_levels"] == [4, 2, 1]
    assert "pyramid_levels" not in CNNConfig().to_diff_dict()
