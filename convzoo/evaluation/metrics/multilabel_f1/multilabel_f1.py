"""F1 of several labels, as an `evaluate` metric that works without a network.

    metric = evaluate.load("convzoo/evaluation/metrics/multilabel_f1")
    metric.compute(
        predictions=[[0.9, 0.2], [0.3, 0.8]], references=[[1, 0], [1, 1]]
    )  # {'micro_f1': 0.8, 'macro_f1': 0.8333}

It takes whole lists, or batches by `add_batch`.
"""

# One import per line: evaluate finds a script's needs with a pattern that misreads lists.
import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Harmonic mean of precision and recall of labels, over all and as mean over classes."
_INPUTS = """
Args:
    predictions: probability of each class, (num_images, num_classes).
    references: 1 where the image has the label, else 0, (num_images, num_classes).
    threshold: a class is predicted from this probability on.

Returns:
    dict of `micro_f1` and `macro_f1`, in [0, 1]; a class without labels and answers has 0.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class MultilabelF1(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """F1 of several labels."""

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
        self, predictions: list[list[float]], references: list[list[int]], threshold: float = 0.5
    ) -> dict[str, float]:
        answers, labels = np.asarray(predictions) >= threshold, np.asarray(references) == 1
        both, any_of = (answers & labels).sum(axis=0), answers.sum(axis=0) + labels.sum(axis=0)
        each = 2 * both / np.maximum(any_of, 1)
        micro = 2 * both.sum() / max(any_of.sum(), 1)
        return {"micro_f1": float(micro), "macro_f1": float(each.mean())}
