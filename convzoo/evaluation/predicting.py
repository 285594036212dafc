"""Predictions of a model on a split: every image once, on any number of processes."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from convzoo.data.split import Split
from convzoo.data.stream import eval_rows
from convzoo.images.decoding import open_rgb
from convzoo.images.ten_crop import ten_crop
from convzoo.signals import outlive_signals


@dataclass(frozen=True)
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
        """Top-1 and top-5 accuracy (fractions) and mean loss."""
        hits = self.ranked == self.labels[:, None]
        return {
            "top1_accuracy": float(hits[:, 0].mean()),
            "top5_accuracy": float(hits.any(axis=1).mean()),
            "loss": float(self.losses.mean(dtype=np.float64)),
        }


class EvalStream(IterableDataset):
    """This process's share of a split, as preprocessed batches with row numbers."""

    def __init__(
        self, source, processor, batch_size, process_index, num_processes, crop_size, exif_rotation
    ):
        self.source = source
        self.processor = processor
        self.batch_size = batch_size
        self.process_index = process_index
        self.num_processes = num_processes
        self.crop_size = crop_size
        self.exif_rotation = exif_rotation

    def __iter__(self):
        worker = get_worker_info()
        workers, worker_id = (worker.num_workers, worker.id) if worker else (1, 0)
        if worker:
            torch.set_num_threads(1)
        reader, readers = self.process_index * workers + worker_id, self.num_processes * workers
        num_channels = getattr(self.processor, "num_channels", 3)
        batch = []
        for index, data, label in eval_rows(self.source, reader, readers):
            try:
                image = open_rgb(data, num_channels, self.exif_rotation)
            except ValueError as error:
                where = self.source.where(*self.source.locate(index))
                raise ValueError(f"{where}: {error}") from error
            digest = hashlib.sha256(data).digest() + label.to_bytes(4, "little")
            batch.append((index, label, digest, image))
            if len(batch) == self.batch_size:
                yield self._collate(batch)
                batch = []
        if batch:
            yield self._collate(batch)

    def _collate(self, batch):
        index, labels, digests, images = zip(*batch, strict=True)
        size = {"crop_size": self.crop_size} if self.crop_size else {}
        pixel_values = self.processor(list(images), return_tensors="pt", **size)["pixel_values"]
        return {
            "pixel_values": pixel_values,
            "labels": torch.tensor(labels),
            "index": np.array(index),
            "digests": digests,
        }


def predict_split(
    model: torch.nn.Module,
    processor,
    source: Split,
    accelerator: Accelerator,
    batch_size: int,
    num_workers: int = 0,
    crops: int = 1,
    exif_rotation: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Predictions | None:
    """Run a model over a whole split, on all processes together.

    Args:
        model: anything whose output has `logits`.
        processor: the model's image processor.
        source: the split.
        accelerator: decides device and processes.
        batch_size: images per step and process.
        num_workers: decoding processes per process.
        crops: 1, the processor's crop, or 10: torchvision's ten crops of that size, of the square
            of the processor's `size`; the probabilities are averaged.
        exif_rotation: turn images as their EXIF data says.
        stopped: asked after each batch; once it says yes on one process, all give up.

    Returns:
        The predictions of all processes, on every process; None if they gave up.

    Raises:
        ValueError: if an image cannot be decoded, or for ten crops the processor has no square
            crop within a larger size.
        RuntimeError: if a row was missed or came twice.

    Source of ten crops: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural
    Networks", NeurIPS 2012, section 4.1; they average the probabilities, not the logits.
    """
    square, crop = _ten_crop_sizes(processor) if crops == 10 else (None, None)
    stream = EvalStream(
        *(source, processor, batch_size, accelerator.process_index, accelerator.num_processes),
        *(square, exif_rotation),
    )
    bar = tqdm(
        total=source.num_rows,
        desc="evaluate",
        unit=" images",
        disable=not accelerator.is_main_process,
        leave=False,
    )
    was_training = model.training
    model.eval()
    rows, given_up = [], False
    with torch.inference_mode():
        workers = {"num_workers": num_workers, "worker_init_fn": outlive_signals}
        for batch in DataLoader(stream, batch_size=None, **workers):
            pixel_values = batch["pixel_values"].to(accelerator.device, non_blocking=True)
            views = ten_crop(pixel_values, crop).unbind(1) if crop else [pixel_values]
            with accelerator.autocast():
                scores = [model(view).logits.float() for view in views]
            # Logits, or logarithms of mean probabilities: both are what cross_entropy takes.
            scores = scores[0] if len(scores) == 1 else _log_mean_probability(scores)
            labels = batch["labels"].to(scores.device)
            losses = F.cross_entropy(scores, labels, reduction="none")
            ranked = scores.topk(min(5, scores.shape[1])).indices.int()
            confidences = scores.softmax(-1).amax(-1)
            columns = (batch["labels"], ranked.cpu(), confidences.cpu(), losses.cpu())
            rows.append((batch["index"], *(c.numpy() for c in columns), batch["digests"]))
            bar.update(len(batch["index"]) * accelerator.num_processes)
            if given_up := stopped():
                break
    model.train(was_training)
    bar.close()
    if any(gather_object([given_up])):
        return None
    if accelerator.num_processes > 1:
        rows = gather_object(rows)
    *columns, digests = zip(*rows, strict=True)
    index, *columns = (np.concatenate(column) for column in columns)
    digests = [digest for part in digests for digest in part]
    by_row = np.argsort(index)
    if not np.array_equal(index[by_row], np.arange(source.num_rows)):
        raise RuntimeError(
            f"every row of split {source.split} must be evaluated once; got {len(index)} "
            f"predictions for {source.num_rows} rows"
        )
    content = hashlib.sha256(b"".join(digests[row] for row in by_row)).hexdigest()
    return Predictions(*(column[by_row] for column in columns), f"sha256:{content}")


def _ten_crop_sizes(processor):
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


def _log_mean_probability(logits):
    """Logarithm of the mean softmax over views."""
    views = torch.stack([each.log_softmax(-1) for each in logits])
    return views.logsumexp(0) - math.log(len(logits))
