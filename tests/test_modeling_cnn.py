"""CNN: the numbers of the original, its weight files, drop path and activation checkpointing."""

import copy
import json
import pickle
import zlib
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrize, prune
from transformers import AutoModelForImageClassification

from modeling import CNN, CNNConfig
from modeling.modeling_cnn import CNNBlock, PReLU, PReLUFunction
from tests.support.golden_weights import (
    checkerboard,
    golden,
    images,
    rotation,
    tensor,
    uniform,
    weights,
)
from tests.support.models import check_training_step, relative_error

VARIANTS = {
    "cnn_prelu": {},
    "cnn_relu": {"use_prelu": False},
    "cnn_prelu_shared": {"prelu_channel_wise": False},
}
SMALL = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "num_labels": 5}


@cache
def original_weights():
    return weights(golden("cnn_prelu.keys"), original_names=True)


def variant_keys(variant):
    """{our name: [original name, shape]} of a variant; only the activations differ."""
    keys = golden("cnn_prelu.keys")
    slopes = {key for key in keys if "act" in key}
    if variant == "cnn_relu":
        return {key: value for key, value in keys.items() if key not in slopes}
    if variant == "cnn_prelu_shared":
        return {key: [name, [1] if key in slopes else s] for key, (name, s) in keys.items()}
    return keys


def golden_cnn(variant):
    state = {
        key: tensor(name, shape) if shape == [1] else original_weights()[name]
        for key, (name, shape) in variant_keys(variant).items()
    }
    return CNN.from_pretrained(None, config=CNNConfig(**VARIANTS[variant]), state_dict=state)


def test_the_golden_weight_recipe_is_the_published_one():
    check = golden("recipe_check")
    assert uniform("input", 4).tolist() == check['unit_uniform("input", 4)']
    for name, expected in check["tensors"].items():
        value = tensor(name, expected["shape"])
        little_endian = value.numpy().astype("<f4").tobytes()
        assert zlib.crc32(little_endian) == expected["crc32_of_little_endian_float32_bytes"], name
    x = images()
    assert x.sum().item() == pytest.approx(check["images()"]["sum"], rel=1e-10)
    at = [x[0, 0, 0, 0], x[1, 2, 223, 223], x[0, 1, 100, 50], x[1, 0, 5, 200]]
    expected = next(value for key, value in check["images()"].items() if key.startswith("values"))
    assert torch.stack(at).tolist() == pytest.approx(expected, rel=1e-10)
    crc32 = zlib.crc32(checkerboard(500, 375).tobytes())
    assert crc32 == check["checkerboard(500, 375)"]["crc32"]
    expected = check['rotation("layer3", 256)']
    assert rotation("layer3", 256)[3, 200].item() == pytest.approx(expected["[3,200]"], rel=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_stages_equal_the_original(variant):
    model, expected = golden_cnn(variant), golden(variant)
    assert model.num_parameters() == expected["num_parameters"]
    with torch.inference_mode():
        assert relative_error(model(images().float()).logits, expected["logits"]) < 1e-4
        output = model.double()(images(), output_hidden_states=True)
    for state, reference in zip(output.hidden_states, expected["hidden_states"], strict=True):
        assert list(state.shape) == reference["shape"]
        statistics = [state.mean(), state.std(correction=0), state.norm()]
        reference = [reference[name] for name in ("mean", "std", "l2")]
        assert [value.item() for value in statistics] == pytest.approx(reference, rel=1e-6)
    assert relative_error(output.logits, expected["logits"]) < 1e-6


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_dict_names_and_shapes_are_the_published_ones(variant):
    with torch.device("meta"):
        state = CNN(CNNConfig(**VARIANTS[variant])).state_dict()
    expected = {key: shape for key, (_, shape) in variant_keys(variant).items()}
    assert {key: list(value.shape) for key, value in state.items()} == expected


def test_gradients_and_running_statistics_equal_the_original():
    model = golden_cnn("cnn_prelu").double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.01  # that of the original's run
    check_training_step(model, golden("cnn_prelu.train"))


# The format of the published checkpoint -------------------------------------------------------


@pytest.fixture(scope="module", params=["", "_orig_mod."], ids=["plain", "compiled"])
def original_folder(request, tmp_path_factory):
    """A checkpoint as the original's uploader makes it, with torch.compile's prefix and without."""
    folder = tmp_path_factory.mktemp("original")
    state = {request.param + key: value for key, value in original_weights().items()}
    save_file(state, folder / "model.safetensors")  # without the "format" metadata
    config = {
        "model_type": "cnn",
        "architecture": "resnet-style",
        "use_prelu": True,
        "prelu_channel_wise": True,
        "num_classes": 1000,
        "use_builtin_conv": True,
        "input_size": [3, 224, 224],
        "num_parameters": 25602488,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_checkpoint_of_the_original_loads_and_is_saved_under_our_names(original_folder, tmp_path):
    model = CNN.from_pretrained(original_folder, use_prelu=True, num_classes=1000)
    assert not model.training and model.dtype == torch.float32
    with torch.inference_mode():
        logits = model(images().float()).logits
    assert relative_error(logits, golden("cnn_prelu")["logits"]) < 1e-4

    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == golden("cnn_prelu.keys").keys()
    config = json.loads((tmp_path / "config.json").read_text())
    assert not config.keys() & {"architecture", "use_builtin_conv", "input_size", "num_parameters"}
    again, info = AutoModelForImageClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert type(again) is CNN and not info["missing_keys"]
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_the_auto_class_loads_a_checkpoint_of_the_original(original_folder):
    model = AutoModelForImageClassification.from_pretrained(original_folder)
    assert type(model) is CNN and model.config.num_labels == 1000
    state = {key: original_weights()[name] for key, (name, _) in variant_keys("cnn_prelu").items()}
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_a_new_classifier_on_a_checkpoint_of_the_original(original_folder):
    with pytest.raises(ValueError, match=r"classifier.weight has shape \(1000, 2048\)"):
        CNN.from_pretrained(original_folder, num_classes=7)
    model = CNN.from_pretrained(original_folder, num_classes=7, ignore_mismatched_sizes=True)
    weight = model.classifier.weight
    assert weight.shape == (7, 2048) and weight.abs().max() <= 2048**-0.5
    assert weight.std().item() == pytest.approx((3 * 2048) ** -0.5, rel=0.02)
    first = original_weights()["conv1.0.conv.weight"]
    assert torch.equal(model.stem.conv.weight, first)


@pytest.mark.parametrize(
    ("saved", "asked", "message"),
    [
        ({}, {"use_prelu": False}, "act.weight is unexpected.*Try use_prelu=True"),
        ({"use_prelu": False}, {"use_prelu": True}, "is missing.*Try use_prelu=False"),
        ({}, {"prelu_channel_wise": False}, "Try prelu_channel_wise=True"),
        (
            {},
            {"depths": [2, 2]},
            r"stages.0.1.act1.weight is missing.*and \d+ more. Pass the fields",
        ),
        ({}, {"depths": [1, 1]}, "stages.1.1.bn1.bias is unexpected"),
        ({}, {"conv_bias": False}, "stem.conv.bias is unexpected"),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(saved, asked, *, message, tmp_path):
    CNN(CNNConfig(**SMALL, **saved)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        CNN.from_pretrained(tmp_path, **asked)


# Training -------------------------------------------------------------------------------------


def test_drop_path_rates_grow_from_zero_to_the_rate():
    with torch.device("meta"):
        model = CNN(CNNConfig(drop_path_rate=0.1))
    rates = [module.drop_path_rate for module in model.modules() if isinstance(module, CNNBlock)]
    assert rates == pytest.approx(golden("cnn_prelu")["drop_path_rates"], abs=1e-9)


def test_drop_path_skips_the_branch_of_some_images_and_scales_the_others():
    torch.manual_seed(0)
    block = CNNBlock(
        CNNConfig(), in_channels=8, out_channels=8, stride=1, drop_path_rate=0.25
    ).double()
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0  # both passes below see the same running statistics
    x = torch.randn(400, 8, 4, 4, dtype=torch.float64)
    block.drop_path_rate = 0
    with torch.no_grad():
        whole = block(x)  # act(x + branch), and the activation is invertible: slope 0.25
        branch = torch.where(whole < 0, whole / 0.25, whole) - x
        block.drop_path_rate = 0.25
        dropped = block(x)
    kept = F.prelu(x + branch / 0.75, block.final_act.weight)
    skipped = F.prelu(x, block.final_act.weight)
    is_kept = (dropped - kept).abs().amax((1, 2, 3)) < 1e-12
    is_skipped = (dropped - skipped).abs().amax((1, 2, 3)) < 1e-12
    assert (is_kept ^ is_skipped).all()
    assert is_kept.sum().item() == pytest.approx(300, abs=4 * 75**0.5)  # four standard deviations


@pytest.mark.parametrize("frozen_norms", [False, True])
def test_the_scale_in_the_batch_norm_gives_the_gradients_of_the_plain_formula(frozen_norms):
    torch.manual_seed(0)
    block = CNNBlock(
        CNNConfig(), in_channels=8, out_channels=16, stride=2, drop_path_rate=0.0
    ).double()
    with torch.no_grad():
        for value in block.parameters():
            value.add_(0.3 * torch.randn_like(value))
    if frozen_norms:  # what fine-tuning with frozen stages does
        for module in block.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    plain, x = copy.deepcopy(block), torch.randn(6, 8, 8, 8, dtype=torch.float64)
    branch = plain.act1(plain.bn1(plain.conv1(x)))
    branch = plain.bn3(plain.conv3(plain.act2(plain.bn2(plain.conv2(branch)))))
    scaled = torch.log1p(plain.residual_scale.exp()) * branch
    expected = plain.final_act(plain.shortcut(x) + scaled)
    actual = block(x)
    assert torch.allclose(actual, expected, atol=1e-12)
    upstream = torch.randn_like(actual)
    for output in (actual, expected):
        output.backward(upstream)
    for (name, value), other in zip(block.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(value.grad, other.grad, atol=1e-10), name
    for (name, value), other in zip(block.named_buffers(), plain.buffers(), strict=True):
        assert torch.allclose(value, other), name


class Saved(torch.nn.Module):
    """Wrapper of the shape of PEFT's ModulesToSaveWrapper: the original and a trained copy."""

    def __init__(self, module):
        super().__init__()
        self.original_module = module
        self.modules_to_save = torch.nn.ModuleDict({"default": copy.deepcopy(module)})

    def forward(self, x):
        return self.modules_to_save["default"](x)


class Scaled(torch.nn.Module):
    """Wrapper of the shape of PEFT's LNTuning: the layer by itself, under another name."""

    def __init__(self, module):
        super().__init__()
        self.base_layer = module

    def forward(self, x):
        return self.base_layer(x)


class Same(torch.nn.Module):
    """Parametrisation that changes nothing."""

    def forward(self, x):
        return x


def offload(norm):
    """Replace the forward of the object, as accelerate does."""
    forward = norm.forward
    norm.forward = lambda x: forward(x)
    return norm


def parametrized(norm):
    parametrize.register_parametrization(norm, "weight", Same())
    return norm


def pruned(norm):
    return prune.identity(norm, "weight")


class Subclass(torch.nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x)


def subclass(norm):
    other = Subclass(norm.num_features).double()
    other.load_state_dict(norm.state_dict())
    return other


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.5])
@pytest.mark.parametrize("change", [Saved, Scaled, offload, parametrized, pruned, subclass])
def test_changed_batch_norms_train_as_the_plain_ones_do(change, drop_path_rate):
    torch.manual_seed(0)
    config = CNNConfig(**SMALL, stem="small", drop_path_rate=drop_path_rate)
    plain = CNN(config).double().train()
    changed = copy.deepcopy(plain)
    for block in (module for module in changed.modules() if isinstance(module, CNNBlock)):
        for name in ("bn1", "bn2", "bn3"):
            setattr(block, name, change(getattr(block, name)))
    x, labels = torch.randn(4, 3, 16, 16).double(), torch.tensor([0, 1, 2, 4])
    losses = []
    for model in (plain, changed):
        torch.manual_seed(1)
        output = model(x, labels=labels)
        output.loss.backward()
        losses.append(output.loss)
    assert torch.allclose(*losses, rtol=1e-12)
    for name in ("stem.conv.weight", "stages.1.1.residual_scale", "stages.1.1.conv1.weight"):
        mine, theirs = (model.get_parameter(name).grad for model in (changed, plain))
        assert torch.allclose(mine, theirs, rtol=1e-8, atol=1e-12), name
    norm, before = changed.stages[1][1].bn3, plain.stages[1][1].bn3.weight.grad
    gradients = [p.grad for p in norm.parameters() if p.grad is not None]
    assert any(torch.allclose(grad, before, rtol=1e-8, atol=1e-12) for grad in gradients)


def test_training_compiles_without_a_graph_break():
    torch.manual_seed(0)
    model = CNN(CNNConfig(**SMALL, stem="small")).train()
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    x, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 4])
    assert torch.allclose(compiled(x, labels=labels).loss, model(x, labels=labels).loss)


def test_hooks_see_each_output_as_it_was():
    torch.manual_seed(0)
    model = CNN(CNNConfig(**SMALL)).train()
    norm, seen = model.stages[0][0].bn3, []
    norm.register_forward_hook(lambda module, args, output: seen.append((output, output.clone())))
    norm.register_full_backward_hook(lambda module, given, taken: seen.append(taken[0]))
    model(torch.randn(2, 3, 64, 64), labels=torch.tensor([0, 4])).loss.backward()
    (output, copied), gradient = seen
    assert torch.equal(output, copied) and gradient.shape == output.shape


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of torch's own batch norm
def test_a_block_in_training_can_be_traced():
    torch.manual_seed(0)
    block, x = (
        CNNBlock(CNNConfig(), in_channels=8, out_channels=16, stride=2, drop_path_rate=0.0),
        torch.randn(2, 8, 8, 8),
    )
    traced = torch.jit.trace(copy.deepcopy(block), x)
    assert torch.allclose(traced(x), block(x), atol=1e-5)
    assert "PythonOp" not in str(traced.inlined_graph)  # which could not be saved


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("slopes", [6, 1])
def test_prelu_has_the_bits_of_torchs_but_for_the_order_of_sums(slopes, dtype, layout):
    torch.manual_seed(0)
    theirs = torch.nn.PReLU(slopes, dtype=dtype)
    torch.nn.init.uniform_(theirs.weight, -0.5, 1.5)
    ours = PReLU(slopes, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 6, 9, 7).to(dtype, memory_format=layout)
    x[0, 0] = 0
    results = []
    for module in (ours, theirs):
        leaf = x.clone().requires_grad_()
        output = module(leaf)
        output.backward(output.detach().flip(0))
        results.append((output, leaf.grad, module.weight.grad))
    for mine, expected in zip(results[0][:2], results[1][:2], strict=True):
        assert torch.equal(mine, expected)
    mine, expected = results[0][2], results[1][2]
    if slopes == 6 and dtype in (torch.float64, torch.float16):
        assert torch.equal(mine, expected)
    else:  # summed in another order
        tolerance = 4 * torch.finfo(dtype).eps * (x.double() ** 2).sum().item()
        assert torch.allclose(mine, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("slopes", [24, 1])
def test_gradients_of_slopes_equal_those_in_double_precision(slopes, dtype, tolerance):
    torch.manual_seed(0)
    x = torch.randn(6, 24, 60, 60).to(dtype, memory_format=torch.channels_last)  # several parts
    gradient = torch.randn(x.shape).to(dtype)  # of another layout
    weight = torch.rand(slopes).to(dtype).requires_grad_()
    PReLUFunction.apply(x, weight).backward(gradient)
    terms = x.double().clamp(max=0) * gradient.double()
    exact, size = terms.sum((0, 2, 3)), terms.abs().sum((0, 2, 3))
    if slopes == 1:
        exact, size = exact.sum().view(1), size.sum().view(1)
    assert ((weight.grad - exact).abs() / (size**0.5)).max() < 50 * tolerance


def test_prelu_has_the_bits_of_torchs_for_gradients_of_any_layout():
    torch.manual_seed(0)
    x = torch.randn(4, 6, 9, 7).to(memory_format=torch.channels_last)
    gradients = (torch.randn(4, 6, 1, 1).expand(x.shape), torch.randn(x.shape), torch.randn_like(x))
    for gradient in gradients:
        results = []
        for module in (PReLU(6), torch.nn.PReLU(6)):
            leaf = x.clone().requires_grad_()
            module(leaf).backward(gradient)
            results.append((leaf.grad, module.weight.grad))
        assert torch.equal(results[0][0], results[1][0])
        assert results[0][0].stride() == results[1][0].stride()
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_prelu_has_the_types_of_torchs_under_autocast(dtype):
    x = torch.linspace(-1, 1, 48).view(2, 3, 2, 4).to(dtype)
    gradients = []
    for module in (PReLU(3), torch.nn.PReLU(3)):
        module = module.to(dtype if dtype == torch.float64 else torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            output = module(x)
        output.sum().backward()
        gradients.append((output.dtype, module.weight.grad))
    assert gradients[0][0] == gradients[1][0]
    assert torch.equal(gradients[0][1], gradients[1][1])  # their sums are exact


def test_gradients_of_prelu_are_right_twice_and_over_a_batch_of_batches():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    slopes = torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(PReLUFunction.apply, (x, slopes))
    assert torch.autograd.gradgradcheck(PReLUFunction.apply, (x, slopes))
    batches = torch.randn(5, 2, 3, 4, 4, dtype=torch.float64)

    def loss(slopes, x):
        return PReLUFunction.apply(x, slopes).square().sum()

    mapped = torch.func.vmap(torch.func.grad(loss), (None, 0))(slopes, batches)
    alone = [torch.autograd.grad(loss(slopes, batch), slopes)[0] for batch in batches]
    assert torch.allclose(mapped, torch.stack(alone))


def test_gradients_of_prelu_in_single_precision_are_right_twice_and_in_batches():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    slopes = torch.rand(3, requires_grad=True)
    output = PReLUFunction.apply(x, slopes)
    (first,) = torch.autograd.grad(output.square().sum(), slopes, create_graph=True)
    again = torch.autograd.grad(first.sum(), (x, slopes))
    output = F.prelu(x, slopes)
    (first,) = torch.autograd.grad(output.square().sum(), slopes, create_graph=True)
    torch.testing.assert_close(again, torch.autograd.grad(first.sum(), (x, slopes)))
    vectors = torch.randn(5, *x.shape)
    mine = torch.autograd.grad(
        PReLUFunction.apply(x, slopes), slopes, vectors, is_grads_batched=True
    )
    alone = [torch.autograd.grad(F.prelu(x, slopes), slopes, vector)[0] for vector in vectors]
    torch.testing.assert_close(mine[0], torch.stack(alone))


def test_reentrant_checkpointing_is_refused():
    settings = {"use_reentrant": True}
    with pytest.raises(ValueError, match="use_reentrant must be False"):
        CNN(CNNConfig(**SMALL)).activation_checkpointing_enable(settings)


def test_initialisation_has_the_deviations_of_the_original():
    torch.manual_seed(0)
    model = CNN(CNNConfig(prelu_init=0.1))
    convolution = model.stages[2][1].conv2.weight  # Kaiming normal: sqrt(2 / fan in)
    assert convolution.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    shortcut = model.stages[2][0].shortcut.conv.weight  # uniform: 1 / sqrt(3 fan in)
    assert shortcut.std().item() == pytest.approx((3 * 512) ** -0.5, rel=0.01)
    assert shortcut.abs().max().item() <= 512**-0.5
    assert model.classifier.bias.abs().max().item() <= 2048**-0.5
    assert model.stem.conv.bias.count_nonzero() == 0
    assert (model.stages[0][0].act1.weight == 0.1).all()
    assert all(block.residual_scale.item() == 0 for stage in model.stages for block in stage)


def train_once(model, x, labels, *, checkpointing):
    model = copy.deepcopy(model).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    torch.manual_seed(1)  # drop path draws the same
    model(x, labels=labels).loss.backward()
    gradients = {key: value.grad for key, value in model.named_parameters()}
    return gradients, dict(model.named_buffers())


def test_activation_checkpointing_changes_neither_gradients_nor_running_statistics():
    torch.manual_seed(0)
    model = CNN(CNNConfig(**SMALL, stem="small", drop_path_rate=0.5))
    x, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 4])
    (gradients, buffers), (same_gradients, same_buffers) = (
        train_once(model, x, labels, checkpointing=checkpointing) for checkpointing in (False, True)
    )
    for key, value in gradients.items():
        assert torch.equal(value, same_gradients[key]), key
    for key, value in buffers.items():
        assert torch.equal(value, same_buffers[key]), key
    assert buffers["stages.0.0.bn1.num_batches_tracked"] == 1


def test_activation_checkpointing_works_in_a_compiled_model():
    torch.manual_seed(0)
    model = CNN(CNNConfig(**SMALL, stem="small")).train()
    saving = copy.deepcopy(model)
    saving.activation_checkpointing_enable()
    x, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 4])
    for network in (model, torch.compile(saving, backend="aot_eager")):
        network(x, labels=labels).loss.backward()
    for (key, value), other in zip(model.named_parameters(), saving.parameters(), strict=True):
        assert torch.allclose(value.grad, other.grad, atol=1e-6), key
    for (key, value), other in zip(model.named_buffers(), saving.buffers(), strict=True):
        assert torch.allclose(value, other), key


def test_activation_checkpointing_survives_copies_a_second_backward_pass_and_disabling():
    torch.manual_seed(0)
    model = CNN(CNNConfig(**SMALL, stem="small"))
    model.activation_checkpointing_enable()
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        loss = clone.train()(torch.randn(4, 3, 16, 16), labels=torch.tensor([0, 1, 2, 4])).loss
        loss.backward(retain_graph=True)
        loss.backward()
        assert clone.stages[0][0].bn1.num_batches_tracked == 1
    model.activation_checkpointing_disable()
    model.train()(torch.randn(4, 3, 16, 16))
    assert model.stages[0][0].bn1.num_batches_tracked == 1


def test_the_residual_stream_stays_in_half_precision_under_autocast():
    torch.manual_seed(0)
    model = CNN(CNNConfig(**SMALL)).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 3, 64, 64), output_hidden_states=True)
    assert {state.dtype for state in output.hidden_states[1:]} == {torch.bfloat16}


@pytest.mark.parametrize(("stem", "size"), [("imagenet", 4), ("small", 16)])
def test_the_small_stem_keeps_the_resolution(stem, size):
    model = CNN(CNNConfig(**SMALL, stem=stem, num_channels=1)).eval()
    with torch.inference_mode():
        states = model(torch.zeros(1, 1, 32, 32), output_hidden_states=True).hidden_states
    assert [state.shape[-1] for state in states] == [2 * size, 2 * size, size]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": [3, 4, 6]}, r"one entry for each stage; got \[256, 512, 1024, 2048\]"),
        ({"depths": [3, 0, 6, 3]}, r"depths must be positive; got \[3, 0, 6, 3\]"),
        ({"hidden_sizes": [256, 512, 1024, 2050]}, r"multiples of bottleneck_expansion \(4\)"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\); got 1.0"),
    ],
)
def test_wrong_fields_are_refused_by_name_and_value(fields, message):
    with pytest.raises(ValueError, match=message):
        CNNConfig(**fields)


def test_one_image_gives_the_same_logits_alone_and_in_a_batch():
    torch.manual_seed(0)
    model = CNN(CNNConfig(**SMALL)).double().eval()
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 3, 40, 56)))
    with torch.inference_mode():
        batch, alone = model(x).logits, torch.cat([model(image[None]).logits for image in x])
    assert torch.allclose(batch, alone, rtol=0, atol=1e-12)


def test_hooks_see_what_a_batch_norm_gives_although_relus_work_in_place():
    shape = {"embedding_size": 4, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 3}
    torch.manual_seed(0)
    plain = CNN(CNNConfig(use_prelu=False, stem="small", bottleneck_expansion=2, **shape)).train()
    model, images, kept = copy.deepcopy(plain), torch.randn(4, 3, 8, 8, requires_grad=True), []
    plain(images).logits.sum().backward()
    block = model.stages[0][0]
    block.bn1 = norm = copy.deepcopy(block.bn1)  # replaced, as by convert_sync_batchnorm
    handle = norm.register_forward_hook(lambda module, args, output: kept.append(output))
    model(images).logits.sum().backward()
    assert (kept[0] < 0).any()
    handle.remove()
    model.zero_grad()
    for module in [*model.stem.modules(), *model.stages.modules()]:
        module.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    model(images).logits.sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
