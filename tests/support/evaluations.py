"""Evaluations of a model folder, as tests make them."""

from convzoo.evaluation.evaluating import evaluate_folder
from convzoo.evaluation.predicting import EvaluationProtocol

PROTOCOL = {"crops", "exif_rotation", "batch_size", "num_workers"}


def evaluate(model_folder, data, **options):
    """Evaluate on the split "test", four images at a time and in this process unless told else."""
    chosen = {key: options.pop(key) for key in PROTOCOL & options.keys()}
    protocol = EvaluationProtocol(**{"batch_size": 4} | chosen)
    return evaluate_folder(
        str(model_folder), str(data), split="test", command="", protocol=protocol, **options
    )
