"""What is in a dataset, and whether this machine decodes it fast enough for a number of GPUs.

Each picture is decoded by the code that training uses, so what is called unreadable here would stop
a training run, and the speeds are those of its workers. They count CPU seconds of one thread, so
that the number of workers follows by division; a busy neighbour still costs a share of them (shared
caches), so measure on a quiet machine.

    python -m convzoo inspect data/fashion-mnist --gpus 8 --output inspection
"""

import hashlib
import io
import math
import warnings
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from convzoo.decoding import decode_rgb
from convzoo.environment import describe_environment, now
from convzoo.presizing import split_names
from convzoo.sources import FolderSource, Source, open_source
from convzoo.throughput import diagnose, measure_speed, usable_cores

QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}
MOST_LISTED = 20  # of misnamed files, duplicates and class counts; unreadable ones are all listed
SPEED_SAMPLE = 200  # pictures that are also augmented and presized
THUMBNAIL = 112  # pixels
MOST_THUMBNAILS = 100
COLUMNS = 10  # of thumbnails
EXIF_ORIENTATION = 0x0112


def inspect_dataset(
    path: str,
    command: str,
    splits: tuple[str, ...] = (),
    limit: int = 0,
    num_gpus: int = 1,
    images_per_second_per_gpu: float = 2500.0,
    crop: int = 0,
    presize: int = 256,
    output: str = "",
    name: str = "",
    revision: str = "",
    image_column: str = "",
    label_column: str = "",
) -> dict:
    """Count, check and time the pictures of a dataset.

    Args:
        path: folder of parquet files or of pictures, or Hub dataset id.
        command: what a reader types to repeat this.
        splits: which splits; all if empty.
        limit: pictures read of each split, from row groups spread evenly; all if 0. Labels are
            always counted over all rows.
        num_gpus: how many are to be fed.
        images_per_second_per_gpu: what one GPU trains.
        crop: side of the training crops, pixels; 224, or the median shorter side, if 0.
        presize: shorter side that `convzoo preprocess` would give, pixels.
        output: folder for `contact_sheet.png` and `histograms.png`; none if "".
        name: configuration of a dataset that has several.
        revision: commit, tag or branch of a Hub dataset.
        image_column: column of pictures; the only image column if "".
        label_column: column of class numbers; the only class column if "".

    Returns:
        All numbers, ready for JSON. "speed" and "doctor" are of the split "train", or of the first
        one with readable pictures, and None where there is none.

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
        "path": path,
        "command": command,
        "date": now(),
        "environment": describe_environment(),
        "splits": {},
    }
    surveys = {}
    for split in splits or split_names(path, name, revision):
        source = open_source(path, split, name, revision, image_column, label_column)
        survey = surveys[split] = Survey(source, limit)
        report["splits"][split] = survey.describe()
    report["duplicates"] = find_duplicates(surveys)
    readable = [split for split in surveys if surveys[split].rows]
    main = "train" if "train" in readable else next(iter(readable), None)
    report["speed"] = report["doctor"] = None
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
        contact_sheet(surveys[main]).save(folder / "contact_sheet.png", optimize=True)
        save_histograms(surveys[main], folder / "histograms.png")
    return report


class Survey:
    """What one pass over the pictures of a split found.

    Args:
        source: the split.
        limit: pictures to read; all if 0.
    """

    def __init__(self, source: Source, limit: int):
        self.source = source
        self.label_counts, self.strange_labels = _count_labels(source)
        self.rows = []  # number, label and content hash of each readable picture
        self.sizes = {"width": [], "height": [], "short": [], "megapixels": [], "kilobytes": []}
        self.modes, self.formats = Counter(), Counter()
        self.rotated = 0
        self.unreadable, self.misnamed = [], []
        self.sample = []  # encoded pictures for the measurements of speed
        self.thumbnails = {}  # class number -> small pictures
        self.rows_read = 0
        if not self.strange_labels:  # the reader of training refuses such splits
            self._read(limit)

    def describe(self) -> dict:
        """The numbers."""
        counts = self.label_counts
        return {
            "num_rows": self.source.num_rows,
            "num_files": len(self.source.files),
            "num_row_groups": len(self.source.groups),
            "image_bytes": sum(self.source.group_bytes),
            "fingerprint": self.source.fingerprint,
            "rows_read": self.rows_read,
            "labels": {
                "num_classes": len(counts),
                "min": int(counts.min()),
                "median": float(np.median(counts)),
                "max": int(counts.max()),
                "imbalance": float(counts.max() / counts.min()) if counts.min() else None,
                "empty_classes": int((counts == 0).sum()),
                "outside_the_classes": self.strange_labels,
                "names": list(self.source.label_names),  # may repeat: ImageNet has two cranes
                "counts": counts.tolist(),
            },
            "sizes": {
                key: dict(zip(QUANTILES, np.quantile(values, [*QUANTILES.values()]), strict=True))
                for key, values in self.sizes.items()
                if values
            },
            "modes": dict(self.modes.most_common()),
            "formats": dict(self.formats.most_common()),
            "rotated_by_exif": self.rotated,
            "misnamed": {"count": len(self.misnamed), "examples": self.misnamed[:MOST_LISTED]},
            "unreadable": self.unreadable,
        }

    def _read(self, limit):
        chosen = _spread(self.source.group_rows, limit)
        total = sum(count for _, _, count in chosen)
        step = max(1, total // SPEED_SAMPLE)
        bar = tqdm(total=total, desc=f"inspect {self.source.split}", unit=" images", leave=False)
        for group, first, count in chosen:
            rows = self.source.read_group(group)
            names = _file_names(self.source, group)
            for index in range(count):
                data, label = rows[index]
                where = self.source.where(group, index)
                place = {"row": first + index, "where": where, "name": names[index]}
                self._look(place, data, label, self.rows_read % step == 0)
                self.rows_read += 1
                bar.update()
        bar.close()

    def _look(self, place, data, label, keep):
        try:
            pixels = decode_rgb(data)
        except ValueError as error:
            self.unreadable.append(place | {"reason": str(error)})
            return
        height, width = pixels.shape[:2]
        for key, value in (
            ("width", width),
            ("height", height),
            ("short", min(width, height)),
            ("megapixels", width * height / 1e6),
            ("kilobytes", len(data) / 1e3),
        ):
            self.sizes[key].append(value)
        kind, mode, orientation = _header(data)
        self.formats[kind] += 1
        self.modes[mode] += 1
        self.rotated += orientation != 1
        suffix = Path(place["name"] or "").suffix.lower()
        if Image.registered_extensions().get(suffix, kind) != kind:
            self.misnamed.append(place | {"format": kind})
        self.rows.append((place["row"], label, hashlib.blake2b(data, digest_size=16).digest()))
        if keep:
            self.sample.append(bytes(data))
        thumbnails = self.thumbnails.setdefault(label, [])
        if len(thumbnails) < _per_class(len(self.source.label_names)):
            thumbnails.append(_thumbnail(pixels))


def _header(data):
    """Format, mode and EXIF orientation of a picture, as Pillow sees them."""
    kind, mode, orientation = "unknown", "unknown", 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF data, which nothing here uses
        try:
            with Image.open(io.BytesIO(data)) as image:
                kind, mode = image.format, image.mode
                orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        except Exception:  # Pillow's EXIF reader raises nearly anything
            pass
    return kind, mode, orientation


def _count_labels(source):
    """Rows of each class, and the counts of labels that are no class."""
    if isinstance(source, FolderSource):
        return np.bincount(source.labels, minlength=len(source.label_names)), {}
    counts, strange = np.zeros(len(source.label_names), np.int64), Counter()
    for file in source.files:
        with fsspec.open(file, "rb") as handle:
            column = pq.ParquetFile(handle).read([source.label_column])[source.label_column]
        for entry in column.value_counts().to_pylist():
            if entry["values"] is not None and 0 <= entry["values"] < len(counts):
                counts[entry["values"]] += entry["counts"]
            else:
                strange[str(entry["values"])] += entry["counts"]
    return counts, dict(strange)


def _spread(group_rows, limit):
    """(row group, its first row, rows to read): all, or at most `limit` rows, spread evenly."""
    firsts = np.cumsum([0, *group_rows]).tolist()
    left = min(limit, firsts[-1]) if limit else firsts[-1]
    wanted = max(math.ceil(left / np.mean(group_rows)), 8)  # a few more seeks for a better spread
    number = len(group_rows) if left == firsts[-1] else min(len(group_rows), wanted)
    chosen = [len(group_rows) * i // number for i in range(number)]
    counts = {}
    for position, group in enumerate(sorted(chosen, key=group_rows.__getitem__)):
        # What a small group lacks is shared by the larger ones.
        counts[group] = min(group_rows[group], math.ceil(left / (number - position)))
        left -= counts[group]
    return [(group, firsts[group], counts[group]) for group in chosen]


def _file_names(source, group):
    """The file names that the rows of a row group came with, None where there is none."""
    file, number = source.groups[group]
    if isinstance(source, FolderSource):
        return source.files[file : file + source.group_rows[group]]
    with fsspec.open(source.files[file], "rb") as handle:
        parquet = pq.ParquetFile(handle)
        table = parquet.read_row_group(number, [f"{source.image_column}.path"])
    if not table.num_columns:
        return [None] * source.group_rows[group]
    return [entry and entry["path"] for entry in table[0].to_pylist()]


def find_duplicates(surveys: dict[str, Survey]) -> dict:
    """Pictures whose bytes came before, within a split and across splits.

    Args:
        surveys: what was read of each split.

    Returns:
        Counts of repeats: of a picture in the same split, of one in another split, and how many of
        them have another label; and some examples.
    """
    seen, found = {}, {"within_splits": 0, "across_splits": 0, "other_label": 0, "examples": []}
    for split, survey in surveys.items():
        for row, label, digest in survey.rows:
            if digest not in seen:
                seen[digest] = (split, row, label)
                continue
            first_split, first_row, first_label = seen[digest]
            found["within_splits" if first_split == split else "across_splits"] += 1
            found["other_label"] += first_label != label
            if len(found["examples"]) < MOST_LISTED:
                found["examples"].append([[first_split, first_row], [split, row]])
    return found


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
    for (split, row), (other_split, other_row) in again["examples"][:3]:
        lines.append(f"               {other_split} row {other_row} is {split} row {row}")
    if report["doctor"]:
        lines += ["", *_doctor_lines(report)]
    return "\n".join(lines)


def _split_lines(split, content):
    labels, rows = content["labels"], content["num_rows"]
    lines = [
        f"[{split}] {rows:,} pictures, {content['image_bytes'] / 1e6:,.1f} MB, in "
        f"{content['num_files']} files of {content['num_row_groups']} row groups"
    ]
    if content["rows_read"] < rows:
        lines.append(f"read           {content['rows_read']:,} of them, spread evenly")
    balance = f"largest / smallest {labels['imbalance'] or 0:.2f}"
    if labels["empty_classes"]:
        balance = f"{labels['empty_classes']} of them empty"
    lines.append(
        f"classes        {labels['num_classes']}, each {labels['min']} to {labels['max']} "
        f"pictures, median {labels['median']:g}, {balance}"
    )
    if labels["outside_the_classes"]:
        found = ", ".join(f"{label}: {n}" for label, n in labels["outside_the_classes"].items())
        lines.append(
            f"labels outside [0, {labels['num_classes'] - 1}] ({found} rows): training and "
            f"evaluation refuse this split; its pictures were not read"
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
        lines.append(f"rotated        {content['rotated_by_exif']:,} by EXIF, which is not applied")
    misnamed = content["misnamed"]
    if misnamed["count"]:
        first = misnamed["examples"][0]
        lines.append(
            f"misnamed       {misnamed['count']:,}, as {first['name']}, which is {first['format']}"
        )
    lines.append(f"unreadable     {len(content['unreadable'])}")
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
        f"{speed['num_images']} pictures",
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


def _per_class(num_classes):
    """Thumbnails of each class: a row of them if the classes are few."""
    return COLUMNS if num_classes <= 12 else 1


def _thumbnail(pixels):
    """At most THUMBNAIL pixels, small pictures in larger squares."""
    image = Image.fromarray(pixels)
    scale = THUMBNAIL / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize(size, method, reducing_gap=2.0)


def contact_sheet(survey: Survey) -> Image.Image:
    """Thumbnails with their class: one of each class, or a row of each if the classes are few.

    Args:
        survey: a split of which pictures were read.

    Returns:
        An RGB picture; of many classes, 100 spread evenly over those that were met.
    """
    classes = sorted(survey.thumbnails)
    number = min(len(classes), MOST_THUMBNAILS)
    shown = [classes[len(classes) * i // number] for i in range(number)]
    per_class = _per_class(len(survey.source.label_names))
    cells = [
        (label, survey.thumbnails[label][i] if i < len(survey.thumbnails[label]) else None)
        for label in shown
        for i in range(per_class)
    ]
    columns = min(COLUMNS, len(cells))
    margin, text = 8, 18
    width, height = THUMBNAIL + margin, THUMBNAIL + margin + text
    lines = math.ceil(len(cells) / columns)
    sheet = Image.new("RGB", (columns * width + margin, lines * height + margin), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for number, (label, image) in enumerate(cells):
        left = margin + number % columns * width
        top = margin + number // columns * height
        if image is None:
            continue
        sheet.paste(image, (left + (THUMBNAIL - image.width) // 2, top + THUMBNAIL - image.height))
        name = _fitting(survey.source.label_names[label], font, THUMBNAIL)
        draw.text((left + THUMBNAIL / 2, top + THUMBNAIL + 2), name, "black", font, anchor="mt")
    return sheet


def _fitting(text, font, width):
    """The start of a text that fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def save_histograms(survey: Survey, path: Path) -> None:
    """Draw class sizes, picture sizes, aspect ratios and bytes of a split into a PNG.

    Args:
        survey: a split of which pictures were read.
        path: the file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    (classes, sides), (ratios, kilobytes) = figure.subplots(2, 2)
    order = np.argsort(-survey.label_counts, kind="stable")
    counts = survey.label_counts[order]
    classes.bar(np.arange(len(counts)), counts, width=1.0 if len(counts) > 40 else 0.8)
    classes.set(xlabel="class, largest first", ylabel="pictures", title="Pictures of each class")
    if len(counts) <= 25:
        names = [survey.source.label_names[i][:20] for i in order]
        classes.set_xticks(np.arange(len(counts)), names, rotation=45, ha="right")
        classes.set_xlabel("")
    width, height, kb = (
        np.array(survey.sizes[key], float) for key in ("width", "height", "kilobytes")
    )
    top = np.quantile(np.maximum(width, height), 0.99) * 1.05
    bins = np.linspace(0, top, 60)
    for values, label in ((width, "width"), (height, "height")):
        sides.hist(values.clip(0, top), bins, alpha=0.6, label=label)
    sides.legend()
    sides.set(xlabel="pixels", ylabel="pictures", title="Width and height")
    ratio = np.log2(width / height).clip(-2, 2)
    ratios.hist(ratio, np.linspace(-2.05, 2.05, 42))
    ratios.set_xticks([-2, -1, 0, 1, 2], ["1:4", "1:2", "1:1", "2:1", "4:1"])
    ratios.set(xlabel="width : height", ylabel="pictures", title="Shape")
    kilobytes.hist(kb, np.geomspace(kb.min() * 0.99, kb.max() * 1.01, 50))
    kilobytes.set_xscale("log")
    kilobytes.minorticks_off()
    marks = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]
    marks = [mark for mark in marks if kb.min() <= mark <= kb.max()]
    kilobytes.set_xticks(marks, [f"{mark:g}" for mark in marks])
    kilobytes.set(xlabel="kB of a file", ylabel="pictures", title="Bytes")
    source = survey.source
    figure.suptitle(f"{source.path} [{source.split}], {survey.rows_read:,} pictures read")
    figure.savefig(path, dpi=110)
