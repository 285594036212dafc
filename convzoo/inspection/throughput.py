"""Measure how fast one core prepares images, and say what that means for N GPUs."""

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from typing_extensions import TypedDict

from convzoo.images.crops import random_resized_box
from convzoo.images.decoding import open_for_cropping
from convzoo.images.train_transform import TrainTransform, sample_rng
from convzoo.recipe.settings import Augmentation, Preprocessing
from convzoo.resizing.rows import Presize

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of CPU and of time, cgroup v2


class CoreSpeed(TypedDict):
    """Images per CPU second of one core, all on the same sample.

    Attributes:
        num_images: size of the sample.
        decode_images_per_second: of decoding what a crop needs.
        augment_images_per_second: of decoding and augmentation.
        crop: side of the training crops, pixels.
        presized_augment_images_per_second: of the same on presized images.
        presized_bytes: mean size of a presized image.
        presize: shorter side of the presized images, pixels.
    """

    num_images: int
    decode_images_per_second: float
    augment_images_per_second: float
    crop: int
    presized_augment_images_per_second: float
    presized_bytes: float
    presize: int


class Speed(CoreSpeed):
    """The speed on a split; mean size of its images and median of their shorter sides, pixels."""

    split: str
    bytes: float
    shorter_side: float


class Supply(TypedDict):
    """What the cores of a machine supply, and what feeding the GPUs takes.

    Attributes:
        wait_share: share of the time that training waits for data.
    """

    images_per_second_per_core: float
    workers_needed: int
    workers_per_gpu: int
    cores_suffice: bool
    supply_images_per_second: float
    wait_share: float
    read_megabytes_per_second: float


class Demanded(TypedDict):
    """What GPUs ask for, and what the machine has, with the data as it is and presized.

    Attributes:
        worker_cores: cores that are left for workers.
        augmentation_share: share of a worker's time that is not decoding.
    """

    num_gpus: int
    images_per_second_per_gpu: float
    demand_images_per_second: float
    num_cores: int
    worker_cores: int
    as_is: Supply
    presized: Supply
    augmentation_share: float


class Diagnosis(Demanded):
    """The same, and advice in sentences."""

    advice: list[str]


def measure_speed(images: Sequence[bytes], *, crop: int, presize: int) -> CoreSpeed:
    """Measure the work that a training worker does.

    Args:
        images: encoded images, a sample of the data.
        crop: side of the training crops, pixels.
        presize: shorter side that `convzoo preprocess` would give, pixels.
    """
    settings = Augmentation()
    transform = TrainTransform(settings, Preprocessing(resize=crop, crop=crop))

    def cut(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        box = random_resized_box(image.shape[:2], rng, scale=settings.scale, ratio=settings.ratio)
        top, left, height, width = box
        return image[top : top + height, left : left + width]

    convert = Presize(presize)
    small = [convert(data) for data in images]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    try:
        work = ((images, cut), (images, transform), (small, transform))
        # The fastest of three, in turns: the others paid for cold caches or busy neighbours.
        rates = [[_images_per_second(data, step) for data, step in work] for _ in range(3)]
    finally:
        torch.set_num_threads(threads)
    decode, augment, presized = np.max(rates, axis=0).tolist()
    return {
        "num_images": len(small),
        "decode_images_per_second": decode,
        "augment_images_per_second": augment,
        "crop": crop,
        "presized_augment_images_per_second": presized,
        "presized_bytes": sum(map(len, small)) / len(small),
        "presize": presize,
    }


def _images_per_second(images: Sequence[bytes], transform: Callable[..., object]) -> float:
    started = time.thread_time()
    for number, data in enumerate(images):
        transform(open_for_cropping(data), sample_rng(0, number))
    return len(images) / max(time.thread_time() - started, 1e-9)


def usable_cores() -> int:
    """Count the cores that this process may use, by its affinity and its container's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = CGROUP_QUOTA.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no container, or "max": no quota
        return cores


def diagnose(
    speed: Speed,
    *,
    num_gpus: int,
    images_per_second_per_gpu: float,
    num_cores: int,
) -> Diagnosis:
    """Say whether the cores can feed the GPUs, and what would help.

    With demand D = num_gpus * images_per_second_per_gpu and a core that makes S images per second,
    ceil(D / S) workers are needed. One core per GPU is for its training process, at least one is
    for workers; these supply up to cores * S, and training waits for 1 - supply / D of the time.

    Args:
        speed: of one core, from `measure_speed`, and the sizes of the images.
        num_gpus: how many are to be fed.
        images_per_second_per_gpu: what one GPU trains.
        num_cores: cores of this machine.
    """
    demand = num_gpus * images_per_second_per_gpu
    worker_cores = max(1, num_cores - num_gpus)

    def supply(images_per_second: float, size: float) -> Supply:
        workers = math.ceil(demand / images_per_second)
        return {
            "images_per_second_per_core": images_per_second,
            "workers_needed": workers,
            "workers_per_gpu": math.ceil(workers / num_gpus),
            "cores_suffice": workers <= worker_cores,
            "supply_images_per_second": worker_cores * images_per_second,
            "wait_share": max(0.0, 1 - worker_cores * images_per_second / demand),
            "read_megabytes_per_second": demand * size / 1e6,
        }

    as_is = supply(speed["augment_images_per_second"], speed["bytes"])
    presized = supply(speed["presized_augment_images_per_second"], speed["presized_bytes"])
    augmenting = 1 - speed["augment_images_per_second"] / speed["decode_images_per_second"]
    demanded: Demanded = {
        "num_gpus": num_gpus,
        "images_per_second_per_gpu": images_per_second_per_gpu,
        "demand_images_per_second": demand,
        "num_cores": num_cores,
        "worker_cores": worker_cores,
        "as_is": as_is,
        "presized": presized,
        "augmentation_share": max(0.0, augmenting),
    }
    return {**demanded, "advice": _advice(demanded, speed)}


def _advice(demanded: Demanded, speed: Speed) -> list[str]:
    as_is, presized = demanded["as_is"], demanded["presized"]
    if as_is["cores_suffice"]:
        return [f"The cores suffice: set data.num_workers={as_is['workers_per_gpu']}."]
    advice = []
    gain = presized["images_per_second_per_core"] / as_is["images_per_second_per_core"]
    presizing_helps = gain > 1.1 and speed["shorter_side"] > speed["presize"]
    if presizing_helps:
        workers = min(presized["workers_needed"], demanded["worker_cores"])
        then = "the cores then suffice"
        if not presized["cores_suffice"]:
            then = f"training would still wait {presized['wait_share']:.0%} of the time"
        advice.append(
            f"Presize with `python -m convzoo preprocess SOURCE OUT --size {speed['presize']}`: "
            f"{gain:.1f} times as fast; {then}, with data.num_workers="
            f"{workers // demanded['num_gpus'] or 1}."
        )
    if demanded["augmentation_share"] > 0.4:
        advice.append(
            f"{demanded['augmentation_share']:.0%} of a worker's time is augmentation: a smaller "
            f"preprocessing.crop than {speed['crop']} costs less."
        )
    best = (presized if presizing_helps else as_is)["images_per_second_per_core"]
    per_gpu = math.ceil(demanded["images_per_second_per_gpu"] / best) + 1
    if not (presizing_helps and presized["cores_suffice"]):
        advice.append(
            f"Use a machine with {per_gpu} cores for each GPU; this one has "
            f"{demanded['num_cores']} for {demanded['num_gpus']}."
        )
    return advice
