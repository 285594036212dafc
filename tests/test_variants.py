"""Every variant of every family keeps the same promises; docs/features.md has their table."""

import copy

import pytest
import torch

import modeling
from modeling import AlexNetConfig, CNNConfig, QLNetConfig
from tests.support.documents import Page

pytestmark = pytest.mark.usefixtures("one_thread")

STAGES = {"embedding_size": 4, "hidden_sizes": [8, 12], "depths": [2, 1], "num_labels": 5}
NARROW = {"hidden_sizes": [4, 8, 8, 8, 12], "classifier_hidden_size": 16, "num_labels": 5}
VARIANTS = {
    "cnn": CNNConfig(**STAGES),
    "cnn relu": CNNConfig(**STAGES, use_prelu=False),
    "cnn shared": CNNConfig(**STAGES, prelu_channel_wise=False, conv_bias=False),
    "cnn small": CNNConfig(**STAGES, stem="small"),
    "cnn pyramid": CNNConfig(**STAGES, stem="small", pyramid_levels=[3, 1]),
    "cnn by hand": CNNConfig(**STAGES, stem="small", layer_implementation="by_hand"),
    "alexnet": AlexNetConfig.one_tower(**NARROW),
    "alexnet 2012": AlexNetConfig.paper_2012(**NARROW),
    "alexnet reimplemented": AlexNetConfig.from_2012_reimplementation(**NARROW),
    "alexnet small": AlexNetConfig.small_images(**NARROW),
    "alexnet by hand": AlexNetConfig.small_images(**NARROW, layer_implementation="by_hand"),
    "qlnet": QLNetConfig.v0(**STAGES),
    "qlnet 10m": QLNetConfig.v10m(**STAGES),
    "qlnet small": QLNetConfig(**STAGES, stem="small", depthwise_multiplier=3),
    "qlnet by hand": QLNetConfig(**STAGES, stem="small", layer_implementation="by_hand"),
}


@pytest.fixture(params=VARIANTS)
def config(request):
    return copy.deepcopy(VARIANTS[request.param])


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    model = modeling.FAMILIES[type(config)](config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bn3.weight"):
                value.fill_(0.5)  # QLNet's branches start at zero
        if getattr(config, "final_relu", False):
            model.classifier.bias.fill_(1)  # so that the last ReLU lets something through
    return model


@pytest.fixture
def x(model):
    torch.manual_seed(1)
    return torch.randn(2, 3, model.minimum_image_size + 17, model.minimum_image_size + 20)


@torch.inference_mode()
def test_images_of_any_size_from_the_smallest_on_are_taken(config, model):
    least, channels = model.minimum_image_size, config.stage_channels
    for height, width in ((least, least), (least, least + 33), (least + 1, least + 2)):
        output = model(torch.randn(1, 3, height, width), output_hidden_states=True)
        assert output.logits.shape == (1, 5) and output.logits.isfinite().all()
        assert [state.shape[1] for state in output.hidden_states] == channels
    for height, width in ((least - 1, least), (least, least - 1)):
        with pytest.raises(
            ValueError, match=rf"at least {least} pixels.*\(1, 3, {height}, {width}"
        ):
            model(torch.zeros(1, 3, height, width))


@torch.inference_mode()
def test_features_embeddings_and_backbones_agree(config, model, x):
    states = model(x, output_hidden_states=True).hidden_states
    for headless in (modeling.FEATURES, modeling.BACKBONES):
        network = headless[type(config)](copy.deepcopy(config)).eval()
        shared = {k: v for k, v in model.state_dict().items() if k in network.state_dict()}
        network.load_state_dict(shared)
        output = network(x)
        assert torch.equal(output[0] if headless is modeling.FEATURES else output[0][0], states[-1])
        if headless is modeling.FEATURES:
            assert torch.equal(output.pooler_output, model.forward_pool(states[-1]))
            assert output.pooler_output.shape == (2, model.classifier.in_features)


def test_every_parameter_has_a_gradient(model, x):
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model(torch.cat([x, 2 * x]), labels=torch.tensor([0, 4, 2, 1])).loss.backward()
    for name, value in model.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all(), name
        if not name.endswith("bias"):  # a batch norm that follows takes every constant out
            assert value.grad.abs().max() > 0, name


@torch.inference_mode()
def test_a_saved_model_is_the_same_and_answers_the_same_twice(config, model, *, x, tmp_path):
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    logits = model(x).logits
    assert torch.equal(model(x).logits, logits) and torch.equal(again(x).logits, logits)
    torch.manual_seed(0)
    fresh = type(model)(copy.deepcopy(config))
    for key, value in fresh.state_dict().items():
        changed = key.endswith(("bn3.weight", "classifier.bias"))
        assert changed or torch.equal(value, model.state_dict()[key]), key


@torch.inference_mode()
def test_half_and_double_precision_give_the_same_to_their_rounding(model, x):
    expected = model(x).logits.double()
    for dtype, tolerance in ((torch.float64, 1e-4), (torch.float16, 0.02), (torch.bfloat16, 0.1)):
        logits = copy.deepcopy(model).to(dtype)(x.to(dtype)).logits
        assert logits.dtype == dtype
        error = (logits.double() - expected).abs().max() / expected.abs().max().clamp(min=0.1)
        assert error < tolerance, dtype


def test_wrong_images_are_refused_with_what_was_given(model, x):
    for wrong, message in (
        (x[:, :2], r"C = 3 \(config.num_channels\); got shape \(2, 2,"),
        (x[0], r"\(N, C, H, W\)"),
        (x.byte(), "must be floats, normalised as in training; got torch.uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            model(wrong)


# The table ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row", Page("docs/features.md").table("| variant | smallest image |"), ids=lambda row: row[0]
)
def test_the_table_of_variants_says_what_they_are(row):
    preset, smallest, channels, strides, embedding = (cell.strip("`") for cell in row)
    config = eval(preset, vars(modeling).copy())
    with torch.device("meta"):
        model = modeling.FAMILIES[type(config)](config)
        backbone = modeling.BACKBONES[type(config)](config)
        backbone.out_features = config.stage_names
    assert f"{model.minimum_image_size} px" == smallest
    assert ", ".join(map(str, backbone.channels)) == channels
    assert ", ".join(map(str, backbone.strides)) == strides
    assert f"{model.classifier.in_features:,}" == embedding
