"""Mean average precision of several labels, as an `evaluate` metric that works without a network.

    metric = evaluate.load("convzoo/evaluation/metrics/multilabel_average_precision")
    metric.compute(
        predictions=[[0.9, 0.2], [0.3, 0.8]], references=[[1, 0], [1, 1]]
    )  # {'mean_average_precision': 1.0}

It takes whole lists, or batches by `add_batch`.
"""

# One import per line: evaluate finds a script's needs with a pattern that misreads lists.
import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Mean over classes of the area under precision and recall, without interpolation."
_INPUTS = """
Args:
    predictions: score of each class, (num_images, num_classes).
    references: 1 where the image has the label, else 0, (num_images, num_classes).

Returns:
    dict of `mean_average_precision`, in [0, 1]: the mean over classes that have images.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class MultilabelAveragePrecision(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Mean average precision of several labels."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            inputs_description=_INPUTS,
            citation="",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("int32")),
                }
            ),
        )

    def _compute(
        self, predictions: list[list[float]], references: list[list[int]]
    ) -> dict[str, float]:
        scores, labels = np.asarray(predictions), np.asarray(references)
        found = [
            _average_precision(scores[:, number], labels[:, number])
            for number in range(labels.shape[1])
            if labels[:, number].any()
        ]
        if not found:
            raise ValueError("references must have a label at least; got none")
        return {"mean_average_precision": float(np.mean(found))}


def _average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Sum precision times the gain of recall, from threshold to threshold."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of images with equal scores
    hits = np.cumsum(labels[order])[last]
    precision = hits / (np.flatnonzero(last) + 1)
    return float((precision * np.diff(hits / labels.sum(), prepend=0)).sum())
