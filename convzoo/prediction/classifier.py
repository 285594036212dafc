"""Load an image classifier, and let it answer as `pipeline("image-classification")` does."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from convzoo.evaluation.results import FILE, is_plain, read_results
from convzoo.inference import Precision, prepare
from convzoo.labels import class_names
from convzoo.model_names import file_of_model, load_model, weights_sha256

Guess = tuple[str, float]  # name of a class, and its score
SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda logits: logits,
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: logits.softmax(-1),
}


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
    place = _checked_device(device)
    model, processor = load_model(name, trust_remote_code=trust_remote_code)
    model.to(place)  # type: ignore[arg-type]  # Transformers hides the types of PyTorch there
    kind = kind_of_scores(model.config)
    if calibrated and kind != "softmax":
        raise ValueError(
            f"--calibrated needs a model of classes that exclude each other; got {name}"
        )
    if prepared:
        prepare(model, precision=prepared)
    return Classifier(
        name=name,
        model=model,
        processor=processor,
        labels=class_names(model.config),
        scores=SCORES[kind],
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


def kind_of_scores(config: PreTrainedConfig) -> str:
    """Choose what becomes of logits, a key of SCORES, as the pipeline of Transformers does."""
    if config.problem_type == "regression":
        return "none"
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return "sigmoid"
    return "softmax"
