"""Data that tests make for themselves."""

import io
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220)}


def encode(image, kind="JPEG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def write_split(folder, split, images, labels, files=2, rows_per_group=7, names=tuple(COLOURS)):
    """A split in the Hub's own parquet layout, with the metadata that `datasets` writes."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
    )
    rows = [{"bytes": data, "path": None} for data in images]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        table = pa.table(
            {"image": [rows[i] for i in part], "label": pa.array([labels[i] for i in part], "i8")},
            schema=features.arrow_schema,
        )
        path = folder / "data" / f"{split}-{number:05d}-of-{files:05d}.parquet"
        pq.write_table(table, path, row_group_size=rows_per_group)


def coloured_images(count, seed, side=(20, 44)):
    """JPEGs of many shapes, noise around the colour of their class."""
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for index in range(count):
        label = index % len(COLOURS)
        height, width = rng.integers(*side, size=2)
        noise = rng.normal(0, 40, (height, width, 3)) + list(COLOURS.values())[label]
        images.append(encode(noise.clip(0, 255).astype(np.uint8)))
        labels.append(label)
    return images, labels


@pytest.fixture(scope="session")
def colour_data(tmp_path_factory):
    """61 training and 23 test images of three classes, in 2 + 2 files of several row groups."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    write_split(folder, "train", *coloured_images(61, seed=0))
    write_split(folder, "test", *coloured_images(23, seed=1))
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory, colour_data):
    """A recipe that trains in seconds; its run goes to the folder given as run.output_dir."""
    path = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    path.write_text(
        f"""
        [model]
        model_type = "cnn"
        stem = "small"
        embedding_size = 8
        hidden_sizes = [16, 16]
        depths = [1, 1]
        drop_path_rate = 0.2
        [data]
        path = "{colour_data}"
        eval_split = "test"
        examples = 2
        num_workers = 0
        [preprocessing]
        resize = 18
        crop = 16
        [augmentation]
        scale = [0.5, 1.0]
        [optimizer]
        learning_rate = 0.05
        [schedule]
        warmup_epochs = 0.5
        [train]
        epochs = 3
        global_batch_size = 12
        max_grad_norm = 5.0
        log_every_steps = 1
        """
    )
    return path


ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "ACCELERATE_USE_CPU": "true",
}


def run(*arguments, cwd=ROOT, check=True, **environment):
    """Run this Python with arguments, as a user would; its output is shown when it fails."""
    done = subprocess.run(
        [sys.executable, *(str(argument) for argument in arguments)],
        cwd=cwd,
        env=os.environ | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if check and done.returncode:
        raise AssertionError(f"{arguments} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done


# Leaves a Python with its libraries but without our packages, even where they are installed
# editable: -S skips the site module, which would process the .pth file of an editable install.
STRANGER = f"""
import importlib.util, sys
sys.path.append({sysconfig.get_path("purelib")!r})
for package in ("modeling", "convzoo", "hub_cards"):
    assert importlib.util.find_spec(package) is None, package
"""


def run_as_stranger(code, *arguments, folder):
    """Run code in `folder` as somebody who never saw this repository, without a network."""
    home = {"HF_HOME": str(folder / "hf_home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", STRANGER + code, *(str(part) for part in arguments)],
        cwd=folder,
        stdin=subprocess.DEVNULL,  # nobody answers a question whether to trust the code
        env={key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ} | home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def launch_arguments(processes, *script):
    """Python's arguments for `accelerate launch` on CPU; its --cpu would start one process only."""
    plain = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    several = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else []
    launcher = ["-m", "accelerate.commands.launch", "-q", "--num_processes", str(processes)]
    return [*launcher, *plain, *several, *(str(part) for part in script)]


def train(recipe, *overrides, processes=1, check=True, **environment):
    """`accelerate launch train_accelerate.py RECIPE OVERRIDES`."""
    script = (ROOT / "train_accelerate.py", recipe, *overrides)
    return run(*launch_arguments(processes, *script), check=check, **environment)


def result_file(name):
    """The content of a file in benchmarks/results/."""
    path = ROOT / "benchmarks" / "results" / f"{name}_202611.json"
    return json.loads(path.read_text(encoding="utf-8"))


class Page:
    """A page of docs/, whose figures are to be those of result files."""

    def __init__(self, path):
        self.path = ROOT / path
        self.text = self.path.read_text(encoding="utf-8")
        self.sentences = " ".join(self.text.split())

    def table(self, heading):
        """The rows of the table whose first line begins so."""
        lines = self.text[self.text.index(heading) :].splitlines()[2:]
        lines = "\n".join(lines).partition("\n\n")[0].splitlines()
        return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in lines]

    def check_form(self):
        """At most 140 lines of 120 characters outside tables; links lead to files."""
        assert self.text.count("\n") <= 140
        prose = [line for line in self.text.splitlines() if not line.startswith("|")]
        assert max(map(len, prose)) <= 120
        for link in re.findall(r"\]\(([^)]+)\)", self.text):
            assert (self.path.parent / link).exists(), link
