import collections
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

from convzoo.data.opening import DatasetReference, open_split
from convzoo.data.split import Split
from convzoo.evaluation.evaluating import evaluate_model
from convzoo.evaluation.label_maps import LabelMap
from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.evaluation.remeasuring import (
    Request,
    content_fingerprint,
    draw,
    reevaluate,
)
from convzoo.evaluation.strict_loading import load_strictly
from convzoo.files import file_sha256
from hub_cards.verify.checks import check_loading
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.evaluations import evaluate
from tests.support.exported_files import describe, write_onnx
from tests.support.images import COLOURS, coloured_images, write_split

STAGES = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "stem": "small"}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    CNN(CNNConfig(id2label=dict(enumerate(COLOURS)), **STAGES)).save_pretrained(tmp_path)
    ConvZooImageProcessor(size=18, crop_size=16).save_pretrained(tmp_path)
    return tmp_path


def again(folder, result, data, **options):
    request = Request(
        folder=str(folder), results=[result], data=[str(data)], num_workers=0, **options
    )
    (answer,) = reevaluate(request)["results"]
    return answer


@pytest.mark.parametrize(
    "options",
    [
        {"crops": 10},
        {"exif_rotation": True, "limit": 10},
        {"classes": ["blue", "red"]},
        {"classes": ["blue", "red"], "limit": 7},
    ],
    ids=["ten crops", "limit", "classes", "both"],
)
def test_every_kind_of_evaluation_is_repeated(options, folder, colour_data):
    result = evaluate(folder, colour_data, **options)
    answer = again(folder, json.loads(json.dumps(result)), colour_data)
    assert answer["identified"] == "fingerprint"
    images = result["dataset"]["num_samples"]
    assert answer["num_images"] == answer["seen"] == images
    assert answer["top1_accuracy"] == pytest.approx(result["metrics"]["top1_accuracy"] * images)
    assert answer["top5_accuracy"] == images  # there are three classes
    assert answer["loss"] == pytest.approx(result["metrics"]["loss"], rel=1e-6)
    assert answer["classes"] == result["classes"]


def test_numbers_are_derived_again_from_the_predictions_file(folder, colour_data):
    result = json.loads(json.dumps(evaluate(folder, colour_data)))
    file = result["predictions"]["file"]
    derived = {"file": file, "num_rows": 23, "problem": "", "wrong": []}
    answer = again(folder, result, colour_data)
    assert answer["derived"] == derived | {"same_answers": 23}
    answer = again(folder, result, folder / "no data")
    assert "reason" in answer and answer["derived"] == derived

    raised = json.loads(json.dumps(result))
    raised["metrics"]["top1_accuracy"] += 1 / 23
    raised["classes"][1]["num_correct"] += 1
    wrong = again(folder, raised, folder / "no data")["derived"]["wrong"]
    assert wrong == ["metrics.top1_accuracy", "classes[1].num_correct"]
    other = json.loads(json.dumps(result))
    other["model"]["sha256"], other["dataset"]["fingerprint"] = "0" * 64, "sha256:0"
    wrong = again(folder, other, folder / "no data")["derived"]["wrong"]
    assert wrong == ["dataset.fingerprint", "model.sha256"]

    path = folder / file
    whole = path.read_bytes()
    path.write_bytes(whole + b" ")
    assert "SHA-256 is another one" in again(folder, result, colour_data)["derived"]["problem"]
    path.unlink()
    assert "derived" not in again(folder, result, colour_data)


def test_predictions_of_another_model_are_found_out(folder, colour_data, tmp_path):
    """The numbers follow from the file, and the file from weights that lie no more there."""
    torch.manual_seed(1)
    other = CNN(CNNConfig(id2label=dict(enumerate(COLOURS)), **STAGES))
    torch.nn.init.normal_(other.classifier.weight, std=2)
    published = load_file(folder / "model.safetensors")
    other.save_pretrained(folder)
    result = json.loads(json.dumps(evaluate(folder, colour_data)))
    save_file(published, folder / "model.safetensors", {"format": "pt"})
    derived = again(folder, result, colour_data)["derived"]
    assert derived["wrong"] == [] and derived["same_answers"] < 23


def test_unreadable_images_that_counted_as_wrong_do_so_again(folder, tmp_path):
    images, labels = coloured_images(9, seed=1)
    images[4] = images[4][:40]
    write_split(tmp_path / "data" / "torn", "test", images, labels)
    result = json.loads(json.dumps(evaluate(folder, tmp_path / "data/torn", unreadable="wrong")))
    answer = again(folder, result, tmp_path / "data" / "torn")
    assert answer["identified"] == "fingerprint" and answer["derived"]["wrong"] == []
    assert answer["top1_accuracy"] == pytest.approx(result["metrics"]["top1_accuracy"] * 9)
    assert answer["loss"] == pytest.approx(result["metrics"]["loss"], rel=1e-6)


def test_the_images_of_a_list_are_found_below_its_root_again(folder, tmp_path):
    (tmp_path / "my photos").mkdir()
    (tmp_path / "lists").mkdir()
    images, labels = coloured_images(6, seed=1)
    lines = ["image,label"]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "my photos" / f"{number}.png").write_bytes(image)
        lines.append(f"{number}.png,{list(COLOURS)[label]}")
    listed = tmp_path / "lists" / "test.csv"
    listed.write_text("\n".join(lines))
    data = DatasetReference(str(listed), root=str(tmp_path / "my photos"))
    protocol = EvaluationProtocol(batch_size=4)
    (measured,) = evaluate_model(str(folder), data, split="test", command="", protocols=[protocol])
    result = json.loads(json.dumps(measured))
    assert "must exist" in again(folder, result, listed)["reason"]
    answer = again(folder, result, listed, root=data.root)
    assert answer["identified"] == "fingerprint"
    assert answer["loss"] == pytest.approx(result["metrics"]["loss"], rel=1e-6)


def test_the_recorded_preprocessing_is_used_and_not_the_published_one(folder, colour_data):
    ConvZooImageProcessor(size=30, crop_size=16, image_std=(1, 1, 1)).save_pretrained(folder)
    result = evaluate(folder, colour_data)
    ConvZooImageProcessor(size=18, crop_size=16).save_pretrained(folder)
    answer = again(folder, json.loads(json.dumps(result)), colour_data)
    assert answer["loss"] == pytest.approx(result["metrics"]["loss"], rel=1e-6)
    del result["protocol"]["image_processor"]["size"]
    assert again(folder, result, colour_data)["loss"] != pytest.approx(answer["loss"], rel=1e-6)


def test_images_are_found_by_their_contents_under_another_name(folder, colour_data):
    result = evaluate(folder, colour_data)
    result["dataset"] |= {"path": "elsewhere", "split": "validation"}
    assert "split must be one of" in again(folder, result, colour_data)["reason"]
    assert again(folder, result, colour_data, split="test")["split"] == "test"
    result["dataset"]["fingerprint"] = "sha256:0"
    assert "has other images" in again(folder, result, colour_data, split="test")["reason"]
    assert content_fingerprint(open_split(str(colour_data), "train")).startswith("sha256:")


def test_a_result_that_cannot_be_repeated_says_why(folder, colour_data):
    result = evaluate(folder, colour_data)
    result["protocol"]["views"] = 5
    assert "views must be 1 or 10" in again(folder, result, colour_data)["reason"]
    del result["protocol"]
    incomplete = "ValueError: results[0] must be as `convzoo evaluate` writes it; "
    assert again(folder, result, colour_data)["reason"] == f"{incomplete}protocol: Field required"
    result["dataset"]["subset"] = "some"
    reason = again(folder, result, colour_data)["reason"]
    assert reason.startswith(f"{incomplete}dataset.subset: ")


def test_classes_that_were_matched_by_name_are_matched_again(folder, tmp_path):
    images, labels = coloured_images(9, seed=1)
    other = [(label + 2) % 3 for label in labels]
    names = [list(COLOURS)[(number + 1) % 3] for number in range(3)]
    write_split(tmp_path / "data" / "other", "test", images, other, names=names)
    result = evaluate(folder, tmp_path / "data" / "other")
    assert result["dataset"]["class_matching"]["by"] == "name"
    answer = again(folder, result, tmp_path / "data" / "other")
    assert answer["identified"] == "fingerprint"
    assert answer["loss"] == pytest.approx(result["metrics"]["loss"], rel=1e-6)


@pytest.mark.parametrize("options", [{"restricted": True}, {"mapped": True}])
def test_what_a_model_chose_among_is_repeated(options, folder, tmp_path):
    images, labels = coloured_images(12, seed=1)
    theirs = tmp_path / "their data"
    write_split(theirs, "test", images, [n % 2 for n in labels], names=["red", "cold"])
    classes = {"cold": ("green", "blue")} if "mapped" in options else {"cold": ("green",)}
    label_map = LabelMap(file="map.json", sha256="00", classes=classes)
    result = evaluate(
        folder, theirs, label_map=label_map, restricted=options.get("restricted", False)
    )
    assert result["dataset"]["class_matching"]["num_model_classes"] == 2
    answer = again(folder, json.loads(json.dumps(result)), theirs)
    assert answer["identified"] == "fingerprint"
    assert answer["loss"] == pytest.approx(result["metrics"]["loss"], rel=1e-6)
    assert answer["classes"] == result["classes"]
    assert not answer["derived"]["wrong"]


def test_a_network_in_a_file_is_measured_again(tmp_path, colour_data):
    write_onnx(tmp_path / "model.onnx")
    describe(tmp_path, file="model.onnx")
    result = evaluate(tmp_path, colour_data, crops=10)
    answer = again(tmp_path, result, colour_data)
    assert answer["loss"] == pytest.approx(result["metrics"]["loss"], rel=1e-6)
    loaded, model, _ = load_strictly(tmp_path)
    assert loaded["code"] == "onnxruntime" and model is not None
    assert loaded["exported"] == {"model.onnx": file_sha256(tmp_path / "model.onnx")}
    (tmp_path / "model.onnx").rename(tmp_path / "model.pt2")
    describe(tmp_path, file="model.pt2")
    loaded, model, _ = load_strictly(tmp_path)
    assert model is None and "runs with --trust-remote-code only" in loaded["error"]
    (check,) = check_loading(loaded, trusted=False)
    assert check.verdict == "not checked" and check.detail.startswith("model.pt2 was not run")


def test_every_image_is_drawn_equally_often_and_with_any_other_one():
    sizes = (7, 1, 12)
    source = Split(
        path="path",
        name="test",
        files=("a.parquet",),
        label_names=("x",),
        image_column="image",
        label_column="label",
        groups=tuple((0, number) for number in range(3)),
        group_rows=sizes,
        group_bytes=sizes,
        footers=(),
        fingerprint="",
        card={},
    )
    firsts, pairs, repeats = np.cumsum([0, *sizes]), collections.Counter(), 4000
    for seed in range(repeats):
        drawn = draw(source, 5, seed=seed)
        assert drawn.num_rows == 5
        parts = zip(drawn.groups, drawn.chosen, strict=True)
        rows = [int(firsts[group] + row) for (_, group), chosen in parts for row in chosen]
        assert len(set(rows)) == 5
        pairs.update((a, b) for a in rows for b in rows)
    singles = np.array([pairs[row, row] for row in range(20)]) / repeats
    together = np.array([count for (a, b), count in pairs.items() if a < b]) / repeats
    assert len(together) == 190
    np.testing.assert_allclose(singles, 5 / 20, atol=0.035)  # 5 standard deviations
    np.testing.assert_allclose(together, 5 * 4 / (20 * 19), atol=0.018)
    assert draw(source, 20, seed=0) is source
    same = tuple(draw(source, 5, seed=1).chosen for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(*same, strict=True))


def test_weights_load_strictly_or_not_at_all(folder):
    facts, model, processor = load_strictly(folder)
    assert facts["code"] == "modeling.modeling_cnn.CNN" and facts["error"] is None
    assert set(facts["files"].values()) == {True} and processor.crop_size["height"] == 16
    weights = load_file(folder / "model.safetensors")
    for change, words in (
        (lambda w: w.pop("classifier.bias"), "classifier.bias"),
        (lambda w: w.update(another=torch.zeros(1)), "another"),
        (lambda w: w.update({"classifier.bias": torch.zeros(4)}), "classifier.bias"),
    ):
        changed = dict(weights)
        change(changed)
        save_file(changed, folder / "model.safetensors", {"format": "pt"})
        facts, model, processor = load_strictly(folder)
        assert words in facts["error"] and model is None and processor is None
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")  # a pickle, which could run anything
    facts, model, _ = load_strictly(folder)
    assert "model.safetensors" in facts["error"] and model is None


def stock_model(folder):
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], id2label=dict(enumerate(COLOURS))
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        (None, "holds", "loaded strictly by Transformers itself"),
        ("weights", "does not hold", "weights and model do not fit"),
        (
            "size",
            "does not hold",
            "ValueError: weights and model do not fit; of another size: classifier.1.bias is (4,) "
            "and must be (3,)",
        ),
        ("no weights", "does not hold", "model.safetensors"),
        ({"model_type": "newnet"}, "not checked", "got 'newnet'. A newer version may know it"),
        ({"pretrained_cfg": {}}, "not checked", "pip install timm"),
    ],
)
def test_a_stock_model_fails_unless_a_library_is_missing(change, verdict, words, tmp_path):
    stock_model(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    if change == "weights":
        tensors = load_file(weights)
        tensors.pop("classifier.1.bias")
        save_file(tensors, weights, {"format": "pt"})
    elif change == "size":
        save_file(load_file(weights) | {"classifier.1.bias": torch.zeros(4)}, weights)
    elif change == "no weights":
        weights.unlink()
    elif change:
        config.write_text(json.dumps(json.loads(config.read_text()) | change))
    (check,) = check_loading(load_strictly(tmp_path)[0], trusted=False)
    assert check.verdict == verdict and words in check.detail


OTHER_CODE = """
from transformers import ConvNextImageProcessor


class OtherProcessor(ConvNextImageProcessor):
    pass
"""


@pytest.mark.parametrize("kind", ["OtherProcessor", "ConvNextImageProcessor"])
def test_code_that_prepares_the_images_of_a_stock_model_runs_only_if_it_may(kind, tmp_path):
    stock_model(tmp_path)
    (tmp_path / "image_processing_other.py").write_text(OTHER_CODE)
    path, reference = tmp_path / "preprocessor_config.json", "image_processing_other.OtherProcessor"
    code = {"image_processor_type": kind, "auto_map": {"AutoImageProcessor": reference}}
    path.write_text(json.dumps(json.loads(path.read_text()) | code))
    facts, model, _ = load_strictly(tmp_path)
    code, weights = check_loading(facts, trusted=False)
    assert (code.verdict, weights.verdict) == ("not checked", "holds")
    assert "--trust-remote-code" in code.detail
    if kind == "OtherProcessor":  # else Transformers' own class is there, and is what users get
        assert model is None and reference in code.detail
        (answer,) = reevaluate(Request(folder=str(tmp_path), results=[{}], data=[]))["results"]
        assert answer["reason"].startswith("ValueError: results[0] must be as")
    facts, model, processor = load_strictly(tmp_path, trust_remote_code=True)
    assert model is not None and type(processor).__name__ == "OtherProcessor"
    code, weights = check_loading(facts, trusted=True)
    assert (code.verdict, weights.verdict) == ("holds", "holds")
    assert "own code ran: transformers_modules." in code.detail
    reference = {"AutoImageProcessor": "another/place--image_processing_other.OtherProcessor"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": reference}))
    facts, model, _ = load_strictly(tmp_path, trust_remote_code=True)
    assert "auto_map must name code of this folder only" in facts["error"] and model is None


@pytest.mark.parametrize("trusted", [False, True])
def test_a_model_of_ours_without_code_is_measured_with_this_package(trusted, folder):
    for name in ("config.json", "preprocessor_config.json"):
        settings = json.loads((folder / name).read_text())
        del settings["auto_map"]
        (folder / name).write_text(json.dumps(settings))
    loaded, model, processor = load_strictly(folder, trust_remote_code=trusted)
    assert type(model) is CNN and type(processor) is ConvZooImageProcessor
    code, weights = check_loading(loaded, trusted=trusted)
    assert (code.verdict, weights.verdict) == ("holds", "holds")
    assert code.detail == "the repository has none; this package's ran (modeling.modeling_cnn.CNN)"
    weights = load_file(folder / "model.safetensors")
    weights.pop("classifier.bias")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    _, weights = check_loading(load_strictly(folder)[0], trusted=False)
    assert weights.verdict == "does not hold" and "classifier.bias" in weights.detail


def test_other_weights_than_those_of_the_hash_are_not_loaded(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "other/model"}')
    facts, model, _ = load_strictly(folder)
    assert "adapter_config.json" in facts["error"] and model is None
    (folder / "adapter_config.json").unlink()
    (folder / "other.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["transformers_weights"] = "other.safetensors"
    (folder / "config.json").write_text(json.dumps(config))
    facts, model, _ = load_strictly(folder)
    assert "transformers_weights" in facts["error"] and model is None


def test_code_for_other_classes_is_compared_too(folder):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "other.CNN"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "other.py").write_text("raise SystemExit\n")
    facts, model, _ = load_strictly(folder)
    assert facts["files"].pop("other.py") is False and set(facts["files"].values()) == {True}
    assert model is not None


def test_code_that_the_named_files_import_is_compared_too(folder):
    with (folder / "modeling_convzoo.py").open("a") as code:
        code.write("# changed\n")
    facts, model, _ = load_strictly(folder)
    assert facts["files"].pop("modeling_convzoo.py") is False
    assert facts["files"]["configuration_convzoo.py"] and set(facts["files"].values()) == {True}
    assert model is not None


@pytest.mark.parametrize("auto_class", ["AutoConfig", "AutoModel"])
def test_code_of_another_repository_is_never_fetched(auto_class, folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["auto_map"][auto_class] = "other/place--configuration_cnn.CNNConfig"
    path.write_text(json.dumps(config))
    facts, model, _ = load_strictly(folder, trust_remote_code=True)
    assert "auto_map must name code of this folder only" in facts["error"] and model is None
