"""QLNet: the numbers of the original, hardball, and the symmetry the family is known for."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modeling import QLNet, QLNetConfig
from modeling.modeling_qlnet import DepthwiseConv2d, QLNetBlock, hardball
from tests.support.golden_weights import golden, images, rotation, uniform, weights
from tests.support.models import check_training_step, relative_error, with_random_norms

SMALL = {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 2, 2], "num_labels": 5}


@pytest.fixture(scope="module")
def qlnet():
    """QLNet-50 v0 with the golden weights, in float64 and evaluation mode; do not change it."""
    state = weights(golden("qlnet_v0.keys"))
    return QLNet.from_pretrained(None, config=QLNetConfig.v0(), state_dict=state).double()


@pytest.fixture(scope="module")
def qlnet_logits(qlnet):
    with torch.inference_mode():
        return qlnet(images()).logits


def largest_change(model, logits):
    with torch.inference_mode():
        return (model(images().to(model.dtype)).logits - logits).abs().max().item()


def test_logits_and_stages_equal_the_original(qlnet):
    expected = golden("qlnet_v0")
    assert qlnet.num_parameters() == expected["num_parameters"]
    with torch.inference_mode():
        logits = copy.deepcopy(qlnet).float()(images().float()).logits
        assert relative_error(logits, expected["logits"]) < 1e-4
        output = qlnet(images(), output_hidden_states=True)
    for state, reference in zip(output.hidden_states, expected["hidden_states"], strict=True):
        assert list(state.shape) == reference["shape"]
        statistics = [state.mean(), state.std(correction=0), state.norm()]
        reference = [reference[name] for name in ("mean", "std", "l2")]
        assert [value.item() for value in statistics] == pytest.approx(reference, rel=1e-6)
    assert relative_error(output.logits, expected["logits"]) < 1e-6
    last = output.hidden_states[-1]
    outside = (last.norm(dim=1) > 512**0.5).double().mean().item()
    assert outside == pytest.approx(expected["hardball"][-1], abs=1e-6)


def test_state_dict_names_and_shapes_are_the_published_ones(qlnet):
    expected = {key: shape for key, (_, shape) in golden("qlnet_v0.keys").items()}
    assert {key: list(value.shape) for key, value in qlnet.state_dict().items()} == expected


def test_the_10m_variant_has_its_number_of_weights_and_widths():
    with torch.device("meta"):
        model = QLNet(QLNetConfig.v10m())
    assert model.num_parameters() == 10_064_296
    widths = [stage[0].conv2.in_channels for stage in model.stages]
    assert widths == [256, 256, 512, 1024]
    assert [stage[0].conv2.out_channels for stage in model.stages] == widths


def test_gradients_and_running_statistics_equal_the_original(qlnet):
    check_training_step(copy.deepcopy(qlnet).train(), golden("qlnet_v0.train"))


# The symmetry ---------------------------------------------------------------------------------


def test_rotating_the_streams_leaves_the_logits_alone(qlnet, qlnet_logits):
    model = copy.deepcopy(qlnet)
    for stage, size in ((1, 128), (2, 256), (3, 512)):
        model.rotate_stream(stage, rotation(f"layer{stage + 1}", size))
        assert largest_change(model, qlnet_logits) < 1e-12  # the original: 2.8e-14 for all three
    changed = model.stages[1][0].conv3.weight - qlnet.stages[1][0].conv3.weight
    assert changed.abs().max() > 0.01
    assert model.state_dict().keys() == qlnet.state_dict().keys()
    assert largest_change(model.float(), qlnet_logits) < 1e-4  # the original: 1.0e-5


def test_rotated_weights_equal_those_of_the_authors_notebook(qlnet):
    model = copy.deepcopy(qlnet)
    model.rotate_stream(2, rotation("layer3", 256))
    block, following = model.stages[2], model.stages[3][0]

    def folded(conv, bn):
        gain = bn.weight / (bn.running_var + bn.eps).sqrt()
        return gain[:, None, None, None] * conv.weight, bn.bias - bn.running_mean * gain

    actual = {
        "layer3.0.conv3 folded weight": folded(block[0].conv3, block[0].bn3)[0],
        "layer3.0.conv3 folded bias": folded(block[0].conv3, block[0].bn3)[1],
        "layer3.0.skip folded weight": folded(block[0].shortcut.conv, block[0].shortcut.bn)[0],
        "layer3.1.conv1 folded weight": folded(block[1].conv1, block[1].bn1)[0],
        "layer4.0.conv1 folded weight": folded(following.conv1, following.bn1)[0],
        "layer4.0.skip folded weight": folded(following.shortcut.conv, following.shortcut.bn)[0],
    }
    samples = golden("qlnet_v0.symmetry")["layer3 (the original notebook)"]["samples"]
    assert actual.keys() == samples.keys()
    for name, sample in samples.items():
        assert list(actual[name].shape) == sample["shape"]
        values = actual[name].flatten()[sample["flat_index"]].tolist()
        assert values == pytest.approx(sample["values"], rel=1e-6), name


def test_what_is_no_symmetry_changes_the_logits_as_much_as_in_the_original(qlnet, qlnet_logits):
    model = copy.deepcopy(qlnet)
    scale = torch.linspace(0.5, 2, 256, dtype=torch.float64)  # Q = diag(scale), not orthogonal
    blocks, following = model.stages[2], model.stages[3][0]
    with torch.no_grad():
        for bn in [block.bn3 for block in blocks] + [blocks[0].shortcut.bn]:
            bn.weight.mul_(scale)
            bn.bias.mul_(scale)
        for reader in [block.conv1 for block in blocks[1:]] + [
            following.conv1,
            following.shortcut.conv,
        ]:
            reader.weight.div_(scale[:, None, None])
    cases = golden("qlnet_v0.symmetry")
    expected = next(v for k, v in cases.items() if "non-orthogonal" in k)["float64_max_abs_change"]
    assert largest_change(model, qlnet_logits) == pytest.approx(expected, rel=1e-3)


def test_pairs_of_factors_can_be_scaled_against_each_other(qlnet, qlnet_logits):
    model = copy.deepcopy(qlnet)
    for index, stage in enumerate(model.stages):
        for place, block in enumerate(stage):
            u = uniform(f"layer{index + 1}.{place}/t", block.bn1.num_features // 2)
            model.scale_products(index, place, torch.from_numpy(0.5 + 1.5 * u))
    assert (model.stages[0][0].bn1.weight - qlnet.stages[0][0].bn1.weight).abs().max() > 0.1
    assert largest_change(model, qlnet_logits) < 1e-13  # the original: 1.9e-15


def test_a_rotation_that_is_no_symmetry_is_refused(qlnet):
    with pytest.raises(ValueError, match="must start with a shortcut convolution; got stage 0"):
        qlnet.rotate_stream(0, torch.eye(64))
    with pytest.raises(ValueError, match=r"orthogonal and \(128, 128\); got shape \(128, 128\)"):
        qlnet.rotate_stream(1, 2 * torch.eye(128))
    with pytest.raises(ValueError, match=r"orthogonal and \(128, 128\); got shape \(64, 64\)"):
        qlnet.rotate_stream(1, torch.eye(64))
    with pytest.raises(ValueError, match=r"Call eval\(\) first"):
        QLNet(QLNetConfig(**SMALL)).train().rotate_stream(1, torch.eye(16))


def test_a_rotated_model_survives_saving(tmp_path):
    torch.manual_seed(0)
    model = QLNet(QLNetConfig(**SMALL)).eval()
    with torch.no_grad():
        for block in (block for stage in model.stages for block in stage):
            block.bn3.weight.uniform_(0.5, 1)  # zero at the start: branches would say nothing
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(x).logits
        model.rotate_stream(2, torch.linalg.qr(torch.randn(24, 24)).Q)
        model.save_pretrained(tmp_path)
        after = QLNet.from_pretrained(tmp_path)(x).logits
    assert (after - before).abs().max() < 1e-5


# hardball -------------------------------------------------------------------------------------


def test_hardball_leaves_short_vectors_alone_and_shortens_the_others_to_the_radius():
    x = torch.tensor([[3.0, 4.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.5, 0.0, 0.0, 0.0]])
    y = hardball(x[:, :, None, None])[:, :, 0, 0]
    expected = [[1.2, 1.6, 0, 0], [1, 1, 1, 1], [0.5, 0, 0, 0]]  # the radius is sqrt(4)
    assert y.flatten().tolist() == pytest.approx([v for row in expected for v in row])


def test_gradients_of_hardball_are_right_and_finite_at_zero():
    torch.manual_seed(0)
    x = 2 * torch.randn(2, 6, 3, 3, dtype=torch.float64)
    x[0, :, 0, 0] = 0
    x.requires_grad_()
    hardball(x).square().sum().backward()
    assert x.grad.isfinite().all()
    inside = (x.norm(dim=1, keepdim=True) < 6**0.5).expand_as(x)
    assert torch.allclose(x.grad[inside], 2 * x.detach()[inside])
    assert x.grad[~inside].abs().max() < 1e-12  # on the sphere the length does not change
    assert torch.autograd.gradcheck(hardball, x.detach()[1:].requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_hardball_does_not_overflow_in_half_precision(dtype):
    x = torch.full((1, 4, 1, 1), 20_000.0, dtype=dtype)  # the sum of squares is 1.6e9
    y = hardball(x)
    assert y.dtype == dtype
    assert y.flatten().tolist() == pytest.approx([1, 1, 1, 1], rel=1e-2)


# Training -------------------------------------------------------------------------------------


def test_initialisation_has_the_deviations_of_the_original():
    torch.manual_seed(0)
    model = QLNet(QLNetConfig())
    block = model.stages[3][0]
    for convolution, fan_out in (
        (block.conv1, 2 * 512),
        (block.conv2, 9 * 2 * 512),  # as PyTorch counts, without regard to groups
        (block.shortcut.conv, 512),
    ):
        assert convolution.weight.std().item() == pytest.approx(fan_out**-0.5, rel=0.02)
    assert all(block.bn3.weight.count_nonzero() == 0 for stage in model.stages for block in stage)
    assert (model.stages[0][0].bn1.weight == 1).all()
    assert model.classifier.weight.abs().max().item() <= 512**-0.5


def test_activation_checkpointing_changes_neither_gradients_nor_running_statistics():
    torch.manual_seed(0)
    plain = QLNet(QLNetConfig(**SMALL, stem="small")).train()
    with torch.no_grad():
        for block in (block for stage in plain.stages for block in stage):
            block.bn3.weight.fill_(0.5)
    saving = copy.deepcopy(plain)
    saving.activation_checkpointing_enable()
    x, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 4])
    for model in (plain, saving):
        model(x, labels=labels).loss.backward()
    for (key, value), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(value.grad, other.grad), key
    for (key, value), other in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(value, other), key
    assert plain.stages[0][0].bn1.num_batches_tracked == 1


def test_the_small_stem_keeps_the_resolution():
    model = QLNet(QLNetConfig(**SMALL, stem="small", num_channels=1)).eval()
    with torch.inference_mode():
        states = model(torch.zeros(1, 1, 32, 32), output_hidden_states=True).hidden_states
    assert [state.shape[-1] for state in states] == [32, 32, 16, 8]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": [3, 4, 6]}, r"one entry for each stage; got \[64, 128, 256, 512\]"),
        ({"expansion_beyond": 0}, "expansion_beyond must be positive; got 0"),
        ({"stem": "large"}, 'stem must be "imagenet" or "small"; got "large"'),
    ],
)
def test_wrong_fields_are_refused_by_name_and_value(fields, message):
    with pytest.raises(ValueError, match=message):
        QLNetConfig(**fields)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_split_depthwise_convolutions_equal_the_grouped_one(stride, count, layout):
    torch.manual_seed(0)
    conv = DepthwiseConv2d(8, 8 * count, 3, stride, padding=1, groups=8, bias=False).double()
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    actual, expected = conv(x), F.conv2d(x, conv.weight, None, stride, 1, groups=8)
    assert torch.allclose(actual, expected, atol=1e-12)
    assert actual.is_contiguous(memory_format=layout)
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (x, conv.weight), upstream)
    for value, other in zip(
        torch.autograd.grad(actual, (x, conv.weight), upstream), wanted, strict=True
    ):
        assert torch.allclose(value, other, atol=1e-11)
    with torch.autocast("cpu", torch.bfloat16):
        half = conv.float()(x.detach().bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.double(), expected, atol=0.02)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_bias_of_a_depthwise_convolution_is_added(stride, count, *, dtype, layout):
    torch.manual_seed(0)
    conv = DepthwiseConv2d(8, 8 * count, 3, stride, padding=1, groups=8).to(dtype)
    x = torch.randn(2, 8, 9, 9, dtype=dtype).to(memory_format=layout).requires_grad_()
    actual, weights = conv(x), (x, conv.weight, conv.bias)
    assert actual.dtype == dtype
    wide = [value.detach().double().requires_grad_() for value in weights]
    expected = F.conv2d(*wide, stride, 1, groups=8)
    tolerance = 20 * torch.finfo(dtype).eps
    assert torch.allclose(actual.double(), expected, rtol=tolerance, atol=tolerance)
    mine = torch.autograd.grad(actual, weights, torch.ones_like(actual))
    theirs = torch.autograd.grad(expected, wide, torch.ones_like(expected))
    for value, other in zip(mine, theirs, strict=True):
        scale = other.abs().max()
        assert torch.allclose(value.double() / scale, other / scale, atol=tolerance)


def fold_batch_norms(model):
    """Fold each batch norm into the convolution before it by PyTorch's own function."""
    for module in list(model.modules()):
        children = list(module.named_children())
        for (name, conv), (norm_name, norm) in itertools.pairwise(children):
            if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.utils.fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, torch.nn.Identity())
    return model


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("variant", ["v0", "v10m"])
def test_folded_batch_norms_leave_the_logits_alone(variant, seed, layout):
    torch.manual_seed(seed)
    config = getattr(QLNetConfig, variant)(**{**SMALL, "depthwise_multiplier": 1 + seed})
    model = with_random_norms(QLNet(config)).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64).to(memory_format=layout)
    with torch.inference_mode():
        expected = model(x).logits
        folded = fold_batch_norms(copy.deepcopy(model)).to(memory_format=layout)
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
        assert (folded(x).logits - expected).abs().max() < 1e-10
        logits = folded.float()(x.float()).logits
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()
        half = folded.bfloat16()(x.bfloat16()).logits
    assert (half - expected).abs().max() < 0.1 * expected.abs().max()


def test_the_published_network_can_be_folded(qlnet, qlnet_logits):
    folded = fold_batch_norms(copy.deepcopy(qlnet))
    assert largest_change(folded, qlnet_logits) < 1e-12
    assert largest_change(folded.float(), qlnet_logits) < 1e-4


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_exported_depthwise_convolutions_are_whole():
    torch.manual_seed(0)
    conv, x = DepthwiseConv2d(8, 16, 3, 1, padding=1, groups=8, bias=False), torch.randn(2, 8, 9, 9)
    exported = torch.export.export(conv, (x,))
    assert sum("conv2d" in str(node.target) for node in exported.graph.nodes) == 1
    traced = torch.jit.trace(conv, x)
    assert str(traced.inlined_graph).count("aten::_convolution") == 1
    for network in (exported.module(), traced):
        assert torch.allclose(network(x), conv(x), atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_depthwise_convolutions_can_be_mapped_over_a_batch_of_batches(layout):
    torch.manual_seed(0)
    conv = DepthwiseConv2d(8, 16, 3, 1, padding=1, groups=8, bias=False)
    batches = torch.stack([torch.randn(2, 8, 9, 9).to(memory_format=layout) for _ in range(3)])
    expected = torch.stack([conv(batch) for batch in batches])
    assert torch.allclose(torch.func.vmap(conv)(batches), expected, atol=1e-5)


@pytest.mark.parametrize("multiplier", [1, 2, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_training_by_parts_is_training_layer_by_layer(multiplier, layout):
    torch.manual_seed(0)
    fields = SMALL | {"stem": "small", "depthwise_multiplier": multiplier}
    parts = QLNet(QLNetConfig(**fields)).double().train()
    for norm in parts.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.normal_()
            norm.bias.data.normal_()
    layers = copy.deepcopy(parts)
    seen = []
    for block in blocks_of(layers):  # somebody looks
        block.conv2.register_forward_hook(lambda *given: seen.append(given[2]))
    x, labels = torch.randn(4, 3, 32, 32).double().to(memory_format=layout), torch.arange(4)
    for _ in range(2):
        losses = [model(x, labels=labels).loss for model in (parts, layers)]
        assert torch.isclose(*losses, rtol=1e-12)
        for loss in losses:
            loss.backward()
    assert len(seen) == 2 * len(blocks_of(layers))
    largest = max(value.grad.abs().max() for value in layers.parameters())
    for (name, one), (_, other) in zip(
        [*parts.named_parameters(), *parts.named_buffers()],
        [*layers.named_parameters(), *layers.named_buffers()],
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12, msg=name)
        if one.requires_grad:
            assert (one.grad - other.grad).abs().max() < 1e-8 * largest, name


def blocks_of(model):
    return [module for module in model.modules() if isinstance(module, QLNetBlock)]


@pytest.mark.parametrize(
    "change",
    [
        lambda block: block.bn2.eval(),  # frozen
        lambda block: setattr(block.bn1, "momentum", None),  # a mean over all batches
        lambda block: setattr(block, "bn1", nn.SyncBatchNorm.convert_sync_batchnorm(block.bn1)),
        lambda block: nn.utils.parametrizations.weight_norm(block.conv3),
        lambda block: block.conv1.register_full_backward_hook(lambda *given: None),
        lambda block: setattr(block.conv2, "forward", block.conv2.forward),
        lambda block: setattr(block, "conv3", nn.Conv2d(64, 8, 1)),  # with a bias
        lambda block: setattr(block, "bn1", nn.Sequential(block.bn1)),
    ],
    ids=[
        *("frozen", "momentum", "synchronised", "parametrised", "hooked", "replaced"),
        *("biased", "wrapped"),
    ],
)
def test_layers_that_are_not_as_built_train_by_themselves(change):
    block = blocks_of(QLNet(QLNetConfig(**SMALL)).train())[0]
    assert block.trains_by_parts()
    change(block)
    assert not block.trains_by_parts()
