"""The data plan on a dataset of ImageNet's shape: 294 files on a Hub, none downloaded whole.

And on a Hub that is late and fails: nothing is lost, and nothing comes twice.
"""

import collections
import itertools
import json
import time

import numpy as np
import pytest

from benchmarks.first_batch import (
    BATCH,
    FILES,
    GROUPS,
    ROWS,
    serve_imagenet,
    stream_first_batch,
)
from tests.support.hub_server import Fault, HubServer
from tests.support.images import coloured_images, encode, write_split


@pytest.fixture(scope="module")
def first_batch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    with serve_imagenet(folder) as hub:
        return stream_first_batch(hub, folder / "run")


def test_the_first_batch_comes_after_few_seconds_and_megabytes(first_batch):
    """benchmarks/first_batch.py measures it in several processes."""
    print(first_batch)
    assert first_batch["rows"] == FILES * GROUPS * ROWS and first_batch["groups"] == FILES * GROUPS
    assert first_batch["shape"] == [BATCH, 224, 224, 3]
    assert first_batch["lanes"] == 32
    assert first_batch["bytes"] < 30e6
    assert first_batch["seconds"] < 15  # 2.5 s on two cores; the rest is for a busy machine


def test_only_ends_of_files_and_needed_row_groups_are_asked_for(first_batch):
    assert first_batch["other_requests"] == 0
    assert first_batch["end_requests"] == FILES
    assert 1 <= first_batch["row_group_requests"] <= 3 * first_batch["needed_row_groups"]
    assert first_batch["needed_row_groups"] <= 3  # 128 images of 100 a group


def fault(status, drop_after, retry_after):
    always = {"pattern": "", "times": 1, "take": None, "skip": 0}
    return Fault(status=status, drop_after=drop_after, retry_after=retry_after, **always)


class UnreliableHub(HubServer):
    """Every answer with data is late; every 29th is a failure, every 23rd breaks off half-way."""

    answers = bodies = 0

    def _fault(self, request, body_bytes=None):
        if not request.path.startswith("/storage/"):
            return None
        if body_bytes is None:
            time.sleep(0.02)
            with self.lock:
                self.answers += 1
                return fault(503, None, 0) if self.answers % 29 == 0 else None
        with self.lock:
            self.bodies += 1
            return fault(206, body_bytes // 2, None) if self.bodies % 23 == 0 else None


SHARDS, SHARD_ROWS, RANKS, STEPS = 32, 6, 2, 8  # one epoch of 24 images a step
READS = f"""
import json, sys
from convzoo.data import remote
from convzoo.data.share import Share
from convzoo.data.stream import TrainStream, train_batches
from convzoo.data.order import DataOrder
from convzoo.recipe.settings import Augmentation, Preprocessing
from convzoo.data.opening import open_split
from convzoo.images.train_transform import TrainTransform

remote.RETRY_SECONDS = (0.1,) * 5
source = open_split("user/many", "train")
order = DataOrder(
    source.group_rows, source.group_bytes, global_batch_size=24, memory_bytes=30_000, seed=0
)
transform = TrainTransform(Augmentation(), Preprocessing(resize=16, crop=16))
labels = [
    [batch["labels"].tolist() for batch in train_batches(stream, int(sys.argv[1]))]
    for rank in range({RANKS})
    for stream in [TrainStream(
        source, order, transform=transform, share=Share(rank, {RANKS}), steps=range({STEPS})
    )]
]
rows = [order.row(position) for position in range(source.num_rows)]
json.dump([labels, rows, list(source.groups)], open("saw.json", "w"))
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_lost_or_doubled_when_answers_are_late_fail_or_break_off(tmp_path, workers):
    """The label of each image is its number."""
    count = SHARDS * SHARD_ROWS
    noise = np.random.default_rng(0).integers(0, 256, (count, 20, 20, 3), dtype=np.uint8)
    images, names = [encode(image) for image in noise], [str(number) for number in range(count)]
    split = (tmp_path / "many", "train", images, list(range(count)))
    write_split(*split, files=SHARDS, rows_per_group=3, names=names)
    with UnreliableHub(tmp_path / "hub", {"hf_user": "user"}) as hub:
        hub.add_repo("datasets", "user/many", tmp_path / "many")
        hub.run("-c", READS, str(workers), home=tmp_path / "home", token="hf_user", cwd=tmp_path)
        statuses = collections.Counter(one.status for one in hub.requests("GET /storage/"))
    labels, rows, groups = json.loads((tmp_path / "saw.json").read_text())
    assert statuses[503] >= 3 and hub.bodies >= 4 * 23
    assert {len(steps) for steps in labels} == {STEPS}
    batches = [list(itertools.chain(*parts)) for parts in zip(*labels, strict=True)]
    assert [len(batch) for batch in batches] == [24] * STEPS
    assert sorted(itertools.chain(*batches)) == list(range(count))
    assert len(groups) == 2 * SHARDS and sorted(map(tuple, rows)) == [
        (group, row) for group in range(2 * SHARDS) for row in range(3)
    ]


OPENED_BY_TWO = """
import json
from accelerate import Accelerator, debug_launcher
from convzoo.recipe.settings import Augmentation, Data, Model, Recipe, Train
from convzoo.training.run_data import open_run_data


def look():
    accelerator = Accelerator(cpu=True)
    for split in ("train", "nowhere"):
        data = Data(path="user/many", train_split=split)
        recipe = Recipe(data=data, train=Train(global_batch_size=4))
        try:
            opened = open_run_data(recipe, accelerator).train
            said = [opened.fingerprint, opened.num_rows, opened.read_group(3).labels.tolist()]
        except ValueError as error:
            said = str(error)
        with open(f"{split}{accelerator.process_index}.json", "w") as file:
            json.dump(said, file)
    assert accelerator.num_processes == 2


debug_launcher(look, num_processes=2)
"""


def test_one_process_asks_the_hub_for_the_files_and_tells_the_others(tmp_path):
    images, labels = coloured_images(42, seed=0)
    write_split(tmp_path / "many", "train", images, labels, files=3)
    with HubServer(tmp_path / "hub", {"hf_user": "user"}) as hub:
        hub.add_repo("datasets", "user/many", tmp_path / "many")
        hub.run("-c", OPENED_BY_TWO, home=tmp_path / "home", token="hf_user", cwd=tmp_path)
        reads = hub.requests("GET /storage/")
        assert len(reads) == 3 + 2  # three footers once, and a row group by each process
    whole, again = (json.loads((tmp_path / f"train{rank}.json").read_text()) for rank in (0, 1))
    assert whole == again and whole[1:] == [42, labels[21:28]]
    error, same = (json.loads((tmp_path / f"nowhere{rank}.json").read_text()) for rank in (0, 1))
    assert error == same and "split must be one of train" in error
