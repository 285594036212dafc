"""Accuracy of a model folder on a dataset: every image once, evidence in `eval_results.json`.

Each process takes its share of the rows and every prediction carries its row number, so the counts
are exact for any number of processes and any last batch; that each row came once is checked, not
assumed. Pictures go through the folder's own image processor, which is what a user of the model
gets; ten crops, if asked for, are the corners and the centre of the square that the processor would
resize to, and their mirror images.

    python -m convzoo evaluate runs/quickstart/model --data data/fashion-mnist
"""

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from convzoo.batch_augmentation import ten_crop
from convzoo.breakdown import break_down
from convzoo.data import eval_rows
from convzoo.decoding import open_rgb
from convzoo.environment import describe_environment, file_sha256, now
from convzoo.eval_results import record_result
from convzoo.interruption import outlive_signals
from convzoo.sources import DatasetOptions, Source, open_source
from convzoo.subset import subset

METRIC = Path(__file__).parent / "metrics" / "topk_accuracy"


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
    source: Source,
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
        exif_rotation: turn pictures as their EXIF data says.
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


def evaluate_folder(
    model_folder: str,
    data: str,
    split: str,
    command: str,
    batch_size: int = 64,
    num_workers: int = 2,
    options: DatasetOptions = DatasetOptions(),  # noqa: B008  an immutable tuple
    classes: Collection[str] | None = (),
    limit: int = 0,
    crops: int = 1,
    exif_rotation: bool = False,
) -> dict:
    """Evaluate a model and record the result in its folder.

    Args:
        model_folder: a saved model; a Hub id is evaluated too, its result is only returned.
        data: folder of parquet files, or Hub dataset id.
        split: which split.
        command: what a reader types to repeat this.
        batch_size: images per step and process.
        num_workers: decoding processes per process.
        options: configuration, revision and columns.
        classes: only pictures of these classes; of all if empty, of the model's if None.
        limit: pictures at most, evenly spaced; all if 0.
        crops: 1 or 10, see `predict_split`.
        exif_rotation: turn pictures as their EXIF data says.

    Returns:
        The entry of `eval_results.json`.

    Raises:
        ValueError: if model and dataset disagree on the number of classes, and as `predict_split`.
    """
    import evaluate
    from transformers import AutoImageProcessor, AutoModelForImageClassification
    from transformers.utils import cached_file

    import modeling  # noqa: F401  registers our families with the Auto classes

    accelerator = Accelerator(mixed_precision="no")  # whatever `accelerate config` says
    model = AutoModelForImageClassification.from_pretrained(model_folder)
    processor = AutoImageProcessor.from_pretrained(model_folder)
    source = open_source(data, split, *options)
    class_names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    if classes is None:
        classes = class_names
    # A model of all classes is asked about some of them; another one knows only these.
    renumber = model.config.num_labels != len(source.label_names)
    source = subset(source, classes, limit=limit, spaced=True, renumber=renumber)
    _check_labels(model.config, source)
    model.to(accelerator.device)

    started = time.perf_counter()
    predictions = predict_split(
        model, processor, source, accelerator, batch_size, num_workers, crops, exif_rotation
    )
    seconds = time.perf_counter() - started

    metric = evaluate.load(str(METRIC))
    metric.add_batch(predictions=predictions.ranked, references=predictions.labels)
    best = predictions.ranked.shape[1]
    metrics = metric.compute(k=[1, min(5, best)])
    metrics = {
        "top1_accuracy": metrics["top1_accuracy"],
        "top5_accuracy": metrics[f"top{min(5, best)}_accuracy"],
        "loss": predictions.summary()["loss"],
    }
    protocol = {"views": crops, "image_processor": processor.to_dict()}
    if crops > 1:
        protocol["averaged"] = "probabilities"
    if exif_rotation:
        protocol["exif_rotation"] = True
    weights = Path(cached_file(model_folder, "model.safetensors"))
    result = {
        "task": "image-classification",
        "dataset": source.describe() | {"config": options.name or None},
        "protocol": protocol,
        "metrics": metrics,
        **break_down(predictions.labels, predictions.ranked, predictions.confidences, class_names),
        "model": {
            "file": weights.name,
            "sha256": file_sha256(weights),
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        "command": command,
        "date": now(),
        "duration_seconds": round(seconds, 2),
        "images_per_second": round(source.num_rows / seconds, 1),
        "environment": describe_environment(),
    }
    result["dataset"]["fingerprint"] = predictions.fingerprint
    if Path(model_folder).is_dir() and accelerator.is_main_process:
        record_result(Path(model_folder), result)
    return result


def _check_labels(config, source):
    if config.num_labels != len(source.label_names):
        raise ValueError(
            f"model and data must have the same classes; the model has {config.num_labels}, "
            f"{source.path} has {len(source.label_names)}. --classes evaluates a model of some "
            f"classes on its part of the data"
        )
    pairs = enumerate(source.label_names)
    differing = [(config.id2label[i], label) for i, label in pairs if config.id2label[i] != label]
    if differing:
        ours, theirs = differing[0]
        warnings.warn(
            f"{len(differing)} class names of model and data differ, as {ours!r} and {theirs!r}; "
            f"classes are compared by number",
            stacklevel=2,
        )
