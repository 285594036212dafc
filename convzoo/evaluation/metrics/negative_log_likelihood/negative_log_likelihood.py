"""Negative log-likelihood, as an `evaluate` metric that works without a network.

    metric = evaluate.load("convzoo/evaluation/metrics/negative_log_likelihood")
    metric.compute(
        predictions=[[0.5, 0.5], [0.25, 0.75]], references=[0, 1]
    )  # {'negative_log_likelihood': 0.49}

It takes whole lists, or batches by `add_batch`.
"""

# One import per line: evaluate finds a script's needs with a pattern that misreads lists.
import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Mean negative logarithm of the probability of the label, in nats."
_INPUTS = """
Args:
    predictions: probability of each class, (num_images, num_classes).
    references: the label of each image, (num_images,) integers.

Returns:
    dict of `negative_log_likelihood`, from 0 on; infinite where a label had no chance.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class NegativeLogLikelihood(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Negative log-likelihood."""

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
        chosen = np.asarray(predictions)[np.arange(len(references)), references]
        if not ((chosen >= 0) & (chosen <= 1)).all():
            raise ValueError("predictions must be probabilities in [0, 1]")
        with np.errstate(divide="ignore"):
            return {"negative_log_likelihood": float(-np.log(chosen).mean())}
