"""Facts about the training: its data, its recipe in words, and what the run did.

A setting that is off is not mentioned: recipe.toml, which the card links, has them all.
"""

import math
from pathlib import Path

from hub_cards.card.formatting import (
    HUB_ID,
    Rows,
    code,
    dataset_link,
    duration,
    environment_rows,
    joined,
    percent,
    plain,
    present,
    provenance_rows,
    scalar,
)
from hub_cards.evidence.folder import Evidence
from hub_cards.files import Record

MAX_PROGRESS_ROWS = 10
OPTIMIZERS = {"sgd": "SGD", "adamw": "AdamW", "lamb": "LAMB"}
DECAYED = {
    "kernels": "on tensors of more than one dimension",
    "not_bias": "on all parameters but biases",
    "all": "on all parameters",
}
CROPS = {
    "random_resized": "random resized crop",
    "padded": "random crop after padding",
    "random": "random crop",
    "center": "centre crop",
}


def data_rows(evidence: Evidence) -> Rows:
    """Describe the images that the model was trained on."""
    dataset = (evidence.train_results or {}).get("dataset") or {}
    rows = [
        ("Dataset", dataset_link(dataset)),
        ("Split", plain(dataset.get("split") or "")),
        ("Images", scalar(dataset.get("num_samples"))),
        *provenance_rows(dataset),
    ]
    return present(rows)


def recipe_rows(evidence: Evidence) -> Rows:
    """The recipe in words."""
    recipe = evidence.recipe
    return present(
        [
            ("Start", _start(recipe, base_model(evidence))),
            ("Length", _length(recipe.get("train", {}), evidence.train_results or {})),
            ("Sampling", _balance(recipe.get("data", {}), evidence.train_results or {})),
            ("Optimizer", _optimizer(recipe.get("optimizer", {}))),
            ("Learning rate", _learning_rate(recipe.get("optimizer", {}), recipe.get("schedule"))),
            ("Loss", _loss(recipe.get("train", {}))),
            ("Augmentation", _augmentation(recipe.get("augmentation", {}))),
            ("Averaged weights", _average(recipe.get("train", {}))),
            ("Computation", _computation(recipe.get("train", {}))),
        ]
    )


def base_model(evidence: Evidence) -> str | None:
    """The Hub id that a fine-tuning started from; None for a local folder or fresh weights."""
    pretrained = evidence.recipe.get("finetune", {}).get("pretrained") or ""
    on_hub = HUB_ID.fullmatch(pretrained) and not Path(pretrained).exists()
    return pretrained if on_hub else None


def _start(recipe: Record, base: str | None) -> str:
    seed, finetune = recipe.get("run", {}).get("seed"), recipe.get("finetune", {})
    drawn = f"seed {seed}" if seed is not None else ""
    if not finetune.get("pretrained"):
        return f"fresh weights, {drawn}" if drawn else ""
    frozen, decay = finetune.get("frozen_stages", 0), finetune.get("layer_decay", 1.0)
    revision = finetune.get("revision")
    return joined(
        [
            f"the weights of [{base}](https://huggingface.co/{base})"
            if base
            else f"the weights of {code(finetune['pretrained'])}",
            revision and f"revision {code(revision)}",
            "all but the head frozen" if frozen == -1 else "",
            "the stem frozen" if frozen == 1 else "",
            f"the stem and stages up to {frozen - 1} frozen" if frozen > 1 else "",
            f"each stage with {decay:g} times the learning rate of the next" if decay != 1 else "",
            drawn,
        ]
    )


def _length(train: Record, train_results: Record) -> str:
    epochs, images = train.get("epochs"), train.get("global_batch_size")
    early = train_results.get("stopped_early") and f"{train_results['epochs']:g} of at most "
    parts = train.get("accumulation_steps", 1)
    return joined(
        [
            epochs is not None and f"{early or ''}{epochs:g} epochs",
            images and f"{images:,} images a step",
            f"gradients accumulated over {parts} micro-batches" if parts > 1 else "",
        ]
    )


def _optimizer(table: Record) -> str:
    name, decay = table.get("name"), table.get("weight_decay", 0)
    if not name:
        return ""
    limits = table.get("slope_limits")
    return joined(
        [
            OPTIMIZERS.get(name, plain(name)),
            f"momentum {table['momentum']:g}" if name == "sgd" and "momentum" in table else "",
            "Nesterov" if name == "sgd" and table.get("nesterov") else "",
            f"betas {scalar(table['betas'])}" if name != "sgd" and "betas" in table else "",
            f"weight decay {decay:g} {DECAYED.get(table.get('weight_decay_on', ''), '')}".strip()
            if decay
            else "",
            f"PReLU slopes kept in {limits}" if limits else "",
        ]
    )


def _learning_rate(optimizer: Record, schedule: Record | None) -> str:
    if "learning_rate" not in optimizer:
        return ""
    schedule = schedule or {}
    rise, lowest = schedule.get("warmup_epochs", 0), schedule.get("min_learning_rate", 0)
    factor = schedule.get("factor", 0)
    watched = schedule.get("plateau_metric", "").replace("top", "top-").replace("_", " ")
    shapes = {
        "cosine": f"half a cosine to {lowest:g}",
        "linear": f"a straight line to {lowest:g}",
        "constant": "constant",
        "step": f"times {factor:g} every {schedule.get('step_epochs', 0):g} epochs",
        "plateau": f"times {factor:g} when the validation {watched} stops falling",
        "one_cycle": "one cycle",
        "restarts": f"cosine with restarts, the first after {schedule.get('cycle_epochs', 0):g} "
        f"epochs, to {lowest:g}",
    }
    return joined(
        [
            f"peak {optimizer['learning_rate']:g}",
            f"linear warm-up over {rise:g} epochs" if rise else "",
            shapes.get(schedule.get("name", "")),
            "changed once an epoch" if schedule.get("per_epoch") else "",
        ]
    )


def _loss(train: Record) -> str:
    names = {"cross_entropy": "cross entropy", "bce": "one binary cross entropy for each class"}
    smoothing, threshold = train.get("label_smoothing", 0), train.get("bce_target_threshold", 0)
    return joined(
        [
            names.get(train.get("loss", "")),
            _class_weights(train),
            f"label smoothing {smoothing:g}" if smoothing else "",
            f"targets above {threshold:g} set to 1" if threshold else "",
        ]
    )


def _class_weights(train: Record) -> str:
    asked = train.get("class_weights", "none")
    if isinstance(asked, dict):
        weights = joined(f"{plain(name)} {weight:g}" for name, weight in asked.items())
        return f"classes weighted ({weights}; others 1)"
    return {
        "balanced": "classes weighted by inverse frequency",
        "effective": "classes weighted by inverse effective number of images (beta "
        f"{train.get('class_weight_beta', 0):g})",
    }.get(asked, "")


def _balance(data: Record, train_results: Record) -> str:
    """Say how often classes come, if not as often as they have images."""
    strength = data.get("balance", 0)
    if not strength:
        return ""
    samples = (train_results.get("classes") or {}).get("samples_per_epoch") or []
    used = [count for count in samples if count]
    how = {1: "all classes equally often", 0.5: "classes by the square root of their size"}
    return joined(
        [
            how.get(strength, f"classes by their size to the power of {1 - strength:g}"),
            f"{min(used):,} to {max(used):,} images of a class in an epoch" if used else "",
        ]
    )


def _augmentation(table: Record) -> str:
    if not table:
        return ""
    flip, erasing = table.get("horizontal_flip", 0), table.get("erasing", 0)
    jitter, noise = table.get("color_jitter", [0]), table.get("pca_noise", "none")
    mixup, cutmix = table.get("mixup_alpha", 0), table.get("cutmix_alpha", 0)
    mixed = joined(
        [mixup and f"MixUp (alpha {mixup:g})", cutmix and f"CutMix (alpha {cutmix:g})"], " or "
    )
    probability, repeats = table.get("mix_probability", 1), table.get("repeats", 1)
    scale = table.get("scale")
    area = f" of {scale[0]:g} to {scale[1]:g} of the area" if scale else ""
    return joined(
        [
            CROPS.get(table.get("crop", ""), "")
            + (area if table.get("crop") == "random_resized" else ""),
            _crop_sizes(table),
            f"mirrored with probability {flip:g}" if flip else "",
            table.get("policy") and f"policy {code(table['policy'])}",
            f"colour jitter {scalar(jitter)}" if any(jitter) else "",
            f"PCA colour noise ({noise})" if noise != "none" else "",
            f"random erasing with probability {erasing:g}" if erasing else "",
            f"{mixed} with probability {probability:g}" if mixed else "",
            f"{repeats} views of an image in a pass" if repeats > 1 else "",
        ]
    )


def _crop_sizes(augmentation: Record) -> str:
    """Tell the sizes of crops where they grow, or are not those of the preprocessing."""
    first, full = augmentation.get("first_crop", 0), augmentation.get("full_crop", 0)
    to = f" to {full}" if full else ""
    if not first:
        return f"crops of {full} pixels" if full else ""
    begin, end = augmentation.get("growing_from_epoch", 0), augmentation.get("growing_epochs", 0)
    when = f"from epoch {begin:g} to {end:g}" if begin else f"over {end:g} epochs"
    return f"crops growing from {first}{to} pixels {when}"


def _average(train: Record) -> str:
    decay = train.get("ema_decay", 0)
    if not decay:
        return ""
    rising = ", rising from 0.1" if train.get("ema_warmup") else ""
    return f"the published weights are an exponential moving average, decay {decay:g}{rising}"


def _computation(train: Record) -> str:
    precision, norm = train.get("mixed_precision", "no"), train.get("max_grad_norm", 0)
    return joined(
        [
            "" if precision == "no" else f"{precision} autocast",
            f"gradients clipped to norm {norm:g}" if norm else "",
            "torch.compile" if train.get("compile") else "",
            "gradient checkpointing" if train.get("gradient_checkpointing") else "",
        ]
    )


def run_rows(evidence: Evidence) -> Rows:
    """Tell what the training run did, and how fast."""
    train = evidence.train_results
    if not train:
        return []
    waits = [
        line["data_wait_fraction"] for line in evidence.metrics if "data_wait_fraction" in line
    ]
    processes = train.get("num_processes", 1)
    steps, published = train.get("optimizer_steps"), train.get("published_step")
    rows = [
        ("Optimizer steps", scalar(steps)),
        ("Published weights", "" if published in (None, steps) else f"of step {published:,}"),
        ("Images seen", scalar(train.get("images_seen"))),
        ("Final training loss", scalar(train.get("final_train_loss"))),
        ("Training time", duration(train.get("duration_seconds"))),
        ("Images per second", scalar(train.get("images_per_second"))),
        ("Waiting for data", f"{percent(sum(waits) / len(waits))} of the time" if waits else ""),
        ("Processes", scalar(processes) if processes > 1 else ""),
        *environment_rows(train),
    ]
    return present(rows)


def progress_title(evidence: Evidence) -> str:
    """Say which images were evaluated during the training."""
    train = evidence.train_results or {}
    trained, evaluated = train.get("dataset") or {}, train.get("validation") or {}
    kept_aside = any("part" in step for step in (evaluated.get("subset") or {}).get("taken") or ())
    seen = evaluated.get("split") == trained.get("split") and not kept_aside
    what = "Images that were trained on, evaluated" if evaluated and seen else "Validation images"
    return f"{what} during training"


def progress_rows(evidence: Evidence) -> list[tuple[str, ...]]:
    """Evaluations during training, evenly thinned out, the last one kept; [] for a single one."""
    # A resumed run repeats the evaluation of the step from which it resumes.
    evaluations = [line for line in evidence.metrics if "eval_top1_accuracy" in line]
    lines = list({line.get("step", id(line)): line for line in evaluations}.values())
    if len(lines) < 2:
        return []
    step = max(1, math.ceil(len(lines) / MAX_PROGRESS_ROWS))
    return [
        (
            scalar(line.get("epoch")),
            scalar(line.get("eval_loss")),
            percent(line["eval_top1_accuracy"]),
        )
        for line in lines[::-1][::step][::-1]
    ]
