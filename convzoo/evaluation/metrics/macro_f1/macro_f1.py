"""Macro F1, as an `evaluate` metric that works without a network.

    metric = evaluate.load("convzoo/evaluation/metrics/macro_f1")
    metric.compute(
        predictions=[0, 1, 1], references=[0, 1, 0]
    )  # {'macro_f1': 0.6667}

It takes whole lists, or batches by `add_batch`.
"""

# One import per line: evaluate finds a script's needs with a pattern that misreads lists.
import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Mean over classes of the harmonic mean of precision and recall."
_INPUTS = """
Args:
    predictions: the class that the model chose, (num_images,) integers.
    references: the label of each image, (num_images,) integers.

Returns:
    dict of `macro_f1`, in [0, 1]: the mean over classes that are a label or an answer.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class MacroF1(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Macro F1."""

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
        scores = []
        for number in np.union1d(answers, labels):
            both = ((answers == number) & (labels == number)).sum()
            scores.append(2 * both / ((answers == number).sum() + (labels == number).sum()))
        return {"macro_f1": float(np.mean(scores))}
