"""Area under the ROC curve of two classes, as an `evaluate` metric that works without a network.

    metric = evaluate.load("convzoo/evaluation/metrics/auroc")
    metric.compute(
        predictions=[0.1, 0.4, 0.35, 0.8], references=[0, 0, 1, 1]
    )  # {'auroc': 0.75}

It takes whole lists, or batches by `add_batch`.
"""

# One import per line: evaluate finds a script's needs with a pattern that misreads lists.
import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Chance that an image of class 1 has a higher score than one of class 0."
_INPUTS = """
Args:
    predictions: score or probability of class 1, (num_images,).
    references: 0 or 1, (num_images,), both at least once.

Returns:
    dict of `auroc`, in [0, 1]; equal scores count as one half.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class Auroc(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Area under the ROC curve of two classes."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            inputs_description=_INPUTS,
            citation="",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("float64"),
                    "references": datasets.Value("int32"),
                }
            ),
        )

    def _compute(self, predictions: list[float], references: list[int]) -> dict[str, float]:
        scores, labels = np.asarray(predictions), np.asarray(references)
        positive, negative = scores[labels == 1], np.sort(scores[labels == 0])
        if len(positive) + len(negative) < len(labels) or not len(positive) or not len(negative):
            raise ValueError("references must be 0 or 1, and have both; AUROC is not defined else")
        below = np.searchsorted(negative, positive, "left")
        not_above = np.searchsorted(negative, positive, "right")
        return {"auroc": float((below + not_above).mean() / 2 / len(negative))}
