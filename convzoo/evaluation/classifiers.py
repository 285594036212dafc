"""Load what is evaluated: a network, what prepares images for it, its class names, its hash."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from transformers import BaseImageProcessor, PreTrainedModel

from convzoo.evaluation.exported_networks import (
    ExportedNetwork,
    find_exported,
    load_exported,
)
from convzoo.evaluation.protocols import Computation, EvaluationProtocol
from convzoo.evaluation.results import ModelFacts, results_folder
from convzoo.evaluation.timm_models import hub_name, is_of_timm, load_timm
from convzoo.files import file_sha256
from convzoo.labels import class_names
from convzoo.layers import count_multiply_adds, describe_network, image_shape
from convzoo.model_names import load_model, loading_model


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A network that can be evaluated.

    Attributes:
        name: what it was asked for by, a folder or a Hub id.
        model: gives an output with `logits` for a batch of pixel values.
        processor: makes pixel values of images.
        names: name of each class, in the order of the logits.
        facts: what results say of it.
    """

    name: str
    model: torch.nn.Module
    processor: BaseImageProcessor
    names: tuple[str, ...]
    facts: ModelFacts

    @property
    def folder(self) -> Path | None:
        """The folder that keeps its results; None for one on the Hub."""
        return results_folder(self.name)


def load_classifier(name: str, *, trust_remote_code: bool = False) -> Classifier:
    """Load a model folder, a network in a file, or a model from the Hub.

    Args:
        name: a saved model, a folder of `convzoo export`, a file of ONNX or torch.export, a Hub id,
            or timm:NAME.
        trust_remote_code: run the code that a model on the Hub brings along.

    Raises:
        OSError: if there is no such model, or its weights are not in one file.
        ValueError: if it cannot be loaded.
    """
    name = hub_name(name)
    if exported := find_exported(name):
        if exported.suffix != ".onnx" and not results_folder(name) and not trust_remote_code:
            raise ValueError(
                f"{exported.name} of {name} is a program: read it, and let it run "
                f"with --trust-remote-code"
            )
        network, processor, facts = load_exported(exported)
        if not results_folder(name):
            facts |= {"name": name, "commit": exported.parent.name}  # of the Hub's cache
        return Classifier(
            name=name, model=network, processor=processor, names=network.names, facts=facts
        )
    with loading_model(name):
        if is_of_timm(name):
            timm_model, processor, names = load_timm(name)
            facts = _model_facts(timm_model, processor, name=name) | {"format": "timm"}
            return Classifier(
                name=name, model=timm_model, processor=processor, names=names, facts=facts
            )
    model, processor = load_model(name, trust_remote_code=trust_remote_code)
    return Classifier(
        name=name,
        model=model,
        processor=processor,
        names=tuple(class_names(model.config)),
        facts=_model_facts(model, processor, name=name),  # fails now, not after hours
    )


def _model_facts(model: PreTrainedModel, processor: BaseImageProcessor, *, name: str) -> ModelFacts:
    from transformers.utils.hub import cached_file

    try:
        weights = Path(str(cached_file(name, "model.safetensors")))
    except OSError as error:
        raise OSError(
            f"{name} must have its weights in one file, model.safetensors, whose hash the result "
            f"records; there is none. Write one with model.save_pretrained(FOLDER)"
        ) from error
    facts: ModelFacts = {
        "file": weights.name,
        "sha256": file_sha256(weights),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    shape = image_shape(processor)
    facts |= cast(ModelFacts, describe_network(model, shape))
    if "num_multiply_adds" not in facts and (count := count_multiply_adds(model, shape)):
        facts["num_multiply_adds"] = count
    if not Path(name).is_dir():
        facts["name"] = name
        if commit := getattr(model.config, "_commit_hash", None):
            facts["commit"] = commit
    return facts


def prepare_classifier(
    classifier: Classifier, protocol: EvaluationProtocol, device: torch.device
) -> Classifier:
    """Return a classifier as a protocol wants it: its crop, and its way to compute on a device.

    Raises:
        ValueError: if processor or model cannot do so.
    """
    if isinstance(classifier.model, ExportedNetwork) and protocol.computation != Computation():
        raise ValueError(
            f"{classifier.name} computes as it was exported; leave out --fast, --dtype, "
            f"--channels-last and --compile"
        )
    processor = protocol.crop.apply(classifier.processor)
    model = protocol.computation.apply(classifier.model.to(device)).eval()
    if protocol.crop.size is not None:
        channels, height, width = image_shape(processor)
        dtype = getattr(torch, protocol.computation.dtype)
        try:
            with torch.inference_mode():
                model(torch.zeros(1, channels, height, width, dtype=dtype, device=device))
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"size must be one that {classifier.name} can take; got {protocol.crop.size}: "
                f"{str(error).splitlines()[0]}"
            ) from error
    return replace(classifier, model=model, processor=processor)
