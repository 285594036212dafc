"""Predictions of a model on a split: every image once, on any number of processes."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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
from convzoo.images.decoding import DARK_IMAGES, open_rgb
from convzoo.images.ten_crop import ten_crop
from convzoo.signals import outlive_signals


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """How images are shown to a model, and by how many at a time.

    Attributes:
        crops: 1, the processor's crop, or 10: torchvision's ten crops of that size, of the square
            of the processor's `size`; the probabilities are averaged.
        exif_rotation: turn images as their EXIF data says.
        batch_size: images per step and process.
        num_workers: decoding processes per process.

    Source of ten crops: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural
    Networks", NeurIPS 2012, section 4.1; they average the probabilities, not the logits.
    """

    crops: int = 1
    exif_rotation: bool = False
    batch_size: int = 64
    num_workers: int = 0


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model says of each image of a split, by row number.

    Attributes:
        labels: true classes, (num_images,).
        ranked: up to five classes in falling order of score, (num_images, k).
        confidences: probability of the first of them, (num_images,).
        losses: cross entropy of each image, (num_images,).
        fingerprint: sha256 over the encoded images and labels, in order.
    """

    labels: np.ndarray
    ranked: np.ndarray
    confidences: np.ndarray
    losses: np.ndarray
    fingerprint: str

    def summary(self) -> dict[str, float]:
        """Return top-1 and top-5 accuracy (fractions) and mean loss."""
        hits = self.ranked == self.labels[:, None]
        return {
            "top1_accuracy": float(hits[:, 0].mean()),
            "top5_accuracy": float(hits.any(axis=1).mean()),
            "loss": float(self.losses.mean(dtype=np.float64)),
        }


def content_digest(data: bytes | memoryview, label: int) -> bytes:
    """Return the part of a fingerprint that one encoded image and its label make up."""
    return hashlib.sha256(data).digest() + label.to_bytes(4, "little")


Batch = dict[str, Any]  # pixel_values, labels, index (rows of the split), digests
Columns = tuple[Any, ...]  # index, labels, ranked, confidences, losses, digests of a batch


class EvalStream(IterableDataset[Batch]):
    """One process's share of a split, as preprocessed batches with row numbers.

    Args:
        source: the split.
        processor: the model's image processor.
        protocol: see `EvaluationProtocol`.
        share: which process of how many.
    """

    def __init__(
        self,
        source: Split,
        processor: BaseImageProcessor,
        *,
        protocol: EvaluationProtocol,
        share: Share,
    ):
        self.source = source
        self.processor = processor
        self.protocol = protocol
        self.share = share
        # Ten crops are cut later, from the square.
        square = _ten_crop_sizes(processor)[0] if protocol.crops == 10 else None
        self.options: dict[str, Any] = {"crop_size": square} if square else {}

    def __iter__(self) -> Iterator[Batch]:
        share = worker_share(self.share)
        num_channels = getattr(self.processor, "num_channels", 3)
        batch = []
        for index, data, label in eval_rows(self.source, share):
            DARK_IMAGES.look(data, partial(self.source.where_is, index))
            try:
                image = open_rgb(data, num_channels, exif_rotation=self.protocol.exif_rotation)
            except ValueError as error:
                raise ValueError(f"{self.source.where_is(index)}: {error}") from error
            image.info.clear()  # a processor may turn by EXIF, too, but the protocol decides
            batch.append((index, label, content_digest(data, label), image))
            if len(batch) == self.protocol.batch_size:
                yield self._collate(batch)
                batch = []
        if batch:
            yield self._collate(batch)

    def _collate(self, batch: list[tuple[int, int, bytes, Image.Image]]) -> Batch:
        index, labels, digests, images = zip(*batch, strict=True)
        try:
            shown = self.processor(list(images), return_tensors="pt", **self.options)
        except ValueError:
            self._name_the_image(batch)
            raise
        return {
            "pixel_values": shown["pixel_values"],
            "labels": torch.tensor(labels),
            "index": np.array(index),
            "digests": digests,
        }

    def _name_the_image(self, batch: list[tuple[int, int, bytes, Image.Image]]) -> None:
        """Raise the processor's error about one image of a batch, with the image's name."""
        for index, _, _, image in batch:
            try:
                self.processor([image], return_tensors="pt", **self.options)
            except ValueError as error:
                reason = str(error).removeprefix("images[0] ")
                raise ValueError(
                    f"{self.source.where_is(index)}: {reason}. Leave it out"
                ) from error


def predict_split(
    model: torch.nn.Module,
    processor: BaseImageProcessor,
    *,
    source: Split,
    accelerator: Accelerator,
    protocol: EvaluationProtocol,
    stopped: Callable[[], bool] = lambda: False,
) -> Predictions | None:
    """Run a model over a whole split, on all processes together.

    Args:
        model: anything whose output has `logits`.
        processor: the model's image processor.
        source: the split.
        accelerator: decides device and processes.
        protocol: how the images are shown.
        stopped: asked after each batch; once it says yes on one process, all give up.

    Returns:
        The predictions of all processes, on every process; None if they gave up.

    Raises:
        ValueError: if an image cannot be decoded, or for ten crops the processor has no square
            crop within a larger size.
        RuntimeError: if a row was missed or came twice.
    """
    crop = _ten_crop_sizes(processor)[1] if protocol.crops == 10 else None
    share = Share(accelerator.process_index, accelerator.num_processes)
    loader = DataLoader(
        EvalStream(source, processor, protocol=protocol, share=share),
        batch_size=None,
        num_workers=protocol.num_workers,
        worker_init_fn=outlive_signals,
        pin_memory=accelerator.device.type == "cuda",
    )
    hidden: dict[str, Any] = {} if accelerator.is_main_process else {"disable": True}
    # Where it is not hidden, TQDM_DISABLE decides.
    bar = tqdm(total=source.num_rows, desc="evaluate", unit=" images", leave=False, **hidden)
    was_training = model.training
    model.eval()
    on_device, given_up = [], False
    with bar, torch.inference_mode():
        for batch in loader:
            pixel_values = batch["pixel_values"].to(accelerator.device, non_blocking=True)
            views = _ten_views(pixel_values, crop) if crop else [pixel_values]
            with accelerator.autocast():
                logits = [model(view).logits.float() for view in views]
            scores = logits[0] if len(logits) == 1 else _log_mean_probability(logits)
            columns = _columns(scores, batch["labels"])  # a GPU may not have computed them yet
            on_device.append((batch["index"], columns, batch["digests"]))
            bar.update(len(batch["index"]) * accelerator.num_processes)
            if given_up := stopped():
                break
    model.train(was_training)
    if any(gather_object([given_up])):
        return None
    batches = [
        (index, *(column.cpu().numpy() for column in columns), digests)
        for index, columns, digests in on_device
    ]
    return _assemble(gather_object(batches) if accelerator.num_processes > 1 else batches, source)


def _ten_views(pixel_values: Tensor, crop: int) -> Sequence[Tensor]:
    return ten_crop(pixel_values, crop).unbind(1)


def _log_mean_probability(logits: list[Tensor]) -> Tensor:
    """Logarithm of the mean softmax over views; `cross_entropy` takes it as it takes logits."""
    views = torch.stack([each.log_softmax(-1) for each in logits])
    return views.logsumexp(0) - math.log(len(logits))


def _columns(scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Labels, ranked classes, confidences and losses of a batch."""
    on_device = labels.to(scores.device, non_blocking=True)
    return (
        labels,
        scores.topk(min(5, scores.shape[1])).indices.int(),
        scores.softmax(-1).amax(-1),
        F.cross_entropy(scores, on_device, reduction="none"),
    )


def _assemble(batches: list[Columns], source: Split) -> Predictions:
    """Put the batches of all processes into the order of the rows."""
    *columns, digest_parts = zip(*batches, strict=True)
    index, *arrays = (np.concatenate(column) for column in columns)
    by_row = np.argsort(index)
    if not np.array_equal(index[by_row], np.arange(source.num_rows)):
        raise RuntimeError(
            f"every row of split {source.name} must be evaluated once; got {len(index)} "
            f"predictions for {source.num_rows} rows"
        )
    digests = [digest for part in digest_parts for digest in part]
    content = hashlib.sha256(b"".join(digests[row] for row in by_row)).hexdigest()
    labels, ranked, confidences, losses = (column[by_row] for column in arrays)
    return Predictions(
        labels=labels,
        ranked=ranked,
        confidences=confidences,
        losses=losses,
        fingerprint=f"sha256:{content}",
    )


def _ten_crop_sizes(processor: BaseImageProcessor) -> tuple[int, int]:
    """Side of the square that ten crops are taken from, and theirs, pixels."""
    square = (getattr(processor, "size", None) or {}).get("shortest_edge")
    crop = getattr(processor, "crop_size", None) or {}
    height, width = crop.get("height"), crop.get("width")
    if not square or not height or height != width:
        raise ValueError(
            f"ten crops need an image processor with size.shortest_edge and a square crop_size; "
            f"{type(processor).__name__} has {square} and {crop}"
        )
    return square, height
