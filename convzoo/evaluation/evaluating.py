"""Accuracy of a model folder on a dataset: every image once, evidence in `eval_results.json`.

Each process takes its share of the rows and every prediction carries its row number, so the counts
are exact for any number of processes and any last batch; that each row came once is checked, not
assumed. Images go through the folder's own image processor, which is what a user of the model
gets; ten crops, if asked for, are the corners and the centre of the square that the processor would
resize to, and their mirror images.

    python -m convzoo evaluate runs/quickstart/model --data data/fashion-mnist
"""

import time
import warnings
from collections.abc import Collection
from pathlib import Path

from accelerate import Accelerator

from convzoo.data.opening import DatasetReference, open_split
from convzoo.data.subset import subset
from convzoo.environment import describe_environment, now
from convzoo.evaluation.predicting import predict_split
from convzoo.evaluation.results import record_result
from convzoo.evaluation.statistics import break_down
from convzoo.files import file_sha256

METRIC = Path(__file__).parent / "metrics" / "topk_accuracy"


def evaluate_folder(
    model_folder: str,
    data: str | DatasetReference,
    split: str,
    command: str,
    batch_size: int = 64,
    num_workers: int = 2,
    classes: Collection[str] | None = (),
    limit: int = 0,
    crops: int = 1,
    exif_rotation: bool = False,
) -> dict:
    """Evaluate a model and record the result in its folder.

    Args:
        model_folder: a saved model; a Hub id is evaluated too, its result is only returned.
        data: which dataset, as for `open_split`.
        split: which split.
        command: what a reader types to repeat this.
        batch_size: images per step and process.
        num_workers: decoding processes per process.
        classes: only images of these classes; of all if empty, of the model's if None.
        limit: images at most, evenly spaced; all if 0.
        crops: 1 or 10, see `predict_split`.
        exif_rotation: turn images as their EXIF data says.

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
    source = open_split(data, split)
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
        "dataset": source.describe() | {"config": DatasetReference.of(data).name or None},
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
