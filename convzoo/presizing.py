"""A copy of a dataset with smaller pictures, made once so that training decodes less.

Rows keep their order, classes and columns. Worker processes turn row groups of the source into
JPEGs; this process alone puts them in order and writes, so the files do not depend on the number of
workers. Finished shards are recorded in the folder aside (`.OUT.partial`) where all is written; a
rerun continues there, and OUT appears at the end, whole.

    python -m convzoo preprocess SOURCE OUT --size 256 --workers 16
"""

import dataclasses
import fcntl
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
import torch
from tqdm import tqdm

from convzoo.decoding import decode_rgb
from convzoo.environment import describe_environment, now, write_json
from convzoo.sources import open_source
from convzoo.transforms import resize

logger = logging.getLogger(__name__)

REPORT = "presizing.json"
ROWS_PER_GROUP = 100  # as the Hub's image datasets have; the unit of reading and shuffling
BYTES_PER_GROUP = 10_000_000


@dataclass(frozen=True)
class Presize:
    """An encoded picture to a smaller JPEG.

    Attributes:
        size: shorter side, pixels; a smaller picture keeps its size.
        crop: also cut to at most size x size at the centre, as the evaluation protocols do.
        enlarge: bring smaller pictures to `size`, too.
        interpolation: "bilinear" or "bicubic", antialiased.
        quality: of the JPEG, 1 to 100.
        subsampling: of the colours: "420" halves their resolution, "444" keeps it.
    """

    size: int = 256
    crop: bool = False
    enlarge: bool = False
    interpolation: str = "bilinear"
    quality: int = 90
    subsampling: str = "420"

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel; got {self.size}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must lie in [1, 100]; got {self.quality}")
        for name, choices in (
            ("interpolation", ("bilinear", "bicubic")),
            ("subsampling", ("420", "444")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be {' or '.join(choices)}; got {getattr(self, name)!r}"
                )

    def __call__(self, data: bytes) -> bytes:
        """Decode, resize, crop and encode.

        Args:
            data: any file that Pillow reads; an EXIF rotation is not applied.

        Returns:
            An RGB JPEG; `data` itself if it is a grey or RGB JPEG whose pixels would not change.

        Raises:
            ValueError: if the picture cannot be read.
        """
        original = decode_rgb(data)
        image = self._resize(original)
        if image.shape == original.shape and _is_plain_jpeg(data):
            return bytes(data)
        image = np.ascontiguousarray(image)
        return simplejpeg.encode_jpeg(image, self.quality, "RGB", self.subsampling)

    def _resize(self, image):
        height, width = image.shape[:2]
        short = min(height, width)
        if short > self.size or (self.enlarge and short < self.size):
            height, width = (side * self.size // short for side in (height, width))
            image = resize(image, height, width, self.interpolation)
        if self.crop:
            new_height, new_width = min(height, self.size), min(width, self.size)
            top, left = round((height - new_height) / 2), round((width - new_width) / 2)
            image = image[top : top + new_height, left : left + new_width]
        return image


def _is_plain_jpeg(data):
    if bytes(data[:2]) != b"\xff\xd8":
        return False
    return simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "Gray", "RGB")


def split_names(path: str, name: str = "", revision: str = "") -> list[str]:
    """Splits of a dataset, in its own order.

    Args:
        path: a folder of parquet files or of pictures, or a Hub dataset id.
        name: configuration of a dataset that has several.
        revision: commit, tag or branch of a Hub dataset.

    Raises:
        FileNotFoundError: if there is no such dataset.
    """
    import datasets

    try:
        builder = datasets.load_dataset_builder(path, name or None, revision=revision or None)
    except (FileNotFoundError, ConnectionError, datasets.exceptions.DatasetNotFoundError):
        open_source(path, "train", name, revision)  # fails likewise, and says what to do
        raise
    return [str(split) for split in builder.config.data_files or {}]


def preprocess(
    source: str,
    output: str,
    presize: Presize,
    command: str,
    splits: tuple[str, ...] = (),
    shard_bytes: int = 400_000_000,
    num_workers: int = 1,
    max_bad_share: float = 0.001,
    name: str = "",
    revision: str = "",
    image_column: str = "",
    label_column: str = "",
) -> dict:
    """Write a presized copy of a dataset, or continue one that was interrupted.

    Args:
        source: folder of parquet files or of pictures, or Hub dataset id.
        output: folder to create.
        presize: what happens to each picture.
        command: what a reader types to repeat this.
        splits: which splits; all if empty.
        shard_bytes: largest file; a file has at least one row group.
        num_workers: processes that convert pictures; 1 converts in this one.
        max_bad_share: share of a split's pictures that may be unreadable, in [0, 1).
        name: configuration of a dataset that has several.
        revision: commit, tag or branch of a Hub dataset.
        image_column: column of pictures; the only image column if "".
        label_column: column of class numbers; the only class column if "".

    Returns:
        What is in `presizing.json` of the output: settings, shards, unreadable pictures, totals.

    Raises:
        FileNotFoundError: if there is no such dataset.
        FileExistsError: if the output exists and is not the same copy.
        ValueError: if a setting is out of range, differs from those the output was begun with, or
            too many pictures are unreadable.
        OSError: if the output cannot be written.
    """
    if num_workers < 1 or shard_bytes < 1 or not 0 <= max_bad_share < 1:
        raise ValueError(
            "workers and shard size must be positive and max_bad_share lie in [0, 1); got "
            f"{num_workers}, {shard_bytes} and {max_bad_share}"
        )
    splits = splits or split_names(source, name, revision)
    sources = [
        open_source(source, split, name, revision, image_column, label_column) for split in splits
    ]
    settings = dataclasses.asdict(presize) | {
        "shard_bytes": shard_bytes,
        "source": {item.split: item.fingerprint for item in sources},
    }
    output = Path(output)
    if output.exists():
        return _finished_report(output, settings)
    for item in sources:
        item.read_group(0)  # labels that no training can use fail now, not after hours
    folder = output.with_name(f".{output.name}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    with _only_user_of(folder):
        report = _begin_or_continue(folder, settings, sources, command, name)
        started = time.perf_counter() - report["duration_seconds"]
        with (
            _progress(report, sources) as bar,
            _converter(sources, presize, num_workers) as convert,
        ):
            for number, item in enumerate(sources):
                shards = report["splits"][item.split]["shards"]
                rows = _counted(convert(number, _pieces(item, _next_row(shards))), bar)
                for _ in _write_shards(folder, item, rows, shards, shard_bytes, max_bad_share):
                    report["duration_seconds"] = round(time.perf_counter() - started, 2)
                    write_json(folder / REPORT, report)
        report["totals"] = _totals(report)
        _finish(folder, output, report, sources)
    return report


def summary(report: dict) -> str:
    """A report in a few lines for people."""
    totals = report["totals"]
    share = totals["bytes_out"] / totals["bytes_in"]
    seconds = report["duration_seconds"]
    note = "\nnote:   the copy is larger than its source; few pictures were larger than its size"
    return (
        f"images: {totals['images_in']} in, {totals['images_out']} out, "
        f"{totals['unreadable']} unreadable (listed in {REPORT}), "
        f"{totals['unchanged']} unchanged\n"
        f"bytes:  {totals['bytes_in']:,} in, {totals['bytes_out']:,} out ({share:.1%})\n"
        f"time:   {seconds:.1f} s, {totals['images_in'] / max(seconds, 0.01):.0f} images/s"
        + note
        * (share > 1)
    )


def _finished_report(output, settings):
    path = output / REPORT
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if report.get("settings") != settings:
        raise FileExistsError(
            f"output must not exist, or be a copy of the same data with the same settings; got "
            f"{output}. Choose another folder or delete it"
        )
    logger.info("%s is complete already", output)
    return report


@contextmanager
def _only_user_of(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise OSError(f"{folder} must have one writer; another process is writing it") from error
    finally:
        os.close(descriptor)  # frees the lock, as the end of the process does


def _begin_or_continue(folder, settings, sources, command, name):
    path = folder / REPORT
    if not path.is_file():
        return {
            "schema_version": 1,
            "settings": settings,
            "command": command,
            "date": now(),
            "environment": describe_environment(),
            "duration_seconds": 0.0,
            "splits": {
                item.split: {"source": item.describe() | {"config": name or None}, "shards": []}
                for item in sources
            },
        }
    report = json.loads(path.read_text(encoding="utf-8"))
    before = report["settings"]
    differing = [key for key in settings if before.get(key) != settings[key]]
    if differing:
        key = differing[0]
        raise ValueError(
            f"{folder} must be continued with the data and settings it was begun with; {key} was "
            f"{before.get(key)}, got {settings[key]}. Give the same, or delete that folder"
        )
    for split, content in report["splits"].items():
        for number, shard in enumerate(content["shards"]):
            paths = (folder / shard["file"], folder / "data" / _final_name(content, split, number))
            if not any(p.is_file() and p.stat().st_size == shard["file_bytes"] for p in paths):
                del content["shards"][number:]  # lost since: made again, with all that follow
                break
    return report


def _next_row(shards):
    return shards[-1]["stop_row"] if shards else 0


def _progress(report, sources):
    return tqdm(
        total=sum(item.num_rows for item in sources),
        initial=sum(_next_row(content["shards"]) for content in report["splits"].values()),
        desc="preprocess",
        unit=" images",
        smoothing=0.05,
    )


def _counted(rows, bar):
    for row in rows:
        yield row
        bar.update()


def _pieces(source, start):
    """(row group, number of its first row, rows of it to skip) of all rows from `start` on."""
    first = 0
    for group, count in enumerate(source.group_rows):
        if first + count > start:
            yield group, first, max(0, start - first)
        first += count


@dataclass(frozen=True)
class _Row:
    """A converted row; `jpeg` is None and `problem` tells why if it is unreadable."""

    number: int
    label: int
    jpeg: bytes | None
    bytes_in: int
    unchanged: bool
    problem: dict | None


def _convert_group(source, presize, group, first, skip):
    rows = source.read_group(group)
    converted = []
    for index in range(skip, len(rows)):
        data, label = rows[index]
        jpeg = problem = None
        try:
            jpeg = presize(data)
        except ValueError as error:
            where = source.where(group, index)
            problem = {"row": first + index, "where": where, "reason": str(error)}
        converted.append(_Row(first + index, label, jpeg, len(data), jpeg == data, problem))
    return converted


@contextmanager
def _converter(sources, presize, num_workers):
    """A function (number of a source, pieces of it) -> rows in order, over processes."""
    if num_workers == 1:
        yield lambda number, pieces: (
            row for piece in pieces for row in _convert_group(sources[number], presize, *piece)
        )
        return
    # Not fork: torch and pyarrow have threads. The server imports once what the workers need.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (sources, presize))

    def convert(number, pieces):
        waiting = deque()
        for piece in pieces:
            waiting.append(pool.submit(_convert_in_worker, number, *piece))
            if len(waiting) > 2 * num_workers:  # bounds the memory
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    try:
        yield convert
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process was killed, perhaps for want of memory; run the same command again "
            "to continue, with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(sources, presize):
    global _work  # sent once, not with every piece: the footers of a large dataset are megabytes
    _work = sources, presize
    torch.set_num_threads(1)  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """A worker whose main process was killed would wait for work for ever."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _convert_in_worker(number, *piece):
    sources, presize = _work
    return _convert_group(sources[number], presize, *piece)


def _write_shards(folder, source, rows, shards, shard_bytes, max_bad_share):
    """Write rows to shards, adding each to `shards` when it is on disk; yields then."""
    bad = [entry for shard in shards for entry in shard["unreadable"]]
    shard = None
    for group in _row_groups(rows):
        problems = [row.problem for row in group if row.problem]
        bad += problems
        if len(bad) > max_bad_share * source.num_rows:
            _refuse(folder, source, bad, max_bad_share)
        size = sum(len(row.jpeg or b"") for row in group)
        if shard and shard.bytes_out + size > shard_bytes:
            shards.append(shard.close())
            yield
            shard = None
        if not shard:
            shard = _Shard(folder, source, len(shards), _next_row(shards))
        shard.add(group, problems)
    if shard:
        shards.append(shard.close())
        yield


def _row_groups(rows):
    """Cut rows into lists that become row groups; they may hold some unreadable rows more."""
    group, count, size = [], 0, 0
    for row in rows:
        group.append(row)
        count += row.jpeg is not None
        size += len(row.jpeg or b"")
        if count == ROWS_PER_GROUP or size >= BYTES_PER_GROUP:
            yield group
            group, count, size = [], 0, 0
    if group:
        yield group


class _Shard:
    """A parquet file that has its name only when it is complete."""

    def __init__(self, folder, source, number, start_row):
        self.path = folder / f"{source.split}-{number:05d}.parquet"
        self.aside = self.path.with_suffix(".tmp")
        self.schema = _schema(source)
        # JPEGs do not compress, and no two are alike.
        self.writer = pq.ParquetWriter(
            self.aside, self.schema, compression="none", use_dictionary=False
        )
        self.bytes_out = 0
        self.record = {
            "file": self.path.name,
            "start_row": start_row,
            "stop_row": start_row,
            "images": 0,
            "unchanged": 0,
            "bytes_in": 0,
            "unreadable": [],
        }

    def add(self, rows, problems):
        """Append one row group."""
        good = [row for row in rows if row.jpeg is not None]
        self.record["stop_row"] = rows[-1].number + 1
        self.record["images"] += len(good)
        self.record["unchanged"] += sum(row.unchanged for row in good)
        self.record["bytes_in"] += sum(row.bytes_in for row in rows)
        self.record["unreadable"] += problems
        self.bytes_out += sum(len(row.jpeg) for row in good)
        if good:
            images = [{"bytes": row.jpeg, "path": None} for row in good]
            labels = [row.label for row in good]
            self.writer.write_table(pa.table([images, labels], schema=self.schema))

    def close(self):
        """Bring the file to disk and give it its name; returns its record."""
        self.writer.close()
        with self.aside.open("rb") as handle:
            os.fsync(handle.fileno())
        self.aside.rename(self.path)
        file_bytes = self.path.stat().st_size
        return self.record | {"bytes_out": self.bytes_out, "file_bytes": file_bytes}


def _schema(source):
    import datasets

    features = {  # a folder of pictures has no columns
        source.image_column or "image": datasets.Image(),
        source.label_column or "label": datasets.ClassLabel(names=list(source.label_names)),
    }
    return datasets.Features(features).arrow_schema


def _refuse(folder, source, bad, max_bad_share):
    path = folder / f"{source.split}-unreadable.json"
    write_json(path, bad)
    raise ValueError(
        f"at most {max_bad_share:.2%} of the {source.num_rows} pictures of {source.split} may be "
        f"unreadable; got {len(bad)} so far, listed in {path}, as "
        f"{bad[0]['where']}: {bad[0]['reason']}. Raise --max-bad-share to continue without them"
    )


def _final_name(content, split, number):
    return f"{split}-{number:05d}-of-{len(content['shards']):05d}.parquet"


def _totals(report):
    shards = [shard for content in report["splits"].values() for shard in content["shards"]]
    return {
        "images_in": sum(shard["stop_row"] - shard["start_row"] for shard in shards),
        "images_out": sum(shard["images"] for shard in shards),
        "unreadable": sum(len(shard["unreadable"]) for shard in shards),
        "unchanged": sum(shard["unchanged"] for shard in shards),
        "bytes_in": sum(shard["bytes_in"] for shard in shards),
        "bytes_out": sum(shard["bytes_out"] for shard in shards),
    }


def _finish(folder, output, report, sources):
    """Give the shards the names of the Hub's layout, add card and report, and show the folder."""
    (folder / "data").mkdir(exist_ok=True)
    for split, content in report["splits"].items():
        for number, shard in enumerate(content["shards"]):
            if (folder / shard["file"]).exists():  # else an earlier run was stopped just here
                name = _final_name(content, split, number)
                (folder / shard["file"]).replace(folder / "data" / name)
    for leftover in [*folder.glob("*.tmp"), *folder.glob("*-unreadable.json")]:
        leftover.unlink()
    (folder / "README.md").write_text(_card(report, sources), encoding="utf-8")
    write_json(folder / REPORT, report)
    folder.rename(output)


def _card(report, sources):
    """The dataset card: front matter as the Hub reads it, and what was done."""
    import yaml

    settings, totals, described = report["settings"], report["totals"], sources[0].describe()
    size = settings["size"]
    title = f"{described['name']}, presized to {size}"
    origin = [described["id"]] if described["id"] else described["source_datasets"]
    front = {"pretty_name": title}
    front |= {key: value for key, value in sources[0].card.items() if key.startswith("license")}
    if origin:
        front["source_datasets"] = origin
    front |= {
        "task_categories": ["image-classification"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"data/{split}-*"} for split in report["splits"]
                ],
            }
        ],
    }
    done = [f"shorter side {size} pixels (antialiased {settings['interpolation']})"]
    done += ["smaller pictures enlarged" if settings["enlarge"] else "smaller pictures left alone"]
    done += [f"cut to at most {size} x {size} at the centre"] * settings["crop"]
    colours = ":".join(settings["subsampling"])
    done += [f"saved as RGB JPEG of quality {settings['quality']}, colours {colours}"]
    lines = [
        f"| {split} | {sum(shard['images'] for shard in content['shards']):,} | "
        f"{sum(len(shard['unreadable']) for shard in content['shards'])} | "
        f"{len(content['shards'])} | {sum(s['bytes_out'] for s in content['shards']) / 1e6:,.1f} |"
        for split, content in report["splits"].items()
    ]
    versions = report["environment"]["versions"]
    used = ", ".join(f"{key} {versions[key]}" for key in ("convzoo", "torch", "simplejpeg"))
    revision = f" at revision `{described['revision']}`" if described["revision"] else ""
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# {title}

A copy of `{described["path"]}`{revision} for faster training: {"; ".join(done)}.
{totals["unchanged"]:,} pictures were JPEGs of that size already and kept their bytes. Order,
classes and class numbers are the source's; EXIF rotations were not applied; other columns and file
names were left out.

| split | pictures | unreadable, left out | files | MB of pictures |
|---|---|---|---|---|
{chr(10).join(lines)}

`{REPORT}` lists the unreadable pictures. Made on {report["date"]} with {used}:

```bash
{report["command"]}
```

The licence and the terms of the source hold for this copy.
"""
