"""Fixtures of several test files; what they are made of lies in tests/support/."""

import atexit
import logging
import os
import shutil
import tempfile

import pytest

from tests.support.images import coloured_images, write_split

# Compiling our modules anew would take a fifth of the start of each process.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Indexes of tars that tests make go there; huggingface_hub looks at its import.
os.environ["HF_ASSETS_CACHE"] = tempfile.mkdtemp(prefix="convzoo-assets-")
QUIET = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
atexit.register(shutil.rmtree, os.environ["HF_ASSETS_CACHE"], ignore_errors=True)


# Files that take longest begin, so that at the end no process waits for another.
LONGEST = (
    *("train_accelerate", "gpu_benchmark", "own_images", "end_to_end", "verifying", "app", "hub"),
    *("pushing", "spaces", "commits", "streaming", "accelerate_configs", "predicting_to_file"),
    *("what_happens", "notebooks", "hub_use", "adding_a_family", "compatibility", "sweeping"),
    *("resizing_command", "zoo", "xet", "trackers", "rendering", "remote_code", "hub_server"),
)


def pytest_collection_modifyitems(items):
    order = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(autouse=True)
def _as_talkative_as_before():
    """Undo what a command with --quiet, run in the process of the tests, says to later ones."""
    before = {name: os.environ.get(name) for name in QUIET}
    logger = logging.getLogger("convzoo")
    level = logger.level
    yield
    logger.setLevel(level)
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.fixture(scope="module")
def one_thread():
    """On tensors this small, threads that wait for each other cost more than they save."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


@pytest.fixture
def bare(tmp_path):
    """A model folder with what every one has."""
    from tests.support.model_folders import make_bare  # loads torch, so not for every test file

    return make_bare(tmp_path / "bare")


@pytest.fixture
def full(tmp_path):
    """A trained and evaluated model folder."""
    from tests.support.model_folders import make_full

    return make_full(tmp_path / "full")
