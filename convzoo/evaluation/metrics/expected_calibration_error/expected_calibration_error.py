"""Expected calibration error, as an `evaluate` metric that works without a network.

    metric = evaluate.load("convzoo/evaluation/metrics/expected_calibration_error")
    metric.compute(
        predictions=[0.9, 0.6, 0.8], references=[1, 0, 1]
    )  # {'expected_calibration_error': 0.3}

It takes whole lists, or batches by `add_batch`.
"""

# One import per line: evaluate finds a script's needs with a pattern that misreads lists.
import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Mean distance of confidence and accuracy over bins, arXiv:1706.04599."
_INPUTS = """
Args:
    predictions: probability of the class that the model chose, (num_images,), in [0, 1].
    references: 1 where that class is right, else 0, (num_images,).
    num_bins: how many bins.
    strategy: "equal_width" splits [0, 1] into bins (low, high]; "equal_mass" gives all bins the
        same number of images, as far as that is possible.

Returns:
    dict of `expected_calibration_error`, in [0, 1].
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class ExpectedCalibrationError(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Expected calibration error."""

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

    def _compute(
        self,
        predictions: list[float],
        references: list[int],
        *,
        num_bins: int = 15,
        strategy: str = "equal_width",
    ) -> dict[str, float]:
        confidences, hits = np.asarray(predictions), np.asarray(references)
        if not ((confidences >= 0) & (confidences <= 1)).all():
            raise ValueError("predictions must be probabilities in [0, 1]")
        if strategy == "equal_width":
            edges = np.arange(1, num_bins) / num_bins
            bin_of = np.digitize(confidences, edges, right=True)
            bins = [np.flatnonzero(bin_of == number) for number in np.unique(bin_of)]
        elif strategy == "equal_mass":
            bins = np.array_split(np.argsort(confidences, kind="stable"), num_bins)
        else:
            raise ValueError(f"strategy must be equal_width or equal_mass; got {strategy!r}")
        gaps = [abs(float((hits[each] - confidences[each]).sum())) for each in bins]
        return {"expected_calibration_error": sum(gaps) / len(hits)}
