"""What is in a dataset, and whether this machine decodes it fast enough for a number of GPUs.

Each image is decoded by the code that training uses, so what is called unreadable here would stop
a training run, and the speeds are those of its workers. They count CPU seconds of one thread, so
that the number of workers follows by division; a busy neighbour still costs a share of them (shared
caches), so measure on a quiet machine.

    python -m convzoo inspect data/fashion-mnist --gpus 8 --output inspection
"""

from pathlib import Path

import numpy as np

from convzoo.data.opening import DatasetReference, open_splits
from convzoo.environment import describe_environment, now
from convzoo.inspection.figures import contact_sheet, save_histograms
from convzoo.inspection.survey import MOST_LISTED, QUANTILES, Survey, find_duplicates
from convzoo.inspection.throughput import diagnose, measure_speed, usable_cores


def inspect_dataset(
    dataset: str | DatasetReference,
    command: str,
    splits: tuple[str, ...] = (),
    limit: int = 0,
    num_gpus: int = 1,
    images_per_second_per_gpu: float = 2500.0,
    crop: int = 0,
    presize: int = 256,
    output: str = "",
) -> dict:
    """Count, check and time the images of a dataset.

    Args:
        dataset: which one, as for `open_split`.
        command: what a reader types to repeat this.
        splits: which splits; all if empty.
        limit: images read of each split, from row groups spread evenly; all if 0. Labels are
            always counted over all rows.
        num_gpus: how many are to be fed.
        images_per_second_per_gpu: what one GPU trains.
        crop: side of the training crops, pixels; 224, or the median shorter side, if 0.
        presize: shorter side that `convzoo preprocess` would give, pixels.
        output: folder for `contact_sheet.png` and `histograms.png`; none if "".

    Returns:
        All numbers, ready for JSON. "speed" and "doctor" are of the split "train", or of the first
        one with readable images, and None where there is none.

    Raises:
        FileNotFoundError: if there is no such dataset.
        ValueError: if a setting is out of range or a file damaged.
    """
    if limit < 0 or num_gpus < 1 or images_per_second_per_gpu <= 0:
        raise ValueError(
            "limit must be at least 0, gpus at least 1 and images per second positive; got "
            f"{limit}, {num_gpus} and {images_per_second_per_gpu}"
        )
    report = {
        "schema_version": 1,
        "path": DatasetReference.of(dataset).path,
        "command": command,
        "date": now(),
        "environment": describe_environment(),
        "splits": {},
    }
    surveys = {}
    for source in open_splits(dataset, splits):
        survey = surveys[source.split] = Survey(source, limit)
        report["splits"][source.split] = survey.describe()
    report["duplicates"] = find_duplicates(surveys)
    readable = [split for split in surveys if surveys[split].rows]
    main = "train" if "train" in readable else next(iter(readable), None)
    report |= {"speed": None, "doctor": None, "figures": []}
    if main:
        survey = surveys[main]
        crop = crop or min(224, int(np.median(survey.sizes["short"])))
        report["speed"] = {
            "split": main,
            "bytes": float(np.mean(survey.sizes["kilobytes"])) * 1e3,
            "shorter_side": float(np.median(survey.sizes["short"])),
            **measure_speed(survey.sample, crop, presize),
        }
        report["doctor"] = diagnose(
            report["speed"], num_gpus, images_per_second_per_gpu, usable_cores()
        )
    if output and main:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        report["figures"] = [str(folder / name) for name in ("contact_sheet.png", "histograms.png")]
        contact_sheet(surveys[main]).save(report["figures"][0], optimize=True)
        save_histograms(surveys[main], report["figures"][1])
    return report


def summary(report: dict) -> str:
    """A report as text for people."""
    lines = [report["path"]]
    for split, content in report["splits"].items():
        lines += ["", *_split_lines(split, content)]
    again = report["duplicates"]
    lines += [
        "",
        f"duplicates     {again['within_splits']} within a split, {again['across_splits']} across "
        f"splits; {again['other_label']} of them with another label",
    ]
    for first, second in again["examples"][:3]:
        lines.append(f"               {second['where']} is {first['where']}")
    if report["doctor"]:
        lines += ["", *_doctor_lines(report)]
    if report["figures"]:
        lines += ["", f"drawn: {', '.join(report['figures'])}"]
    return "\n".join(lines)


def _split_lines(split, content):
    labels, rows = content["labels"], content["num_rows"]
    lines = [
        f"[{split}] {rows:,} images, {content['image_bytes'] / 1e6:,.1f} MB, in "
        f"{content['num_files']} file(s), {content['num_row_groups']} row group(s)"
    ]
    if content["rows_read"] < rows:
        lines.append(f"read           {content['rows_read']:,} of them, spread evenly")
    balance = f"largest / smallest {labels['imbalance'] or 0:.2f}"
    if labels["empty_classes"]:
        balance = f"{labels['empty_classes']} of them empty"
    lines.append(
        f"classes        {labels['num_classes']}, each {labels['min']} to {labels['max']} "
        f"images, median {labels['median']:g}, {balance}"
    )
    if labels["outside_the_classes"]:
        found = ", ".join(f"{label}: {n}" for label, n in labels["outside_the_classes"].items())
        lines.append(
            f"labels outside [0, {labels['num_classes'] - 1}] ({found} rows): training and "
            f"evaluation refuse this split; its images were not read"
        )
        return lines
    lines.append(f"{'':15}" + "".join(f"{name:>10}" for name in QUANTILES))
    for key, digits in (("width", 0), ("height", 0), ("megapixels", 3), ("kilobytes", 1)):
        values = content["sizes"].get(key, {}).values()
        lines.append(f"{key:15}" + "".join(f"{value:>10.{digits}f}" for value in values))
    for key in ("formats", "modes"):
        counts = ", ".join(f"{name} {count:,}" for name, count in content[key].items())
        lines.append(f"{key:15}{counts}")
    if content["rotated_by_exif"]:
        lines.append(
            f"rotated        {content['rotated_by_exif']:,} by EXIF, which only data.exif_rotation "
            f"and --exif-rotation apply"
        )
    misnamed = content["misnamed"]
    if misnamed["count"]:
        first = misnamed["examples"][0]
        lines.append(
            f"misnamed       {misnamed['count']:,}, such as {first['name']}, a {first['format']}"
        )
    bad = len(content["unreadable"])
    lines.append(f"unreadable     {bad} ({bad / max(1, content['rows_read']):.2%})")
    for bad in content["unreadable"][:MOST_LISTED]:
        lines.append(f"               {bad['where']}: {bad['reason']}")
    if len(content["unreadable"]) > MOST_LISTED:
        lines.append("               ... all are in the JSON file")
    return lines


def _doctor_lines(report):
    speed, doctor = report["speed"], report["doctor"]
    lines = [
        f"speed of one core on [{speed['split']}], images per CPU second "
        f"({report['environment']['processor']})",
        f"  decode                          {speed['decode_images_per_second']:8.0f}",
        f"  decode + random resized crop    {speed['augment_images_per_second']:8.0f}"
        f"    to {speed['crop']} pixels",
        f"  the same, presized to {speed['presize']:<8}  "
        f"{speed['presized_augment_images_per_second']:8.0f}    measured on "
        f"{speed['num_images']} images",
        "",
        f"to feed {doctor['num_gpus']} GPU(s) of {doctor['images_per_second_per_gpu']:g} images/s "
        f"with {doctor['num_cores']} cores, {doctor['worker_cores']} of them for workers",
        f"  {'':10}{'workers needed':>16}{'supply images/s':>18}{'waits for data':>16}"
        f"{'reads MB/s':>13}",
    ]
    for name, key in (("as it is", "as_is"), ("presized", "presized")):
        case = doctor[key]
        lines.append(
            f"  {name:10}{case['workers_needed']:>16}{case['supply_images_per_second']:>18.0f}"
            f"{case['wait_share']:>16.0%}{case['read_megabytes_per_second']:>13.0f}"
        )
    return [*lines, *(f"  - {advice}" for advice in doctor["advice"])]
