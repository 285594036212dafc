"""The validation share: stratified, disjoint, the same everywhere, measured again by evaluate."""

import collections
import json
import re
import shutil

import numpy as np
import pytest
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from convzoo.data.copies import find_copies
from convzoo.data.opening import open_split
from convzoo.data.subset import subset
from convzoo.data.validation_share import repeat_choices, take_share
from convzoo.images.decoding import decode_rgb
from convzoo.recipe.files import load_recipe
from convzoo.training.metrics_log import read_metrics
from convzoo.training.run_data import open_run_data
from tests.support.clients import run_warm, train
from tests.support.hub_server import HubServer
from tests.support.images import COLOURS, coloured_images, encode, write_image_folder, write_split


def names_of(split):
    """Files of a folder split, in its order."""
    return [path.rsplit("/", 1)[1] for path in split.paths()]


def contents(split):
    """Encoded bytes of every row."""
    groups = [split.read_group(number) for number in range(len(split.groups))]
    return [bytes(rows[row][0]) for rows in groups for row in range(len(rows))]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write a folder of classes with copies: for each class a list of contents of its files."""
    count = iter(range(10**6))

    def write(classes):
        folder = tmp_path_factory.mktemp("folders") / str(next(count))
        for label, files in enumerate(classes):
            for number, content in enumerate(files):
                path = folder / f"class{label}" / f"{number:03d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"%06d" % content)  # one size: every file must be compared
        return open_split(str(folder), "train")

    return write


@settings(derandomize=True, database=None, deadline=None, max_examples=80)
@given(
    classes=st.lists(st.lists(st.integers(0, 25), min_size=1, max_size=20), min_size=2, max_size=4),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_share_is_stratified_disjoint_and_complete(written, *, classes, fraction, seed):
    whole = written(classes)
    owners = collections.defaultdict(set)
    for label, files in enumerate(classes):
        for content in files:
            owners[content].add(label)
    # An independent statement of what can be taken: different images that are in one class only.
    fair = [{content for content in files if len(owners[content]) == 1} for files in classes]
    if not any(len(images) > 1 for images in fair):
        with pytest.raises(ValueError, match="data.eval_fraction needs a class with two different"):
            take_share(whole, fraction, seed)
        return
    training, validation = take_share(whole, fraction, seed)
    assert training.num_rows + validation.num_rows == whole.num_rows
    assert sorted(training.paths() + validation.paths()) == whole.paths()
    assert set(contents(training)).isdisjoint(contents(validation))
    for part in (training, validation):
        assert part.paths() == sorted(part.paths())
        assert part.label_names == whole.label_names
        labels = [int(path.split("/")[-2].removeprefix("class")) for path in part.paths()]
        assert part.read_labels().tolist() == labels
    left = collections.Counter(training.read_labels().tolist())
    counts = collections.Counter(validation.read_labels().tolist())
    for label, files in enumerate(classes):
        assert left[label] > 0
        number = sum(content in fair[label] for content in files)
        if len(fair[label]) < 2:
            assert not counts[label]
            continue
        assert counts[label] > 0
        if len(set(files)) == len(files):
            assert counts[label] == min(max(1, round(fraction * number)), number - 1)
        else:
            smallest = min(files.count(content) for content in fair[label])
            assert counts[label] <= max(round(fraction * number), smallest)
    again = take_share(open_split(whole.path, "train"), fraction, seed)
    assert [part.fingerprint for part in again] == [training.fingerprint, validation.fingerprint]
    for part in (training, validation):
        assert repeat_choices(whole, part.subset["taken"], renumber=True).paths() == part.paths()


def test_other_seeds_and_fractions_give_other_shares(tmp_path):
    write_image_folder(tmp_path / "photos")
    whole = open_split(str(tmp_path / "photos"), "train")
    shares = [take_share(whole, fraction, seed)[1] for fraction in (0.2, 0.3) for seed in (1, 2)]
    assert len({share.fingerprint for share in shares}) == 4
    assert [share.num_rows for share in shares] == [12, 12, 18, 18]


def test_copies_in_parquet_files_go_to_one_side_too(tmp_path):
    images, labels = coloured_images(24, seed=0)
    write_split(tmp_path, "train", images * 2, labels * 2)
    whole = open_split(str(tmp_path), "train")
    assert find_copies(whole).numbers(48).tolist() == [*range(24)] * 2
    training, validation = take_share(whole, 0.25, 0)
    assert validation.num_rows == 12
    assert set(contents(training)).isdisjoint(contents(validation))


TAKES = """
import json
import re
from convzoo.data.opening import open_split
from convzoo.data.validation_share import take_share

parts = take_share(open_split("user/colours", "train"), 0.25, 3)
json.dump([[part.num_rows, part.read_labels().tolist()] for part in parts], open("saw.json", "w"))
"""


def test_a_share_of_the_hub_costs_no_image(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = [rng.bytes(20_000) for _ in range(60)], [i % 3 for i in range(60)]
    write_split(tmp_path / "colours", "train", images, labels)
    with HubServer(tmp_path / "hub", {"hf_user": "user"}) as hub:
        hub.add_repo("datasets", "user/colours", tmp_path / "colours")
        hub.run("-c", TAKES, home=tmp_path / "home", token="hf_user", cwd=tmp_path)
        assert hub.bytes_sent("GET /storage/") < 600_000  # footers and labels; images are 1,200,000
    local = take_share(open_split(str(tmp_path / "colours"), "train"), 0.25, 3)
    seen = json.loads((tmp_path / "saw.json").read_text())
    assert seen == [[part.num_rows, part.read_labels().tolist()] for part in local]


def test_classes_of_one_image_stay_in_training_and_are_named(tmp_path, caplog):
    write_image_folder(tmp_path / "photos")
    for name in ("rare", "alone"):
        path = tmp_path / "photos" / "train" / name / "1.png"
        path.parent.mkdir()
        path.write_bytes(encode(np.full((8, 8, 3), len(name), np.uint8), "PNG"))
    training, validation = take_share(open_split(str(tmp_path / "photos"), "train"), 0.5, 0)
    said = "2 classes have no two different images and are not validated: alone, rare"
    assert said in caplog.text
    names = [training.label_names[label] for label in training.read_labels()]
    assert names.count("rare") == names.count("alone") == 1
    assert {validation.label_names[n] for n in validation.read_labels()} == set(COLOURS)


def test_the_share_does_not_depend_on_what_else_is_chosen(tiny_recipe):
    share = ("data.eval_split=", "data.eval_fraction=0.25")
    plain = open_run_data(load_recipe(tiny_recipe, share))
    less = open_run_data(load_recipe(tiny_recipe, [*share, "data.fraction=0.5", "data.limit=20"]))
    assert less.validation.fingerprint == plain.validation.fingerprint
    assert (plain.train.num_rows, plain.validation.num_rows, less.train.num_rows) == (46, 15, 20)
    assert set(contents(less.train)) < set(contents(plain.train))
    limited = open_run_data(load_recipe(tiny_recipe, [*share, "data.eval_limit=5"]))
    assert limited.validation.num_rows == 5 and limited.train.num_rows == 46
    few = open_run_data(load_recipe(tiny_recipe, [*share, "data.classes=['red', 'blue']"]))
    assert few.validation.label_names == ("red", "blue")


def test_a_share_and_a_split_together_are_refused(tiny_recipe):
    with pytest.raises(ValueError, match=r"must not be set together; got 'test' and 0\.1\. Leave"):
        load_recipe(tiny_recipe, ["data.eval_fraction=0.1"])


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory, tiny_recipe):
    """The same training on one process and on two."""
    output = tmp_path_factory.mktemp("runs")
    share = ("data.eval_split=", "data.eval_fraction=0.25", "train.epochs=1")
    for processes in (1, 2):
        train(
            tiny_recipe, f"run.output_dir={output}", f"run.name=on{processes}", *share,
            processes=processes,
        )  # fmt: skip
    return output


def test_one_and_two_processes_have_the_same_share(shared_runs, colour_data):
    records = [
        json.loads((shared_runs / f"on{count}/model/train_results.json").read_text())
        for count in (1, 2)
    ]
    one, two = records
    assert one["validation"] == two["validation"] and one["dataset"] == two["dataset"]
    assert one["dataset"]["num_samples"] == 46 and one["validation"]["num_samples"] == 15
    step = {"eval_fraction": 0.25, "seed": 42, "part": "validation"}
    assert one["validation"]["subset"] == {"of": 61, "taken": [step]}
    share = take_share(open_split(str(colour_data), "train"), 0.25, 42)[1]
    assert one["validation"]["fingerprint"] == share.fingerprint


@pytest.mark.parametrize("which", ["model", "checkpoint"])
def test_evaluate_measures_the_same_share_again(which, shared_runs, *, colour_data, tmp_path):
    folder = tmp_path / "copy"
    run_folder = shared_runs / "on1"
    checkpoint = max((run_folder / "checkpoints").iterdir())
    shutil.copytree(run_folder / "model" if which == "model" else checkpoint, folder)
    moved = shutil.copytree(colour_data, tmp_path / "moved")
    done = run_warm("-m", "convzoo", "evaluate", folder, "--data", moved, "--validation-share")
    assert "the validation share, 15 of 61 images," in done.stdout
    result = json.loads((folder / "eval_results.json").read_text())["results"][0]
    line = [line for line in read_metrics(run_folder / "metrics.jsonl") if "eval_loss" in line][-1]
    assert result["metrics"]["top1_accuracy"] == pytest.approx(line["eval_top1_accuracy"], 1e-5)
    assert result["metrics"]["loss"] == pytest.approx(line["eval_loss"], rel=1e-4)
    assert load_file(folder / "model.safetensors")  # it was only read


def test_a_share_of_other_data_or_of_none_is_refused(shared_runs, tiny_recipe, tmp_path):
    model = shared_runs / "on1" / "model"
    data = tmp_path / "data"
    write_split(data, "train", *coloured_images(61, seed=7))
    wrong = ("evaluate", model, "--validation-share", "--data")
    done = run_warm("-m", "convzoo", *wrong, data, check=False)
    assert done.returncode == 1 and "--data must be the images that" in done.stderr
    other = shutil.copytree(model, tmp_path / "other")
    record = json.loads((other / "train_results.json").read_text())
    record["validation"] = subset(open_split(str(data), "train"), limit=3).describe()
    (other / "train_results.json").write_text(json.dumps(record))
    done = run_warm(
        "-m", "convzoo", "evaluate", other, "--validation-share", "--data", data, check=False
    )
    assert "records none. Use --split train" in done.stderr


def test_images_are_compared_once_in_the_life_of_a_run_folder(tiny_recipe, tmp_path, caplog):
    """And those that look alike on both sides are named each time."""
    images, labels = coloured_images(24, seed=0, side=(40, 44))
    for number, (data, label) in enumerate(zip(images, labels, strict=True)):
        for kind, suffix in (("JPEG", "jpg"), ("PNG", "png")):
            path = tmp_path / "photos" / "abc"[label] / f"{number:03d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if kind == "JPEG" else encode(decode_rgb(data), "PNG"))
    (tmp_path / "photos/a/twice.jpg").write_bytes(images[0])
    overrides = [f"data.path={tmp_path / 'photos'}", "data.eval_split=", "data.eval_fraction=0.3"]
    overrides += [f"run.output_dir={tmp_path}", "train.global_batch_size=8"]
    recipe, accelerator = load_recipe(tiny_recipe, overrides), Accelerator(cpu=True)
    recipe.folder.mkdir()
    shares = [open_run_data(recipe, each).validation for each in (None, accelerator, accelerator)]
    assert len({share.fingerprint for share in shares}) == 1
    record = json.loads((recipe.folder / "image_copies.json").read_text())
    assert len(record["same"]) == 1 and len(record["alike"]) >= 20
    warnings = [each.message for each in caplog.records if "look alike" in each.message]
    assert len(warnings) == 3 and len(set(warnings)) == 1
    assert re.match(r"\d+ pair\(s\) of images look alike, one in training and one in", warnings[0])
    assert "000.jpg" in warnings[0] or "001.jpg" in warnings[0] or ".png" in warnings[0]
    # A record is believed as long as files keep names, sizes and times; a damaged one is not read.
    record["same"] = []
    (recipe.folder / "image_copies.json").write_text(json.dumps(record))
    open_run_data(recipe, accelerator)
    assert json.loads((recipe.folder / "image_copies.json").read_text())["same"] == []
    (tmp_path / "photos/a/twice.jpg").touch()
    open_run_data(recipe, accelerator)
    assert len(json.loads((recipe.folder / "image_copies.json").read_text())["same"]) == 1
    (recipe.folder / "image_copies.json").write_text("{cut")
    assert open_run_data(recipe, accelerator).validation.fingerprint == shares[0].fingerprint


def test_files_of_one_size_that_differ_at_one_byte_are_no_copies(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.bytes(20_000)
    variants = [data, data[:-1] + b"x", b"x" + data[1:], data[:10_000] + b"x" + data[10_001:], data]
    for number, content in enumerate(variants):
        path = tmp_path / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    split = open_split(str(tmp_path), "train")
    (same,) = find_copies(split).same
    assert [split.paths()[row][-5:] for row in same] == ["0.jpg", "4.jpg"]
