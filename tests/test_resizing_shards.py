import numpy as np
import pyarrow.parquet as pq
import pytest

from convzoo.data.opening import open_split
from convzoo.resizing.rows import Row
from convzoo.resizing.shards import final_name, next_row, write_shards
from tests.support.images import coloured_images, write_split


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "colours"
    write_split(folder, "train", *coloured_images(1000, seed=0, side=(8, 9)))
    return open_split(str(folder), "train")


def rows(sizes, bad=(), start=0):
    """Rows whose images are so many bytes; those of `bad` are unreadable."""
    for number, size in enumerate(sizes[start:], start):
        problem = {"row": number, "where": "here", "reason": "why"} if number in bad else None
        jpeg = None if problem else number.to_bytes(4) + bytes(size - 4)
        yield Row(
            number=number,
            label=number % 3,
            jpeg=jpeg,
            bytes_in=size,
            unchanged=number % 5 == 0,
            problem=problem,
        )


def contents(folder, shards):
    tables = [pq.read_table(folder / shard["file"]) for shard in shards]
    images = [row["bytes"] for table in tables for row in table["image"].to_pylist()]
    labels = [label for table in tables for label in table["label"].to_pylist()]
    return [int.from_bytes(data[:4]) for data in images], labels


def test_shards_hold_every_readable_row_in_order_and_no_more_than_asked_for(source, tmp_path):
    sizes, bad = [500] * 1000, {3, 700, 999}
    shards = []
    for written, _ in enumerate(
        write_shards(
            tmp_path,
            source,
            rows=rows(sizes, bad),
            shards=shards,
            shard_bytes=120_000,
            max_bad_share=0.01,
        ),
        start=1,
    ):
        assert len(shards) == written and (tmp_path / shards[-1]["file"]).exists()
    numbers, labels = contents(tmp_path, shards)
    assert numbers == [number for number in range(1000) if number not in bad]
    assert labels == [number % 3 for number in numbers]
    assert [s["bytes_out"] for s in shards] == [100_000] * 4 + [98_500]  # two groups of 100 each
    assert [entry["row"] for shard in shards for entry in shard["unreadable"]] == sorted(bad)
    assert sum(shard["bytes_in"] for shard in shards) == 500_000
    assert next_row(shards) == 1000
    assert final_name({"shards": shards}, "train", number=2) == "train-00002-of-00005.parquet"


def test_row_groups_have_at_most_100_rows_and_about_10_megabytes(source, tmp_path):
    shards = []
    sizes = [400] * 250 + [3_000_000] * 9
    list(
        write_shards(
            tmp_path, source, rows=rows(sizes), shards=shards, shard_bytes=10**9, max_bad_share=0.0
        )
    )
    metadata = pq.read_metadata(tmp_path / shards[0]["file"])
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert groups == [100, 100, 54, 4, 1]  # 50 small ones and 4 of 3 MB pass 10 MB


def test_shards_go_on_where_they_stopped(source, tmp_path):
    sizes = np.random.default_rng(0).integers(100, 900, 1000).tolist()
    for name, stop in (("whole", None), ("stopped", 2)):
        folder, shards = tmp_path / name, []
        folder.mkdir()
        writing = write_shards(
            folder, source, rows=rows(sizes), shards=shards, shard_bytes=100_000, max_bad_share=0.0
        )
        for _ in range(stop or 0):
            next(writing)
        writing.close()
        list(
            write_shards(
                folder,
                source,
                rows=rows(sizes, (), next_row(shards)),
                shards=shards,
                shard_bytes=100_000,
                max_bad_share=0.0,
            )
        )
    whole, stopped = (sorted((tmp_path / name).glob("*.parquet")) for name in ("whole", "stopped"))
    assert [path.name for path in whole] == [path.name for path in stopped]
    assert [path.read_bytes() for path in whole] == [path.read_bytes() for path in stopped]


def test_more_unreadable_rows_than_allowed_are_listed_in_a_file(source, tmp_path):
    with pytest.raises(ValueError, match=r"at most 0\.20% of the 1000 images of train .* got 3"):
        list(
            write_shards(
                tmp_path,
                source,
                rows=rows([9] * 1000, {1, 5, 7}),
                shards=[],
                shard_bytes=10**6,
                max_bad_share=0.002,
            )
        )
    assert (tmp_path / f"{source.name}-unreadable.json").exists()
    assert not list(tmp_path.glob("*.parquet"))
