"""Predictions of a model on a split: every image once, on any number of processes.

Images are shown in batches that are the same for any number of processes and workers: batch B has
the rows from B * batch_size on. So the numbers are the same, too, and an evaluation that was
interrupted goes on with the batches that are missing.
"""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm
from transformers import BaseImageProcessor

from convzoo.data.share import Share
from convzoo.data.split import Split
from convzoo.data.stream import eval_rows, worker_share
from convzoo.evaluation.fast_decoding import fast_processor
from convzoo.evaluation.prediction_table import (
    PredictionFacts,
    PredictionTable,
    empty_columns,
    join_tables,
)
from convzoo.evaluation.protocols import Computation, EvaluationProtocol
from convzoo.evaluation.views import Views
from convzoo.images.decoding import DARK_IMAGES, decode_rgb, open_rgb
from convzoo.signals import outlive_signals

LAG = 2  # batches that a GPU may still compute while the results of earlier ones are fetched
NO_FACTS = PredictionFacts(names=())  # of the predictions of a batch


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept of the scores of an image.

    Attributes:
        top_k: how many of the likeliest classes.
        logits: whether the scores of all classes, too.
        folder: where, for a model that has no folder of its own; nowhere if None.
    """

    top_k: int = 10
    logits: bool = False
    folder: Path | None = None


def content_digest(data: bytes | memoryview, label: int) -> bytes:
    """Return the part of a fingerprint that one encoded image and its label make up."""
    return hashlib.sha256(data).digest() + label.to_bytes(4, "little")


def count_batches(source: Split, batch_size: int) -> int:
    """Count the batches of a split."""
    return math.ceil(source.num_rows / batch_size)


Batch = dict[str, Any]  # see EvalStream


@dataclass(frozen=True)
class _Entry:
    """An image of a batch; `image` is None, and `error` says why, where it could not be read."""

    index: int
    label: int
    digest: bytes
    image: Image.Image | np.ndarray | None  # pixels of fast decoding
    error: str | None = None


class EvalStream(IterableDataset[Batch]):
    """One process's share of the batches of a split, preprocessed.

    Iterating yields, per batch, what `Views.show` makes of the images that can be read, None if
    there are none, and of all its images `row` (of the whole split), `image` (its name), `digest`,
    `label` and `error`, as in a `PredictionTable`.

    Args:
        source: the split.
        processor: the model's image processor.
        protocol: see `EvaluationProtocol`.
        share: which process of how many.
        batches: numbers of the batches that are wanted, rising; all for None.
    """

    def __init__(
        self,
        source: Split,
        processor: BaseImageProcessor,
        *,
        protocol: EvaluationProtocol,
        share: Share,
        batches: Sequence[int] | None = None,
    ):
        self.source = source
        self.processor = processor
        self.protocol = protocol
        self.share = share
        every = range(count_batches(source, protocol.batch_size))
        self.batches: Sequence[int] = every if batches is None else batches
        self.whole_rows = source.whole_rows()
        self.views = Views(
            fast_processor(processor) if protocol.fast_decoding else processor, protocol
        )

    def __iter__(self) -> Iterator[Batch]:
        size = self.protocol.batch_size
        for rows in self._runs(worker_share(self.share)):
            batch: list[_Entry] = []
            for index, data, label in eval_rows(self.source, rows):
                batch.append(self._open(index, data, label))
                if len(batch) == size or index + 1 == rows.stop:
                    yield self._collate(batch)
                    batch = []

    @property
    def num_rows(self) -> int:
        """Images of the batches that are wanted, of all processes."""
        return sum(map(len, self._runs(Share())))

    def _runs(self, share: Share) -> Iterator[range]:
        """Ranges of rows that make up a share of the batches: neighbours are read together."""
        size, rows = self.protocol.batch_size, self.source.num_rows
        mine = np.array([self.batches[place] for place in share.of(len(self.batches))], np.int64)
        for run in np.split(mine, np.flatnonzero(np.diff(mine) > 1) + 1):
            if len(run):
                yield range(int(run[0]) * size, min(int(run[-1] + 1) * size, rows))

    def _open(self, index: int, data: bytes | memoryview, label: int) -> _Entry:
        DARK_IMAGES.look(data, partial(self.source.where_is, index))
        digest = hashlib.sha256(data).digest()
        try:
            image = self._decode(data)
        except ValueError as error:
            if self.protocol.unreadable == "stop":
                raise ValueError(f"{self.source.where_is(index)}: {error}. {ADVICE}") from error
            return _Entry(index, label, digest, None, str(error))
        if isinstance(image, Image.Image):
            image.info["digest"] = digest  # by which a corruption draws its noise
        return _Entry(index, label, digest, image)

    def _decode(self, data: bytes | memoryview) -> Image.Image | np.ndarray:
        num_channels = getattr(self.processor, "num_channels", 3)
        exif_rotation = self.protocol.exif_rotation
        if self.protocol.fast_decoding:
            return decode_rgb(data, num_channels, exif_rotation=exif_rotation)
        image = open_rgb(data, num_channels, exif_rotation=exif_rotation)
        image.info.clear()  # a processor may turn by EXIF, too, but the protocol decides
        return image

    def _collate(self, batch: list[_Entry]) -> Batch:
        images = [entry.image for entry in batch if entry.image is not None]
        try:
            shown = self.views.show(images) if images else None
        except ValueError:
            checked = [self._check(entry) for entry in batch]
            if all(
                new is old for new, old in zip(checked, batch, strict=True)
            ):  # no single image is at fault
                raise
            return self._collate(checked)
        index = np.array([entry.index for entry in batch])
        return {
            "shown": shown,
            "row": self.whole_rows[index],
            "image": np.array([self.source.image_name(row) for row in index.tolist()], object),
            "digest": np.array([np.frombuffer(entry.digest, np.uint8) for entry in batch]),
            "label": np.array([entry.label for entry in batch], np.int32),
            "error": np.array([entry.error for entry in batch], object),
        }

    def _check(self, entry: _Entry) -> _Entry:
        """Note, or raise with the image's name, the processor's error about one image."""
        if entry.image is None:
            return entry
        try:
            self.views.show([entry.image])
        except ValueError as error:
            reason = str(error).removeprefix("images[0] ")
            if self.protocol.unreadable == "stop":
                where = self.source.where_is(entry.index)
                raise ValueError(f"{where}: {reason}. {ADVICE}") from error
            return _Entry(entry.index, entry.label, entry.digest, None, reason)
        return entry


ADVICE = "Leave it out, or count such images as wrong with --unreadable wrong"


def predict_batches(
    model: torch.nn.Module,
    processor: BaseImageProcessor,
    *,
    source: Split,
    accelerator: Accelerator,
    protocol: EvaluationProtocol,
    kept: Kept,
    batches: Sequence[int] | None = None,
) -> Generator[PredictionTable, None, None]:
    """Run a model over this process's share of the batches of a split.

    Args:
        model: anything whose output has `logits`.
        processor: the model's image processor.
        source: the split.
        accelerator: decides device and processes.
        protocol: how the images are shown.
        kept: what is wanted of the scores.
        batches: numbers of the batches that are wanted, rising, the same on all processes; all
            for None.

    Yields:
        The predictions of each batch, without facts; see `count_batches`.

    Raises:
        ValueError: if an image cannot be read and the protocol stops there, or the processor
            cannot make the views.
    """
    share = Share(accelerator.process_index, accelerator.num_processes)
    stream = EvalStream(source, processor, protocol=protocol, share=share, batches=batches)
    loader = DataLoader(
        stream,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=protocol.num_workers,
        worker_init_fn=outlive_signals,
        pin_memory=accelerator.device.type == "cuda",
    )
    score = _Scorer(model, stream.views, protocol.computation, kept, accelerator)
    hidden: dict[str, Any] = {} if accelerator.is_main_process else {"disable": True}
    # Where it is not hidden, TQDM_DISABLE decides.
    bar = tqdm(
        total=source.num_rows,
        initial=source.num_rows - stream.num_rows,
        desc="evaluate",
        unit=" images",
        leave=False,
        **hidden,
    )
    was_training = model.training
    model.eval()
    waiting: deque[tuple[Batch, dict[str, Tensor]]] = deque()  # a GPU may not have computed them
    try:
        with bar:
            for batch in loader:
                waiting.append((batch, score(batch)))
                bar.update(len(batch["row"]) * accelerator.num_processes)
                if len(waiting) > LAG:
                    yield _table(*waiting.popleft(), source=source, kept=kept)
            while waiting:
                yield _table(*waiting.popleft(), source=source, kept=kept)
    finally:
        model.train(was_training)


def predict_split(
    model: torch.nn.Module,
    processor: BaseImageProcessor,
    *,
    source: Split,
    accelerator: Accelerator,
    protocol: EvaluationProtocol,
    kept: Kept = Kept(),
    stopped: Callable[[], bool] = lambda: False,
) -> PredictionTable | None:
    """Run a model over a whole split, on all processes together, and keep all in memory.

    Args:
        model: as for `predict_batches`, as are the next five.
        processor: see there.
        source: see there.
        accelerator: see there.
        protocol: see there.
        kept: see there.
        stopped: asked after each batch; once it says yes on one process, all give up.

    Returns:
        The predictions of all processes, on every process; None if they gave up.

    Raises:
        ValueError: as `predict_batches`.
        RuntimeError: if a row was missed or came twice.
    """
    tables, given_up = [], False
    predictions = predict_batches(
        model, processor, source=source, accelerator=accelerator, protocol=protocol, kept=kept
    )
    with closing(predictions):
        for table in predictions:
            tables.append(table)
            if given_up := stopped():
                break
    if any(gather_object([given_up])):
        return None
    joined = join_tables(gather_object(tables) if accelerator.num_processes > 1 else tables)
    joined = joined.take(np.argsort(joined.row))
    if not np.array_equal(joined.row, source.whole_rows()):
        raise RuntimeError(
            f"every row of split {source.name} must be evaluated once; got {len(joined)} "
            f"predictions for {source.num_rows} rows"
        )
    return joined


def _as_it_is(batch: Any) -> Any:
    """The default would make tensors of arrays."""
    return batch


@dataclass(frozen=True)
class _Scorer:
    """Computes what is kept of the scores of a batch."""

    model: torch.nn.Module
    views: Views
    computation: Computation
    kept: Kept
    accelerator: Accelerator

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Columns of the images that could be read, on the device; it may still be at work."""
        if batch["shown"] is None:
            return {}
        readable = np.array([error is None for error in batch["error"]])
        labels = torch.from_numpy(batch["label"][readable].astype(np.int64))
        with torch.inference_mode():
            shown = [self._on_device(pixel_values) for pixel_values in batch["shown"]]
            with self.accelerator.autocast():
                logits = [self.model(view).logits.float() for view in self._cut(shown)]
            scores = self.views.average(logits)
            return _columns(scores, labels.to(scores.device, non_blocking=True), self.kept)

    def _on_device(self, pixel_values: Tensor) -> Tensor:
        dtype = getattr(torch, self.computation.dtype)
        return pixel_values.to(self.accelerator.device, dtype, non_blocking=True)

    def _cut(self, shown: Sequence[Tensor]) -> Iterator[Tensor]:
        for view in self.views.cut(shown):
            channels_last = self.computation.channels_last
            yield view.contiguous(memory_format=torch.channels_last) if channels_last else view


def _columns(scores: Tensor, labels: Tensor, kept: Kept) -> dict[str, Tensor]:
    """Columns of a `PredictionTable` from scores (N, C)."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    probabilities = scores.softmax(-1)
    tops = order[:, : kept.top_k]
    columns = {
        "rank": (order == labels[:, None]).int().argmax(-1).int(),
        "loss": F.cross_entropy(scores, labels, reduction="none"),
        "top_classes": tops.int(),
        "top_probabilities": probabilities.gather(-1, tops),
        "squared_probabilities": probabilities.square().sum(-1),
    }
    return columns | ({"logits": scores} if kept.logits else {})


def _table(
    batch: Batch, columns: dict[str, Tensor], *, source: Split, kept: Kept
) -> PredictionTable:
    """Fetch columns from the device; give the images that could not be read their rows, too."""
    count, num_classes = len(batch["row"]), len(source.label_names)
    empty = empty_columns(count, num_classes, top_k=kept.top_k, logits=kept.logits)
    readable = np.array([error is None for error in batch["error"]])
    for name, column in columns.items():
        empty[name][readable] = column.cpu().numpy()
    given = {name: batch[name] for name in ("row", "image", "digest", "label", "error")}
    return PredictionTable(facts=NO_FACTS, **given, **empty)
