"""Balanced accuracy, as an `evaluate` metric that works without a network.

    metric = evaluate.load("convzoo/evaluation/metrics/balanced_accuracy")
    metric.compute(
        predictions=[0, 1, 1], references=[0, 1, 0]
    )  # {'balanced_accuracy': 0.75}

It takes whole lists, or batches by `add_batch`.
"""

# One import per line: evaluate finds a script's needs with a pattern that misreads lists.
import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Mean over the classes of the share of their images that are right."
_INPUTS = """
Args:
    predictions: the class that the model chose, (num_images,) integers.
    references: the label of each image, (num_images,) integers.

Returns:
    dict of `balanced_accuracy`, in [0, 1]: the mean over classes that have images.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class BalancedAccuracy(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Balanced accuracy."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            inputs_description=_INPUTS,
            citation="",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("int32"),
                    "references": datasets.Value("int32"),
                }
            ),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        answers, labels = np.asarray(predictions), np.asarray(references)
        recalls = [(answers[labels == number] == number).mean() for number in np.unique(labels)]
        return {"balanced_accuracy": float(np.mean(recalls))}
