"""A report about a dataset as text for people."""

from convzoo.inspection.dataset import DatasetReport
from convzoo.inspection.survey import MOST_LISTED, QUANTILES, LabelReport, SplitReport
from convzoo.inspection.throughput import Diagnosis, Speed


def dataset_report_text(report: DatasetReport) -> str:
    """Return a report as text."""
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
    alike = report["look_alike"]
    lines.append(
        f"look alike     {alike['pairs']} pairs with other bytes, {alike['across_splits']} of them "
        f"across splits, {alike['other_label']} with another label"
    )
    for first, second in alike["examples"][:3]:
        lines.append(f"               {second['where']} is like {first['where']}")
    if report["speed"] and report["doctor"]:
        processor = report["environment"]["processor"]
        lines += ["", *_doctor_lines(report["speed"], report["doctor"], processor=processor)]
    if report["figures"]:
        lines += ["", f"drawn: {', '.join(report['figures'])}"]
    return "\n".join(lines)


def _split_lines(split: str, content: SplitReport) -> list[str]:
    rows = content["num_rows"]
    lines = [
        f"[{split}] {rows:,} images, {content['image_bytes'] / 1e6:,.1f} MB, in "
        f"{content['num_files']} file(s), {content['num_row_groups']} row group(s)"
    ]
    if content["rows_read"] < rows:
        lines.append(f"read           {content['rows_read']:,} of them, spread evenly")
    lines += _class_lines(content["labels"])
    if content["labels"]["outside_the_classes"]:  # no image was read
        return lines
    return [*lines, *_image_lines(content), *_fault_lines(content)]


def _class_lines(labels: LabelReport) -> list[str]:
    balance = f"largest / smallest {labels['imbalance'] or 0:.2f}"
    if labels["empty_classes"]:
        balance = f"{labels['empty_classes']} of them empty"
    lines = [
        f"classes        {labels['num_classes']}, each {labels['min']} to {labels['max']} "
        f"images, median {labels['median']:g}, {balance}"
    ]
    if labels["outside_the_classes"]:
        found = ", ".join(f"{label}: {n}" for label, n in labels["outside_the_classes"].items())
        lines.append(
            f"labels outside [0, {labels['num_classes'] - 1}] ({found} rows): training and "
            f"evaluation refuse this split; its images were not read"
        )
    return lines


def _image_lines(content: SplitReport) -> list[str]:
    lines = [f"{'':15}" + "".join(f"{name:>10}" for name in QUANTILES)]
    for key, digits in (("width", 0), ("height", 0), ("megapixels", 3), ("kilobytes", 1)):
        values = content["sizes"].get(key, {}).values()
        lines.append(f"{key:15}" + "".join(f"{value:>10.{digits}f}" for value in values))
    for name, counted in (("formats", content["formats"]), ("modes", content["modes"])):
        counts = ", ".join(f"{kind} {count:,}" for kind, count in counted.items())
        lines.append(f"{name:15}{counts}")
    if content["rotated_by_exif"]:
        lines.append(
            f"rotated        {content['rotated_by_exif']:,} by EXIF, which only data.exif_rotation "
            f"and --exif-rotation apply"
        )
    return lines


def _fault_lines(content: SplitReport) -> list[str]:
    lines, misnamed, unreadable = [], content["misnamed"], content["unreadable"]
    if misnamed["count"]:
        first = misnamed["examples"][0]
        lines.append(
            f"misnamed       {misnamed['count']:,}, such as {first['name']}, a {first['format']}"
        )
    share = len(unreadable) / max(1, content["rows_read"])
    lines.append(f"unreadable     {len(unreadable)} ({share:.2%})")
    lines += [f"               {bad['where']}: {bad['reason']}" for bad in unreadable[:MOST_LISTED]]
    if len(unreadable) > MOST_LISTED:
        lines.append("               ... all are in the JSON file")
    return lines


def _doctor_lines(speed: Speed, doctor: Diagnosis, *, processor: str) -> list[str]:
    lines = [
        f"speed of one core on [{speed['split']}], images per CPU second ({processor})",
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
    for name, case in (("as it is", doctor["as_is"]), ("presized", doctor["presized"])):
        lines.append(
            f"  {name:10}{case['workers_needed']:>16}{case['supply_images_per_second']:>18.0f}"
            f"{case['wait_share']:>16.0%}{case['read_megabytes_per_second']:>13.0f}"
        )
    return [*lines, *(f"  - {advice}" for advice in doctor["advice"])]
