"""What every family of the zoo promises: shapes, losses, errors, saving, labels, gradients."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageClassification
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


@pytest.fixture(autouse=True)
def one_thread():
    """On tensors this small, threads that wait for each other cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    code |= {"configuration_convzoo.py", "modeling_convzoo.py"}
    assert files == {"config.json", "model.safetensors"} | code
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": f"configuration_{family}.{type(model.config).__name__}",
        "AutoModelForImageClassification": f"modeling_{family}.{type(model).__name__}",
    }
    again = type(model).from_pretrained(tmp_path)
    assert again.config.to_dict() == {**model.config.to_dict(), "_name_or_path": str(tmp_path)}
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


def test_another_number_of_channels_gets_a_new_stem(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, num_channels=1, ignore_mismatched_sizes=True)
    assert again(torch.zeros(1, 1, 32, 32)).logits.isfinite().all()
    assert torch.equal(again.classifier.weight, model.classifier.weight)


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
