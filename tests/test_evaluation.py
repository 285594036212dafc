import hashlib
import json
import warnings

import numpy as np
import pytest

from convzoo.environment import file_sha256
from convzoo.evaluation import METRIC, evaluate_folder, record_result
from convzoo.recipe import load_recipe
from tests.conftest import (
    COLOURS,
    ROOT,
    coloured_images,
    launch_arguments,
    run,
    write_split,
)


@pytest.fixture(scope="module")
def metric():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that evaluate imports
        import evaluate
    return evaluate.load(str(METRIC))


def test_the_metric_agrees_with_counting_by_hand(metric):
    predictions = [[3, 1, 2], [0, 1, 2], [2, 0, 3], [1, 2, 0]]
    references = [3, 1, 1, 0]  # found at places 1, 2, none, 3
    metric.add_batch(predictions=predictions[:3], references=references[:3])
    metric.add_batch(predictions=predictions[3:], references=references[3:])
    result = metric.compute(k=[1, 2, 3])
    assert result == {"top1_accuracy": 0.25, "top2_accuracy": 0.5, "top3_accuracy": 0.75}


def test_the_metric_refuses_a_k_that_was_not_predicted(metric):
    with pytest.raises(ValueError, match=r"k must lie in \[1, 3\].*got \[5\]"):
        metric.compute(predictions=[[0, 1, 2]], references=[0])


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tiny_recipe):
    from convzoo.building import build_model, build_processor

    recipe = load_recipe(tiny_recipe)
    folder = tmp_path_factory.mktemp("model")
    build_model(recipe, list(COLOURS)).save_pretrained(folder)
    build_processor(recipe.preprocessing).save_pretrained(folder)
    return folder


def expected_metrics(model_folder, images, labels):
    """One picture at a time, with nothing of ours but the model and its processor."""
    import io

    import torch
    from PIL import Image

    from modeling import CNN, ConvZooImageProcessor

    model = CNN.from_pretrained(model_folder)
    processor = ConvZooImageProcessor.from_pretrained(model_folder)
    logits = []
    with torch.no_grad():
        for data in images:
            pixel_values = processor(Image.open(io.BytesIO(data)), return_tensors="pt").pixel_values
            logits.append(model(pixel_values).logits[0].double().numpy())
    logits, labels = np.array(logits), np.array(labels)
    own = logits[np.arange(len(labels)), labels]
    losses = np.log(np.exp(logits - own[:, None]).sum(axis=1))
    return {"top1_accuracy": (logits.argmax(axis=1) == labels).mean(), "loss": losses.mean()}


@pytest.mark.parametrize("workers", [0, 2])
def test_results_equal_a_plain_loop_over_the_pictures(model_folder, colour_data, workers):
    result = evaluate_folder(
        str(model_folder),
        str(colour_data),
        "test",
        "the command",
        batch_size=4,
        num_workers=workers,
    )
    images, labels = coloured_images(23, seed=1)
    expected = expected_metrics(model_folder, images, labels)
    assert result["metrics"]["top1_accuracy"] == expected["top1_accuracy"]
    assert result["metrics"]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert result["metrics"]["top5_accuracy"] == 1.0  # three classes
    assert result["dataset"]["num_samples"] == 23
    content = hashlib.sha256()
    for data, label in zip(images, labels, strict=True):
        content.update(hashlib.sha256(data).digest() + label.to_bytes(4, "little"))
    assert result["dataset"]["fingerprint"] == "sha256:" + content.hexdigest()
    written = json.loads((model_folder / "eval_results.json").read_text())
    assert written == {"schema_version": 1, "results": [result]}
    assert result["model"]["sha256"] == file_sha256(model_folder / "model.safetensors")


def test_two_processes_give_the_results_of_one(model_folder, colour_data, tmp_path):
    script = tmp_path / "evaluate_twice.py"
    script.write_text(
        "import json, sys\n"
        "from accelerate import PartialState\n"
        "from convzoo.evaluation import evaluate_folder\n"
        "result = evaluate_folder(sys.argv[1], sys.argv[2], 'test', '', 4, 0)\n"
        "assert PartialState().num_processes == 2\n"
        "if PartialState().is_main_process:\n"
        "    json.dump(result, open(sys.argv[3], 'w'))\n"
    )
    run(*launch_arguments(2, script, model_folder, colour_data, tmp_path / "result.json"))
    two = json.loads((tmp_path / "result.json").read_text())
    one = evaluate_folder(str(model_folder), str(colour_data), "test", "", 4, 0)
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-6)
    assert two["dataset"] == one["dataset"]


def test_a_newer_result_replaces_its_own_and_drops_those_of_other_weights(tmp_path):
    def result(weights, data, accuracy):
        return {
            "dataset": {"fingerprint": data, "split": "test"},
            "protocol": {"views": 1},
            "metrics": {"top1_accuracy": accuracy},
            "model": {"sha256": weights},
        }

    for entry in [("a", "x", 0.1), ("a", "y", 0.2), ("a", "x", 0.3)]:
        record_result(tmp_path, result(*entry))
    stored = json.loads((tmp_path / "eval_results.json").read_text())["results"]
    assert stored == [result("a", "y", 0.2), result("a", "x", 0.3)]
    record_result(tmp_path, result("b", "x", 0.4))
    stored = json.loads((tmp_path / "eval_results.json").read_text())["results"]
    assert stored == [result("b", "x", 0.4)]


def test_other_classes_are_refused_and_other_names_reported(model_folder, tmp_path):
    images, labels = coloured_images(6, seed=2)
    write_split(tmp_path / "four", "test", images, labels, files=1, names="abcd")
    with pytest.raises(ValueError, match="the model has 3, .*four has 4"):
        evaluate_folder(str(model_folder), str(tmp_path / "four"), "test", "")
    write_split(tmp_path / "three", "test", images, labels, files=1, names="abc")
    with pytest.warns(UserWarning, match="3 class names .* differ, as 'red' and 'a'"):
        evaluate_folder(str(model_folder), str(tmp_path / "three"), "test", "", num_workers=0)


def test_a_file_that_is_no_picture_is_named(model_folder, tmp_path):
    images, labels = coloured_images(6, seed=2)
    images[4] = images[4][:40]
    write_split(tmp_path / "bad", "test", images, labels, files=1)
    with pytest.raises(ValueError, match="row 4 of split test: .*readable JPEG"):
        evaluate_folder(str(model_folder), str(tmp_path / "bad"), "test", "", num_workers=0)


def test_the_command_line_reports_errors_without_a_traceback(tmp_path):
    done = run(
        *["-m", "convzoo", "evaluate", tmp_path / "none", "--data", ROOT / "data/photos"],
        check=False,
    )
    assert done.returncode == 1
    assert "error:" in done.stderr and "Traceback" not in done.stderr
