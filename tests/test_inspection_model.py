import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import ResNetConfig, ResNetForImageClassification

from convzoo.inference import has_bfloat16_instructions
from convzoo.inspection.model import (
    check_batch_norms,
    check_branches,
    check_slopes,
    count_layers,
    inspect_model,
)
from convzoo.inspection.model_report import model_report_text
from modeling import (
    CNN,
    AlexNet,
    AlexNetConfig,
    CNNConfig,
    ConvZooImageProcessor,
    QLNet,
    QLNetConfig,
)
from tests.support.clients import ROOT
from tests.support.hub_server import HubServer

SMALL = {"stem": "small", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1]}
RED_PANDA = str(ROOT / "data" / "photos" / "red_panda.jpg")


@pytest.mark.parametrize(
    ("model_class", "config", "parameters", "giga", "outputs"),
    [
        (
            *(CNN, CNNConfig(), 25_602_488, 4.09),
            {"stem.conv": [64, 112, 112], "stages.3.2.conv3": [2048, 7, 7]},
        ),
        (*(AlexNet, AlexNetConfig(), 61_100_840, 0.714), {"stem.conv": [64, 55, 55]}),
        (
            *(QLNet, QLNetConfig(), 9_993_640, 2.56),
            {"stages.1.0.conv2": [512, 28, 28], "classifier": [1000]},
        ),
        (
            *(AlexNet, AlexNetConfig.from_2012_reimplementation(), 62_378_344, 1.14),
            {"stem.conv": [96, 56, 56], "fc6": [4096]},
        ),
    ],
    ids=["cnn", "alexnet", "qlnet", "alexnet of 2012"],
)
def test_totals_are_those_of_the_originals_and_of_torchs_own_counter(
    model_class, config, *, parameters, giga, outputs
):
    with torch.device("meta"):
        model = model_class(config).eval()
        layers = count_layers(model, [3, 224, 224])
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 224, 224))
    assert sum(layer["parameters"] for layer in layers) == parameters
    multiply_adds = sum(layer["multiply_adds"] for layer in layers)
    assert multiply_adds == counter.get_total_flops() / 2
    assert float(f"{multiply_adds / 1e9:.3g}") == giga
    found = {layer["name"]: layer["output"] for layer in layers}
    assert found.items() >= outputs.items()


def test_slopes_get_the_verdict_they_deserve():
    model = CNN(CNNConfig(**SMALL))
    block = model.stages[0][0]
    with torch.no_grad():
        model.stem.act.weight.copy_(torch.linspace(0, 0.7, 8))
        block.act1.weight.fill_(0.001)
        block.act2.weight.fill_(1.02)
        block.final_act.weight.copy_(torch.tensor([-1.0, 2.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]))
        model.stages[0][1].act1.weight.fill_(float("nan"))
    rows = {row["name"]: row for row in check_slopes(model)}
    assert len(rows) == 10
    assert rows["stem.act"]["verdict"] == "fine"
    assert rows["stem.act"]["mean"] == pytest.approx(0.35)
    assert (rows["stem.act"]["min"], rows["stem.act"]["max"]) == (0, pytest.approx(0.7))
    assert rows["stages.0.0.act1"]["verdict"] == "almost ReLU"
    assert rows["stages.0.0.act2"]["verdict"] == "almost linear"
    assert rows["stages.0.0.final_act"]["verdict"] == "many outside [0, 1]"
    assert rows["stages.0.0.final_act"]["outside_0_1"] == 0.25
    assert rows["stages.0.1.act1"]["verdict"] == "not finite"
    assert rows["stages.1.0.act1"]["verdict"] == "as at the start"
    assert rows["stages.1.0.act1"]["near_start"] == 1.0
    other_start = CNN(CNNConfig(**SMALL, prelu_init=0.1))
    assert {row["verdict"] for row in check_slopes(other_start)} == {"as at the start"}
    assert check_slopes(CNN(CNNConfig(**SMALL, use_prelu=False))) == []


def test_branches_that_do_little_are_named():
    model = CNN(CNNConfig(**SMALL))
    assert {row["verdict"] for row in check_branches(model)} == {"as at the start"}
    first, second, third = (block for stage in model.stages for block in stage)
    with torch.no_grad():
        first.residual_scale.fill_(-5.0)  # softplus: 0.0067
        second.bn3.weight.fill_(0.05)  # 0.69 * 0.05
        third.bn3.num_batches_tracked += 1
    rows = check_branches(model)
    assert [row["verdict"] for row in rows] == ["almost identity", "starved branch", "fine"]
    assert [row["name"] for row in rows] == ["stages.0.0", "stages.0.1", "stages.1.0"]
    assert rows[0]["strength"] == pytest.approx(0.006715, rel=1e-3)
    assert rows[1]["strength"] == pytest.approx(0.034657, rel=1e-3)
    fresh = QLNet(QLNetConfig(**SMALL))
    assert {row["verdict"] for row in check_branches(fresh)} == {"as at the start"}
    for module in fresh.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.num_batches_tracked += 1
    assert {row["verdict"] for row in check_branches(fresh)} == {"almost identity"}
    assert check_branches(AlexNet(AlexNetConfig.small_images())) == []


def test_batch_norms_with_dead_channels_are_named():
    model = QLNet(QLNetConfig(**SMALL))
    assert {row["verdict"] for row in check_batch_norms(model)} == {"never trained"}
    model.train()
    for _ in range(2):
        model(torch.randn(4, 3, 32, 32))
    with torch.no_grad():
        model.stem.bn.weight[:3] = 1e-5
        model.stages[0][0].bn1.running_var[:8] = 1e-12
        model.stages[0][0].bn2.running_mean[1] = float("inf")
        model.stages[1][0].bn1.weight[0] = 0  # one alone is worth no word
    rows = {row["name"]: row for row in check_batch_norms(model)}
    assert (rows["stem.bn"]["dead_gain"], rows["stem.bn"]["channels"]) == (3, 8)
    assert rows["stem.bn"]["verdict"] == "dead channels: 3"
    assert rows["stages.0.0.bn1"]["dead_input"] == 8
    assert rows["stages.0.0.bn1"]["verdict"] == "dead channels: 8"
    assert rows["stages.0.0.bn2"]["verdict"] == "not finite"
    assert rows["stages.0.0.bn3"]["verdict"] == "all channels dead"  # they start at zero
    assert rows["stages.1.0.shortcut.bn"]["verdict"] == "fine"
    assert (rows["stages.1.0.bn1"]["dead_gain"], rows["stages.1.0.bn1"]["verdict"]) == (1, "fine")


def test_a_folder_is_reported_with_its_own_size_and_drawn(tmp_path):
    model = CNN(CNNConfig(**SMALL, id2label=dict(enumerate("abc"))))
    model.save_pretrained(tmp_path)
    ConvZooImageProcessor(size=40, crop_size=36).save_pretrained(tmp_path)
    report = inspect_model(str(tmp_path), RED_PANDA, output=str(tmp_path / "drawn"))
    assert json.loads(json.dumps(report)) == report
    assert report["input_size"] == [3, 36, 36] and report["has_weights"]
    assert report["totals"]["parameters"] == model.num_parameters()
    assert len(report["predictions"]) == 3
    assert [path.name for path in sorted((tmp_path / "drawn").iterdir())] == [
        "0_stem.png",
        "1_stage.png",
        "2_stage.png",
        "prediction.png",
    ]
    text = model_report_text(report)
    assert f"cnn, 3 classes, {model.num_parameters():,} parameters" in text
    for layer in report["layers"]:
        assert layer["name"] in text
    assert "slopes: 10 as at the start" in text and "batch norms: 11 never trained" in text
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 100


def test_a_folder_without_weights_is_reported_as_such(tmp_path):
    QLNetConfig(**SMALL, num_channels=1).save_pretrained(tmp_path)
    report = inspect_model(str(tmp_path))
    assert not report["has_weights"] and report["input_size"] == [1, 32, 32]
    assert "It has no weights" in model_report_text(report)
    with pytest.raises(ValueError, match="preprocessor_config.json"):
        inspect_model(str(tmp_path), RED_PANDA)


def test_a_model_of_another_family_gets_a_table_of_its_layers(tmp_path):
    config = ResNetConfig(embedding_size=16, hidden_sizes=[8, 8], depths=[1, 1], num_labels=4)
    model = ResNetForImageClassification(config)
    model.save_pretrained(tmp_path)
    report = inspect_model(str(tmp_path))
    assert report["totals"]["parameters"] == model.num_parameters()
    assert report["slopes"] == report["residual_branches"] == []
    assert len(report["batch_norms"]) == sum(
        isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()
    )
    assert report["totals"]["multiply_adds"] > 20_000_000  # bf16 is faster from there on
    text = model_report_text(report)
    assert "resnet, 4 classes" in text
    advised = has_bfloat16_instructions(torch.device("cpu"))
    assert ("train.mixed_precision=bf16 would train networks of this size" in text) == advised
    assert len(report["advice"]) == advised
    with pytest.raises(ValueError, match="cnn, alexnet, qlnet; .* family resnet"):
        inspect_model(str(tmp_path), RED_PANDA)


def test_what_is_no_model_is_an_error(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        inspect_model(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="Unrecognized configuration class .*BertConfig"):
        inspect_model(str(tmp_path))


ON_THE_HUB = """
import json, sys
from convzoo.inspection.model import inspect_model, is_model

saw = [is_model(path) for path in sys.argv[1:]]
saw.append(inspect_model("user/model")["totals"]["parameters"])
json.dump(saw, open("saw.json", "w"))
"""


def test_a_hub_id_is_inspected_and_told_from_a_dataset(tmp_path, colour_data):
    model = QLNet(QLNetConfig(**SMALL))
    model.save_pretrained(tmp_path / "model")
    with HubServer(tmp_path / "hub", {"hf_user": "user"}) as hub:
        hub.add_repo("models", "user/model", tmp_path / "model")
        hub.add_repo("datasets", "user/colours", colour_data)
        what = ["user/model", "user/colours", tmp_path / "model", colour_data, "no/such/folder"]
        hub.run("-c", ON_THE_HUB, *what, home=tmp_path / "home", cwd=tmp_path)
    saw = json.loads((tmp_path / "saw.json").read_text())
    assert saw == [True, False, True, False, False, model.num_parameters()]
