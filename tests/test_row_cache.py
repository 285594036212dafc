import multiprocessing

import pyarrow as pa
import pytest

from convzoo.data.row_cache import RowCache


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
    held = sum(path.stat().st_size for path in tmp_path.iterdir())
    kept = len(list(tmp_path.iterdir()))
    assert 0 < held <= 4000 and 0 < kept < 6
    assert calls == [*range(6), *range(kept, 6)]  # the second epoch fetches the rest only


def test_a_file_that_was_cut_off_is_fetched_again(tmp_path, calls, read):
    cache = RowCache(tmp_path, 10**6)
    whole = cache.get("a", read(1))
    (path,) = tmp_path.iterdir()
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
    assert len(list(tmp_path.iterdir())) == 150


def test_a_file_whose_end_is_damaged_is_fetched_again(tmp_path, calls, read):
    cache = RowCache(tmp_path, 10**6)
    whole = cache.get("a", read(1))
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[-200:-160] = bytes([255] * 40)  # pyarrow raises OSError, not ArrowInvalid
    path.write_bytes(data)
    assert cache.get("a", read(1)).equals(whole) and calls == [1, 1]
