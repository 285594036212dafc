"""Predictions of an evaluation under way, on the disk: memory is bounded, and a kill costs little.

Each process writes parts, files of whole batches, into one folder; the first process joins them in
the order of the rows. What an interrupted evaluation left there is taken up by the next one of the
same model, data and protocol, and refused by any other one.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from convzoo.data.split import Split
from convzoo.evaluation.prediction_file import from_arrow, to_arrow
from convzoo.evaluation.prediction_table import PredictionFacts, PredictionTable
from convzoo.files import SCHEMA_VERSION, lock_folder, read_json, write_json

logger = logging.getLogger(__name__)
PART_ROWS = 4096  # a part is written after so many images,
PART_SECONDS = 10.0  # or after so long
SETTINGS = "evaluation.json"
SUFFIX = ".partial"  # of the folder's name


class PartWriter:
    """Writes the predictions of one process, batch by batch, as parts.

    Args:
        folder: where to, an existing folder.
        num_classes: of the model.
        process_index: which process this is.
    """

    def __init__(self, folder: Path, *, num_classes: int, process_index: int):
        self.folder = folder
        self.num_classes = num_classes
        self.process_index = process_index
        self.waiting: list[PredictionTable] = []
        self.since = time.monotonic()

    def add(self, table: PredictionTable) -> None:
        """Keep the predictions of a batch, and write a part if it is time to."""
        self.waiting.append(table)
        seconds = time.monotonic() - self.since
        if sum(map(len, self.waiting)) >= PART_ROWS or seconds >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is kept; the part is whole or not there.

        Raises:
            OSError: if the disk is full or not writable.
        """
        if not self.waiting:
            return
        path = self.folder / f"part-{self.waiting[0].row[0]:09d}.arrow"
        aside = path.with_suffix(".tmp")
        parts = [to_arrow(table, self.num_classes) for table in self.waiting]
        now = time.monotonic()
        facts = {"process": str(self.process_index), "seconds": str(now - self.since)}
        schema = parts[0].schema.with_metadata(facts)
        try:
            with aside.open("wb") as file:
                with pa.ipc.new_file(file, schema) as writer:
                    for part in parts:
                        writer.write_batch(part.combine_chunks().to_batches()[0])
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError as error:
            raise OSError(f"{path} could not be written; {error}") from error
        self.waiting, self.since = [], now


class Parts:
    """The parts of an evaluation, read where they lie.

    Attributes:
        batches: number of a batch -> its predictions.
        seconds: how long the first process took for its own.

    Args:
        folder: where they are.
        source: the split.
        batch_size: images of a batch.
    """

    def __init__(self, folder: Path, *, source: Split, batch_size: int):
        self.batches: dict[int, pa.RecordBatch] = {}
        self.seconds = 0.0
        rows = source.whole_rows()
        for path in sorted(folder.glob("part-*.arrow")):
            try:
                with pa.memory_map(str(path)) as file:
                    self._index(pa.ipc.open_file(file), rows, batch_size=batch_size)
            except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                logger.warning("%s is damaged, its images are evaluated again: %s", path, error)
                path.unlink()

    def _index(self, file: pa.RecordBatchFileReader, rows: np.ndarray, *, batch_size: int) -> None:
        found = {}
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            batch.validate(full=True)
            mine = batch["row"].to_numpy()
            start = int(np.searchsorted(rows, mine[0]))
            if start % batch_size or not np.array_equal(mine, rows[start : start + batch_size]):
                raise ValueError("its rows are no batch of the split")
            found[start // batch_size] = batch
        facts = file.schema.metadata
        self.seconds += float(facts[b"seconds"]) * (facts[b"process"] == b"0")
        self.batches |= found

    @property
    def num_rows(self) -> int:
        """Images of all parts."""
        return sum(batch.num_rows for batch in self.batches.values())

    def tables(self) -> Iterator[PredictionTable]:
        """Yield the predictions of each batch, in the order of the rows."""
        for number in sorted(self.batches):
            table = pa.Table.from_batches([self.batches[number]])
            yield from_arrow(table.replace_schema_metadata(), PredictionFacts(names=()))


def take_up(folder: Path, identity: Mapping[str, Any], *, command: str) -> int | None:
    """Claim the folder of an evaluation; parts of another one that lie there are removed.

    Args:
        folder: is made if it is not there.
        identity: everything that the predictions depend on, as JSON has it.
        command: what a person types to go on.

    Returns:
        The lock, as of `lock_folder`.

    Raises:
        ValueError: if another process evaluates the same.
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    busy = ValueError(f"{folder} is in use: another process makes the same evaluation. Wait for it")
    lock = lock_folder(folder, busy)
    identity = json.loads(json.dumps(identity))
    left = list(folder.glob("part-*"))
    before = _read(folder).get("identity", {})
    if left and before != identity:
        keys = sorted(key for key in before | identity if before.get(key) != identity.get(key))
        logger.warning(
            "an interrupted evaluation in %s had another %s: starting anew",
            folder,
            ", ".join(keys),
        )
    if before != identity:
        for path in left:
            path.unlink()
    settings = {"schema_version": SCHEMA_VERSION, "command": command, "identity": identity}
    write_json(folder / SETTINGS, settings)
    return lock


def others(folder: Path) -> dict[Path, dict[str, Any]]:
    """Find the other unfinished evaluations beside one: folder -> what it is of."""
    found = sorted(folder.parent.glob(f".*{SUFFIX}"))
    return {each: _read(each) for each in found if each != folder}


def _read(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / SETTINGS))
    except (OSError, ValueError, TypeError):
        return {}
