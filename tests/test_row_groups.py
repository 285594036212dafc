import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convzoo.data import row_groups
from convzoo.data.row_groups import FileFacts, Footers, Numbers, Pairs
from convzoo.data.split import fingerprint
from tests.support.images import coloured_images, write_split

NUMBERS = [(), (3,), (0, 2**31 - 1, 7), (1, 2**31, 2**40)]


@pytest.mark.parametrize("values", NUMBERS)
def test_numbers_read_like_a_tuple_and_are_an_array(values):
    numbers = Numbers(values)
    assert numbers == values and tuple(numbers) == values and hash(numbers) == hash(values)
    assert numbers[:2] == values[:2] and repr(numbers) == repr(values)
    assert all(type(number) is int for number in [*numbers, *numbers[:1]])
    array = np.asarray(numbers)
    assert array.tolist() == list(values)
    assert array.itemsize == (4 if max(values, default=0) < 2**31 else 8)
    assert Numbers(numbers) == numbers and numbers != (*values, 1)
    with pytest.raises(IndexError):
        numbers[len(values)]


@pytest.mark.parametrize("values", [(), ((0, 0),), ((0, 1), (2**33, 5), (2, 3))])
def test_pairs_read_like_a_tuple_of_pairs(values):
    pairs = Pairs(values)
    assert pairs == values and tuple(pairs) == values and repr(pairs) == repr(values)
    assert [str(pair) for pair in pairs] == [str(pair) for pair in values]
    assert np.asarray(pairs).shape == (len(values), 2)


def test_what_a_million_row_groups_take_is_20_bytes_each():
    groups = Pairs(np.zeros((10**6, 2), np.int64))
    rows, sizes = Numbers([100] * 10**6), Numbers(np.full(10**6, 2**31))
    assert sum(np.asarray(each).nbytes for each in (groups, rows, sizes)) == 20 * 10**6


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_a_fingerprint_is_that_of_the_same_lists(chunk, monkeypatch):
    monkeypatch.setattr(row_groups, "CHUNK", chunk)
    for values in NUMBERS:
        assert "".join(Numbers(values).json_pieces()) == json.dumps(values)
        assert fingerprint(["a.parquet"], Numbers(values)) == fingerprint(["a.parquet"], values)
    pairs = [(0, 1), (0, 2), (1, 0)]
    assert "".join(Pairs(pairs).json_pieces()) == json.dumps(pairs)
    assert fingerprint("a", Pairs(pairs), "z") == fingerprint("a", pairs, "z")


def test_packed_footers_say_what_the_files_say(tmp_path):
    images, labels = coloured_images(40, seed=0)
    write_split(tmp_path, "train", images, labels, files=3)
    files = sorted(map(str, (tmp_path / "data").iterdir()))
    footers = Footers([FileFacts.of(pq.read_metadata(file)).packed for file in files])
    assert len(footers) == 3 and len(footers[1:]) == 2
    for again in (footers, pickle.loads(pickle.dumps(footers))):
        for file, footer in zip(files, again, strict=True):
            assert footer == pq.read_metadata(file)
            assert footer.metadata == pq.read_metadata(file).metadata
            table = pq.ParquetFile(file, metadata=footer).read_row_group(1)
            assert table == pq.ParquetFile(file).read_row_group(1)
    assert footers[-1] is footers[2]  # parsed once


def test_the_facts_of_a_file_are_those_of_its_columns(tmp_path):
    table = pa.table({"a": [1, None, 3, None, None], "b": ["x" * n for n in range(5)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2, compression="none")
    footer = pq.read_metadata(tmp_path / "a.parquet")
    facts = FileFacts.of(footer)
    assert (facts.columns, facts.features) == (("a", "b"), b"")
    assert facts.rows.tolist() == [2, 2, 1] and facts.nulls == (3, 0)
    assert facts.sizes.sum(axis=1).tolist() == [
        footer.row_group(group).total_byte_size for group in range(3)
    ]
