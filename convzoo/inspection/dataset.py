"""Contents of a dataset, and whether this machine decodes it fast enough for a number of GPUs.

Each image is decoded by the code that training uses, so what is called unreadable here would stop
a training run, and the speeds are those of its workers. They count CPU seconds of one thread, so
that the number of workers follows by division; a busy neighbour still costs a share of them (shared
caches), so measure on a quiet machine.

    python -m convzoo inspect data/fashion-mnist --gpus 8 --output inspection
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from convzoo.data.classes import log_classes
from convzoo.data.opening import DatasetReference, open_splits
from convzoo.environment import provenance
from convzoo.files import SCHEMA_VERSION
from convzoo.inspection.figures import contact_sheet, save_histograms
from convzoo.inspection.survey import (
    Duplicates,
    Likenesses,
    SplitReport,
    Survey,
    find_duplicates,
    find_likenesses,
)
from convzoo.inspection.throughput import (
    Diagnosis,
    Speed,
    diagnose,
    measure_speed,
    usable_cores,
)
from convzoo.training.devices import advise_precision, training_device


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What the machine is to feed with the images.

    Attributes:
        num_gpus: how many GPUs.
        images_per_second_per_gpu: what one of them trains.
        crop: side of the training crops, pixels; 224, or the median shorter side, if 0.
        presize: shorter side that `convzoo preprocess` would give, pixels.
    """

    num_gpus: int = 1
    images_per_second_per_gpu: float = 2500.0
    crop: int = 0
    presize: int = 256


class DatasetReport(TypedDict):
    """All numbers about a dataset, ready for JSON.

    Attributes:
        speed, doctor: of the split "train", or of the first one with readable images; None where
            there is none.
        figures: the PNG files that were drawn.
    """

    schema_version: int
    path: str
    command: str
    date: str
    environment: dict[str, Any]
    splits: dict[str, SplitReport]
    duplicates: Duplicates
    look_alike: Likenesses
    speed: Speed | None
    doctor: Diagnosis | None
    figures: list[str]


def inspect_dataset(
    dataset: str | DatasetReference,
    *,
    command: str,
    splits: tuple[str, ...] = (),
    limit: int = 0,
    demand: Demand | None = None,
    output: str = "",
    num_workers: int = 0,
) -> DatasetReport:
    """Count, check and time the images of a dataset.

    Args:
        dataset: which one, as for `open_split`.
        command: what a reader types to repeat this.
        splits: which splits; all if empty.
        limit: images read of each split, from row groups spread evenly; all if 0. Labels are
            always counted over all rows.
        demand: what is to be fed; one GPU if None.
        output: folder for `contact_sheet.png` and `histograms.png`; none if "".
        num_workers: processes that decode; 0 for this one.

    Raises:
        FileNotFoundError: if there is no such dataset.
        ValueError: if a setting is out of range or a file damaged.
    """
    demand = demand or Demand()
    _check_settings(limit, demand)
    opened = {split.name: split for split in open_splits(dataset, splits)}
    log_classes(opened.get("train") or next(iter(opened.values())))
    surveys = {
        name: Survey(split, limit=limit, num_workers=num_workers) for name, split in opened.items()
    }
    report: DatasetReport = {
        "schema_version": SCHEMA_VERSION,
        "path": DatasetReference.of(dataset).path,
        **provenance(command),
        "splits": {split: survey.describe() for split, survey in surveys.items()},
        "duplicates": find_duplicates(surveys),
        "look_alike": find_likenesses(surveys),
        "speed": None,
        "doctor": None,
        "figures": [],
    }
    readable = [split for split in surveys if surveys[split].rows]
    main = "train" if "train" in readable else next(iter(readable), None)
    if main:
        report["speed"] = speed = _measure_speed(surveys[main], demand)
        report["doctor"] = doctor = diagnose(
            speed,
            num_gpus=demand.num_gpus,
            images_per_second_per_gpu=demand.images_per_second_per_gpu,
            num_cores=usable_cores(),
        )
        if advice := advise_precision(training_device(), "no", None):
            doctor["advice"].append(f"{advice[0].upper()}{advice[1:]}.")
    if output and main:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        sheet, histograms = folder / "contact_sheet.png", folder / "histograms.png"
        contact_sheet(surveys[main]).save(sheet, optimize=True)
        save_histograms(surveys[main], histograms)
        report["figures"] = [str(sheet), str(histograms)]
    return report


def _check_settings(limit: int, demand: Demand) -> None:
    if limit < 0 or demand.num_gpus < 1 or demand.images_per_second_per_gpu <= 0:
        raise ValueError(
            "limit must be at least 0, gpus at least 1 and images per second positive; got "
            f"{limit}, {demand.num_gpus} and {demand.images_per_second_per_gpu}"
        )


def _measure_speed(survey: Survey, demand: Demand) -> Speed:
    crop = demand.crop or min(224, int(np.median(survey.sizes["short"])))
    return {
        "split": survey.source.name,
        "bytes": float(np.mean(survey.sizes["kilobytes"])) * 1e3,
        "shorter_side": float(np.median(survey.sizes["short"])),
        **measure_speed(survey.sample, crop=crop, presize=demand.presize),
    }
