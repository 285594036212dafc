"""Accuracy of a model folder on a dataset: every image once, evidence in `eval_results.json`.

Each process takes its share of the rows and every prediction carries its row number, so the counts
are exact for any number of processes and any last batch; that each row came once is checked, not
assumed. Images go through the folder's own image processor, which is what a user of the model
gets; ten crops, if asked for, are the corners and the centre of the square that the processor would
resize to, and their mirror images.

    python -m convzoo evaluate runs/quickstart/model --data data/fashion-mnist
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from accelerate import Accelerator
from transformers import BaseImageProcessor, PreTrainedModel

from convzoo.data.opening import DatasetReference, open_split
from convzoo.data.split import Split
from convzoo.data.subset import subset
from convzoo.environment import describe_environment, now
from convzoo.evaluation.class_matching import class_names, match_classes
from convzoo.evaluation.predicting import EvaluationProtocol, Predictions, predict_split
from convzoo.evaluation.recorded_share import open_recorded_share
from convzoo.evaluation.results import (
    MOST_WITHOUT_TOP5,
    DatasetFacts,
    EvalResult,
    MatchBy,
    Metrics,
    ModelFacts,
    ProtocolFacts,
    read_results,
    record_result,
)
from convzoo.evaluation.statistics import break_down
from convzoo.files import file_sha256
from convzoo.layers import describe_network, image_shape

METRIC = Path(__file__).parent / "metrics" / "topk_accuracy"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which images of a split are evaluated.

    Attributes:
        classes: only images of these classes; of all if empty, of the model's if None.
        limit: images at most, evenly spaced; all if 0.
        validation_share: only the images that the model's training took out of its split for
            validation.
    """

    classes: Collection[str] | None = ()
    limit: int = 0
    validation_share: bool = False


WHOLE_SPLIT = Choice()


def evaluate_folder(
    model_folder: str,
    data: str | DatasetReference,
    *,
    split: str,
    command: str,
    protocol: EvaluationProtocol,
    choice: Choice = WHOLE_SPLIT,
    match_by: MatchBy = "name",
    trust_remote_code: bool = False,
) -> EvalResult:
    """Evaluate a model and record the result in its folder.

    Args:
        model_folder: a saved model; a Hub id is evaluated too, its result is only returned.
        data: which dataset, as for `open_split`.
        split: which split; of a validation share its own is taken.
        command: what a reader types to repeat this.
        protocol: how the images are shown.
        choice: which images of the split.
        match_by: see `match_classes`.
        trust_remote_code: run the code that a model on the Hub brings along.

    Returns:
        The entry of `eval_results.json`.

    Raises:
        ValueError: if the folder has results that cannot be read, and as `match_classes`,
            `predict_split` and `open_recorded_share`.
    """
    accelerator = Accelerator(mixed_precision="no")  # whatever `accelerate config` says
    model, processor = _load(model_folder, trust_remote_code=trust_remote_code)
    if Path(model_folder).is_dir():
        read_results(Path(model_folder))  # what cannot be added to stops here, not after hours
    if choice.validation_share:
        source = open_recorded_share(model_folder, data)
    else:
        source = open_split(data, split)
    names = class_names(model.config)
    classes = names if choice.classes is None else choice.classes
    # A model of all classes is asked about some of them; another one knows only these.
    renumber = len(names) != len(source.label_names)
    source = subset(source, classes, limit=choice.limit, spaced=True, renumber=renumber)
    source, matching = match_classes(source, names, by=match_by)
    facts_of_model = _model_facts(
        model, processor, folder=model_folder
    )  # fails now, not after hours
    model.to(accelerator.device)

    started = time.perf_counter()
    predictions = predict_split(
        model, processor, source=source, accelerator=accelerator, protocol=protocol
    )
    assert predictions is not None  # nobody stops it
    if bad := int((~np.isfinite(predictions.losses)).sum()):
        raise ValueError(
            f"probabilities of {model_folder} must be finite; those of {bad} of "
            f"{source.num_rows} images are not. Its weights may be ruined: `convzoo inspect "
            f"{model_folder}`"
        )
    seconds = time.perf_counter() - started
    dataset = _dataset_facts(source, data, fingerprint=predictions.fingerprint)
    if matching:
        dataset["class_matching"] = matching
    result: EvalResult = {
        "task": "image-classification",
        "dataset": dataset,
        "protocol": _protocol_facts(protocol, processor),
        "metrics": _metrics(predictions, len(names)),
        **break_down(
            predictions.labels,
            predictions.ranked,
            confidences=predictions.confidences,
            names=names,
        ),
        "model": facts_of_model,
        "command": command,
        "date": now(),
        "duration_seconds": round(seconds, 2),
        "images_per_second": round(source.num_rows / seconds, 1),
        "environment": describe_environment(),
    }
    if Path(model_folder).is_dir() and accelerator.is_main_process:
        record_result(Path(model_folder), result)
    return result


def result_sentence(model: str, data: str, result: EvalResult) -> str:
    """Say a result in one line, for a terminal."""
    dataset, metrics, views = result["dataset"], result["metrics"], result["protocol"]["views"]
    images = f"{dataset['num_samples']} images"
    if chosen := dataset.get("subset"):
        images = f"{dataset['num_samples']} of {chosen['of']} images"
        if any(step.get("part") == "validation" for step in chosen["taken"]):
            images = f"the validation share, {images},"
    top5 = metrics.get("top5_accuracy")
    return (
        f"{model} on {images} of {data} [{dataset['split']}]{', ten crops' if views == 10 else ''}:"
        f" top-1 {metrics['top1_accuracy']:.2%}{'' if top5 is None else f', top-5 {top5:.2%}'},"
        f" loss {metrics['loss']:.4f}"
    )


def _load(
    model_folder: str, *, trust_remote_code: bool
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    import modeling  # noqa: F401  registers our families with the Auto classes

    trust = {"trust_remote_code": trust_remote_code}
    model: PreTrainedModel = AutoModelForImageClassification.from_pretrained(model_folder, **trust)
    processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(model_folder, **trust)
    return model, processor


def _dataset_facts(
    source: Split, data: str | DatasetReference, *, fingerprint: str
) -> DatasetFacts:
    facts = source.describe() | {"config": DatasetReference.of(data).name or None}
    return cast(DatasetFacts, facts | {"fingerprint": fingerprint})


def _protocol_facts(protocol: EvaluationProtocol, processor: BaseImageProcessor) -> ProtocolFacts:
    facts: ProtocolFacts = {"views": protocol.crops, "image_processor": processor.to_dict()}
    if protocol.crops > 1:
        facts["averaged"] = "probabilities"
    if protocol.exif_rotation:
        facts["exif_rotation"] = True
    return facts


def _metrics(predictions: Predictions, num_labels: int) -> Metrics:
    import evaluate

    metric = evaluate.load(str(METRIC))
    metric.add_batch(predictions=predictions.ranked, references=predictions.labels)
    computed = metric.compute(k=[1, 5] if num_labels > MOST_WITHOUT_TOP5 else [1])
    return {
        "top1_accuracy": computed["top1_accuracy"],
        "top5_accuracy": computed.get("top5_accuracy"),
        "loss": predictions.summary()["loss"],
    }


def _model_facts(
    model: PreTrainedModel, processor: BaseImageProcessor, *, folder: str
) -> ModelFacts:
    from transformers.utils.hub import cached_file

    try:
        weights = Path(str(cached_file(folder, "model.safetensors")))
    except OSError as error:
        raise OSError(
            f"{folder} must have its weights in one file, model.safetensors, whose hash the "
            f"result records; there is none. Write one with model.save_pretrained(FOLDER)"
        ) from error
    return {
        "file": weights.name,
        "sha256": file_sha256(weights),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        **describe_network(model, image_shape(processor)),
    }
