import fcntl
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from convzoo.data.opening import open_split, split_names
from convzoo.resizing.command import Presize, preprocess, resizing_report_text
from tests.support.clients import ENVIRONMENT, ROOT
from tests.support.images import COLOURS, coloured_images, encode, write_split


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """1300 + 20 images of 60 to 90 pixels in 2 + 2 files; row 50 of the second is cut short."""
    folder = tmp_path_factory.mktemp("data") / "large"
    images, labels = coloured_images(260, seed=5, side=(60, 90))
    images, labels = images * 5, labels * 5  # enough work to be interrupted in the middle
    images[700] = images[700][:500]
    images[3] = encode(np.full((70, 65, 3), 200, np.uint8), "PNG")
    write_split(folder, "train", images, labels, rows_per_group=9)
    write_split(folder, "test", *coloured_images(20, seed=6, side=(60, 90)))
    (folder / "README.md").write_text(
        "---\npretty_name: Colours\nlicense: cc0-1.0\nsource_datasets:\n- someone/colours\n---\n"
    )
    return folder


SETTINGS = {"shard_bytes": 200_000, "max_bad_share": 0.01}


def hashes(folder):
    files = sorted((folder / "data").iterdir())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def copy(large, tmp_path_factory):
    output = tmp_path_factory.mktemp("copy") / "small"
    return output, preprocess(
        str(large), str(output), presize=Presize(48), command="the command", **SETTINGS
    )


def test_the_copy_has_every_readable_row_in_order(large, copy):
    output, _ = copy
    for split, count in (("train", 1299), ("test", 20)):
        before, after = (open_split(str(folder), split) for folder in (large, output))
        assert after.label_names == before.label_names == tuple(COLOURS)
        assert after.num_rows == count
        rows = [rows[i] for rows in groups(before) for i in range(len(rows))]
        if split == "train":
            del rows[700]
        written = [rows[i] for rows in groups(after) for i in range(len(rows))]
        assert [label for _, label in written] == [label for _, label in rows]
        for (data, _), (original, _) in zip(written, rows, strict=True):
            width, height = opened(original).size
            scaled = tuple(side * 48 // min(width, height) for side in (width, height))
            assert opened(data).size == scaled
            expected = opened(original).resize(scaled, Image.Resampling.BILINEAR)
            difference = np.asarray(opened(data)).mean((0, 1)) - np.asarray(expected).mean((0, 1))
            assert np.abs(difference).max() < 3  # the same image, not only one of the class
    assert sorted(split_names(str(output))) == ["test", "train"]


def groups(source):
    return (source.read_group(number) for number in range(len(source.groups)))


def test_files_have_the_size_and_layout_of_the_hub(copy):
    output, report = copy
    shards = report["splits"]["train"]["shards"]
    assert len(shards) > 3
    names = [f"train-{i:05d}-of-{len(shards):05d}.parquet" for i in range(len(shards))]
    assert [path.name for path in sorted((output / "data").glob("train-*"))] == names
    total_rows = 0
    for name, shard in zip(names, shards, strict=True):
        meta = pq.read_metadata(output / "data" / name)
        rows = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        assert max(rows) <= 100
        assert shard["bytes_out"] <= 200_000
        assert (shard["images"], shard["start_row"]) == (sum(rows), total_rows + (total_rows > 700))
        total_rows += sum(rows)
        assert pq.read_schema(output / "data" / name).metadata.keys() >= {b"huggingface"}


def test_the_datasets_library_reads_the_copy(copy, tmp_path):
    loaded = datasets.load_dataset(str(copy[0]), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 1299, "test": 20}
    assert loaded["train"].features["label"].names == list(COLOURS)
    assert min(loaded["train"][0]["image"].size) == 48


def test_report_and_card_tell_what_was_done(large, copy):
    output, report = copy
    assert json.loads((output / "presizing.json").read_text()) == report
    totals = report["totals"]
    assert (totals["images_in"], totals["images_out"], totals["unreadable"]) == (1320, 1319, 1)
    bytes_in = sum(
        len(data)
        for split in ("train", "test")
        for rows in groups(open_split(str(large), split))
        for data in rows.images.to_pylist()
    )
    assert totals["bytes_in"] == bytes_in
    (bad,) = [b for shard in report["splits"]["train"]["shards"] for b in shard["unreadable"]]
    # Row 50 of the second file, whose row groups have 9 rows.
    assert bad["row"] == 700
    assert bad["where"].startswith("row 5 of row group 5 of")
    assert bad["where"].endswith("train-00001-of-00002.parquet")
    assert "500 bytes" in bad["reason"]
    assert "1320 in, 1319 out, 1 unreadable" in resizing_report_text(report)
    bytes_out = sum(
        len(data)
        for split in ("train", "test")
        for rows in groups(open_split(str(output), split))
        for data in rows.images.to_pylist()
    )
    assert totals["bytes_out"] == bytes_out
    assert "the copy is larger" not in resizing_report_text(report)
    card = (output / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["pretty_name"] == "Colours, presized to 48"
    assert (front["license"], front["source_datasets"]) == ("cc0-1.0", ["someone/colours"])
    assert "the command" in card and "| train | 1,299 | 1 |" in card
    described = open_split(str(output), "train").describe()
    assert described["source_datasets"] == ["someone/colours"]


def test_two_processes_write_the_same_bytes(large, copy, tmp_path):
    report = preprocess(
        str(large),
        str(tmp_path / "two"),
        presize=Presize(48),
        command="",
        num_workers=2,
        **SETTINGS,
    )
    assert hashes(tmp_path / "two") == hashes(copy[0])
    assert report["totals"] == copy[1]["totals"]


SCRIPT = """
import sys
from convzoo.resizing.command import Presize, preprocess
if __name__ == "__main__":
    preprocess(*sys.argv[1:3], presize=Presize(48), command="", num_workers=2, shard_bytes=200_000,
               max_bad_share=0.01)
"""


def descendants(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(child) for child in children.read_text().split()] if children.exists() else []
    return found + [grandchild for child in found for grandchild in descendants(child)]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_run_leaves_no_output_and_no_process_and_is_continued(large, copy, tmp_path):
    output, aside = tmp_path / "killed", tmp_path / ".killed.partial"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, large, output],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (aside / "train-00000.parquet").exists() or not (aside / "presizing.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    workers = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not output.exists()
    report = json.loads((aside / "presizing.json").read_text())
    done = {shard["file"] for shard in report["splits"]["train"]["shards"]}
    assert done and not report["splits"]["test"]["shards"]  # it was killed in the middle
    times = {name: (aside / name).stat().st_mtime_ns for name in done}

    with pytest.raises(ValueError, match=r"size was 48, got 40\. Give the same, or delete"):
        preprocess(str(large), str(output), presize=Presize(40), command="", **SETTINGS)
    result = preprocess(str(large), str(output), presize=Presize(48), command="", **SETTINGS)
    assert hashes(output) == hashes(copy[0])
    assert result["totals"] == copy[1]["totals"]
    kept = sorted((output / "data").glob("train-*"))[: len(done)]
    assert [path.stat().st_mtime_ns for path in kept] == [times[name] for name in sorted(done)]
    assert not aside.exists()
    assert sorted(path.name for path in output.iterdir()) == ["README.md", "data", "presizing.json"]


def test_a_shard_that_was_lost_is_made_again(large, copy, tmp_path):
    output, aside = tmp_path / "again", tmp_path / ".again.partial"
    preprocess(str(large), str(output), presize=Presize(48), command="", **SETTINGS)
    output.rename(aside)  # as if it was stopped just before the end
    lost = sorted((aside / "data").glob("train-*"))[1]
    lost.write_bytes(lost.read_bytes()[:-1])
    preprocess(str(large), str(output), presize=Presize(48), command="", **SETTINGS)
    assert hashes(output) == hashes(copy[0])
    assert sorted(path.name for path in output.iterdir()) == ["README.md", "data", "presizing.json"]


def test_a_finished_copy_is_left_alone_and_others_are_not_overwritten(large, copy, tmp_path):
    output, report = copy
    before = hashes(output)
    assert (
        preprocess(str(large), str(output), presize=Presize(48), command="", **SETTINGS) == report
    )
    with pytest.raises(FileExistsError, match="output must not exist, or be a copy of the same"):
        preprocess(str(large), str(output), presize=Presize(40), command="", **SETTINGS)
    with pytest.raises(FileExistsError, match="Choose another folder"):
        preprocess(str(large), str(tmp_path), presize=Presize(48), command="", **SETTINGS)
    assert hashes(output) == before


def test_too_many_unreadable_images_stop_it_and_are_listed(large, copy, tmp_path):
    output = tmp_path / "strict"
    strict = SETTINGS | {"max_bad_share": 0.0005}
    message = r"at most 0.05% of the 1300 .* 1 so far.* as row 5 of row group 5"
    with pytest.raises(ValueError, match=message):
        preprocess(str(large), str(output), presize=Presize(48), command="", **strict)
    assert not output.exists()
    (bad,) = json.loads((tmp_path / ".strict.partial" / "train-unreadable.json").read_text())
    assert bad["row"] == 700 and bad["where"].endswith("train-00001-of-00002.parquet")
    preprocess(
        str(large), str(output), presize=Presize(48), command="", **SETTINGS
    )  # goes on where it stopped
    assert hashes(output) == hashes(copy[0])


def test_a_folder_of_images_becomes_parquet(tmp_path):
    images, labels = coloured_images(12, seed=7, side=(60, 90))
    names = tuple(COLOURS)
    for number, (data, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "images" / "train" / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02d}.jpg").write_bytes(data if number != 4 else b"broken")
    report = preprocess(
        str(tmp_path / "images"),
        str(tmp_path / "out"),
        presize=Presize(48),
        command="",
        max_bad_share=0.1,
    )
    (bad,) = report["splits"]["train"]["shards"][0]["unreadable"]
    assert bad["where"].endswith(f"{names[1]}/04.jpg")
    source = open_split(str(tmp_path / "out"), "train")
    assert source.label_names == tuple(sorted(names))
    assert sorted(source.read_group(0).labels) == [0] * 4 + [1] * 3 + [2] * 4  # green lost one


def test_labels_that_no_training_can_use_fail_before_any_work(tmp_path):
    images, labels = coloured_images(9, seed=0)
    write_split(tmp_path / "hidden", "train", images, labels)
    write_split(tmp_path / "hidden", "test", images, [0] * 8 + [-1], rows_per_group=2)
    message = (
        r"label must .* \[0, 2\]; got -1 in row 1.*\. Leave split 'test' out with --splits train"
    )
    with pytest.raises(ValueError, match=message):
        preprocess(str(tmp_path / "hidden"), str(tmp_path / "out"), presize=Presize(16), command="")
    assert [path.name for path in tmp_path.iterdir()] == ["hidden"]
    report = preprocess(
        str(tmp_path / "hidden"),
        str(tmp_path / "out"),
        presize=Presize(16),
        command="",
        splits=("train",),
    )
    assert list(report["splits"]) == ["train"]
    larger = report | {"totals": report["totals"] | {"bytes_in": 1}}
    assert "the copy is larger than its source" in resizing_report_text(larger)


def test_two_runs_cannot_write_the_same_copy(large, tmp_path):
    aside = tmp_path / ".out.partial"
    aside.mkdir()
    descriptor = os.open(aside, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(OSError, match="must have one writer; another process is writing it"):
            preprocess(str(large), str(tmp_path / "out"), presize=Presize(48), command="")
    finally:
        os.close(descriptor)


def test_missing_data_and_impossible_numbers_are_refused(large, tmp_path):
    with pytest.raises(FileNotFoundError, match="must be a folder that exists, or a Hub"):
        preprocess(str(tmp_path / "nothing"), str(tmp_path / "out"), presize=Presize(), command="")
    with pytest.raises(ValueError, match=r"max_bad_share lie in \[0, 1\); got 1, 400000000 and 1"):
        preprocess(
            str(large), str(tmp_path / "out"), presize=Presize(), command="", max_bad_share=1
        )
