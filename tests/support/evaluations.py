"""Evaluations of a model folder, as tests make them."""

import dataclasses

from convzoo.evaluation.chosen_images import Choice
from convzoo.evaluation.evaluating import evaluate_model
from convzoo.evaluation.predicting import Kept
from convzoo.evaluation.protocols import EvaluationProtocol

PROTOCOL = {field.name for field in dataclasses.fields(EvaluationProtocol)}
CHOICE = {field.name for field in dataclasses.fields(Choice)}
KEPT = {"top_k", "logits", "folder"}


def evaluate(model_folder, data, **options):
    """Evaluate on the split "test", four images at a time and in this process unless told else."""
    protocol = {key: options.pop(key) for key in PROTOCOL & options.keys()}
    choice = {key: options.pop(key) for key in CHOICE & options.keys()}
    kept = {key: options.pop(key) for key in KEPT & options.keys()}
    (result,) = evaluate_model(
        str(model_folder),
        str(data),
        split="test",
        command="",
        protocols=[EvaluationProtocol(**{"batch_size": 4} | protocol)],
        choice=Choice(**choice),
        kept=Kept(**kept),
        **options,
    )
    return result
