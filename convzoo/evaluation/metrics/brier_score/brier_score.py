"""Brier's score, as an `evaluate` metric that works without a network.

    metric = evaluate.load("convzoo/evaluation/metrics/brier_score")
    metric.compute(
        predictions=[[0.5, 0.5], [0.25, 0.75]], references=[0, 1]
    )  # {'brier_score': 0.3125}

It takes whole lists, or batches by `add_batch`.
"""

# One import per line: evaluate finds a script's needs with a pattern that misreads lists.
import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Mean squared distance of the probabilities of all classes from the label."
_INPUTS = """
Args:
    predictions: probability of each class, (num_images, num_classes).
    references: the label of each image, (num_images,) integers.

Returns:
    dict of `brier_score`, in [0, 2]: the sum over classes, as Brier (1950) has it.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class BrierScore(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Brier's score."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            inputs_description=_INPUTS,
            citation="",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int32"),
                }
            ),
        )

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        distances = np.array(predictions)
        distances[np.arange(len(references)), references] -= 1
        return {"brier_score": float((distances**2).sum(axis=1).mean())}
