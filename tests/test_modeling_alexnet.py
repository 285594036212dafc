"""AlexNet: the numbers of two originals, the paper's arithmetic, ten crops and small images."""

import pytest
import torch

from modeling import AlexNet, AlexNetConfig
from tests.support.golden_weights import golden, images
from tests.support.models import ORIGINALS, golden_alexnet, relative_error

SMALL = {"hidden_sizes": [8, 12, 16, 12, 8], "classifier_hidden_size": 16, "num_labels": 5}


def ten_crops(x, size=224):
    """Four corners and the centre, then the same of the mirrored image, of one batch."""
    crops = []
    for image in (x, x.flip(-1)):
        far, middle = image.shape[-1] - size, (image.shape[-1] - size) // 2
        for top, left in ((0, 0), (0, far), (far, 0), (far, far), (middle, middle)):
            crops.append(image[..., top : top + size, left : left + size])
    return crops


@pytest.mark.parametrize("name", ORIGINALS)
def test_logits_stages_and_ten_crops_equal_the_original(name):
    model, expected = golden_alexnet(name), golden(name)
    scale, ten_crop = expected["input_scale"], expected["ten_crop"]
    assert model.num_parameters() == expected["num_parameters"]
    with torch.inference_mode():
        logits = model(images(scale).float()).logits
        assert relative_error(logits, expected["logits"]) < 1e-4
        double = AlexNet(model.config).eval().double()
        double.load_state_dict(model.state_dict())
        output = double(images(scale), output_hidden_states=True)
        crops = [model(crop).logits for crop in ten_crops(images(scale, 256).float())]
    for state, reference in zip(output.hidden_states, expected["hidden_states"], strict=True):
        assert list(state.shape) == reference["shape"]
        statistics = [state.mean(), state.std(correction=0), state.norm()]
        reference = [reference[key] for key in ("mean", "std", "l2")]
        assert [value.item() for value in statistics] == pytest.approx(reference, rel=1e-6)
    assert relative_error(output.logits, expected["logits"]) < 1e-6

    crops = torch.stack(crops, dim=1)  # (2 images, 10 crops, 1000)
    assert relative_error(crops.mean(1), ten_crop["mean_of_logits"]) < 1e-4
    probabilities = crops.softmax(-1).mean(1)
    for image in range(2):
        per_crop = ten_crop["per_crop"][image]
        assert relative_error(crops[image, :, per_crop["class"]], per_crop["logits"]) < 1e-4
        classes, values = zip(*ten_crop["mean_of_softmax_top5"][image], strict=True)
        top = probabilities[image].topk(5)
        assert top.indices.tolist() == list(classes)
        assert top.values.tolist() == pytest.approx(values, rel=1e-3)


def test_the_final_relu_of_the_reimplementation_can_be_left_out():
    model, expected = (
        golden_alexnet("alexnet_2012_reimplementation"),
        golden("alexnet_2012_reimplementation"),
    )
    model.config.final_relu = False
    try:
        with torch.inference_mode():
            logits = model(images(60).float()).logits
    finally:
        model.config.final_relu = True
    assert relative_error(logits, expected["logits_before_final_relu"]) < 1e-4
    assert relative_error(logits.relu(), expected["logits"]) < 1e-4


@pytest.mark.parametrize("name", ORIGINALS)
def test_state_dict_names_and_shapes_are_the_published_ones(name):
    with torch.device("meta"):
        state = AlexNet(ORIGINALS[name]()).state_dict()
    expected = {key: shape for key, (_, shape) in golden(f"{name}.keys").items()}
    assert {key: list(value.shape) for key, value in state.items()} == expected


def test_the_network_of_the_paper_has_its_number_of_weights_and_its_maps():
    config = AlexNetConfig.paper_2012()
    with torch.device("meta"):
        model = AlexNet(config).eval()
        states = model(torch.empty(1, 3, 224, 224), output_hidden_states=True).hidden_states
    assert model.num_parameters() == 60_965_224
    assert [tuple(state.shape[1:]) for state in states] == [
        (96, 27, 27),
        (256, 13, 13),
        (256, 6, 6),
    ]
    conv2 = model.stages[0][0].conv
    assert conv2.weight.shape == (256, 48, 5, 5)  # each GPU sees half of the first layer


def test_local_response_normalisation_follows_the_formula_of_the_paper():
    config = AlexNetConfig.paper_2012(hidden_sizes=(8, 8, 8, 8, 8), num_labels=2)
    torch.manual_seed(0)
    layer = AlexNet(config).double().stages[0][0]
    x = 60 * torch.rand(1, 8, 9, 9, dtype=torch.float64)
    a = layer.conv(x).relu()
    squares = torch.nn.functional.pad(a.square(), (0, 0, 0, 0, 2, 2))
    sums = sum(squares[:, i : i + 8] for i in range(5))  # two neighbours on each side
    expected = layer.pool(a / (2 + 1e-4 * sums) ** 0.75)  # k, alpha and beta of the paper
    assert torch.allclose(layer(x), expected, rtol=1e-12)


def test_local_response_normalisation_is_finite_in_half_precision():
    torch.manual_seed(0)
    fields = {key: value for key, value in SMALL.items() if key != "hidden_sizes"}
    config = AlexNetConfig.paper_2012(hidden_sizes=(8, 12, 16, 12, 8), **fields)
    layer = AlexNet(config).stem
    x = 128 * torch.rand(1, 3, 63, 63)
    layer.conv.weight.data.fill_(0.1)  # activations of thousands; 300 squared overflows float16
    wide, half = layer(x), layer.half()(x.half())
    assert half.isfinite().all()
    assert torch.allclose(half.float(), wide, rtol=0.01)


@pytest.mark.parametrize(
    ("fields", "minimum"), [({}, 63), ({"stem_padding": 5}, 57), ({"stem": "small"}, 15)]
)
def test_the_smallest_image_works_and_a_smaller_one_is_refused(fields, minimum):
    model = AlexNet(AlexNetConfig(**SMALL, **fields)).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, minimum, minimum + 9)).logits.shape == (1, 5)
        with pytest.raises(ValueError, match=f"at least {minimum} pixels high and wide; got shape"):
            model(torch.zeros(1, 3, minimum + 9, minimum - 1))


def test_small_images_keep_their_resolution_in_the_stem():
    with torch.device("meta"):
        model = AlexNet(AlexNetConfig.small_images(num_labels=10)).eval()
        states = model(torch.empty(1, 3, 32, 32), output_hidden_states=True).hidden_states
    assert [state.shape[-1] for state in states] == [15, 7, 3]
    assert model.fc6.weight.shape == (1024, 256 * 3 * 3)


def test_initialisation_is_that_of_pytorch():
    torch.manual_seed(0)
    model = AlexNet(AlexNetConfig.small_images())
    for layer, fan_in in ((model.stages[1][0].conv, 192 * 9), (model.fc6, 2304)):
        for value in (layer.weight, layer.bias):
            assert value.abs().max().item() <= fan_in**-0.5
            assert value.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)


def test_without_batch_norms_any_activation_checkpointing_will_do():
    torch.manual_seed(0)
    x, gradients = torch.rand(2, 3, 63, 63, requires_grad=True), []
    for settings in (None, {"use_reentrant": False}, {"use_reentrant": True}):
        torch.manual_seed(0)
        model = AlexNet(AlexNetConfig(**SMALL, dropout_rate=0.0)).train()
        if settings:
            model.activation_checkpointing_enable(settings)
        model(x, labels=torch.tensor([0, 4])).loss.backward()
        gradients.append([value.grad for value in model.parameters()])
    for plain, *saving in zip(*gradients, strict=True):
        assert all(torch.equal(plain, value) for value in saving)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model = AlexNet(AlexNetConfig(**SMALL, dropout_rate=0.5))
    x = torch.rand(1, 3, 63, 63)
    assert not torch.equal(model.train()(x).logits, model(x).logits)
    assert torch.equal(model.eval()(x).logits, model(x).logits)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_sizes": [64, 192, 384, 256]}, "five entries, one for each convolution; got"),
        ({"groups": [1, 5, 1, 1, 1]}, r"groups\[1\] must divide .* 64 and 192; got 5"),
        ({"stem_padding": 6}, r"stem_padding must be in 0..5; got 6"),
        ({"dropout_rate": 1.0}, r"dropout_rate must be in \[0, 1\); got 1.0"),
    ],
)
def test_wrong_fields_are_refused_by_name_and_value(fields, message):
    with pytest.raises(ValueError, match=message):
        AlexNetConfig(**fields)
