"""The throughput doctor: how fast one core prepares images, and what that means for N GPUs."""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from convzoo.images.crops import random_resized_box
from convzoo.images.decoding import open_for_cropping
from convzoo.images.train_transform import TrainTransform, sample_rng
from convzoo.recipe.settings import Augmentation, Preprocessing
from convzoo.resizing.rows import Presize

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of CPU and of time, cgroup v2


def measure_speed(pictures: Sequence[bytes], crop: int, presize: int) -> dict:
    """Images per CPU second of one core, of the work that a training worker does.

    Args:
        images: encoded images, a sample of the data.
        crop: side of the training crops, pixels.
        presize: shorter side that `convzoo preprocess` would give, pixels.

    Returns:
        Images per second of decoding (of what a crop needs), of decoding and augmentation, and of
        the latter on presized images, all on the same sample.
    """
    settings = Augmentation()
    transform = TrainTransform(settings, Preprocessing(resize=crop, crop=crop))

    def cut(image, rng):
        box = random_resized_box(image.shape[:2], settings.scale, settings.ratio, rng)
        top, left, height, width = box
        return image[top : top + height, left : left + width]

    convert = Presize(presize)
    small = [convert(data) for data in pictures]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    try:
        work = ((pictures, cut), (pictures, transform), (small, transform))
        # The fastest of three, in turns: the others paid for cold caches or busy neighbours.
        rates = [[_images_per_second(*each) for each in work] for _ in range(3)]
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


def _images_per_second(pictures, transform):
    started = time.thread_time()
    for number, data in enumerate(pictures):
        transform(open_for_cropping(data), sample_rng(0, number))
    return len(pictures) / max(time.thread_time() - started, 1e-9)


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = CGROUP_QUOTA.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no container, or "max": no quota
        return cores


def diagnose(
    speed: dict,
    num_gpus: int,
    images_per_second_per_gpu: float,
    num_cores: int,
) -> dict:
    """The throughput doctor: can the cores feed the GPUs?

    With demand D = num_gpus * images_per_second_per_gpu and a core that makes S images per second,
    ceil(D / S) workers are needed. One core per GPU is for its training process, at least one is
    for workers; these supply up to cores * S, and training waits for 1 - supply / D of the time.

    Args:
        speed: of one core, from `measure_speed`, with `bytes` (mean size of an image) and
            `shorter_side` (median, pixels) of the data.
        num_gpus: how many are to be fed.
        images_per_second_per_gpu: what one GPU trains.
        num_cores: cores of this machine.

    Returns:
        Demand, what it takes from cores and storage as the data is and presized, and advice.
    """
    demand = num_gpus * images_per_second_per_gpu
    worker_cores = max(1, num_cores - num_gpus)

    def supply(images_per_second, size):
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
    result = {
        "num_gpus": num_gpus,
        "images_per_second_per_gpu": images_per_second_per_gpu,
        "demand_images_per_second": demand,
        "num_cores": num_cores,
        "worker_cores": worker_cores,
        "as_is": as_is,
        "presized": presized,
        "augmentation_share": max(0.0, augmenting),
    }
    return result | {"advice": _advice(result, speed)}


def _advice(result, speed):
    as_is, presized = result["as_is"], result["presized"]
    if as_is["cores_suffice"]:
        return [f"The cores suffice: set data.num_workers={as_is['workers_per_gpu']}."]
    advice = []
    gain = presized["images_per_second_per_core"] / as_is["images_per_second_per_core"]
    presizing_helps = gain > 1.1 and speed["shorter_side"] > speed["presize"]
    if presizing_helps:
        then = "the cores then suffice"
        if not presized["cores_suffice"]:
            then = f"training would still wait {presized['wait_share']:.0%} of the time"
        advice.append(
            f"Presize with `python -m convzoo preprocess SOURCE OUT --size {speed['presize']}`: "
            f"{gain:.1f} times as fast; {then}, with data.num_workers="
            f"{min(presized['workers_needed'], result['worker_cores']) // result['num_gpus'] or 1}."
        )
    if result["augmentation_share"] > 0.4:
        advice.append(
            f"{result['augmentation_share']:.0%} of a worker's time is augmentation: a smaller "
            f"preprocessing.crop than {speed['crop']} costs less."
        )
    best = (presized if presizing_helps else as_is)["images_per_second_per_core"]
    per_gpu = math.ceil(result["images_per_second_per_gpu"] / best) + 1
    if not (presizing_helps and presized["cores_suffice"]):
        advice.append(
            f"Use a machine with {per_gpu} cores for each GPU; this one has {result['num_cores']} "
            f"for {result['num_gpus']}."
        )
    return advice
