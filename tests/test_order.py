import collections
import hashlib
import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convzoo.data.class_balance import ClassBalance, samples_per_epoch
from convzoo.data.order import DataOrder, _groups_that_fit
from convzoo.data.share import Share

MB = 2**20


def make_order(groups=40, rows=50, *, batch=48, memory=64 * MB, seed=3, group_bytes=MB):
    rng = np.random.default_rng(0)
    group_rows = rng.integers(1, 2 * rows, groups)
    return DataOrder(
        group_rows, [group_bytes] * groups, global_batch_size=batch, memory_bytes=memory, seed=seed
    )


def make_order_of(layout, balance=None):
    group_rows, group_bytes, batch, memory, seed = layout
    return DataOrder(
        group_rows,
        group_bytes,
        global_batch_size=batch,
        memory_bytes=memory,
        seed=seed,
        balance=balance,
    )


def all_rows(order):
    return {(g, r) for g, count in enumerate(order.group_rows) for r in range(count)}


@pytest.mark.parametrize("batch", [1, 7, 48, 64])
@pytest.mark.parametrize("memory", [1, 8 * MB, 10_000 * MB])
def test_every_row_comes_once_in_every_epoch(batch, memory):
    order = make_order(batch=batch, memory=memory)
    for epoch in range(3):
        start = epoch * order.num_rows
        seen = [order.row(start + i) for i in range(order.num_rows)]
        assert len(seen) == len(set(seen))
        assert set(seen) == all_rows(order)


@st.composite
def layouts(draw):
    """Arguments of an order: files of unequal size as row groups, some large, most of one size."""
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    group_rows = [rows for rows in sizes for _ in range(draw(st.integers(1, 4)))]
    rows = sum(group_rows)
    batch = draw(st.integers(max(1, rows // 40), min(64, rows)))  # up to 80 steps in two epochs
    memory = draw(st.sampled_from([1, 5, 20, 100, 10_000]))  # 1 a row: from one group to all
    return group_rows, [max(group_rows)] * len(group_rows), batch, memory, draw(st.integers(0, 99))


MANY_FILES = [1 + (7 * file) % 9 for file in range(294)]  # rows of 294 files


@settings(derandomize=True, database=None, deadline=None, max_examples=150)
@given(layouts(), st.integers(1, 64), st.integers(0, 8))
@example((MANY_FILES, [9] * 294, 64, 200, 0), 8, 4)
@example((MANY_FILES, [9] * 294, 64, 100_000, 0), 8, 0)
@example((MANY_FILES, [9] * 294, 60, 10, 0), 64, 8)
def test_every_plan_has_each_row_once_in_the_same_batches_from_any_step(layout, world, workers):
    order = make_order_of(layout)
    each_row = dict.fromkeys(all_rows(order), 1)
    check_plan(order, world=world, workers=workers, expected=[each_row, each_row])


@st.composite
def balanced_layouts(draw):
    """A layout, class numbers of its rows, often sorted and of unequal size, and a strength."""
    layout = draw(layouts())
    rows = sum(layout[0])
    shares = draw(st.lists(st.integers(1, 100), min_size=1, max_size=6))
    labels = np.searchsorted(np.cumsum(shares), np.arange(rows) * sum(shares) / rows, "right")
    if draw(st.booleans()):
        labels = np.random.default_rng(0).permutation(labels)
    return layout, labels, draw(st.sampled_from([0.1, 0.5, 0.75, 1.0]))


def closed_form(layout, labels, *, strength, epochs):
    """How often each (row group, row) comes in each epoch, by the rule alone, a row at a time.

    A class with n of N images has k = N n ** (1 - strength) / sum, rounded, places in an epoch, and
    hands them out to its images in turn, going on in the next epoch where it stopped.
    """
    group_rows, *_, seed = layout
    counts = np.bincount(labels)
    sizes = samples_per_epoch(counts, strength)
    ways = ClassBalance(labels, group_rows, strength=strength, seed=seed).places
    places = [(g, r) for g, count in enumerate(group_rows) for r in range(count)]
    way = {c: {} for c in range(len(counts))}
    for row, (label, place) in enumerate(zip(labels.tolist(), ways.tolist(), strict=True)):
        way[label][place] = places[row]
    expected, handed_out = [], [0] * len(counts)
    for _ in range(epochs):
        epoch = collections.Counter()
        for label, count in enumerate(sizes.tolist()):
            for _ in range(count):
                epoch[way[label][handed_out[label] % counts[label]]] += 1
                handed_out[label] += 1
        expected.append(dict(epoch))
    return expected


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(balanced_layouts(), st.integers(1, 64), st.integers(0, 8))
def test_every_balanced_plan_has_the_rows_of_the_closed_form(balanced, world, workers):
    layout, labels, strength = balanced
    balance = ClassBalance(labels, layout[0], strength=strength, seed=layout[-1])
    expected = closed_form(layout, labels, strength=strength, epochs=2)
    check_plan(make_order_of(layout, balance), world=world, workers=workers, expected=expected)


def check_plan(order, *, world, workers, expected):
    """Check the batches of the first epochs, of which each is to have rows so many times."""
    batch, rows = order.global_batch_size, order.num_rows
    steps = -(-2 * rows // batch)  # two epochs
    readers = world * max(1, workers)
    plan = []  # rows of each global batch
    for step in range(steps):
        whole = order.positions(step, Share())
        assert sorted(whole) == list(range(step * batch, (step + 1) * batch))
        shares = [order.positions(step, Share(reader, readers)) for reader in range(readers)]
        assert np.array_equal(np.concatenate(shares), whole)
        of_processes = [
            sum(map(len, shares[readers // world * rank : readers // world * (rank + 1)]))
            for rank in range(world)
        ]
        # Every process has a share of every step, so all end at the same one.
        assert max(of_processes) - min(of_processes) <= 1
        assert min(of_processes) >= 1 or batch < world
        plan.append({int(position): order.row(position) for position in whole})
    in_order = {position: row for each in plan for position, row in each.items()}
    for epoch, times in enumerate(expected):
        assert sum(times.values()) == rows  # an epoch keeps its length
        seen = [in_order[position] for position in range(epoch * rows, (epoch + 1) * rows)]
        assert collections.Counter(seen) == times
    # Resumed at any step, by a process that knows nothing of the earlier ones.
    for planned in plan:
        resumed = pickle.loads(pickle.dumps(order))
        assert [resumed.row(position) for position in planned] == list(planned.values())


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 8, 64])
def test_global_batches_are_the_same_for_any_number_of_readers(parts):
    order = make_order(batch=48)
    for step in (0, 1, order.num_rows // 48, 1000):  # the third crosses an epoch
        whole = order.positions(step, Share())
        cut = [order.positions(step, Share(part, parts)) for part in range(parts)]
        assert np.array_equal(np.concatenate(cut), whole)
        assert sorted(whole) == list(range(step * 48, step * 48 + 48))
        sizes = [len(part) for part in cut]
        assert max(sizes) - min(sizes) <= 1


def test_order_is_a_pure_function_of_seed_and_epoch():
    first, again, other = make_order(seed=3), make_order(seed=3), make_order(seed=4)
    positions = [5000, 3, 77, 9999]  # any order of asking
    assert [first.row(p) for p in positions] == [again.row(p) for p in positions]
    assert [first.row(p) for p in range(100)] != [other.row(p) for p in range(100)]
    rows = first.num_rows
    assert [first.row(p) for p in range(100)] != [first.row(rows + p) for p in range(100)]


def test_large_data_starts_with_few_row_groups_and_soon_mixes_all():
    order = DataOrder(
        [100] * 3000, [11 * MB] * 3000, global_batch_size=128, memory_bytes=512 * MB, seed=0
    )
    assert order.num_lanes == 32

    def groups(step):
        return {order.row(position)[0] for position in order.positions(step, Share())}

    assert len(groups(0)) <= 3  # 128 rows of 100 a group
    assert [order._lanes_at(step) for step in (0, 3, 4, 8, 12, 16, 19, 20)] == [
        *(1, 1, 2, 4, 8, 16, 16, 32)
    ]
    assert len(groups(20)) >= 32
    assert len(groups(3000 * 100 // 128 + 1)) >= 32  # no ramp in the second epoch


def test_small_data_mixes_all_from_the_start():
    order = DataOrder([100] * 64, [MB] * 64, global_batch_size=64, memory_bytes=512 * MB, seed=0)
    assert len({order.row(position)[0] for position in order.positions(0, Share())}) >= 30


@pytest.mark.parametrize("readers", [1, 2, 3, 5, 16, 40])
def test_row_groups_are_read_no_more_often_than_promised(readers):
    order = DataOrder([50] * 200, [MB] * 200, global_batch_size=48, memory_bytes=16 * MB, seed=3)
    opened = collections.Counter()
    for reader in range(readers):
        windows = set()
        for step in range(order.num_rows // 48, 2 * order.num_rows // 48 + 1):
            for position in order.positions(step, Share(reader, readers)):
                window, _ = order.locate(position)
                if window.key[0] == 1 and window.key not in windows:  # the second epoch
                    windows.add(window.key)
                    opened.update(group for group, _, _ in window.pieces)
    assert sum(opened.values()) / len(opened) <= order.read_amplification(readers)


def most_bytes_held(order, group_bytes, readers):
    """The most that all readers together hold in two epochs, by the rule of convzoo.data.stream.

    A reader has the windows of its share of this step and of the next one open; a row is held from
    the opening of its window until it was used.
    """
    row_bytes = group_bytes / order.group_rows
    held = np.zeros((-(-2 * order.num_rows // order.global_batch_size) + 1,))
    for reader in range(readers):
        opened, shares = {}, {}
        for step in range(len(held)):
            for at in (step, step + 1):
                if at not in shares:
                    shares[at] = [
                        order.locate(position)
                        for position in order.positions(at, Share(reader, readers)).tolist()
                    ]
            needed = {window.key: window for at in (step, step + 1) for window, _ in shares[at]}
            opened = {key: rows for key, rows in opened.items() if key in needed}
            for key in needed.keys() - opened.keys():
                groups = needed[key].pieces
                opened[key] = np.concatenate([[row_bytes[g]] * count for g, _, count in groups])
            held[step] += sum(rows.sum() for rows in opened.values())
            for window, entry in shares.pop(step):
                opened[window.key][entry] = 0
    return held.max()


@pytest.mark.parametrize(("megabytes", "lanes", "windows"), [(512, 32, 1), (2048, 64, 2)])
@pytest.mark.parametrize("readers", [1, 8])
def test_all_rows_that_are_held_stay_within_the_memory(readers, megabytes, *, lanes, windows):
    group_bytes = np.full(400, 11 * MB)
    order = DataOrder(
        [100] * 400, group_bytes, global_batch_size=1024, memory_bytes=megabytes * MB, seed=0
    )
    assert (order.num_lanes, order.window_groups, len(order._ramp)) == (
        lanes,
        windows,
        lanes.bit_length() - 1,
    )
    assert most_bytes_held(order, group_bytes, readers) <= megabytes * MB


def test_one_large_row_group_leaves_the_others_mixed():
    sizes = np.array([11 * MB] * 2999 + [300 * MB])
    order = DataOrder([100] * 3000, sizes, global_batch_size=256, memory_bytes=512 * MB, seed=0)
    assert order.num_lanes == 8  # the large one and nine others fit into 0.8 x 512 MB
    assert np.sort(sizes)[-8 * order.window_groups :].sum() <= 512 * MB


def test_row_groups_of_equal_size_fill_the_memory_to_four_fifths():
    for groups, size, memory, open_groups in (
        (3000, 11, 512, 37),
        (40, 1, 64, 51),
        (40, 1, 10_000, 8000),
        (10, 600, 512, 1),
        (100, 7, 35, 4),
    ):
        order = DataOrder(
            [100] * groups,
            [size * MB] * groups,
            global_batch_size=64,
            memory_bytes=memory * MB,
            seed=0,
        )
        lanes = 2 ** int(np.log2(min(64, open_groups, groups)))
        assert (order.num_lanes, order.window_groups) == (lanes, open_groups // lanes)


def test_batches_of_class_sorted_data_hold_many_classes():
    """With one class to a row group, a batch has as many classes as it mixes row groups."""
    order = DataOrder([100] * 200, [MB] * 200, global_batch_size=64, memory_bytes=80 * MB, seed=0)
    steps = range(order._ramp_steps, 300)  # after the start
    classes = [{order.row(p)[0] for p in order.positions(step, Share())} for step in steps]
    assert np.mean([len(batch) for batch in classes]) >= 0.6 * 64


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="global_batch_size must not exceed the 10 training"):
        DataOrder([10], [MB], global_batch_size=11, memory_bytes=MB, seed=0)


GOLDEN = (  # made by a plainer DataOrder, which listed all pieces of an epoch
    ((100, 7, 48, 2**30, 3), "2a07e396c53bb8f1 c7252e901448f45f"),
    ((400, 11, 32, 90, 0), "f05186fd287a8df5 56dabcc1b600a100"),
    ((294, 9, 64, 200, 5), "8a1f2277ac3f79ec 8f61d36d7eae2f9c"),
)


@pytest.mark.parametrize(("layout", "digest"), GOLDEN)
def test_the_order_is_the_one_that_earlier_runs_had(layout, digest):
    groups, largest, batch, memory, seed = layout
    group_rows = [1 + (5 * group) % largest for group in range(groups)]
    labels = np.arange(sum(group_rows)) ** 2 % 7
    for balance, part in zip(
        (None, ClassBalance(labels, group_rows, strength=1.0, seed=seed)), (0, 1), strict=True
    ):
        order = make_order_of((group_rows, group_rows, batch, memory, seed), balance)
        rows = np.array([order.row(position) for position in range(3 * order.num_rows)])
        found = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:16]
        assert found == digest.split()[part]


def test_the_next_epoch_of_large_data_is_laid_out_ahead_in_little_memory():
    groups = 2**20
    rows, sizes = np.ones(groups, np.int64), np.full(groups, MB)

    def fresh():
        return DataOrder(rows, sizes, global_batch_size=64, memory_bytes=64 * MB, seed=0)

    tracemalloc.start()
    order = fresh()
    middle, boundary = range(groups // 2, groups // 2 + 64), range(groups - 64, groups + 64)
    seen = [order.row(position) for position in middle]
    assert set(order._layouts._futures) == {0, 1}
    seen += [order.row(position) for position in boundary]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 * groups  # bytes, those of the arguments that are copied included
    assert len(pickle.dumps(order)) < 5 * groups
    again = fresh()  # asked the later epoch first, so that nothing is laid out ahead
    assert [again.row(position) for position in (*boundary[64:], *middle, *boundary[:64])] == [
        *(seen[-64:] + seen[:-64])
    ]
    assert set(order._layouts._futures) == {0, 1}  # the boundary needs both


def test_the_first_epoch_is_forgotten_when_the_third_is_laid_out():
    groups = 2**20
    order = DataOrder(
        np.ones(groups, np.int64),
        np.full(groups, MB),
        global_batch_size=64,
        memory_bytes=64 * MB,
        seed=0,
    )
    for position in (0, groups - 1, groups, 2 * groups - 1, 2 * groups):
        order.row(position)
    assert set(order._layouts._futures) == {1, 2}


@pytest.mark.parametrize("room", [1, 99, 100, 350, 1000, 10**9])
def test_row_groups_of_any_size_fit_whichever_they_are(room):
    rng = np.random.default_rng(room)
    for sizes in (rng.integers(1, 100, 500), np.r_[np.ones(5000, int), 300], rng.integers(1, 9, 3)):
        largest_first = sorted(sizes.tolist(), reverse=True)
        sums = list(itertools.accumulate(largest_first))
        expected = max(1, sum(total <= room for total in sums), room // largest_first[0])
        assert _groups_that_fit(sizes, room) == expected
