"""Start from trained weights: adapt them, freeze stages, number the stages."""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils.hub import cached_file, extract_commit_hash

import modeling
from convzoo.conversion.starting_points import starting_folder, weights_license
from convzoo.model_names import load_processor, loading_model
from convzoo.recipe.rules import check_fields
from convzoo.recipe.settings import Preprocessing, Recipe, family_fields, num_channels
from modeling import ConvZooConfig, ConvZooModel
from modeling.modeling_convzoo import adapt_channels

logger = logging.getLogger(__name__)
FIRST_CONVOLUTION = "stem.conv.weight"  # in all families


def pretrained_model(recipe: Recipe, names: dict[str, Any]) -> ConvZooModel:
    """Adapt the model of `finetune.pretrained`: it gets the recipe's own fields and labels.

    Weights of another project are converted first: see `starting_folder`.
    """
    path, revision = recipe.finetune.pretrained, recipe.finetune.revision or "main"
    path, commit = find_start(path, recipe.finetune.revision)
    commit = commit or _commit(path, revision)
    revision = commit or revision  # weights and processor are of the same one
    found = pretrained_config(path, revision)
    if recipe.model.model_type not in ("", found.model_type):
        raise ValueError(
            f"model.model_type must be the family of finetune.pretrained; got "
            f"{recipe.model.model_type}, and {path} is of the family {found.model_type}. Leave "
            f"model.model_type out"
        )
    family = family_of(found.model_type)
    trained = modeling.FAMILIES[family].from_pretrained(
        path, revision=revision, dtype=torch.float32
    )
    fields = {name: getattr(trained.config, name) for name in family_fields(family)}
    _check_overrides(recipe, family, fields=fields)
    check_fields(family, {**fields, **recipe.model.config}, "the recipe")
    config = family(**{**fields, **recipe.model.config, **names})
    config._commit_hash = commit  # Transformers keeps it out of config.json
    if config.num_channels != num_channels(recipe.model):
        raise ValueError(
            f"model.num_channels must be set when it is not 3: {path} has {config.num_channels} "
            f"colour channels. Set it to {config.num_channels}, or to 3 to adapt the first layer"
        )
    _warn_of_other_pixels(recipe.preprocessing, path, revision)
    if (theirs := weights_license(path, revision)) not in ("", recipe.run.license):
        logger.warning(
            "the weights of %s have the licence %r; the card of this model will name that of "
            "run.license, %r. Set run.license to one that theirs allows",
            *(recipe.finetune.pretrained, theirs, recipe.run.license),
        )

    torch.manual_seed(recipe.run.seed)
    model = modeling.FAMILIES[family](config)
    state = trained.state_dict()
    if trained.config.id2label == config.id2label:
        logger.info("weights of %s, its classifier too: the classes are the same", path)
    else:
        state = {name: t for name, t in state.items() if not name.startswith("classifier.")}
        logger.info("weights of %s, with a new classifier of %d classes", path, config.num_labels)
    state[FIRST_CONVOLUTION] = adapt_channels(state[FIRST_CONVOLUTION], config.num_channels)
    model.load_state_dict(model.state_dict() | state)
    return model


def find_start(path: str, revision: str) -> tuple[str, str | None]:
    """Find what can be loaded: see `starting_folder`; a failure names `finetune.pretrained`.

    Raises:
        OSError: if there is no such model.
    """
    try:
        return starting_folder(path, revision)
    except OSError as error:
        raise _no_model(path, error) from error


def pretrained_config(path: str, revision: str = "main") -> ConvZooConfig:
    """Read the configuration of a trained model.

    Raises:
        OSError: if there is no such model.
        ValueError: if it is of another family.
    """
    try:
        with loading_model(path):
            found: ConvZooConfig = AutoConfig.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:  # ValueError: a folder without config.json
        raise _no_model(path, error) from error
    known = [family.model_type for family in modeling.FAMILIES]
    if found.model_type not in known:
        raise ValueError(
            f"finetune.pretrained must be a model of the families {', '.join(known)}; {path} is of "
            f"the family {found.model_type}"
        )
    return found


def _commit(path: str, revision: str) -> str | None:
    """Find the commit of a revision of a model on the Hub; None for a folder."""
    if Path(path).is_dir():
        return None
    try:
        commit: str | None = extract_commit_hash(
            cached_file(path, "config.json", revision=revision), None
        )
    except (OSError, ValueError) as error:
        raise _no_model(path, error) from error
    return commit


def _no_model(path: str, error: Exception) -> OSError:
    return OSError(
        f"finetune.pretrained must be a model folder or a Hub id, or a name that `convzoo models` "
        f"lists; got {path!r}. ({error})"
    )


def family_of(model_type: str) -> type[ConvZooConfig]:
    """Find the configuration class of a family."""
    return next(family for family in modeling.FAMILIES if family.model_type == model_type)


def _check_overrides(
    recipe: Recipe, family: type[ConvZooConfig], *, fields: Mapping[str, Any]
) -> None:
    """Raise ValueError for a field in [model] with which weights would be missing or too many."""
    path = recipe.finetune.pretrained
    for key in recipe.model.config:
        if key not in fields:
            raise ValueError(
                f"unknown key '{key}' in [model]: {path} is of the family {family.model_type}, "
                f"with the fields {', '.join(fields)}"
            )
    changes = {k: v for k, v in recipe.model.config.items() if k != "num_channels"}
    check_fields(family, {**fields, **changes}, "the recipe")
    for key, value in changes.items():
        try:
            fits = _shapes(family(**{**fields, key: value})) == _shapes(family(**fields))
        except ValueError:  # valid only together with another field
            fits = False
        if not fits:
            raise ValueError(
                f"model.{key} must fit the weights of {path}, where it is {fields[key]}; got "
                f"{value}. Leave it out, or train from fresh weights without finetune.pretrained"
            )


def _shapes(config: ConvZooConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = modeling.FAMILIES[type(config)](config)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _warn_of_other_pixels(settings: Preprocessing, path: str, revision: str) -> None:
    """Warn where a pretrained model will see other pixels than those it was trained with."""
    processor: Any = load_processor(path, revision)
    if processor is None or processor.num_channels != len(settings.mean):
        return
    for name, ours in (
        ("rescale_factor", settings.rescale_factor),
        ("image_mean", list(settings.mean)),
        ("image_std", list(settings.std)),
    ):
        if (theirs := getattr(processor, name)) != ours:
            logger.warning("%s was trained with %s %s; the recipe has %s", path, name, theirs, ours)


def stage_of(model: PreTrainedModel) -> dict[str, int]:
    """Number the stage of each parameter: 0 in the stem, then 1 and so on, the most in the head.

    The linear layers fc6 and fc7 of AlexNet count as a stage each.

    Args:
        model: of one of our families.

    Returns:
        Parameter name -> stage, in the order of `model.named_parameters()`.
    """
    depths: dict[str, int] = {}
    stages = {}
    for name, _ in model.named_parameters():
        first, second, *_ = name.split(".")
        part = f"{first}.{second}" if first == "stages" else first
        stages[name] = depths.setdefault(part, len(depths))
    return stages


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that normalises with its running statistics, and keeps them, in training too."""

    def train(self, mode: bool = True) -> Self:  # noqa: D102
        return super().train(False)

    @classmethod
    def like(cls, norm: nn.modules.batchnorm._BatchNorm) -> Self:
        """Make one with the same parameters and statistics, not copies."""
        with torch.device("meta"):
            frozen = cls(
                norm.num_features,
                norm.eps,
                norm.momentum,
                affine=norm.affine,
                track_running_stats=norm.track_running_stats,
            )
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(frozen, name, getattr(norm, name))
        return frozen.eval()


def freeze(model: PreTrainedModel, stages: int) -> None:
    """Keep the first stages as they are: no gradients, and batch norms in evaluation mode.

    What later replaces batch norms, as `nn.SyncBatchNorm.convert_sync_batchnorm` does, must be
    followed by another call.

    Args:
        model: of one of our families; changed in place.
        stages: how many, the stem counted; -1 is all but the head. See `stage_of`.

    Raises:
        ValueError: if the head would be frozen, too.
    """
    stage = stage_of(model)
    head = max(stage.values())
    if not -1 <= stages <= head:
        raise ValueError(
            f"finetune.frozen_stages must be in -1..{head} for this model, stem and stages but not "
            f"the head; got {stages}"
        )
    for name, parameter in model.named_parameters():
        if stage[name] < (head if stages == -1 else stages):
            parameter.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in module.named_children():
            frozen = not any(parameter.requires_grad for parameter in child.parameters())
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and frozen:
                setattr(module, name, FrozenBatchNorm2d.like(child))


def freeze_cancelled_biases(model: nn.Module) -> None:
    """Leave out of training the biases of convolutions in front of batch norms.

    A batch norm in training mode subtracts the mean of the batch and with it the bias: its gradient
    is rounding noise around 0 (Ioffe and Szegedy, arXiv:1502.03167, section 3.2), and computing it
    takes 7 % of a step. To be called after `freeze`.

    Args:
        model: whose children are registered in the order of their use; changed in place.
    """
    for module in model.modules():
        for conv, norm in itertools.pairwise(module.children()):
            is_norm = isinstance(norm, nn.modules.batchnorm._BatchNorm)
            if isinstance(conv, nn.Conv2d) and is_norm and norm.training and conv.bias is not None:
                conv.bias.requires_grad_(False)
