"""Top-k accuracy, as an `evaluate` metric that works without a network.

    metric = evaluate.load("convzoo/evaluation/metrics/topk_accuracy")
    metric.add_batch(predictions=logits.topk(5).indices, references=labels)
    metric.compute()   # {"top1_accuracy": 0.78, "top5_accuracy": 0.94}

It takes class numbers, not logits: rows of 1,000 floats make `evaluate` slow, and top-k is cheap
where the logits are.
"""

# One import per line: evaluate finds a script's needs with a pattern that misreads lists.
import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Share of images whose label is among the k classes with the highest score."
_INPUTS = """
Args:
    predictions: for each image the classes in falling order of score, (num_images, k) integers.
    references: the label of each image, (num_images,) integers.
    k: which accuracies to give; each at most the number of predictions per image.

Returns:
    dict of `top{k}_accuracy`, fractions in [0, 1].
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class TopKAccuracy(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Top-k accuracy from ranked class numbers."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            inputs_description=_INPUTS,
            citation="",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("int32")),
                    "references": datasets.Value("int32"),
                }
            ),
        )

    def _compute(
        self,
        predictions: list[list[int]],
        references: list[int],
        k: tuple[int, ...] = (1, 5),
    ) -> dict[str, float]:
        ranked = np.asarray(predictions)
        hits = ranked == np.asarray(references)[:, None]
        too_large = [n for n in k if not 1 <= n <= ranked.shape[1]]
        if too_large:
            raise ValueError(
                f"k must lie in [1, {ranked.shape[1]}], the predictions per image; got "
                f"{too_large}. Of a model with few classes give k, such as k=[1]"
            )
        return {f"top{n}_accuracy": float(hits[:, :n].any(axis=1).mean()) for n in k}
