"""Load an image classifier, and let it answer as `pipeline("image-classification")` does."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convzoo.evaluation.results import FILE, is_plain, read_results
from convzoo.inference import Precision, prepare
from convzoo.model_names import file_of_model, loading_model, weights_sha256

Guess = tuple[str, float]  # name of a class, and its score


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A model on its device, and what turns its logits into answers.

    Attributes:
        name: folder or Hub id.
        model: in evaluation mode.
        processor: its image processor.
        labels: names of the classes.
        scores: from logits, (N, num_labels), to what is shown as score.
        temperature: divides the logits (Guo et al., arXiv:1706.04599); 1 changes nothing.
    """

    name: str
    model: Any
    processor: Any
    labels: list[str]
    scores: Callable[[Tensor], Tensor]
    temperature: float = 1.0

    @torch.inference_mode()
    def guess(self, pixel_values: Tensor, top_k: int) -> list[list[Guess]]:
        """Classify a batch.

        Args:
            pixel_values: (N, C, H, W), of the processor.
            top_k: classes of each image.

        Returns:
            For each image its likeliest classes, best first.
        """
        on_device = pixel_values.to(self.model.device, self.model.dtype)
        logits = self.model(on_device).logits.float() / self.temperature
        # As Python sorts: of equal scores the first class comes first.
        best = self.scores(logits).cpu().sort(descending=True, stable=True)
        scores, classes = best.values[:, :top_k].tolist(), best.indices[:, :top_k].tolist()
        return [
            [(self.labels[index], score) for index, score in zip(*row, strict=True)]
            for row in zip(classes, scores, strict=True)
        ]


def load_classifier(
    name: str,
    *,
    device: str = "",
    trust_remote_code: bool = False,
    calibrated: bool = False,
    prepared: Precision | None = None,
) -> Classifier:
    """Load a model and its image processor.

    Args:
        name: model folder or Hub id.
        device: of PyTorch; "" for an accelerator if there is one.
        trust_remote_code: whether to run code that the model brings along.
        calibrated: whether to divide logits by the temperature in the model's eval_results.json.
        prepared: precision for `convzoo.inference.prepare`; None leaves the model as it loads.

    Raises:
        OSError: if model or processor cannot be read.
        ValueError: if the device is not there, or there is no temperature.
    """
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    import modeling  # noqa: F401  registers our families with the Auto classes

    place = _checked_device(device)
    processor: Any = AutoImageProcessor  # Transformers has no types there
    trust = {"trust_remote_code": trust_remote_code}
    with loading_model(name):
        model = AutoModelForImageClassification.from_pretrained(name, **trust).to(place).eval()
        image_processor = processor.from_pretrained(name, **trust)
    scores = _score_function(model.config)
    if calibrated and scores is not _softmax:
        raise ValueError(
            f"--calibrated needs a model of classes that exclude each other; got {name}"
        )
    if prepared:
        prepare(model, precision=prepared)
    return Classifier(
        name=name,
        model=model,
        processor=image_processor,
        labels=[model.config.id2label[index] for index in range(model.config.num_labels)],
        scores=scores,
        temperature=read_temperature(name) if calibrated else 1.0,
    )


def read_temperature(name: str) -> float:
    """Return the first calibration temperature of a model's own weights, crop and one view.

    Raises:
        OSError: if the model cannot be read.
        ValueError: if it has none.
    """
    results, sha256 = file_of_model(name, FILE), weights_sha256(name)
    if results and sha256:
        for result in read_results(results.parent):
            found = result.get("calibration", {}).get("temperature")
            if found and result["model"]["sha256"] == sha256 and is_plain(result["protocol"]):
                if not 0 < found["value"] < math.inf:
                    raise ValueError(
                        f"the temperature in {results} must be above 0; got {found['value']}. "
                        f"Calibrate again"
                    )
                return found["value"]
    raise ValueError(
        f"--calibrated needs a temperature in {FILE} of {name}, of its weights, one view, its own "
        f"crop and float32; it has none. `convzoo calibrate` fits one, or leave the option away"
    )


def _checked_device(device: str) -> torch.device:
    if not device:
        has_one = torch.accelerator.is_available()
        found = torch.accelerator.current_accelerator() if has_one else None
        return found or torch.device("cpu")
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"--device must be one that PyTorch has here, such as cpu or cuda:0; got {device!r} "
            f"({reason})"
        ) from error
    return place


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


def _score_function(config: Any) -> Callable[[Tensor], Tensor]:
    """Choose as the pipeline of Transformers does."""
    if config.problem_type == "regression":
        return lambda logits: logits
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return torch.sigmoid
    return _softmax
