"""What every family of the zoo promises: shapes, losses, errors, saving, labels, gradients."""

import copy
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageClassification, pipeline
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from modeling import (
    CNN,
    AlexNet,
    AlexNetConfig,
    CNNConfig,
    ConvZooImageProcessor,
    QLNet,
    QLNetConfig,
)
from modeling.modeling_convzoo import PointwiseConv2d

pytestmark = pytest.mark.usefixtures("one_thread")

NARROW = {"stem": "small", "num_channels": 2, "num_labels": 5}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1]}
FAMILIES = {
    "cnn": (CNN, CNNConfig, {**NARROW, **STAGES, "drop_path_rate": 0.1}),
    "alexnet": (
        AlexNet,
        AlexNetConfig,
        {**NARROW, "hidden_sizes": [8, 8, 12, 8, 8], "classifier_hidden_size": 16},
    ),
    "qlnet": (QLNet, QLNetConfig, {**NARROW, **STAGES}),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def model(family):
    model_class, config_class, fields = FAMILIES[family]
    torch.manual_seed(0)
    return model_class(config_class(**fields)).eval()


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(4, 2, 32, 32)


def test_the_model_type_is_free_in_transformers_and_found_by_the_auto_classes(family):
    assert family not in CONFIG_MAPPING_NAMES
    model_class, config_class, fields = FAMILIES[family]
    assert type(AutoConfig.for_model(family, **fields)) is config_class
    config = config_class(**fields)
    assert type(AutoModelForImageClassification.from_config(config)) is model_class


def test_logits_loss_and_hidden_states_have_the_standard_form(model, x):
    labels = torch.tensor([0, 4, 2, 2])
    output = model(pixel_values=x, labels=labels, output_hidden_states=True)
    assert output.logits.shape == (4, 5)
    assert len(output.hidden_states) == 1 + len(model.stages)
    assert all(state.ndim == 4 and len(state) == 4 for state in output.hidden_states)
    expected = -output.logits.log_softmax(1)[torch.arange(4), labels].mean()
    assert torch.allclose(output.loss, expected)
    plain = model(x)
    assert plain.loss is None and plain.hidden_states is None
    loss, logits = model(x, labels=labels, return_dict=False)
    assert torch.equal(loss, output.loss) and torch.equal(logits, plain.logits)


def test_class_probabilities_are_labels_too(model, x):
    labels = torch.tensor([[0, 0.3, 0.7, 0, 0]]).expand(4, 5)
    output = model(x, labels=labels)
    expected = -(output.logits.log_softmax(1) * labels).sum(1).mean()
    assert torch.allclose(output.loss, expected)
    hard = torch.tensor([0, 4, 2, 2])
    one_hot = F.one_hot(hard, 5).float()
    assert torch.allclose(model(x, labels=one_hot).loss, model(x, labels=hard).loss)
    assert model.config.problem_type is None  # the pipeline must go on to use softmax


def test_the_loss_of_a_half_precision_model_is_computed_in_float32(model, x):
    labels = torch.full((4, 5), 0.2)
    expected = model(x, labels=labels).loss
    loss = model.bfloat16()(x.bfloat16(), labels=labels).loss
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, expected, rtol=0.01)


def test_the_trainer_is_told_to_divide_the_loss_by_its_accumulation_steps(model):
    assert model.accepts_loss_kwargs is False  # **kwargs in forward would say otherwise


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 2, 5]), r"labels must be in 0..4 .*; got 0..5"),
        (torch.tensor([0, 1, -1, 2]), r"labels must be in 0..4 .*; got -1..2"),
        (torch.tensor([-100, 5, 1, 2]), r"labels must be in 0..4 .*, or -100 .*; got 1..5"),
        (torch.tensor([0, 1]), r"integers of shape \(4,\).*; got torch.int64 of shape \(2,\)"),
        (
            torch.zeros(4, 3),
            r"probabilities of shape \(4, 5\); got torch.float32 of shape \(4, 3\)",
        ),
        (torch.zeros(4), r"integers of shape \(4,\).*; got torch.float32 of shape \(4,\)"),
        (torch.zeros(4, 5, dtype=torch.int64), r"got torch.int64 of shape \(4, 5\)"),
    ],
)
def test_wrong_labels_are_refused(model, x, labels, *, message):
    with pytest.raises(ValueError, match=message):
        model(x, labels=labels)


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels"),
    [
        (None, 1, torch.rand(4)),
        (None, 1, torch.rand(4, 1)),
        (None, 1, torch.tensor([0, 3, 1, 2])),
        (None, 5, torch.tensor([0, 4, 2, 2])),
        (None, 5, torch.tensor([0, 4, 2, 2], dtype=torch.int32)),
        ("regression", 1, torch.rand(4)),
        ("regression", 5, torch.rand(4, 5)),
        ("single_label_classification", 5, torch.tensor([0, 4, 2, 2])),
        ("single_label_classification", 5, torch.tensor([-100, 4, 2, -100])),
        ("single_label_classification", 5, torch.tensor([-100] * 4)),
        ("multi_label_classification", 1, torch.tensor([[0.0], [1], [1], [0]])),
        ("multi_label_classification", 5, torch.eye(5)[:4]),
    ],
)
def test_the_loss_and_its_gradient_are_those_of_transformers(
    family, x, *, problem_type, num_labels, labels
):
    model_class, config_class, fields = FAMILIES[family]
    fields = {**fields, "num_labels": num_labels, "problem_type": problem_type}
    model = model_class(config_class(**fields)).eval()
    output = model(x, labels=labels)
    config = copy.deepcopy(model.config)  # theirs writes to it
    wanted = labels.long() if labels.dtype == torch.int32 else labels  # which torch refuses there
    expected = ForSequenceClassificationLoss(wanted, output.logits, config)
    assert torch.equal(output.loss, expected) or (expected.isnan() and output.loss.isnan())
    weight = model.classifier.weight
    mine, theirs = (
        torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (output.loss, expected)
    )
    assert torch.equal(mine.nan_to_num(), theirs.nan_to_num())
    assert model.config.problem_type == problem_type  # the pipeline's choice stays the user's


@pytest.mark.parametrize(
    ("fields", "labels", "message"),
    [
        (
            {"problem_type": "multi_label_classification"},
            torch.eye(5, dtype=torch.int64)[:4],
            r"floats of shape \(4, 5\); got torch.int64 of shape \(4, 5\)",
        ),
        ({"problem_type": "multi_label_classification"}, torch.rand(4), "got torch.float32 of"),
        ({"problem_type": "regression"}, torch.rand(4), r"numbers of shape \(4, 5\); got"),
        ({"num_labels": 1}, torch.rand(4, 2), r"numbers of shape \(4, 1\); got"),
    ],
)
def test_labels_that_do_not_fit_the_problem_are_refused(family, x, *, fields, labels, message):
    model_class, config_class, defaults = FAMILIES[family]
    model = model_class(config_class(**{**defaults, **fields}))
    with pytest.raises(ValueError, match=message):
        model(x, labels=labels)


def test_what_the_pipeline_says_is_what_the_loss_trains(family, x):
    """Several labels at once: sigmoids in the pipeline, and their cross entropy in the loss."""
    model_class, config_class, fields = FAMILIES[family]
    fields = {**fields, "num_channels": 3, "problem_type": "multi_label_classification"}
    model = model_class(config_class(**fields)).eval()
    processor = ConvZooImageProcessor(size=32, crop_size=32)
    classify = pipeline("image-classification", model=model, image_processor=processor)
    image = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    scores = {row["label"]: row["score"] for row in classify(image, top_k=5)}
    p = torch.tensor([scores[f"LABEL_{index}"] for index in range(5)])
    target = torch.tensor([[1.0, 0, 0, 1, 1]])
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    loss = model(processor(image, return_tensors="pt")["pixel_values"], labels=target).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_loss_function_is_ours_and_another_can_be_assigned(model, x):
    labels = torch.tensor([0, 4, 2, 2])
    output = model(x, labels=labels)
    loss = model.loss_function(
        labels=labels, logits=output.logits, pooled_logits=output.logits, config=model.config
    )
    assert torch.equal(loss, output.loss)
    model.loss_function = lambda labels, pooled_logits, config: pooled_logits.sum()
    assert torch.equal(model(x, labels=labels).loss, output.logits.sum())


def test_the_check_of_labels_reads_nothing_from_an_accelerator(model):
    meta = copy.deepcopy(model).to("meta")  # a device that cannot be read from, without a GPU
    labels = torch.empty(4, dtype=torch.int64, device="meta")
    assert meta(torch.empty(4, 2, 32, 32, device="meta"), labels=labels).loss.is_meta


@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (2, 32, 32), (4, 2, 32)])
def test_images_of_another_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"\(N, C, H, W\) with C = 2 .*; got shape \("):
        model(torch.zeros(shape))


def test_gradients_reach_every_parameter(model, x):
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bn3.weight"):
                value.fill_(1)  # QLNet's branches start at zero and let no gradient through
    model.train()(x, labels=torch.tensor([0, 4, 2, 2])).loss.backward()
    for name, value in model.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all(), name
        if not name.endswith("bias"):  # a batch norm that follows takes every constant out
            assert value.grad.abs().max() > 0, name


def test_saving_and_loading_keeps_the_logits_bit_by_bit(family, model, *, x, tmp_path):
    model.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    code = {f"configuration_{family}.py", f"modeling_{family}.py"}
    code |= {"configuration_convzoo.py", "modeling_convzoo.py", "layers_by_hand.py"}
    assert files == {"config.json", "model.safetensors"} | code
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": f"configuration_{family}.{type(model.config).__name__}",
        "AutoModelForImageClassification": f"modeling_{family}.{type(model).__name__}",
        "AutoModel": f"modeling_{family}.{type(model).__name__}Model",
        "AutoBackbone": f"modeling_{family}.{type(model).__name__}Backbone",
    }
    again = type(model).from_pretrained(tmp_path)
    written = {"_name_or_path": str(tmp_path), "auto_map": config["auto_map"]}
    assert again.config.to_dict() == {**model.config.to_dict(), **written}
    assert not again.training
    with torch.inference_mode():
        assert torch.equal(again(x).logits, model(x).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_load_in_the_type_of_the_file_and_on_demand_in_another(
    model, x, *, dtype, tmp_path
):
    model.to(dtype).save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert again.dtype == dtype
    logits = again(x.to(dtype)).logits
    assert logits.dtype == dtype and logits.isfinite().all()
    wide = type(model).from_pretrained(tmp_path, dtype=torch.float32)
    assert wide.dtype == torch.float32
    assert torch.allclose(wide(x).logits, logits.float(), atol=0.05)


def test_weights_of_the_torch_compile_wrapper_load_and_are_saved_without_its_prefix(
    model, x, tmp_path
):
    model.save_pretrained(tmp_path)
    state = torch.compile(model, backend="eager").state_dict()
    assert all(key.startswith("_orig_mod.") for key in state)
    save_file(state, tmp_path / "model.safetensors")
    again = type(model).from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again/model.safetensors").keys() == model.state_dict().keys()
    with torch.inference_mode():
        assert torch.equal(again(x).logits, model(x).logits)


@pytest.mark.parametrize("prefix", ["module.", "module._orig_mod.", "_orig_mod.module."])
def test_names_of_parallel_training_load_and_are_saved_without_their_prefix(
    model, x, *, prefix, tmp_path
):
    model.save_pretrained(tmp_path)
    state = {prefix + key: value for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    again = type(model).from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again/model.safetensors").keys() == model.state_dict().keys()
    with torch.inference_mode():
        assert torch.equal(again(x).logits, model(x).logits)


def test_counters_that_nothing_reads_may_be_there_or_not(model, x, tmp_path):
    """Old files of PyTorch have no counts of batches; its averages count themselves."""
    model.save_pretrained(tmp_path)
    counts = {key for key in model.state_dict() if key.endswith("num_batches_tracked")}
    state = {f"module.{key}": t for key, t in model.state_dict().items() if key not in counts}
    save_file(state | {"n_averaged": torch.tensor(7)}, tmp_path / "model.safetensors")
    again = type(model).from_pretrained(tmp_path)
    assert all(again.state_dict()[key].item() == 0 for key in counts)
    with torch.inference_mode():
        assert torch.equal(again(x).logits, model(x).logits)


def test_another_prefix_gets_the_mapping_that_takes_it_away(model, tmp_path):
    model.save_pretrained(tmp_path)
    state = {f"net.model.{key}": value for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    message = r"Pass key_mapping={'\^net\\\\.model\\\\.': ''}\."
    with pytest.raises(ValueError, match=message):
        type(model).from_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, key_mapping={r"^net\.model\.": ""})
    assert torch.equal(again.classifier.weight, model.classifier.weight)


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        (
            {"num_labels": 7},
            "Pass num_labels=5, or ignore_mismatched_sizes=True for a new classifier.",
        ),
        (
            {"num_channels": 4},
            "Pass num_channels=2, or ignore_mismatched_sizes=True to adapt the first layer.",
        ),
        ({"hidden_sizes": [16] * 2}, "Pass the fields that differ."),
    ],
)
def test_each_misfit_gets_its_own_remedy(family, model, *, fields, hint, tmp_path):
    if family == "alexnet" and "hidden_sizes" in fields:
        fields = {"hidden_sizes": [16] * 5}
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=re.escape(hint)):
        type(model).from_pretrained(tmp_path, **fields)


def test_missing_and_unexpected_weights_are_listed(model, tmp_path):
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["head.weight"] = state.pop("classifier.weight")
    save_file(state, tmp_path / "model.safetensors")
    message = "classifier.weight is missing; head.weight is unexpected"
    for load in (type(model), AutoModelForImageClassification):
        with pytest.raises(ValueError, match=message):
            load.from_pretrained(tmp_path, ignore_mismatched_sizes=True)


def test_loading_info_is_returned_when_asked_for(model, tmp_path):
    model.save_pretrained(tmp_path)
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is type(model)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_weight_file_is_named_with_what_to_do(model, damage, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes({"truncated": data[:-1], "garbage": b"\xff" * 999, "empty": b""}[damage])
    with pytest.raises(ValueError, match=rf"weights in {tmp_path} .* Download or copy the file"):
        AutoModelForImageClassification.from_pretrained(tmp_path)


def test_another_number_of_labels_gets_a_new_classifier_and_keeps_the_rest(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"classifier.bias has shape \(5,\) instead of \(300,\)"):
        type(model).from_pretrained(tmp_path, num_labels=300)
    for count in ({"num_labels": 300}, {"num_classes": 300}):
        again = AutoModelForImageClassification.from_pretrained(
            tmp_path, **count, ignore_mismatched_sizes=True
        )
        assert again.config.num_labels == 300
        assert again.config.id2label[299] == "LABEL_299"
        for key, value in model.state_dict().items():
            if not key.startswith("classifier."):
                assert torch.equal(value, again.state_dict()[key]), key
        weight = again.classifier.weight
        uniform_deviation = (3 * weight.shape[1]) ** -0.5
        assert weight.std().item() == pytest.approx(uniform_deviation, rel=0.05)


def test_no_labels_gives_the_features_in_front_of_the_classifier(model, x, tmp_path):
    model.save_pretrained(tmp_path)
    features = type(model).from_pretrained(tmp_path, num_labels=0)(x).logits
    assert features.shape == (4, model.classifier.in_features)
    assert torch.allclose(model.classifier(features), model(x).logits, atol=1e-6)
    with pytest.raises(ValueError, match="labels must be"):
        type(model).from_pretrained(tmp_path, num_labels=0)(x, labels=torch.tensor([0, 1, 2, 3]))


def test_another_number_of_channels_keeps_the_trained_stem(model, tmp_path):
    model.save_pretrained(tmp_path)
    fields = {"num_channels": 1, "num_labels": 3, "ignore_mismatched_sizes": True}
    for load in (type(model), AutoModelForImageClassification):
        again = load.from_pretrained(tmp_path, **fields)
        assert (again.config.num_channels, again.config.num_labels) == (1, 3)
        assert again.classifier.weight.shape[0] == 3
        for key, value in model.state_dict().items():
            if not key.startswith(("classifier.", "stem.conv.weight")):
                assert torch.equal(again.state_dict()[key], value), key
        grey = torch.randn(2, 1, 32, 32)
        expected = model(grey.expand(2, 2, 32, 32), output_hidden_states=True).hidden_states
        states = again(grey, output_hidden_states=True).hidden_states
        assert torch.allclose(states[-1], expected[-1], atol=1e-5)


def test_loading_gives_the_initial_values_of_a_new_model_to_everything_not_loaded(family, tmp_path):
    """Other shapes throughout: each kind of weight is built on the meta device and then started."""
    model_class, config_class, fields = FAMILIES[family]
    wide = {"hidden_sizes": [96, 192]} if family != "alexnet" else {"hidden_sizes": [96] * 5}
    size = {"classifier_hidden_size": 96} if family == "alexnet" else {"embedding_size": 96}
    model_class(config_class(**fields)).save_pretrained(tmp_path)
    torch.manual_seed(0)
    new = model_class(config_class(**{**fields, **wide, **size}))
    loaded = model_class.from_pretrained(tmp_path, **wide, **size, ignore_mismatched_sizes=True)
    old = load_file(tmp_path / "model.safetensors")
    initialised = 0
    for key, value in new.state_dict().items():
        if value.shape != old[key].shape:
            initialised += 1
            other = loaded.state_dict()[key]
            if (
                value.float().std() == 0
            ):  # constants are equal; random numbers have equal deviations
                assert torch.equal(value, other), key
            else:
                assert other.std().item() == pytest.approx(value.std().item(), rel=0.35), key
                assert abs(other.mean().item()) < value.std().item(), key
    assert initialised > 10


# Configurations -------------------------------------------------------------------------------


def test_labels_default_to_1000_and_every_way_to_give_their_number_works(family):
    config_class = FAMILIES[family][1]
    assert config_class().num_labels == config_class().num_classes == 1000
    assert config_class(num_labels=2).num_labels == 2
    assert config_class(num_classes=7).num_labels == 7
    config = config_class(id2label={0: "cat", 1: "dog"})
    assert config.num_labels == 2 and config.label2id == {"cat": 0, "dog": 1}


@pytest.mark.parametrize("count", [1, 2, 3])  # 2 unnamed labels are Transformers' own default
def test_the_number_of_unnamed_labels_survives_saving(family, count, tmp_path):
    config_class = FAMILIES[family][1]
    config_class(num_labels=count).save_pretrained(tmp_path)
    assert config_class.from_pretrained(tmp_path).num_labels == count


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_labels": 3, "num_classes": 4}, r"must be equal; got \[3, 4\]"),
        ({"num_labels": 3, "id2label": {0: "cat", 1: "dog"}}, r"must be equal; got \[2, 3\]"),
        ({"id2label": {1: "cat", 2: "dog"}}, r"keys 0, 1, 2, ...; got \[1, 2\]"),
        ({"num_channels": 0}, "num_channels must be positive; got 0"),
        ({"stem": "large"}, 'stem must be "imagenet" or "small"; got "large"'),
    ],
)
def test_contradictions_in_a_configuration_are_refused(family, fields, message):
    with pytest.raises(ValueError, match=message):
        FAMILIES[family][1](**fields)


def test_a_field_of_the_wrong_type_is_refused_by_name(family):
    from huggingface_hub.errors import StrictDataclassFieldValidationError

    with pytest.raises(StrictDataclassFieldValidationError, match="num_channels"):
        FAMILIES[family][1](num_channels="3")


def test_names_of_labels_survive_saving_and_can_be_replaced_while_loading(family, tmp_path):
    config_class = FAMILIES[family][1]
    config_class(id2label={0: "cat", 1: "dog"}).save_pretrained(tmp_path)
    names = config_class.from_pretrained(tmp_path, num_labels=2).id2label
    assert names == {0: "cat", 1: "dog"}  # the same number keeps the names
    config = config_class.from_pretrained(tmp_path, id2label={0: "a", 1: "b", 2: "c"})
    assert config.num_labels == 3 and config.label2id == {"a": 0, "b": 1, "c": 2}
    with pytest.raises(ValueError, match="must be equal"):
        config_class.from_pretrained(tmp_path, id2label={0: "a"}, num_labels=3)
    assert config_class.from_pretrained(tmp_path, num_labels=3).id2label[2] == "LABEL_2"


def test_fields_given_while_loading_are_checked_like_the_others(family, tmp_path):
    config_class = FAMILIES[family][1]
    config_class().save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path, stem="small").stem == "small"
    with pytest.raises(ValueError, match='got "large"'):
        config_class.from_pretrained(tmp_path, stem="large")
    _, unused = config_class.from_pretrained(tmp_path, stm="small", return_unused_kwargs=True)
    assert unused == {"stm": "small"}


# Together -------------------------------------------------------------------------------------


def test_torch_compile_gives_the_same_logits_without_a_graph_break(model, x):
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(x).logits, model(x).logits, atol=1e-5)


@pytest.mark.slow  # of which the compiler takes all but a second
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # its own
@pytest.mark.skipif(sys.platform != "linux", reason="needs a C++ compiler")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_the_real_compiler_gives_the_same_gradients(family, stem, layout):
    model_class, config_class, fields = FAMILIES[family]
    fields = {**fields, "stem": stem, "num_channels": 3}
    fields |= {"drop_path_rate": 0.0} if family == "cnn" else {}
    fields |= {"dropout_rate": 0.0} if family == "alexnet" else {}
    torch.manual_seed(0)
    model = model_class(config_class(**fields)).train().to(memory_format=layout)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bn3.weight"):
                value.fill_(0.5)  # QLNet's branches start at zero
    compiled = copy.deepcopy(model)
    side = 64 if stem == "imagenet" else 32
    x, labels = torch.randn(4, 3, side, side), torch.tensor([0, 4, 2, 2])
    for network in (model, torch.compile(compiled)):
        network(x.to(memory_format=layout), labels=labels).loss.backward()
    largest = max(value.grad.abs().max() for value in model.parameters())
    for (name, value), other in zip(model.named_parameters(), compiled.parameters(), strict=True):
        # Batch norms over few pixels enlarge rounding; what they cancel is noise around 0.
        tolerance = 1e-2 * max(value.grad.abs().max(), 1e-3 * largest)
        assert torch.allclose(other.grad, value.grad, rtol=0, atol=tolerance), name


# A write beyond an array spoils the lists of the allocator, which then ends the process.
NARROW_STEPS = """
import sys, torch
from modeling import CNN, CNNConfig, QLNet, QLNetConfig
torch.set_num_threads(1)
fields = {"stem": "small", "embedding_size": 4, "hidden_sizes": [4, 4, 8], "depths": [1, 1, 1]}
fields |= {"num_labels": 5}
for network, config in ((CNN, CNNConfig), (QLNet, QLNetConfig)):
    for _ in range(20):
        model = network(config(**fields)).train().to(memory_format=torch.channels_last)
        x = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
        model(x, labels=torch.tensor([0, 4, 2, 2])).loss.backward()
        others = [torch.ones(size) for size in range(1, 200, 3)]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is of glibc and oneDNN")
def test_narrow_networks_train_on_avx2_without_an_error_of_memory():
    settings = {"ONEDNN_MAX_CPU_ISA": "AVX2", "MALLOC_PERTURB_": "165", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", NARROW_STEPS],
        env={**os.environ, **settings, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 4, 7, 8, 9])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pointwise_convolutions_equal_the_general_one(stride, channels, layout):
    torch.manual_seed(0)
    conv = PointwiseConv2d(channels, 6, 1, stride).double()
    for size in (8, 9):
        x = torch.randn(2, channels, size, size).double().to(memory_format=layout).requires_grad_()
        actual, expected = conv(x), F.conv2d(x, conv.weight, conv.bias, stride)
        assert torch.allclose(actual, expected, atol=1e-12)
        upstream, weights = torch.randn_like(expected), (x, conv.weight, conv.bias)
        wanted = torch.autograd.grad(expected, weights, upstream)
        for value, other in zip(
            torch.autograd.grad(actual, weights, upstream), wanted, strict=True
        ):
            assert torch.allclose(value, other, atol=1e-12)


def test_torch_export_gives_the_same_logits_for_any_batch_size(model, x):
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        model, (), {"pixel_values": x}, dynamic_shapes={"pixel_values": {0: batch}}, strict=False
    )
    with torch.no_grad():
        logits = program.module()(pixel_values=x[:3]).logits
        assert torch.allclose(logits, model(x[:3]).logits, atol=1e-5)


def test_channels_last_gives_the_same_logits(model, x):
    with torch.inference_mode():
        expected = model(x).logits
        other = model.to(memory_format=torch.channels_last)
        logits = other(x.to(memory_format=torch.channels_last)).logits
    assert torch.allclose(logits, expected, atol=1e-5)


def test_training_lowers_the_loss(model, x):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    labels = torch.tensor([0, 4, 2, 1])
    model.train()
    losses = []
    for _ in range(40):
        torch.manual_seed(0)  # dropout and drop path draw the same each time
        loss = model(x, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_processor_is_registered_for_every_family(family, tmp_path, monkeypatch):
    from transformers import AutoImageProcessor
    from transformers.models.auto import image_processing_auto

    _, config_class, fields = FAMILIES[family]
    config_class(**fields).save_pretrained(tmp_path)
    processor = ConvZooImageProcessor.from_protocol("imagenet_bicubic_235")
    processor.save_pretrained(tmp_path)
    for has_torchvision in (False, True):  # Transformers would like its torchvision backend better
        monkeypatch.setattr(
            image_processing_auto, "is_torchvision_available", lambda answer=has_torchvision: answer
        )
        again = AutoImageProcessor.from_pretrained(tmp_path)
        assert type(again) is ConvZooImageProcessor
        assert again.to_dict() == processor.to_dict()
