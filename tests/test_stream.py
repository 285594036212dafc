import collections
import dataclasses
import io
import math
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from convzoo.data.examples import save_examples
from convzoo.data.opening import open_split
from convzoo.data.order import DataOrder
from convzoo.data.share import Share
from convzoo.data.stream import TrainStream, eval_rows, train_batches, worker_share
from convzoo.data.unreadable import UnreadableImages
from convzoo.images.train_transform import TrainTransform
from convzoo.recipe.settings import Augmentation, Preprocessing
from tests.support.image_datasets import WRITERS, contents_of, expected_contents
from tests.support.images import coloured_images, without, write_image_folder, write_split

BATCH = 12
TABLES = b"\xff\xdb"  # without them the header of a JPEG can be read, and its pixels cannot
CROPS = Preprocessing(resize=16, crop=16)


@pytest.fixture(scope="module")
def source(colour_data):
    return open_split(str(colour_data), "train")


def make_order(source, batch=BATCH, memory=20_000):
    return DataOrder(
        source.group_rows,
        source.group_bytes,
        global_batch_size=batch,
        memory_bytes=memory,
        seed=5,
    )


def batches(
    source,
    process=0,
    *,
    processes=1,
    workers=0,
    start=0,
    stop=12,
    transform=None,
    exif_rotation=False,
):
    order = make_order(source, BATCH, 20_000)
    transform = transform or TrainTransform(Augmentation(), CROPS)
    stream = TrainStream(
        source,
        order,
        transform=transform,
        share=Share(process, processes),
        steps=range(start, stop),
        exif_rotation=exif_rotation,
    )
    return list(train_batches(stream, workers))


def joined(parts):
    """The global batch from the batches of all processes."""
    return {
        key: torch.cat([part[key] for part in parts]) for key in ("pixels", "labels", "positions")
    }


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for key in ("pixels", "labels", "positions"):
            assert torch.equal(a[key], b[key])


@pytest.mark.parametrize(("processes", "workers"), [(1, 2), (2, 0), (3, 0), (2, 2), (8, 0)])
def test_batches_do_not_depend_on_processes_and_workers(source, processes, workers):
    alone = batches(source)
    shares = [
        batches(source, rank, processes=processes, workers=workers) for rank in range(processes)
    ]
    assert_same(alone, [joined(step) for step in zip(*shares, strict=True)])


@pytest.fixture(scope="module", params=WRITERS)
def any_format(request, tmp_path_factory):
    """The images of colour_data, written in each format in turn."""
    path = WRITERS[request.param](tmp_path_factory.mktemp("any") / "some images")
    return open_split(str(path), "train")


def test_every_format_gives_each_image_once_in_any_share_and_from_any_step(any_format):
    assert sorted(contents_of(any_format)) == expected_contents()
    alone = batches(any_format)
    order = make_order(any_format)
    epoch = [order.row(position) for position in range(any_format.num_rows)]
    assert len(set(epoch)) == any_format.num_rows == 61
    rows = [any_format.read_group(group)[row] for group, row in epoch]
    assert sorted((bytes(data), any_format.label_names[label]) for data, label in rows) == (
        expected_contents()
    )
    places = torch.cat([batch["positions"] for batch in alone]).argsort()
    labels = torch.cat([batch["labels"] for batch in alone])[places]
    assert labels[:61].tolist() == [label for _, label in rows]
    for processes in (3, 7):
        shares = [batches(any_format, rank, processes=processes) for rank in range(processes)]
        assert_same(alone, [joined(step) for step in zip(*shares, strict=True)])
    assert_same(alone, batches(any_format, workers=2))
    for start in (1, 6):
        assert_same(alone[start:], batches(any_format, start=start))
    copy = pickle.loads(pickle.dumps(any_format))
    assert_same(alone, batches(copy))
    assert [bytes(data) for _, data, _ in eval_rows(copy, range(20, 40))] == [
        data for data, _ in contents_of(any_format)[20:40]
    ]


@pytest.mark.parametrize("start", [1, 5, 6, 11])  # epochs of 61 / 12 steps end within step 5 and 10
def test_a_resumed_stream_repeats_pixels_and_labels_exactly(source, start):
    assert_same(batches(source)[start:], batches(source, start=start))


def test_a_stream_can_go_to_a_spawned_worker(source):
    order = make_order(source, BATCH, 20_000)
    transform = TrainTransform(Augmentation(policy="rand-m9-mstd0.5"), CROPS)
    stream = TrainStream(source, order, transform=transform, share=Share(), steps=range(3, 6))
    copy = pickle.loads(pickle.dumps(stream))
    assert_same(list(train_batches(copy, 0)), list(train_batches(stream, 0)))


def test_growing_crops_are_the_same_in_all_processes_and_workers(source):
    settings = Augmentation(first_crop=8, erasing=1.0)
    transform = TrainTransform(settings, CROPS, growing=range(8))
    alone = batches(source, transform=transform)
    sides = [batch["pixels"].shape[1:] for batch in alone]
    assert sides == [(side, side, 3) for side in [8, 8, 8, 12, 12, 12, 16, 16, 16, 16, 16, 16]]
    for side, batch in zip(sides, alone, strict=True):
        bottoms = [top + height for boxes in batch["erasing"] for top, _, height, _ in boxes]
        assert max(bottoms) <= side[0]
    shares = [batches(source, rank, processes=3, transform=transform) for rank in range(3)]
    assert_same(alone, [joined(step) for step in zip(*shares, strict=True)])
    assert_same(alone, batches(source, workers=2, transform=transform))
    assert_same(alone[5:], batches(source, start=5, transform=transform))


def test_grey_batches_have_one_channel(source):
    (batch,) = batches(
        source, stop=1, transform=TrainTransform(Augmentation(), CROPS, num_channels=1)
    )
    assert batch["pixels"].shape == (BATCH, 16, 16, 1)


def test_images_are_turned_by_their_exif_data_where_the_recipe_says_so(tmp_path):
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the left side belongs to the top
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "JPEG", exif=exif)
    write_split(tmp_path / "data", "train", [buffer.getvalue()] * 24, [0] * 24, files=1)
    turned = open_split(str(tmp_path / "data"), "train")
    transform = TrainTransform(Augmentation(crop="center", horizontal_flip=0.0), CROPS)
    for exif_rotation, brighter in ((False, "left"), (True, "top")):
        (batch,) = batches(turned, stop=1, transform=transform, exif_rotation=exif_rotation)
        pixels = batch["pixels"].float()
        vertical = pixels[:, :8].mean() - pixels[:, 8:].mean()
        horizontal = pixels[:, :, :8].mean() - pixels[:, :, 8:].mean()
        assert (vertical > 200, horizontal > 200) == (brighter == "top", brighter == "left")
        folder = tmp_path / f"examples_{brighter}"
        save_examples(turned, folder, count=1, exif_rotation=exif_rotation)
        with Image.open(folder / "00000_red.png") as example:
            assert example.size == ((16, 32) if exif_rotation else (32, 16))


def test_every_image_comes_once_per_epoch(source):
    positions = torch.cat([batch["positions"] for batch in batches(source, stop=61)])  # 12 epochs
    assert sorted(positions.tolist()) == list(range(12 * 61))
    order = make_order(source, BATCH, 20_000)
    first_row = np.cumsum([0, *source.group_rows])
    for epoch in range(12):
        located = (order.row(p) for p in range(epoch * 61, (epoch + 1) * 61))
        rows = collections.Counter(int(first_row[group]) + row for group, row in located)
        assert rows == collections.Counter(range(61))


def test_labels_belong_to_their_images(source):
    for batch in batches(source, stop=5):
        channel_means = (
            batch["pixels"].float().mean(dim=(1, 2))
        )  # class c is brightest in channel c
        assert torch.equal(channel_means.argmax(dim=1), batch["labels"])


def damaged(folder, damage):
    """A split with one image that cannot be read."""
    images, labels = coloured_images(24, seed=0)
    images[13] = damage(images[13])
    write_split(folder / "bad", "train", images, labels, files=1)
    return open_split(str(folder / "bad"), "train")


@pytest.fixture
def damaged_source(tmp_path):
    return damaged(tmp_path, lambda data: b"not an image")


def test_an_unreadable_image_is_reported_and_replaced_by_another_with_its_own_label(
    damaged_source,
):
    whole = batches(damaged_source, stop=2)
    found = [entry for batch in whole for entry in batch["unreadable"]]
    assert len(found) == 1
    where, reason = found[0]
    assert "row 6 of row group 1 of" in where and "readable JPEG" in reason
    for batch in whole:
        assert torch.equal(batch["pixels"].float().mean(dim=(1, 2)).argmax(dim=1), batch["labels"])
    shares = [batches(damaged_source, rank, processes=3, stop=2) for rank in range(3)]
    assert_same(whole, [joined(step) for step in zip(*shares, strict=True)])


@pytest.mark.parametrize("kind", ["parquet", "folder", "list"])
def test_an_unreadable_image_has_its_name_wherever_the_data_lies(kind, tmp_path):
    """Else a resumed run whose data was moved would count it twice."""
    home = tmp_path / "here"
    if kind == "parquet":
        damaged(home, lambda data: b"not an image")
    else:
        write_image_folder(home / "bad")
        (home / "bad" / "train" / "green" / "001.jpg").write_bytes(b"not an image")
    if kind == "list":
        images = sorted((home / "bad").rglob("*.jpg"))
        rows = [f"{path.relative_to(home)},{path.parent.name}" for path in images]
        (home / "list.csv").write_text("\n".join(["path,label", *rows]))
    found = set()
    for place in (home, tmp_path / "there"):
        if place != home:
            shutil.move(home, place)
        split = open_split(str(place / ("list.csv" if kind == "list" else "bad")), "train")
        steps = batches(split, stop=math.ceil(split.num_rows / 12))
        found |= {name for batch in steps for name, _ in batch["unreadable"]}
        assert split.image_name(0) and str(tmp_path) not in split.image_name(0)
    assert (
        found
        == {
            "parquet": {"row 6 of row group 1 of data/train-00000-of-00001.parquet"},
            "folder": {"train/green/001.jpg"},
            "list": {"bad/train/green/001.jpg"},
        }[kind]
    )


def test_damage_that_shows_while_cropping_changes_no_other_draw(damaged_source, tmp_path):
    late = batches(damaged(tmp_path / "late", lambda data: without(data, TABLES)), stop=2)
    assert [len(batch["unreadable"]) for batch in late].count(1) == 1
    assert_same(late, batches(damaged_source, stop=2))


def test_unreadable_images_are_counted_once_and_too_many_stop(damaged_source, caplog):
    (entry,) = [e for batch in batches(damaged_source, stop=2) for e in batch["unreadable"]]
    counter = UnreadableImages(allowed=1)
    counter.add([entry])
    counter.add([entry])  # the same image in the next epoch
    assert caplog.text.count("another image takes its place") == 1
    with pytest.raises(ValueError, match="at most 1 images may be unreadable .* got 2, the last"):
        counter.add([("elsewhere", "cut off")])
    counter = UnreadableImages(allowed=1)
    counter.know({"on another process": "cut off"})
    counter.add([])
    with pytest.raises(ValueError, match="got 2, the last"):
        counter.add([entry])


def test_data_without_any_readable_image_is_an_error(tmp_path):
    write_split(tmp_path / "bad", "train", [b"no image"] * 24, [0] * 24, files=1)
    with pytest.raises(ValueError, match="none of the .* images around can be read"):
        batches(open_split(str(tmp_path / "bad"), "train"), stop=1)


@pytest.mark.parametrize("processes", [1, 3])
def test_repeats_are_views_of_an_image_in_the_same_batch(source, processes):
    order = make_order(source, BATCH // 2, 20_000)
    transform = TrainTransform(Augmentation(repeats=2), CROPS)
    streams = [
        TrainStream(
            source,
            order,
            transform=transform,
            share=Share(rank, processes),
            steps=range(61 * 2 // BATCH),
        )
        for rank in range(processes)
    ]
    seen = []
    for parts in zip(*(train_batches(stream, 0) for stream in streams), strict=True):
        positions = torch.cat([part["positions"] for part in parts])
        images = collections.Counter((positions // 2).tolist())
        assert len(positions) == BATCH and set(images.values()) == {2}
        assert len(positions.unique()) == BATCH
        seen += [order.row(image) for image in images]
        labels, pixels = (torch.cat([part[key] for part in parts]) for key in ("labels", "pixels"))
        first, second = labels.view(-1, 2).T, pixels.view(-1, 2, *pixels.shape[1:]).unbind(1)
        assert torch.equal(*first) and not torch.equal(*second)
    assert len(set(seen)) == len(seen) == 61 * 2 // BATCH * BATCH // 2


def test_a_run_reads_each_row_group_no_more_often_than_its_windows(source):
    """From the start and from the middle; a window stays open from its first use to its last."""

    class Counting(type(source)):
        def read_group(self, number):
            reads[number] += 1
            return super().read_group(number)

    counting = Counting(**{f.name: getattr(source, f.name) for f in dataclasses.fields(source)})
    order = make_order(source, BATCH, 4_000)
    steps = 61 // BATCH
    for start in (0, steps // 2):
        reads = collections.Counter()
        stream = TrainStream(
            counting,
            order,
            transform=TrainTransform(Augmentation(), CROPS),
            share=Share(),
            steps=range(start, steps),
        )
        list(train_batches(stream, 0))
        positions = [
            p for step in range(start, steps) for p in order.positions(step, Share()).tolist()
        ]
        windows = {
            order.locate(position)[0].key: order.locate(position)[0] for position in positions
        }
        expected = collections.Counter(
            group for window in windows.values() for group, _, _ in window.pieces
        )
        assert reads == expected


@pytest.mark.parametrize("processes", [1, 2, 3, 7, 40])
def test_evaluation_gives_each_row_once_to_some_process(source, processes):
    shares = [Share(rank, processes).of(source.num_rows) for rank in range(processes)]
    rows = [row for share in shares for row in eval_rows(source, share)]
    images, labels = coloured_images(61, seed=0)
    assert [index for index, _, _ in rows] == list(range(61))
    assert [bytes(data) for _, data, _ in rows] == images
    assert [label for _, _, label in rows] == labels


def test_examples_are_named_by_row_and_class(source, tmp_path):
    save_examples(source, tmp_path / "examples", count=3)
    names = sorted(path.name for path in (tmp_path / "examples").iterdir())
    assert names == ["00000_red.png", "00020_blue.png", "00040_green.png"]


class Backend(IterableDataset):
    def __iter__(self):
        worker_share(Share())
        yield pa.default_memory_pool().backend_name


def test_a_worker_holds_no_second_allocator():
    (backend,) = DataLoader(Backend(), batch_size=None, num_workers=1)
    assert backend == "system"
