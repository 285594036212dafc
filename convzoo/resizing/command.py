"""A copy of a dataset with smaller images, made once so that training decodes less.

Rows keep their order, classes and columns. Worker processes turn row groups of the source into
JPEGs; this process alone puts them in order and writes, so the files do not depend on the number of
workers. Finished shards are recorded in the folder aside (`.OUT.partial`) where all is written; a
rerun continues there, and OUT appears at the end, whole.

    python -m convzoo preprocess SOURCE OUT --size 256 --workers 16
"""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from convzoo.data.opening import DatasetReference, leave_out_advice, open_splits
from convzoo.data.split import Split
from convzoo.environment import provenance
from convzoo.files import locked_folder, read_json, write_json
from convzoo.resizing.card import dataset_card
from convzoo.resizing.rows import Presize, row_converter
from convzoo.resizing.shards import REPORT, Report, final_name, next_row, write_shards

logger = logging.getLogger(__name__)


def preprocess(
    source: str | DatasetReference,
    output: str,
    *,
    presize: Presize,
    command: str,
    splits: tuple[str, ...] = (),
    shard_bytes: int = 400_000_000,
    num_workers: int = 1,
    max_bad_share: float = 0.001,
) -> Report:
    """Write a presized copy of a dataset, or continue one that was interrupted.

    Args:
        source: which dataset, as for `open_split`.
        output: folder to create.
        presize: what happens to each image.
        command: what a reader types to repeat this.
        splits: which splits; all if empty.
        shard_bytes: largest file; a file has at least one row group.
        num_workers: processes that convert images; 1 converts in this one.
        max_bad_share: share of a split's images that may be unreadable, in [0, 1).

    Returns:
        The content of `presizing.json`: settings, shards, unreadable images, totals.

    Raises:
        FileNotFoundError: if there is no such dataset.
        FileExistsError: if the output exists and is not the same copy.
        ValueError: if a setting is out of range, differs from those the output was begun with, or
            too many images are unreadable.
        OSError: if the output cannot be written.
    """
    if num_workers < 1 or shard_bytes < 1 or not 0 <= max_bad_share < 1:
        raise ValueError(
            "workers and shard size must be positive and max_bad_share lie in [0, 1); got "
            f"{num_workers}, {shard_bytes} and {max_bad_share}"
        )
    opened = open_splits(source, splits)
    settings = dataclasses.asdict(presize) | {
        "shard_bytes": shard_bytes,
        "source": {split.name: split.fingerprint for split in opened},
    }
    target = Path(output)
    if target.exists():
        return _finished_report(target, settings)
    _check_labels(opened)
    folder = target.with_name(f".{target.name}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    refusal = OSError(f"{folder} must have one writer; another process is writing it")
    with locked_folder(folder, refusal):
        config = DatasetReference.of(source).name
        new = functools.partial(_new, opened, command, settings=settings, config=config)
        report = _begin_or_continue(folder, settings, new)
        started = time.perf_counter() - report["duration_seconds"]
        with row_converter(opened, presize, num_workers=num_workers) as convert:
            for number, split in enumerate(opened):
                shards = report["splits"][split.name]["shards"]
                start = next_row(shards)
                rows = tqdm(
                    convert(number, split.pieces(range(start, split.num_rows))),
                    desc=f"preprocess {split.name}",
                    total=split.num_rows,
                    initial=start,
                    unit=" images",
                )
                for _ in write_shards(
                    folder,
                    split,
                    rows=rows,
                    shards=shards,
                    shard_bytes=shard_bytes,
                    max_bad_share=max_bad_share,
                ):
                    report["duration_seconds"] = round(time.perf_counter() - started, 2)
                    write_json(folder / REPORT, report)
        report["totals"] = _totals(report)
        _finish(folder, target, report=report, card=dataset_card(report, opened))
    return report


def _check_labels(splits: Sequence[Split]) -> None:
    """Refuse labels that no training can use: now, not after hours."""
    names = [split.name for split in splits]
    for split in splits:
        try:
            split.read_labels()
        except ValueError as error:
            raise ValueError(f"{error}{leave_out_advice(split.name, names)}") from error


def resizing_report_text(report: Report) -> str:
    """Write a report in a few lines for people."""
    totals = report["totals"]
    share = totals["bytes_out"] / totals["bytes_in"]
    seconds = report["duration_seconds"]
    lines = [
        f"images: {totals['images_in']} in, {totals['images_out']} out, "
        f"{totals['unreadable']} unreadable (listed in {REPORT}), "
        f"{totals['unchanged']} unchanged",
        f"bytes:  {totals['bytes_in']:,} in, {totals['bytes_out']:,} out ({share:.1%})",
        f"time:   {seconds:.1f} s, {totals['images_in'] / max(seconds, 0.01):.0f} images/s",
    ]
    if share > 1:
        lines.append(
            "note:   the copy is larger than its source; few images were larger than its size"
        )
    return "\n".join(lines)


def _finished_report(output: Path, settings: Report) -> Report:
    path = output / REPORT
    report: Report = read_json(path) if path.is_file() else {}
    if report.get("settings") != settings:
        raise FileExistsError(
            f"output must not exist, or be a copy of the same data with the same settings; got "
            f"{output}. Choose another folder or delete it"
        )
    logger.info("%s is complete already", output)
    return report


def _new(splits: Sequence[Split], command: str, *, settings: Report, config: str) -> Report:
    return {
        "schema_version": 1,
        "settings": settings,
        **provenance(command),
        "duration_seconds": 0.0,
        "splits": {
            split.name: {"source": split.describe() | {"config": config or None}, "shards": []}
            for split in splits
        },
    }


def _begin_or_continue(folder: Path, settings: Report, new: Callable[[], Report]) -> Report:
    path = folder / REPORT
    if not path.is_file():
        return new()
    report: Report = read_json(path)
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
            paths = (
                folder / shard["file"],
                folder / "data" / final_name(content, split, number=number),
            )
            if not any(p.is_file() and p.stat().st_size == shard["file_bytes"] for p in paths):
                del content["shards"][number:]  # lost since: made again, with all that follow
                break
    return report


def _totals(report: Report) -> Report:
    shards = [shard for content in report["splits"].values() for shard in content["shards"]]
    return {
        "images_in": sum(shard["stop_row"] - shard["start_row"] for shard in shards),
        "images_out": sum(shard["images"] for shard in shards),
        "unreadable": sum(len(shard["unreadable"]) for shard in shards),
        "unchanged": sum(shard["unchanged"] for shard in shards),
        "bytes_in": sum(shard["bytes_in"] for shard in shards),
        "bytes_out": sum(shard["bytes_out"] for shard in shards),
    }


def _finish(folder: Path, output: Path, *, report: Report, card: str) -> None:
    """Give the shards the names of the Hub's layout, add card and report, and show the folder."""
    (folder / "data").mkdir(exist_ok=True)
    for split, content in report["splits"].items():
        for number, shard in enumerate(content["shards"]):
            if (folder / shard["file"]).exists():  # else an earlier run was stopped just here
                name = final_name(content, split, number=number)
                (folder / shard["file"]).replace(folder / "data" / name)
    for leftover in [*folder.glob("*.tmp"), *folder.glob("*-unreadable.json")]:
        leftover.unlink()
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_json(folder / REPORT, report)
    folder.rename(output)
