"""Convolutions that add and activate: the same maps as layer by layer, and nothing overwritten."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from convzoo import convolution_kernels
from convzoo.convolution_kernels import (
    Kernel,
    OfKernels,
    has_kernels,
    largest_of,
    use_kernels,
)
from modeling import CNN, AlexNet, AlexNetConfig, CNNConfig, QLNet, QLNetConfig

SIZES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 3], "num_labels": 5}
BUILDERS = {
    "PReLU": lambda: CNN(CNNConfig(**SIZES)),
    "ReLU": lambda: CNN(CNNConfig(use_prelu=False, conv_bias=False, **SIZES)),
    "one slope, small": lambda: CNN(CNNConfig(stem="small", prelu_channel_wise=False, **SIZES)),
    "grey, pyramid": lambda: CNN(
        CNNConfig(stem="small", num_channels=1, pyramid_levels=[1, 2], **SIZES)
    ),
    "QLNet": lambda: QLNet(QLNetConfig(**SIZES)),
    "QLNet, small": lambda: QLNet(QLNetConfig(stem="small", depthwise_multiplier=3, **SIZES)),
}


def trained(name):
    """A network whose batch norms, slopes and residual scales are not as initialised."""
    torch.manual_seed(0)
    model = BUILDERS[name]().eval()
    for key, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point() and value.ndim < 2:
            value.data.uniform_(0.5, 1.5) if "var" in key else value.data.normal_(0.3)
    return model


@pytest.fixture(autouse=True)
def _small_networks_count(monkeypatch):
    monkeypatch.setattr(convolution_kernels, "SMALL", 0)


@pytest.fixture(params=BUILDERS)
def pair(request):
    """A fused network, and one that computes by kernels."""
    model = trained(request.param).fuse().to(memory_format=torch.channels_last)
    kernels = copy.deepcopy(model)
    assert use_kernels(kernels)
    return model, kernels


def images(model, *shape):
    return torch.randn(shape[0], model.config.num_channels, *shape[1:])


def test_processors_of_these_tests_have_the_operators():
    assert has_kernels(torch.float32)
    assert not has_kernels(torch.float64)


def test_maps_are_those_of_the_layers_at_each_size_and_nothing_is_overwritten(pair):
    model, kernels = pair
    assert any(isinstance(part, OfKernels) for part in kernels.modules())
    with torch.inference_mode():
        for shape in ((3, 32, 32), (1, 48, 40), (3, 32, 32), (2, 33, 57)):
            x = images(model, *shape)
            kept = x.clone()
            outputs = [each(x, output_hidden_states=True) for each in (model, kernels)]
            maps = [(*output.hidden_states, output.logits) for output in outputs]
            for number, (wanted, got) in enumerate(zip(*maps, strict=True)):
                error = (wanted - got).abs().max() / wanted.abs().max()
                assert error < 1e-5, f"map {number} at {shape}: {error}"
            assert torch.equal(x, kept)


def test_operators_are_called_and_bfloat16_rounds_once_instead_of_thrice(pair, monkeypatch):
    model, kernels = pair
    if not has_kernels(torch.bfloat16):
        assert not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return
    exact = copy.deepcopy(model).double()
    model, kernels = model.bfloat16(), kernels.bfloat16()
    with torch.inference_mode():
        x = images(model, 2, 64, 64).bfloat16()
        wanted, *logits = (each(x.to(each.dtype)).logits for each in (exact, model, kernels))
        errors = [((each - wanted).abs().max() / wanted.abs().max()).item() for each in logits]
        assert errors[1] < max(1.5 * errors[0], 0.02)
    calls = count_calls(kernels, x, monkeypatch)
    if isinstance(kernels, CNN):
        assert calls == sum(isinstance(part, nn.Conv2d) for part in kernels.modules())
    assert calls > 10


def count_calls(model, x, monkeypatch):
    calls, compute = [], Kernel.__call__

    def counted(self, *args, **kwargs):
        calls.append(self)
        return compute(self, *args, **kwargs)

    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(Kernel, "__call__", counted)
        model(x)
    return len(calls)


@pytest.mark.parametrize("name", ["PReLU", "QLNet"])
def test_layers_compute_where_somebody_looks(name, monkeypatch):
    model = trained(name).fuse()
    kernels = copy.deepcopy(model)
    use_kernels(kernels)
    x = images(model, 2, 32, 32)
    assert count_calls(kernels, x, monkeypatch) > 10

    gradients = []
    for each in (model, kernels):
        entered = x.clone().requires_grad_()
        each(entered).logits.sum().backward()
        gradients.append(entered.grad)
    torch.testing.assert_close(*gradients)

    with torch.inference_mode():
        half = [each(x.double()).logits for each in (model.double(), kernels.double())]
        torch.testing.assert_close(*half, rtol=0, atol=0)
        model.float(), kernels.float()
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(x).logits, kernels(x).logits, rtol=0, atol=0)

        assert kernels(x[:0]).logits.shape == model(x[:0]).logits.shape
        with pytest.raises(RuntimeError, match="type"):
            kernels(x.bfloat16())

        seen = []
        last = kernels.stages[1][1].layers
        parts = [kernels.stages[0][0], kernels.stages[1][0].layers]
        for part in [*parts, last.final_act] if name == "PReLU" else parts:
            part.register_forward_hook(lambda *given: seen.append(given[2]))
        kernels(x)
        first = model.stages[0][0](model.stem(x))
        second = model.stages[1][0](model.stages[0][1](first))
        wanted = [first, second, model.stages[1][1](second)]
        torch.testing.assert_close(seen, wanted[: len(seen)], rtol=1e-4, atol=1e-4)


def test_blocks_that_are_called_one_by_one_leave_their_inputs_alone(pair):
    with torch.inference_mode():
        maps = [[each.stem(images(each, 2, 32, 32).fill_(0.5))] for each in pair]
        for each, kept in zip(pair, maps, strict=True):
            for block in (block for stage in each.stages for block in stage):
                kept.append(block(kept[-1]))
    torch.testing.assert_close(*maps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "some"), [(32, False), (256, True)])
def test_the_layers_of_small_maps_and_weights_compute(size, some, monkeypatch):
    monkeypatch.undo()
    kernels = trained("PReLU").fuse()
    use_kernels(kernels)
    assert (count_calls(kernels, images(kernels, 1, size, size), monkeypatch) > 0) == some


@pytest.mark.parametrize("name", ["PReLU", "ReLU", "QLNet"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("where", ["pixel", "stem", "conv", "bias"])
def test_what_is_not_a_number_stays_so(name, value, where):
    model = trained(name)
    x = images(model, 1, 32, 32)
    if where == "pixel":
        x[0, 0, 3, 3] = value
    part = model.stages[0][1].conv2 if where == "conv" else model.stem.conv
    values = model.stages[0][0].bn1.bias if where == "bias" else part.weight
    if where != "pixel":
        values.data.flatten()[0] = value
    model.fuse()
    kernels = copy.deepcopy(model)
    use_kernels(kernels)
    with torch.inference_mode():
        logits, wanted = kernels(x).logits, model(x).logits
    assert torch.equal(logits.isfinite(), wanted.isfinite())
    assert value == 1e30 or not wanted.isfinite().all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_number_is_found_in_each_layout(layout, dtype):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 7, 9).to(dtype).to(memory_format=layout)
    for value in (-50.0, 60.0, float("-inf")):
        x[1, 2, 3, 4] = value
        assert largest_of(x) == largest_of(x[:, :, 1:, 2:]) == abs(value)
    x[2, 4, 6, 8] = float("nan")
    assert math.isnan(largest_of(x)) and math.isnan(largest_of(x[:, 1:]))


def test_finite_weights_that_overflow_are_left_to_the_layers(monkeypatch):
    model = trained("ReLU").fuse()
    model.stages[1][0].conv1.weight.data[0] = 1e35
    kernels = copy.deepcopy(model)
    assert use_kernels(kernels)
    x = images(model, 1, 32, 32)
    convolutions = sum(isinstance(part, nn.Conv2d) for part in model.modules())
    with torch.inference_mode():
        torch.testing.assert_close(kernels(x).logits, model(x).logits, equal_nan=True)
    assert 0 < count_calls(kernels, x, monkeypatch) < convolutions


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("name", ["ReLU", "QLNet"])
def test_derivatives_and_weights_of_transforms_are_those_of_the_layers(name):
    model = trained(name).fuse()
    kernels = copy.deepcopy(model)
    use_kernels(kernels)
    x = images(model, 2, 32, 32)
    with torch.no_grad():
        kernels(x)
        tangents = [
            torch.func.jvp(lambda pixels, each=each: each(pixels).logits, (x,), (x,))[1]
            for each in (model, kernels)
        ]
        torch.testing.assert_close(*tangents, rtol=1e-4, atol=1e-4)
        doubled = [
            torch.func.functional_call(
                each, {key: 1.5 * value for key, value in each.named_parameters()}, (x,)
            ).logits
            for each in (model, kernels)
        ]
        torch.testing.assert_close(*doubled, rtol=1e-4, atol=1e-3)
        state = {key: 0.5 * value for key, value in kernels.state_dict().items()}
        kernels.load_state_dict(state, assign=True)
        model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
        torch.testing.assert_close(kernels(x).logits, model(x).logits, rtol=1e-4, atol=1e-4)


def test_weights_that_were_made_in_inference_mode_stay_with_the_layers():
    model = trained("ReLU").fuse()
    with torch.inference_mode():
        assert not use_kernels(model.bfloat16())


@pytest.mark.parametrize("name", ["ReLU", "QLNet"])
def test_weights_that_change_later_count(name):
    kernels = trained(name).fuse()
    use_kernels(kernels)
    x = images(kernels, 2, 32, 32)
    with torch.no_grad():
        before = kernels(x).logits
        weights = [value for value in kernels.parameters() if value.ndim == 4]
        weights[3].mul_(1.5)
        changed = kernels(x).logits
        assert not torch.allclose(before, changed)
        weights[3].div_(1.5)
        torch.testing.assert_close(kernels(x).logits, before, rtol=1e-4, atol=1e-4)
    again = copy.deepcopy(kernels)
    with torch.inference_mode(), ThreadPoolExecutor(4) as threads:  # of a demo
        results = list(threads.map(lambda size: again(x[:, :, :size, :size]).logits, [32, 16] * 8))
        for size, result in zip([32, 16] * 8, results, strict=True):
            wanted = kernels(x[:, :, :size, :size]).logits
            torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-4)


def test_traces_and_exports_hold_the_layers():
    model = trained("PReLU").fuse()
    kernels = copy.deepcopy(model)
    use_kernels(kernels)
    x = images(model, 2, 32, 32)
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(kernels, (x,))
        assert "_convolution_pointwise" not in str(program.graph)
        torch.testing.assert_close(program.module()(x).logits, model(x).logits)


def test_any_other_model_stays_as_it_is():
    assert not use_kernels(nn.Sequential(nn.Conv2d(3, 4, 3)))
    assert not use_kernels(trained("PReLU"))  # with batch norms
    alexnet = AlexNet(AlexNetConfig(stem="small", hidden_sizes=[8] * 5, classifier_hidden_size=8))
    assert not use_kernels(alexnet.eval().fuse())
    model = trained("QLNet").fuse()
    assert use_kernels(model) and use_kernels(model)  # a second time changes nothing
    assert not any(
        isinstance(part.layers, OfKernels)
        for part in model.modules()
        if isinstance(part, OfKernels)
    )
