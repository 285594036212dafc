import multiprocessing
import os

import pyarrow as pa
import pytest

from convzoo.data import row_cache
from convzoo.data.row_cache import TOTAL, RowCache


@pytest.fixture
def calls():
    return []


@pytest.fixture
def read(calls):
    def read_number(number):
        def read():
            calls.append(number)
            return pa.table({"image": [bytes([number]) * 1000], "label": [number]})

        return read

    return read_number


def test_a_row_group_is_fetched_once(tmp_path, calls, read):
    cache = RowCache(tmp_path / "cache", 10**6)
    first = cache.get("a", read(1))
    again = RowCache(tmp_path / "cache", 10**6).get("a", read(1))  # another run
    assert first.equals(again) and calls == [1]
    assert cache.get("b", read(2))["label"].to_pylist() == [2] and calls == [1, 2]


def test_the_folder_keeps_what_came_first_and_stays_within_its_size(tmp_path, calls, read):
    cache = RowCache(tmp_path, 4000)
    for _ in range(2):
        for number in range(6):
            cache.get(str(number), read(number))
    held = sum(path.stat().st_size for path in tmp_path.glob("*.arrow"))
    kept = len(list(tmp_path.glob("*.arrow")))
    assert int((tmp_path / TOTAL).read_bytes()) == held
    assert 0 < held <= 4000 and 0 < kept < 6
    assert calls == [*range(6), *range(kept, 6)]  # the second epoch fetches the rest only


def test_a_file_that_was_cut_off_is_fetched_again(tmp_path, calls, read):
    cache = RowCache(tmp_path, 10**6)
    whole = cache.get("a", read(1))
    (path,) = tmp_path.glob("*.arrow")
    path.write_bytes(path.read_bytes()[:-50])
    assert cache.get("a", read(1)).equals(whole) and calls == [1, 1]
    assert cache.get("a", read(1)).equals(whole) and calls == [1, 1]


def fetch_many(folder, first):
    cache = RowCache(folder, 10**9)
    for number in range(150):
        key = (first + number) % 150
        table = cache.get(str(key), lambda key=key: pa.table({"label": [key]}))
        assert table["label"].to_pylist() == [key]


def test_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fetch_many, args=(tmp_path, n * 40)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    files = list(tmp_path.glob("*.arrow"))
    assert len(files) == 150 and {
        path.name for path in tmp_path.iterdir() if path not in files
    } == {TOTAL}
    assert int((tmp_path / TOTAL).read_bytes()) == sum(path.stat().st_size for path in files)


def test_what_another_process_is_writing_is_not_counted(tmp_path, read):
    (tmp_path / "being-written.1.partial").write_bytes(bytes(500))
    abandoned = tmp_path / "killed.2.partial"
    abandoned.write_bytes(bytes(500))
    os.utime(abandoned, (0, 0))
    RowCache(tmp_path, 10**6).get("a", read(1))
    (stored,) = tmp_path.glob("*.arrow")
    assert int((tmp_path / TOTAL).read_bytes()) == stored.stat().st_size
    assert [path.name for path in tmp_path.glob("*.partial")] == ["being-written.1.partial"]


def test_a_file_whose_end_is_damaged_is_fetched_again(tmp_path, calls, read):
    cache = RowCache(tmp_path, 10**6)
    whole = cache.get("a", read(1))
    (path,) = tmp_path.glob("*.arrow")
    data = bytearray(path.read_bytes())
    data[-200:-160] = bytes([255] * 40)  # pyarrow raises OSError, not ArrowInvalid
    path.write_bytes(data)
    assert cache.get("a", read(1)).equals(whole) and calls == [1, 1]


def test_a_store_does_not_look_at_the_other_files(tmp_path, read, monkeypatch):
    cache = RowCache(tmp_path, 10**6)
    cache.get("a", read(1))

    def count(folder):
        raise AssertionError("the folder was counted again")

    monkeypatch.setattr(row_cache, "_count", count)
    for number in range(5):
        cache.get(f"b{number}", read(number))
    assert all(cache.has(f"b{number}") for number in range(5))
