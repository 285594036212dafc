"""Accuracy by reassessed labels, against its definition."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convzoo.cli import main
from convzoo.data.opening import open_split
from convzoo.evaluation.chosen_images import Choice
from convzoo.evaluation.label_maps import LabelMap
from convzoo.evaluation.real_labels import RealLabels, plan_real, read_real_labels
from convzoo.evaluation.remeasuring import Request, reevaluate
from convzoo.evaluation.results import read_results, record_result
from convzoo.files import file_sha256
from convzoo.imagenet_classes import imagenet_names
from tests.support.exported_files import write_onnx_of_imagenet
from tests.support.images import encode

LISTS = [[3], [], [7, 3], [1], [2, 5], []]


def write_images(folder, numbers):
    """Validation images of ImageNet, each of a grey of its own, in folders of their classes."""
    for number in numbers:
        place = folder / "validation" / ("n01440764" if number % 2 else "n01443537")
        place.mkdir(parents=True, exist_ok=True)
        image = np.full((40, 40, 3), 40 * number, np.uint8)
        (place / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(encode(image))
    return folder


def test_images_are_found_by_their_names_and_lists_have_several_right_answers(tmp_path, capsys):
    """The network answers class N to grey 40 * N: images 1 to 6, whose lists are LISTS."""
    network, real = tmp_path / "net", tmp_path / "real.json"
    write_onnx_of_imagenet(network)
    real.write_text(json.dumps(LISTS))
    data = write_images(tmp_path / "val", [1, 2, 3, 5, 6])
    arguments = [str(network), "--data", str(data), "--split", "validation"]
    assert main(["evaluate", *arguments, "--real-labels", str(real)]) == 0
    assert "ReaL 66.67%" in capsys.readouterr().out
    (result,) = read_results(network)
    found = result["real_labels"]
    # Answers are the numbers of the images: of 1, 3 and 5, which have labels, 1 is not in its list.
    assert (found["num_samples"], found["num_correct"]) == (3, 2)
    assert found["sha256"] == file_sha256(real)
    assert result["metrics"]["top1_accuracy"] == 0  # by the folders that they lie in


def test_rows_of_parquet_files_are_found_by_the_names_that_they_came_with(tmp_path):
    """As the dataset on the Hub has them, in any order, with the WordNet id after the number."""
    names = [f"ILSVRC2012_val_{n:08d}_n01440764.JPEG" for n in (4, 1, 6)]
    table = pa.table(
        {
            "image": [{"bytes": encode(np.zeros((9, 9, 3), np.uint8)), "path": n} for n in names],
            "label": [0, 1, 0],
        }
    )
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["tench", "goldfish"]},
    }
    facts = json.dumps({"info": {"features": features}})
    pq.write_table(
        table.replace_schema_metadata({"huggingface": facts}),
        tmp_path / "validation-00000-of-00001.parquet",
    )
    labels = RealLabels(file="", sha256="", lists=LISTS)
    source = open_split(str(tmp_path), "validation")
    assert plan_real(labels, source, imagenet_names()).images.tolist() == [3, 0, 5]
    with pytest.raises(ValueError, match=r"are called .* to _00000005, .*got 'ILSVRC.*0006_n01"):
        plan_real(RealLabels(file="", sha256="", lists=LISTS[:5]), source, imagenet_names())
    with pytest.raises(ValueError, match="for models of ImageNet-1k"):
        plan_real(labels, source, ["red", "green"])
    with pytest.raises(ValueError, match="1000 classes of ImageNet; this one has 2"):
        plan_real(labels, source, ["tench", "goldfish"])


@pytest.mark.parametrize("content", ["{}", "[]", "[[1000]]", "[[-1]]", '[["a"]]', "[3]", "x"])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "real.json").write_text(content)
    with pytest.raises(ValueError, match="must be real.json of google-research"):
        read_real_labels(tmp_path / "real.json")
    with pytest.raises(FileNotFoundError, match="there is no"):
        read_real_labels(tmp_path / "other.json")


def test_the_same_answers_keep_their_accuracy_and_other_ones_do_not(tmp_path, caplog):
    network, real = tmp_path / "net", tmp_path / "real.json"
    write_onnx_of_imagenet(network)
    real.write_text(json.dumps(LISTS))
    data = write_images(tmp_path / "val", [1, 2, 3, 5, 6])
    command = ["evaluate", str(network), "--data", str(data), "--split", "validation"]
    assert main([*command, "--real-labels", str(real)]) == 0
    (before,) = read_results(network)
    assert main([*command, "--logits"]) == 0
    (after,) = read_results(network)
    assert after["predictions"]["logits"] and after["real_labels"] == before["real_labels"]
    assert "is dropped" not in caplog.text
    other = after | {"metrics": after["metrics"] | {"loss": after["metrics"]["loss"] + 1}}
    other.pop("real_labels")
    record_result(network, other)
    (dropped,) = read_results(network)
    assert "real_labels" not in dropped
    assert "val [validation], 66.67%, is dropped: it was measured with other predictions" in (
        caplog.text
    )


def test_they_are_counted_again_from_predictions_or_from_images(tmp_path):
    network, real, other = tmp_path / "net", tmp_path / "real.json", tmp_path / "other.json"
    write_onnx_of_imagenet(network)
    real.write_text(json.dumps(LISTS))
    other.write_text(json.dumps(LISTS[::-1]))
    data = write_images(tmp_path / "val", [1, 2, 3, 5, 6])
    command = ["evaluate", str(network), "--data", str(data), "--split", "validation"]
    assert main([*command, "--real-labels", str(real)]) == 0
    (result,) = read_results(network)

    def again(labels="", data=()):
        request = Request(
            folder=str(network),
            results=[result],
            data=[*map(str, data)],
            real_labels=str(labels),
            num_workers=0,
        )
        (answer,) = reevaluate(request)["results"]
        return answer["real"]

    sha256 = f"real.json of SHA-256 {file_sha256(real)}"
    assert again() == {"reason": f"to count it again, --real-labels must name {sha256}"}
    assert f"must name {sha256}; {other} has" in again(other)["reason"]
    counted, file = {"num_samples": 3, "num_correct": 2}, result["predictions"]["file"]
    assert again(real) == again(real, [data]) == counted | {"predictions": file}
    (network / file).unlink()
    assert again(real)["reason"] == "neither predictions nor images are here"
    assert again(real, [data]) == counted | {"predictions": ""}


def test_a_label_map_is_refused_since_an_answer_may_be_several_classes():
    label_map = LabelMap(file="m", sha256="", classes={})
    with pytest.raises(ValueError, match="single classes of ImageNet, and --label-map .* got both"):
        Choice(label_map=label_map, real_labels=RealLabels(file="", sha256="", lists=LISTS))
