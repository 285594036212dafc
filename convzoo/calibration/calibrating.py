"""Fit the calibration temperature of a model on some images, and measure it on others.

python -m convzoo calibrate runs/quickstart/model --data data/fashion-mnist --validation-share
"""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from convzoo.data.opening import DatasetReference, find_source
from convzoo.evaluation.chosen_images import Choice
from convzoo.evaluation.evaluating import evaluate_model
from convzoo.evaluation.predicting import Kept
from convzoo.evaluation.prediction_file import read_recorded_predictions
from convzoo.evaluation.prediction_table import PredictionTable
from convzoo.evaluation.protocols import EvaluationProtocol
from convzoo.evaluation.results import (
    EvalResult,
    FittingData,
    Temperature,
    is_chosen_among,
    is_plain,
    is_validation_share,
    read_results,
    record_result,
)
from convzoo.evaluation.statistics import calibration
from convzoo.files import file_sha256, read_json
from convzoo.report.reporting import was_trained_on
from convzoo.report.wording import count

logger = logging.getLogger(__name__)
LOWEST, HIGHEST = 0.05, 20.0  # temperatures
TOLERANCE = 1e-6  # of the logarithm of the temperature
FOLDS = 10  # of cross-fitting
STEP = 1.01  # from a bound inwards: a minimum between them is downhill there
ROWS = 4096  # whose logits are made float64 at a time


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """Which images a temperature is fitted on, and which it is measured on.

    Attributes:
        fit_split: split to fit on; "" for the validation share of the model's training.
        split: split to measure on.
        cross_fit: measure on the images to fit on instead, each with a temperature that was fitted
            on others.
        data: evaluated first, with logits; None for results that are recorded with them.
        protocol: of that evaluation; only how fast it is may be chosen.
        command: recorded in the results of that evaluation.
    """

    fit_split: str = ""
    split: str = "test"
    cross_fit: bool = False
    data: DatasetReference | None = None
    protocol: EvaluationProtocol = field(default_factory=EvaluationProtocol)
    command: str = ""


def calibrate_model(model_folder: str, options: CalibrateOptions) -> EvalResult:
    """Fit a temperature on one part of the data, and record it with the result of another.

    Returns:
        The result, with `calibration.temperature`, as it was recorded.

    Raises:
        FileNotFoundError: if the folder has no such results with logits.
        ValueError: if the images do not determine a temperature, if it does not help on the others,
            or if both are the same images.
        OSError: if images, predictions or results cannot be read or written.
    """
    folder = Path(model_folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"MODEL must be a model folder, which keeps the temperature; there is no folder "
            f"{folder}. Of a model on the Hub, `hf download` makes one"
        )
    _check_kind(folder)
    _check_splits(options)
    fitted_on = _result(folder, options.fit_split, options)
    if was_trained_on(folder, fitted_on):
        logger.warning(
            "%s was trained on the images of the split %s: a temperature that is fitted on them "
            "is too low. Take others, such as those that data.eval_fraction keeps aside",
            folder,
            fitted_on["dataset"]["split"],
        )
    measured = fitted_on if options.cross_fit else _result(folder, options.split, options)
    tables = [
        read_recorded_predictions(folder, each.get("predictions")) for each in (fitted_on, measured)
    ]
    fitting, measuring = (table.take(table.readable) for table in tables)
    if not options.cross_fit:
        fitting = _without_shared(fitting, measuring)
    value = fit_temperature(_logits(fitting), fitting.label)
    about = FittingData(
        split=fitted_on["dataset"]["split"],
        fingerprint=fitting.fingerprint(),
        num_samples=len(fitting),
    )
    each = np.full(len(measuring), value)
    if options.cross_fit:
        about["folds"], each = FOLDS, cross_fitted(fitting)
    temperature = _measure(value, measuring, about, each=each)
    if temperature["nll_after"] >= temperature["nll_before"]:
        raise ValueError(
            f"the temperature must lower the loss on the images that it is measured on; "
            f"{value:.4g} changes it from {temperature['nll_before']:.6g} to "
            f"{temperature['nll_after']:.6g}, so none is recorded. Fit on more images, or use the "
            f"probabilities as they are"
        )
    if temperature["ece_after"] > temperature["ece_before"]:
        logger.warning(
            "the temperature lowers the loss, but not the calibration error: look at both. One "
            "number cannot make every model calibrated"
        )
    result = EvalResult(**measured)
    result["calibration"] = {**measured["calibration"], "temperature": temperature}
    record_result(folder, result)
    return result


def _check_splits(options: CalibrateOptions) -> None:
    """Refuse, before anything is evaluated, splits on which nothing can be measured."""
    if options.cross_fit:
        return
    if options.fit_split == options.split:
        raise ValueError(f"--fit-split must differ from --split; both are {options.split!r}")
    if options.data:
        names = find_source(options.data).split_names()
        if options.split not in names:
            raise ValueError(
                f"--split must be a split of {options.data.path}, one of {', '.join(names)}; got "
                f"{options.split!r}. Where no images were kept for it, --cross-fit measures on "
                f"those that the temperature is fitted on, in {FOLDS} parts"
            )


def _check_kind(folder: Path) -> None:
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    if (kind := config.get("problem_type")) not in (None, "single_label_classification"):
        raise ValueError(
            f"a temperature needs a model of classes that exclude each other; problem_type of "
            f"{path} is {kind!r}"
        )


def _result(folder: Path, split: str, options: CalibrateOptions) -> EvalResult:
    """Evaluate a split, "" for the validation share; or find its newest result with logits."""
    if options.data:
        (result,) = evaluate_model(
            str(folder),
            options.data,
            split=split or "train",
            command=options.command,
            protocols=[options.protocol],
            choice=Choice(validation_share=not split),
            kept=Kept(logits=True),
        )
        return result
    weights = folder / "model.safetensors"
    sha256 = file_sha256(weights) if weights.is_file() else ""
    found = [
        each
        for each in read_results(folder)
        if each["model"]["sha256"] == sha256
        and is_plain(each["protocol"])
        and not is_chosen_among(each["dataset"])  # logits are its own
        and each.get("predictions", {}).get("logits")
        and (
            not split if is_validation_share(each["dataset"]) else each["dataset"]["split"] == split
        )
    ]
    if not found:
        option = f"--split {split}" if split else "--validation-share"
        raise FileNotFoundError(
            f"{folder} must have a result of {f'the split {split}' if split else 'its share'} with "
            f"all logits, of these weights, one view, the model's own crop, and float32; it has "
            f"none. Give --data DATASET, or run `convzoo evaluate {folder} --data DATASET "
            f"{option} --logits` first"
        )
    return max(found, key=lambda each: each.get("date") or "")


def _without_shared(fitting: PredictionTable, measuring: PredictionTable) -> PredictionTable:
    """Leave out of the images to fit on those that are measured, too, and say how many."""
    measured = {digest.tobytes() for digest in measuring.digest}
    own = np.array([digest.tobytes() not in measured for digest in fitting.digest], bool)
    if not len(measuring) or not own.any():
        raise ValueError(
            "a temperature must be fitted on other images than it is measured on; all that could "
            "be read are the same. Choose another --fit-split or --split"
        )
    if shared := int((~own).sum()):
        logger.warning("%s not fitted on: measured, too", count(shared, "image"))
    return fitting.take(own)


def _logits(table: PredictionTable) -> np.ndarray:
    if table.logits is None:
        raise ValueError("predictions must have all logits. Evaluate again with --logits")
    return table.logits


def cross_fitted(table: PredictionTable) -> np.ndarray:
    """Fit for each image a temperature on the images of the other parts, copies in one part.

    Returns:
        The temperatures, (num_images,). Parts are chosen by the digests of the images, so they do
        not depend on their order.

    Raises:
        ValueError: if there are fewer different images than parts; and as `fit_temperature`.
    """
    _, number = np.unique(table.digest, axis=0, return_inverse=True)
    part = number.reshape(-1) % FOLDS
    if len(np.unique(part)) < FOLDS:
        raise ValueError(
            f"--cross-fit needs at least {FOLDS} different images; got {part.max(initial=-1) + 1}"
        )
    temperatures = np.empty(len(table))
    for each in range(FOLDS):
        others = part != each
        temperatures[~others] = fit_temperature(_logits(table)[others], table.label[others])
    return temperatures


def _measure(
    value: float, table: PredictionTable, fitted_on: FittingData, *, each: np.ndarray
) -> Temperature:
    """Measure loss and expected calibration error without temperatures, and with one of `each`."""
    logits, hits = _logits(table), table.hits()
    before, sure = cooled(logits, table.label, 1.0)
    after, cooler = cooled(logits, table.label, each)
    return {
        "value": value,
        "fitted_on": fitted_on,
        "nll_before": float(before.mean()),
        "nll_after": float(after.mean()),
        "ece_before": calibration(sure, hits)["expected_calibration_error"],
        "ece_after": calibration(cooler, hits)["expected_calibration_error"],
    }


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Find the temperature with the smallest mean cross entropy.

    It is a convex function of 1 / temperature: there is one minimum.

    Args:
        logits: (num_images, num_classes), finite.
        labels: true classes, (num_images,).

    Returns:
        The temperature, between LOWEST and HIGHEST.

    Raises:
        ValueError: if there is no minimum between them.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599,
        section 4.2.
    """
    from scipy.optimize import minimize_scalar

    def loss(temperature: float) -> float:
        return float(cooled(logits, labels, temperature)[0].mean())

    for bound, inside, why in (
        (HIGHEST, HIGHEST / STEP, "the model knows nothing of them"),
        (LOWEST, LOWEST * STEP, "all of them are right"),
    ):
        if loss(inside) >= loss(bound):
            raise ValueError(
                f"the best temperature must lie between {LOWEST:g} and {HIGHEST:g}; on "
                f"{count(len(labels), 'image')} it is at the bound {bound:g} or beyond, as where "
                f"{why}, so none is recorded. Fit on more, or on other images"
            )
    found = minimize_scalar(
        lambda logarithm: loss(math.exp(logarithm)),
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": TOLERANCE},
    )
    return math.exp(float(found.x))


def cooled(
    logits: np.ndarray, labels: np.ndarray, temperature: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute cross entropies and top-1 probabilities of logits divided by a temperature.

    Args:
        logits: (num_images, num_classes).
        labels: true classes, (num_images,).
        temperature: above 0; of all images, or (num_images,).

    Returns:
        Both float64, (num_images,).
    """
    losses, confidences = np.empty(len(labels)), np.empty(len(labels))
    divisors = np.broadcast_to(temperature, len(labels))
    for start in range(0, len(labels), ROWS):
        part = slice(start, start + ROWS)
        scores = logits[part].astype(np.float64)
        scores = (scores - scores.max(axis=1, keepdims=True)) / divisors[part, None]
        sums = np.exp(scores).sum(axis=1)
        losses[part] = np.log(sums) - scores[np.arange(len(scores)), labels[part]]
        confidences[part] = 1 / sums
    return losses, confidences


def calibrated_sentence(model: str, result: EvalResult) -> str:
    """Say what was fitted and what it changes, for a terminal."""
    found, dataset = result["calibration"]["temperature"], result["dataset"]
    images = found["fitted_on"]
    fitted, others = images["num_samples"], dataset["num_samples"]
    where = f"On {count(others, 'other image')} [{dataset['split']}]"
    if "folds" in images:
        where = f"On these, with temperatures that were fitted without them in {FOLDS} parts"
    return (
        f"{model}: temperature {found['value']:.4f}, fitted on {count(fitted, 'image')} of the "
        f"split {images['split']}. {where}: loss "
        f"{found['nll_before']:.4f} -> {found['nll_after']:.4f}, calibration error "
        f"{found['ece_before']:.4f} -> {found['ece_after']:.4f}"
    )
