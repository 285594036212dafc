"""docs/what-happens.md tells the truth: each situation is made, and its message is found."""

import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from convzoo.cli import main
from convzoo.data.opening import open_split
from convzoo.errors import expected_problem
from convzoo.recipe.files import load_recipe
from convzoo.training.building import build_model, build_processor
from convzoo.training.commits import note_commits, stay_on_commits
from convzoo.training.progress import Plan
from convzoo.training.run_data import open_run_data
from tests.support.clients import ENVIRONMENT, ROOT, run, run_warm
from tests.support.documents import Page
from tests.support.image_datasets import write_tars
from tests.support.images import COLOURS, coloured_images, encode, write_split

PAGE = Page("docs/what-happens.md")
ROWS = [row for table in re.findall(r"(?:^\|.*\n)+", PAGE.text, re.M) for row in table.split("\n")]
ROWS = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in ROWS if row]
ROWS = {row[0]: row[2] for row in ROWS if row[0] not in ("what you have", "---")}
CASES = {}


def case(situation):
    """Register what makes a situation of the page; it returns what was said, or raises it."""
    return lambda make: CASES.setdefault(situation, make)


class Place:
    """A folder for a situation, and what one does in it."""

    def __init__(self, folder, request):
        self.folder, self.data, self.request = folder, folder / "data", request
        self.recipe, self.model = map(request.getfixturevalue, ("tiny_recipe", "model"))

    @property
    def stopped(self):
        return self.request.getfixturevalue("stopped")

    def images(self, *names):
        for number, name in enumerate(names):
            path = self.data / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (number, 90, 90)).save(path)

    def parquet(self, split="train", labels=None, **columns):
        images, ours = coloured_images(12, seed=0)
        write_split(self.data, split, images, ours if labels is None else labels, **columns)

    def train(self, *overrides):
        """Open the data as a training does."""
        changes = ("data.eval_split=''", "train.global_batch_size=2", *overrides)
        open_run_data(load_recipe(self.recipe, [f"data.path={self.data}", *changes]))

    def evaluate(self):
        main(["evaluate", str(self.model), "--data", str(self.data), "--num-workers", "0"])


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_recipe):
    recipe, folder = load_recipe(tiny_recipe), tmp_path_factory.mktemp("models") / "model"
    build_model(recipe, list(COLOURS)).save_pretrained(folder)
    build_processor(recipe.preprocessing).save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path, request):
    return Place(tmp_path, request)


def test_every_row_has_its_situation_and_the_page_its_links():
    assert ROWS.keys() == CASES.keys()
    PAGE.check_form()
    for page in ("docs/README.md", "docs/images.md", "docs/training.md"):
        assert "what-happens.md" in Page(page).links()


@pytest.mark.parametrize("situation", ROWS)
def test_what_happens(situation, place, *, capsys, caplog):
    message = ROWS[situation].strip("`")
    caplog.set_level(logging.INFO)
    try:
        said = CASES[situation](place) or ""
    except Exception as error:
        said = expected_problem(error)
        assert said is not None, "an error with a traceback"
    printed = capsys.readouterr()
    said = " ".join(f"{said} {caplog.text} {printed.out} {printed.err}".split())
    assert "Traceback" not in said
    assert re.search(".*".join(map(re.escape, message.split("..."))), said), said


# ---- folders and files -------------------------------------------------------------------------
@case("`train/cat/1.jpg`, `train/dog/2.jpg`, `val/cat/3.jpg`, `val/dog/4.jpg`")
def _(place):
    place.images("train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/dog/4.jpg")
    place.train("data.eval_split=validation")


@case("`cat/1.jpg`, `dog/2.jpg`")
def _(place):
    place.images("cat/1.jpg", "dog/2.jpg")
    place.train()


@case("`train/test/1.jpg`, `train/dog/2.jpg`")
def _(place):
    place.images("train/test/1.jpg", "train/dog/2.jpg")
    place.train()


@case("`cat/2020/1.jpg`, `dog/2021/2.jpg`")
def _(place):
    place.images("cat/2020/1.jpg", "dog/2021/2.jpg")
    place.train()


@case("`train/cat/1.jpg`, `train/dog/2.jpg`, `test/3.jpg`")
def _(place):
    place.images("train/cat/1.jpg", "train/dog/2.jpg", "test/3.jpg")
    place.train()
    place.evaluate()


@case("a `metadata.csv` with `file_name` and `label`")
def _(place):
    place.images("cat/1.jpg", "dog/2.jpg")
    (place.data / "metadata.csv").write_text("file_name,label\ncat/1.jpg,light\ndog/2.jpg,dark\n")
    place.train()


@case("`notes.txt` among the images")
def _(place):
    place.images("cat/1.jpg", "dog/2.jpg")
    (place.data / "notes.txt").touch()
    place.train()


@case("images of one class only")
def _(place):
    place.images("train/cat/1.jpg", "train/cat/2.jpg")
    place.train()


@case("images and parquet files in several folders")
def _(place):
    place.images("cat/1.jpg", "dog/2.jpg")
    place.parquet()
    place.train()


@case("a second name for an image, by a link")
def _(place):
    place.images("cat/1.jpg", "dog/2.jpg")
    (place.data / "dog" / "3.jpg").symlink_to(place.data / "cat" / "1.jpg")
    place.train()


@case("a list of paths, `list.csv`, with one that leads nowhere")
def a_list_with_a_missing_image(place):
    place.images("1.jpg", "2.jpg")
    (place.data / "list.csv").write_text("path,label\n1.jpg,cat\n9.jpg,dog\n")
    open_split(str(place.data / "list.csv"), "train")


@case("a list that has an image twice")
def a_list_with_an_image_twice(place):
    place.images("1.jpg", "2.jpg")
    (place.data / "list.csv").write_text("1.jpg,cat\n2.jpg,dog\n1.jpg,dog\n")
    open_split(str(place.data / "list.csv"), "train")


@case("a `.tar` that was cut off")
def a_tar_that_was_cut_off(place):
    (tar,) = write_tars(place.data, 9, shards=1).glob("*.tar")
    tar.write_bytes(tar.read_bytes()[:2000])
    place.train()


@case("compressed tars, `train.tar.gz`")
def compressed_tars(place):
    place.data.mkdir()
    (place.data / "train.tar.gz").write_bytes(b"")
    place.train()


@case("a path that does not exist")
def _(place):
    place.train()


@case("a dataset on the Hub that moves on during a run")
def _(place):
    """tests/test_commits.py does it over HTTP."""
    overrides = ("data.path=user/data", f"run.output_dir={place.folder}", "run.name=run")
    recipe = load_recipe(place.recipe, overrides)
    recipe.folder.mkdir()
    note_commits(recipe, {"data": "a" * 40})
    assert stay_on_commits(recipe, ("data",)).data.revision == "a" * 40


# ---- labels ------------------------------------------------------------------------------------
def write_labels(place, labels):
    """A parquet file with a plain column of labels."""
    import datasets

    images = [{"bytes": data, "path": None} for data in coloured_images(len(labels), seed=0)[0]]
    rows = {"image": images, "label": labels}
    place.data.mkdir()
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.Features.from_arrow_schema(pa.table({"label": labels}).schema)[
                "label"
            ],
        }
    )
    table = pa.table(rows, schema=features.arrow_schema)
    pq.write_table(table, place.data / "train.parquet")


@case("a parquet column `label` of texts")
def _(place):
    write_labels(place, ["dog", "cat", "dog"])
    place.train()


@case("several labels for an image")
def _(place):
    write_labels(place, [[0, 1], [1], [2]])
    place.train()


@case("a split whose labels are all -1")
def _(place):
    place.parquet("test", labels=[-1] * 12)
    place.evaluate()


@case("one label that is no class")
def _(place):
    place.parquet(labels=[0, 7, *[1] * 10], names=("cat", "dog"))
    place.train()


@case("parquet files of a split with other class orders")
def _(place):
    place.parquet(files=1)
    first = place.data / "data" / "train-00000-of-00001.parquet"
    first.rename(first.with_name("train-00000-of-00002.parquet"))
    other = Place(place.folder / "other", place.request)
    other.parquet(files=1, names=("green", "red", "blue"))
    written = other.data / "data" / "train-00000-of-00001.parquet"
    written.rename(place.data / "data" / "train-00001-of-00002.parquet")
    place.train()


@case("training and validation images of other classes")
def _(place):
    place.parquet("train")
    place.parquet("test", names=("green", "red", "blue"))
    place.train("data.eval_split=test")


@case("a `data.limit` that leaves one class")
def _(place):
    place.parquet(labels=sorted(coloured_images(12, seed=0)[1]))
    place.train("data.limit=4")


# ---- images ------------------------------------------------------------------------------------
def write_image(place, name, data):
    place.images("test/red/0.jpg", "test/green/2.jpg", "test/blue/3.jpg")
    (place.data / "test" / "red" / name).write_bytes(data)
    place.evaluate()


@case("a file that was cut off, in an evaluation")
def _(place):
    write_image(place, "1.jpg", coloured_images(1, seed=0)[0][0][:300])


@case("PostScript that is called `.jpg`")
def _(place):
    write_image(place, "1.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n")


@case("grey images with 12 bits in files of 16")
def _(place):
    write_image(place, "1.png", encode(np.full((20, 20), 4095, np.uint16), "PNG"))


@case("an image 900 pixels wide and 2 high, in an evaluation")
def _(place):
    write_image(place, "1.png", encode(np.zeros((2, 900, 3), np.uint8), "PNG"))


# ---- weights, recipes and machines -------------------------------------------------------------
def predict(place, save):
    """Predict with a copy of the model whose weights were saved in another way."""
    broken = shutil.copytree(place.model, place.folder / "broken")
    save(broken)
    Image.new("RGB", (20, 20)).save(place.folder / "black.png")
    assert main(["predict", str(broken), str(place.folder / "black.png")]) == 1


@case("weights that are not finite")
def _(place):
    def save(broken):
        from safetensors.torch import load_file, save_file

        weights = load_file(broken / "model.safetensors")
        weights["classifier.weight"].fill_(torch.nan)
        save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})

    predict(place, save)


@case("a pickle that asks for code")
def _(place):
    def save(broken):
        (broken / "model.safetensors").unlink()
        (broken / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Path("x")}, 2))

    predict(place, save)


@case("`model.depths=3`")
def _(place):
    load_recipe(place.recipe, ["model.depths=3"])


@case("`model.embedding_size=1000000000000`")
def _(place):
    build_model(load_recipe(place.recipe, ["model.embedding_size=1000000000000"]), ["a", "b"])


@case("`train.epochs=1e15`")
def _(place):
    Plan.of(load_recipe(place.recipe, ["train.epochs=1e15"]), 1000)


@case("no way to the Hub")
def _(place):
    nowhere = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = run("-m", "convzoo", "inspect", "user/name", check=False, **nowhere)
    assert done.returncode == 1
    return done.stderr


INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
sys.meta_path.insert(0, Finder())
from convzoo.cli import main
sys.exit(main(sys.argv[1:]))
"""


@case("Ctrl-C in a `convzoo` command, also while it starts")
def _(place):
    done = run("-c", INTERRUPTED, "inspect", place.model, check=False)
    assert done.returncode == 130
    return done.stderr


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, tiny_recipe):
    """A training that got SIGTERM, with what it said; an image of its data was cut off."""
    folder = tmp_path_factory.mktemp("stopped")
    images, labels = coloured_images(24, seed=0)
    images[5] = images[5][:300]
    write_split(folder / "data", "train", images, labels)
    overrides = [f"data.path={folder / 'data'}", "data.eval_split=''", f"run.output_dir={folder}"]
    overrides += ["data.max_unreadable_share=0.5", "train.epochs=1000000", "run.name=run"]
    command = [sys.executable, str(ROOT / "train_accelerate.py"), str(tiny_recipe), *overrides]
    with (folder / "stderr.txt").open("w") as stderr:
        environment = os.environ | ENVIRONMENT | {"ACCELERATE_MIXED_PRECISION": "bf16"}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=stderr)
    deadline = time.monotonic() + 120
    log = folder / "run" / "metrics.jsonl"
    while not log.is_file() or log.read_text().count("\n") < 20:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    return folder, command, (folder / "stderr.txt").read_text()


@case("`--mixed_precision bf16` of `accelerate`, or of its configuration")
@case("a file that was cut off, in a training")
@case("SIGTERM or Ctrl-C in a training")
def _(place):
    return place.stopped[2]


@case("labels that changed since the last checkpoint")
def _(place):
    folder, command, _ = place.stopped
    images, labels = coloured_images(24, seed=0)
    images[5] = images[5][:300]
    write_split(folder / "data", "train", images, [(label + 1) % 3 for label in labels])
    done = run_warm(*command[1:], check=False)
    assert done.returncode == 1
    return done.stderr


def test_a_class_that_is_called_like_a_split_is_in_its_split_only(place):
    place.images("train/test/1.jpg", "train/dog/2.jpg", "test/test/3.jpg", "test/dog/4.jpg")
    assert [open_split(str(place.data), split).num_rows for split in ("train", "test")] == [2, 2]
