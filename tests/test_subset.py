"""Parts of a split: what is chosen, that it is read and ordered like any split, and its cost."""

import collections
import dataclasses
import json
import math
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convzoo.data.opening import open_split
from convzoo.data.order import DataOrder
from convzoo.data.row_cache import RowCache
from convzoo.data.split import FolderSplit
from convzoo.data.subset import subset
from tests.support.hub_server import HubServer
from tests.support.images import write_image_folder, write_split

exhaustive = settings(derandomize=True, database=None, deadline=None, max_examples=200)


@st.composite
def splits(draw):
    """A split of numbered files with random labels, in row groups of unequal size."""
    group_rows = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    rows, num_classes = sum(group_rows), draw(st.integers(1, 6))
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=rows, max_size=rows))
    return FolderSplit(
        path="made-up",
        name="train",
        files=tuple(str(number) for number in range(rows)),
        label_names=tuple(f"class {number}" for number in range(num_classes)),
        groups=tuple((start, 0) for start in np.cumsum([0, *group_rows[:-1]]).tolist()),
        group_rows=tuple(group_rows),
        group_bytes=tuple(1000 * count for count in group_rows),
        fingerprint="sha256:0",
        card={},
        labels=np.array(labels),
    )


def places(source):
    """What messages call every row."""
    return [
        source.where(g, row) for g, count in enumerate(source.group_rows) for row in range(count)
    ]


def row_numbers(source):
    """Which rows of the made-up split are in a part of it, in its order."""
    return [int(place) for place in places(source)]


@exhaustive
@given(splits(), st.floats(0.01, 1), st.integers(0, 2**63 - 1), st.data())
def test_a_share_is_exact_and_every_class_keeps_its_own(whole, fraction, seed, data):
    total = round(fraction * whole.num_rows)
    if not total:
        with pytest.raises(ValueError, match="must have at least one of the .* images"):
            subset(whole, fraction=fraction, seed=seed)
        return
    part = subset(whole, fraction=fraction, seed=seed)
    rows = row_numbers(part)
    assert len(rows) == total == part.num_rows and rows == sorted(set(rows))
    assert part.read_labels().tolist() == whole.labels[rows].tolist()
    chosen = collections.Counter(part.read_labels().tolist())
    for label, count in collections.Counter(whole.labels.tolist()).items():
        share = fraction * count
        assert math.floor(share) <= chosen[label] <= math.ceil(share)
    more = subset(whole, fraction=data.draw(st.floats(fraction, 1)), seed=seed)
    missing = set(rows) - set(row_numbers(more))
    assert collections.Counter(whole.labels[list(missing)].tolist()).total() <= len(chosen)
    assert len({int(whole.labels[row]) for row in missing}) == len(missing)


@exhaustive
@given(splits(), st.data())
def test_classes_and_limits_choose_what_they_say(whole, data):
    kept = sorted(data.draw(st.sets(st.integers(0, len(whole.label_names) - 1), min_size=1)))
    expected = [row for row in range(whole.num_rows) if whole.labels[row] in kept]
    limit, spaced = data.draw(st.integers(0, 20)), data.draw(st.booleans())
    names = [whole.label_names[number] for number in reversed(kept)]
    if not expected:
        with pytest.raises(ValueError, match="none is left"):
            subset(whole, names, limit=limit, spaced=spaced)
        return
    if 0 < limit < len(expected):
        steps = [i * len(expected) // limit for i in range(limit)] if spaced else range(limit)
        expected = [expected[i] for i in steps]
    part = subset(whole, names, limit=limit, spaced=spaced)
    assert row_numbers(part) == expected
    assert part.label_names == tuple(reversed(names))  # in the dataset's own order
    renumbered = [kept.index(whole.labels[row]) for row in expected]
    assert part.read_labels().tolist() == renumbered
    original = subset(whole, names, limit=limit, spaced=spaced, renumber=False)
    assert original.label_names == whole.label_names
    assert original.read_labels().tolist() == whole.labels[expected].tolist()
    in_two_steps = subset(subset(whole, names), limit=limit, spaced=spaced)
    assert row_numbers(in_two_steps) == expected
    assert in_two_steps.read_labels().tolist() == renumbered
    if len(expected) == whole.num_rows and len(kept) == len(whole.label_names):
        assert part is whole
    else:
        assert part.fingerprint != whole.fingerprint
        assert part.describe()["subset"]["of"] == whole.num_rows
    assert min(part.group_rows) > 0 and sum(part.group_bytes) >= 1000 * len(expected)


@exhaustive
@given(splits(), st.floats(0.3, 1), st.integers(1, 8), st.integers(1, 30_000))
def test_each_chosen_row_comes_once_per_epoch(whole, fraction, batch, memory):
    if round(fraction * whole.num_rows) < batch:
        return
    part = subset(whole, fraction=fraction)
    order = DataOrder(
        part.group_rows,
        part.group_bytes,
        global_batch_size=batch,
        memory_bytes=memory,
        seed=1,
    )
    for epoch in range(2):
        positions = range(epoch * part.num_rows, (epoch + 1) * part.num_rows)
        seen = [int(part.where(*order.row(position))) for position in positions]
        assert sorted(seen) == row_numbers(part)


def test_an_unknown_class_or_a_bad_number_says_what_to_do(colour_data):
    whole = open_split(str(colour_data), "train")
    with pytest.raises(ValueError, match="among the 3 of .*; got 'gren'; did you mean green$"):
        subset(whole, ["red", "gren"])
    with pytest.raises(ValueError, match="got 'x'; they are red, green, blue"):
        subset(whole, ["x"])
    for arguments in ({"fraction": 0.0}, {"fraction": 1.1}, {"limit": -1}):
        with pytest.raises(ValueError, match=r"fraction must lie in \(0, 1\] and limit be at"):
            subset(whole, **arguments)


def pairs(source):
    """Encoded image and class name of every row."""
    groups = (source.read_group(number) for number in range(len(source.groups)))
    rows = (rows[i] for rows in groups for i in range(len(rows)))
    return [(bytes(data), source.label_names[label]) for data, label in rows]


@pytest.mark.parametrize("kind", ["parquet", "images"])
def test_chosen_rows_are_read_with_their_labels(kind, colour_data, tmp_path):
    if kind == "images":
        write_image_folder(tmp_path / "images")
    whole = open_split(str(colour_data if kind == "parquet" else tmp_path / "images"), "train")
    part = subset(whole, ["blue", "red"], fraction=0.5, seed=3, limit=15)
    everything = pairs(whole)
    chosen = pairs(pickle.loads(pickle.dumps(part)))  # as in a spawned worker
    assert len(chosen) == 15 and {name for _, name in chosen} == {"red", "blue"}
    assert [pair for pair in everything if pair in chosen] == chosen
    again = subset(open_split(whole.path, "train"), ["red", "blue"], fraction=0.5, limit=15, seed=3)
    assert again.fingerprint == part.fingerprint and pairs(again) == chosen
    where = dict(zip(places(whole), everything, strict=True))
    assert [where[place] for place in places(part)] == chosen  # messages name the original row
    assert part.describe()["subset"] == {
        "of": 61,
        "taken": [
            {"classes": ["red", "blue"] if kind == "parquet" else ["blue", "red"]},
            {"fraction": 0.5, "seed": 3},
            {"limit": 15, "spaced": False},
        ],
    }
    json.dumps(part.describe())


def test_the_cache_keeps_chosen_rows_only(colour_data, tmp_path):
    whole = open_split(str(colour_data), "train")
    expected = pairs(subset(whole, limit=3, spaced=True))
    for folder, source in (("whole", whole), ("part", subset(whole, limit=3, spaced=True))):
        cached = dataclasses.replace(source, cache=RowCache(tmp_path / folder, 10**9))
        for _ in range(2):
            pairs(cached)
    held = {
        folder: sum(path.stat().st_size for path in (tmp_path / folder).iterdir())
        for folder in ("whole", "part")
    }
    assert pairs(cached) == expected
    assert held["part"] < held["whole"] / 3


def test_the_index_of_imagenet_stays_small():
    """1.28 million rows, of which each row group keeps some: two bytes a row, and array headers."""
    rows = 1_281_167
    group_rows = [100] * (rows // 100) + [rows % 100]
    labels = np.random.default_rng(0).integers(0, 1000, rows)
    whole = FolderSplit(
        path="made-up",
        name="train",
        files=("",) * rows,
        label_names=tuple(map(str, range(1000))),
        groups=tuple((100 * n, 0) for n in range(len(group_rows))),
        group_rows=tuple(group_rows),
        group_bytes=(11_000_000,) * len(group_rows),
        fingerprint="sha256:0",
        card={},
        labels=labels,
    )
    part = subset(whole, fraction=0.9)
    assert part.num_rows == round(0.9 * rows)
    assert sum(numbers.nbytes for numbers in part.chosen) <= 2 * part.num_rows


CHOOSES = """
import json, os, urllib.request
from convzoo.data.opening import open_split
from convzoo.data.subset import subset

def mark(name):
    urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/api/telemetry/{name}").close()

source = open_split("user/sorted", "train")
mark("opened")
part = subset(source, ["green"], fraction=0.5)
mark("chosen")
part.read_group(0)
json.dump([part.num_rows, list(part.groups), part.read_labels().tolist()], open("saw.json", "w"))
"""


def test_a_hub_dataset_gives_its_label_column_and_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.bytes(20_000) for _ in range(60)]
    labels = sorted(i % 3 for i in range(60))
    write_split(tmp_path / "sorted", "train", images, labels, rows_per_group=10)
    with HubServer(tmp_path / "hub", {"hf_user": "user"}) as hub:
        hub.add_repo("datasets", "user/sorted", tmp_path / "sorted")
        hub.run("-c", CHOOSES, home=tmp_path / "home", token="hf_user", cwd=tmp_path)
        journal = hub.requests("/api/telemetry/|GET /storage/")
    paths = [request.path for request in journal]
    first, last = (paths.index(f"/api/telemetry/{name}") for name in ("opened", "chosen"))
    asked = [
        (request.path.partition("?")[0].rpartition("/")[2], request.range)
        for request in journal[first + 1 : last]
    ]
    expected = []
    for path in sorted((tmp_path / "sorted" / "data").iterdir()):
        footer = pq.read_metadata(path)
        for group in range(footer.num_row_groups):
            (column,) = (
                column
                for column in map(footer.row_group(group).column, range(3))
                if column.path_in_schema == "label"
            )
            start = column.dictionary_page_offset or column.data_page_offset
            expected.append(
                (path.name, f"bytes={start}-{start + column.total_compressed_size - 1}")
            )
    assert sorted(asked) == sorted(expected) and len(expected) == 6
    rows, groups, labels = json.loads((tmp_path / "saw.json").read_text())
    assert rows == 10 and groups == [[0, 2], [1, 0]] and labels == [0] * 10
