"""The data of a run: its splits, opened and checked, and the order of the training images."""

import contextlib
import dataclasses
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from convzoo.data.class_balance import ClassBalance
from convzoo.data.classes import log_classes
from convzoo.data.copies import Copies, find_copies, fingerprint_of_files
from convzoo.data.opening import DatasetReference, open_split
from convzoo.data.order import DataOrder
from convzoo.data.row_cache import RowCache
from convzoo.data.share import Share
from convzoo.data.split import Split
from convzoo.data.stream import TrainStream
from convzoo.data.subset import subset
from convzoo.data.validation_share import take_share
from convzoo.files import read_json, write_json
from convzoo.images.train_transform import TrainTransform
from convzoo.recipe.settings import Recipe, num_channels
from convzoo.training.progress import Plan

logger = logging.getLogger(__name__)
COUNTING = ("balanced", "effective")  # values of train.class_weights that need counts of images


@dataclass(frozen=True)
class RunData:
    """The images that a run is trained and evaluated on.

    Attributes:
        train: the training split, or the part of it that the recipe chooses.
        validation: the split that is evaluated on, or None.
        order: which training image is which sample of the run.
        samples_per_epoch: samples of each class in an epoch; None where labels were not read.
        label_fingerprint: see `State`.
    """

    train: Split
    validation: Split | None
    order: DataOrder
    label_fingerprint: str
    samples_per_epoch: np.ndarray | None = None

    @property
    def label_names(self) -> tuple[str, ...]:
        """One name for each class."""
        return self.train.label_names


def open_run_data(recipe: Recipe, accelerator: Accelerator | None = None) -> RunData:
    """Open the splits that a recipe names.

    Args:
        recipe: of the run.
        accelerator: the processes of a run, of which one opens a dataset of the Hub for all,
            compares the images and writes into the run folder what it found; None for who looks
            only.

    Raises:
        FileNotFoundError: if there is no such dataset.
        ValueError: if they do not fit each other or the batch.
    """
    data, batch_size, seed = recipe.data, recipe.train.global_batch_size, recipe.run.seed
    train = subset(_open(recipe, data.train_split, accelerator=accelerator), data.classes)
    validation = None
    if data.eval_fraction:  # before the rest is chosen: the same images whatever that is
        copies = _copies_once(train, recipe.folder, accelerator) if accelerator else None
        train, validation = take_share(train, data.eval_fraction, seed, copies=copies)
        validation = subset(validation, limit=data.eval_limit, spaced=True)
    train = subset(train, fraction=data.fraction, limit=data.limit, seed=seed)
    # On the Hub all of them would be many requests, and the commit stands for them.
    wanted = data.limit or data.balance or recipe.train.class_weights in COUNTING
    labels = train.read_labels() if wanted or not train.is_remote else None
    _check_classes(train, labels)
    if data.eval_split:
        validation = _open(recipe, data.eval_split, commit=train.revision, accelerator=accelerator)
        validation = subset(validation, data.classes, limit=data.eval_limit, spaced=True)
        if validation.label_names != train.label_names:
            raise ValueError(
                f"splits {data.train_split} and {data.eval_split} of {data.path} must have the "
                f"same classes in the same order; they differ. Set data.eval_split to another one"
            )
    log_classes(train, labels)
    if data.eval_split == data.train_split:
        logger.warning(
            "data.eval_split is data.train_split, %r: accuracies will be those of images that are "
            "trained on. data.eval_fraction keeps a share aside",
            data.eval_split,
        )
    images_per_step = batch_size // recipe.augmentation.repeats
    if images_per_step > train.num_rows:
        raise ValueError(
            f"train.global_batch_size must be at most the number of training images, "
            f"{train.num_rows}, times augmentation.repeats; got {batch_size}"
        )
    order = DataOrder(
        train.group_rows,
        train.group_bytes,
        global_batch_size=images_per_step,
        memory_bytes=data.shuffle_memory_mb * 2**20,
        seed=seed,
        balance=_balance(recipe, train, labels),
    )
    return RunData(
        train,
        validation,
        order,
        _label_fingerprint(train, labels),
        _samples_per_epoch(train, order.balance, labels),
    )


def open_stream(
    recipe: Recipe, data: RunData, *, plan: Plan, start_step: int, accelerator: Accelerator
) -> TrainStream:
    """Open this process's stream of augmented samples, from a step on."""
    augmentation = recipe.augmentation
    begins, ends = (
        round(epochs * plan.steps_per_epoch)
        for epochs in (augmentation.growing_from_epoch, augmentation.growing_epochs)
    )
    transform = TrainTransform(
        augmentation,
        recipe.preprocessing,
        num_channels=num_channels(recipe.model),
        growing=range(begins, ends),
    )
    return TrainStream(
        data.train,
        data.order,
        transform=transform,
        share=Share(accelerator.process_index, accelerator.num_processes),
        steps=range(start_step, plan.total_steps),
        exif_rotation=recipe.data.exif_rotation,
    )


def _copies_once(split: Split, folder: Path, accelerator: Accelerator) -> Copies:
    """Compare the images of a split on the main process, once in the life of a run folder."""
    found: list[Copies | None] = [None]
    if accelerator.is_main_process:
        record, known = folder / "image_copies.json", {}
        key = "" if split.is_remote else fingerprint_of_files(split)
        with contextlib.suppress(OSError, ValueError):  # not there yet, or damaged
            known = read_json(record)
        if key and known.get("files") == key:
            found = [Copies(known["same"], known["alike"])]
        else:
            copies = find_copies(split)
            found = [copies]
            if key:
                write_json(record, {"files": key, "same": copies.same, "alike": copies.alike})
    broadcast_object_list(found)
    assert found[0], "the main process found them"
    return found[0]


def _balance(recipe: Recipe, train: Split, labels: np.ndarray | None) -> ClassBalance | None:
    """Build what `data.balance` asks for; labels were read then."""
    strength = recipe.data.balance
    if not strength or labels is None:
        return None
    return ClassBalance(labels, train.group_rows, strength=strength, seed=recipe.run.seed)


def _samples_per_epoch(
    train: Split, balance: ClassBalance | None, labels: np.ndarray | None
) -> np.ndarray | None:
    if labels is None:
        return None
    samples = balance.samples if balance else np.bincount(labels)
    return np.pad(samples, (0, len(train.label_names) - len(samples)))


def _check_classes(train: Split, labels: np.ndarray | None) -> None:
    """Refuse training images of a single class: their loss is 0, whatever the model learns.

    Raises:
        ValueError: if they are.
    """
    numbers = range(len(train.label_names)) if labels is None else np.unique(labels)
    if len(numbers) > 1:
        return
    raise ValueError(
        f"training images must be of at least two classes; the {train.num_rows} of {train.path} "
        f"[{train.name}] are all of {train.label_names[numbers[0]]!r}. Mind that data.limit takes "
        f"the first ones and that data.classes leaves the others out"
    )


def _label_fingerprint(train: Split, labels: np.ndarray | None) -> str:
    """Hash labels and names of the classes; "" where a commit stands for them."""
    if train.is_remote or labels is None:
        return ""
    digest = hashlib.sha256(json.dumps(train.label_names).encode())
    digest.update(labels.astype("<i8").tobytes())
    return f"sha256:{digest.hexdigest()}"


def _open(
    recipe: Recipe, split: str, *, accelerator: Accelerator | None, commit: str | None = None
) -> Split:
    """Open a split; one on the Hub keeps what was read in the recipe's cache."""
    data = recipe.data
    dataset = DatasetReference(
        data.path,
        name=data.name,
        revision=commit or data.revision,
        image_column=data.image_column,
        label_column=data.label_column,
        root=data.root,
    )
    source = _open_once(dataset, split, accelerator) if accelerator else open_split(dataset, split)
    if not (source.is_remote and data.cache_dir):
        return source
    cache = RowCache(Path(data.cache_dir), int(data.cache_gb * 1e9))
    return dataclasses.replace(source, cache=cache)


def _open_once(dataset: DatasetReference, split: str, accelerator: Accelerator) -> Split:
    """Open a split of the Hub on the main process and tell the others; each opens a local one.

    It takes requests for each file, which hundreds of processes would make at the same moment.
    """
    told: list[Split | Exception | None] = [None]
    if accelerator.is_main_process and not Path(dataset.path).expanduser().exists():
        try:
            told = [open_split(dataset, split)]
        except Exception as error:
            broadcast_object_list([ValueError(str(error))])  # other kinds may not be sent
            raise
    broadcast_object_list(told)
    if isinstance(told[0], Exception):
        raise told[0]
    return told[0] or open_split(dataset, split)
