"""Export a model: write it in another format, check that against the model, describe both.

convzoo export USER/NAME exported --format onnx
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from convzoo.data.opening import DatasetReference, open_split
from convzoo.data.subset import subset
from convzoo.environment import command_line, describe_environment, now
from convzoo.evaluation.exported_costs import costs_of_onnx, costs_of_program
from convzoo.exporting import classify
from convzoo.exporting.export_card import export_card
from convzoo.exporting.programs import FILES, load_onnx, quantize, trace, write_onnx, write_program
from convzoo.files import (
    SCHEMA_VERSION,
    file_sha256,
    read_json,
    refuse_filled,
    write_folder,
    write_json,
)
from convzoo.images.decoding import open_rgb
from convzoo.layers import image_shape
from convzoo.model_names import file_of_model, weights_sha256
from convzoo.prediction.classifier import Classifier, kind_of_scores, load_classifier
from convzoo.prediction.image_names import find_images

REPORT = "export.json"
BATCH_SIZE = 8
LEAST_IMAGES = 4  # that an int8 network needs, two of them to find its ranges
PHOTOS = Path(__file__).parents[2] / "data" / "photos"  # of a checkout

Format = Literal["torch-export", "onnx", "int8-onnx"]


@dataclass(frozen=True, kw_only=True)
class CheckImages:
    """The images to check an export on.

    Attributes:
        words: files, folders and patterns; those of `data`, or the package's photographs if none.
        data: dataset to take them from, or None.
        split: its split.
        limit: at most so many, evenly spaced; 0 for all.
    """

    words: Sequence[str] = ()
    data: DatasetReference | None = None
    split: str = "test"
    limit: int = 128


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to write, and what is refused.

    Attributes:
        form: the format.
        tolerance: of formats in float32: largest difference of a logit, over the largest logit or
            1, whichever is larger.
        least_agreement: of int8: share of the images whose first class must stay the same.
        base_model: Hub id to name on the card; that of the model if "".
        trust_remote_code: run the code that a model on the Hub brings along.
    """

    form: Format = "onnx"
    tolerance: float = 1e-4
    least_agreement: float = 0.9
    base_model: str = ""
    trust_remote_code: bool = False
    images: CheckImages = field(default_factory=CheckImages)


class Check(TypedDict):
    """How an exported network compares with its model.

    Attributes:
        images: where they are from.
        num_images: that were compared.
        images_sha256: of their pixel values, in order.
        calibration_images: other images, that the ranges of an int8 network are from.
        largest_difference: of a logit.
        largest_logit: of the model.
        same_decisions: images whose first class is the same.
        tolerance, least_agreement: what would have been refused; None where it does not apply.
    """

    images: str
    num_images: int
    images_sha256: str
    calibration_images: int
    largest_difference: float
    largest_logit: float
    same_decisions: int
    tolerance: float | None
    least_agreement: float | None


def export_model(name: str, output: Path, options: ExportOptions) -> dict[str, Any]:
    """Export a model into a new folder.

    Args:
        name: model folder or Hub id.
        output: folder to create; may exist when it is empty.
        options: what to write.

    Returns:
        What export.json holds.

    Raises:
        OSError: if the model cannot be read or the folder not written.
        ValueError: if the exported network differs from the model, or an option is wrong.
    """
    _check_options(output, options)
    classifier = load_classifier(name, device="cpu", trust_remote_code=options.trust_remote_code)
    if type(classifier.processor).__name__ != "ConvZooImageProcessor":
        raise ValueError(
            f"the image processor must be a ConvZooImageProcessor, whose steps the export repeats; "
            f"{name} has a {type(classifier.processor).__name__}"
        )
    source, pixels = _pixels(classifier, options.images)
    with tempfile.TemporaryDirectory() as temporary:
        aside = Path(temporary)
        facts = _write_and_check(classifier, pixels, aside, options=options)
        facts["check"]["images"] = source
        classifier.processor.save_pretrained(aside)
        shutil.copy(classify.__file__, aside / "classify.py")
        write_json(aside / REPORT, facts)
        settings = read_json(aside / "preprocessor_config.json")
        card = export_card(facts, settings, license_facts=_license(name))
        (aside / "README.md").write_text(card, encoding="utf-8")
        write_folder(output, lambda new: shutil.copytree(aside, new, dirs_exist_ok=True))
    return facts


def export_text(facts: dict[str, Any]) -> str:
    """Say in a few lines what was written, for a terminal."""
    check = facts["check"]
    shape = " x ".join(str(each) for each in facts["input"]["shape"])
    count = facts.get("num_multiply_adds")
    lines = [
        f"{facts['file']}  {facts['format']}, {facts['bytes'] / 1e6:,.1f} MB, takes {shape}",
        f"network   {facts['num_parameters']:,} parameters"
        + (f", {count:,} multiply-adds for an image" if count else ""),
        f"checked on {check['num_images']} images of {check['images']}",
        f"logits    largest difference {check['largest_difference']:.1e}, largest logit "
        f"{check['largest_logit']:.3g}",
        f"decisions {check['same_decisions']} of {check['num_images']} are the model's",
    ]
    return "\n".join(lines)


def _check_options(output: Path, options: ExportOptions) -> None:
    if options.form not in FILES:
        raise ValueError(f"--format must be one of {', '.join(FILES)}; got {options.form!r}")
    refuse_filled(output)
    if not options.tolerance > 0:
        raise ValueError(f"--tolerance must be more than 0; got {options.tolerance}")
    if not 0 <= options.least_agreement <= 1:
        raise ValueError(f"--least-agreement must be in [0, 1]; got {options.least_agreement}")
    if options.images.words and options.images.data:
        raise ValueError("images must come from --images or --data; got both. Leave one away")


# Images ---------------------------------------------------------------------------------------


def _pixels(classifier: Classifier, images: CheckImages) -> tuple[str, list[np.ndarray]]:
    """Prepare the images as the model and as the script of the export do; these must be equal."""
    settings, pixels = classifier.processor.to_dict(), []
    source, found = _found(classifier, images)
    for name, image in found:
        expected = classifier.processor(images=image, return_tensors="np")["pixel_values"]
        prepared = classify.prepare(image, settings)
        if not np.array_equal(expected, prepared):
            raise ValueError(
                f"classify.py must make the pixels of the image processor; those of {name} differ "
                f"by up to {np.abs(expected - prepared).max()}. Use the model itself"
            )
        pixels.append(prepared)
    return source, pixels


def _found(
    classifier: Classifier, images: CheckImages
) -> tuple[str, Iterable[tuple[str, Image.Image]]]:
    """Find the images; returns where they are from, and their names and themselves."""
    if images.data:
        split = subset(open_split(images.data, images.split), limit=images.limit, spaced=True)
        return f"{images.data.path} [{images.split}]", _rows_of(split)
    words, source = list(images.words), "the given files"
    if not words:
        examples = Path(classifier.name) / "examples"
        places = {f"{examples.name}/ of the model": examples, "this package's photographs": PHOTOS}
        source = next((text for text, folder in places.items() if folder.is_dir()), "")
        if not source:
            raise ValueError(
                "an export is checked on images; there are none beside the model. Give some with "
                "--images FILE... or --data DATASET"
            )
        words = [str(places[source])]
    names = find_images(words, lambda: b"").names
    count = min(images.limit or len(names), len(names))
    return source, _files_of([names[len(names) * n // count] for n in range(count)])


def _rows_of(split: Any) -> Iterator[tuple[str, Image.Image]]:
    for row in tqdm(range(split.num_rows), desc="images", unit=" images", leave=False):
        yield f"row {row}", open_rgb(split.read_row(row)[0], exif_rotation=True)


def _files_of(names: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
    for name in tqdm(names, desc="images", unit=" images", leave=False):
        try:
            yield name, open_rgb(Path(name).read_bytes(), exif_rotation=True)
        except ValueError as error:
            raise ValueError(f"{name} must be an image; {error}") from error


# Writing and checking -------------------------------------------------------------------------


def _write_and_check(
    classifier: Classifier, pixels: list[np.ndarray], folder: Path, *, options: ExportOptions
) -> dict[str, Any]:
    """Write the network into a folder and compare it with the model."""
    is_int8, file = options.form == "int8-onnx", folder / FILES[options.form]
    if len(pixels) < (LEAST_IMAGES if is_int8 else 1):
        raise ValueError(
            f"an export as {options.form} needs at least {LEAST_IMAGES if is_int8 else 1} images; "
            f"got {len(pixels)}"
        )
    # An int8 network is measured on images that its ranges are not from.
    ranges, shown = (pixels[::2], pixels[1::2]) if is_int8 else ([], pixels)
    model = classifier.model.float()
    expected = [_logits(model, batch) for batch in _batches(shown)]
    shape = image_shape(classifier.processor)
    wider = np.pad(shown[0], ((0, 0), (0, 0), (0, 32), (0, 64)), mode="reflect")
    of_wider = _logits(model, wider)
    if hasattr(model, "fuse") and model.config.layer_implementation == "builtin":
        model.fuse()
    program, taken = trace(model, shape)
    if options.form == "torch-export":
        write_program(program, file)
    else:
        write_onnx(program, file)
    if is_int8:
        plain = file.rename(folder / "plain.onnx")
        quantize(plain, file, ranges)
        plain.unlink()
    network = classify.load_network(file)
    pairs = [(each, network(batch)) for each, batch in zip(expected, _batches(shown), strict=True)]
    if "height" in taken:
        pairs.append((of_wider, network(wider)))
    check = _compare(pairs, len(shown), options=options)
    check["images_sha256"] = hashlib.sha256(b"".join(each.tobytes() for each in shown)).hexdigest()
    check["calibration_images"] = len(ranges)
    costs = (
        costs_of_program(program, shape)
        if options.form == "torch-export"
        else costs_of_onnx(load_onnx(file), shape)
    )
    return _facts(classifier, file, taken, options=options) | costs | {"check": check}


def _batches(pixels: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Give the first image alone, then the others in batches, so that several sizes are tried."""
    yield pixels[0]
    for start in range(1, len(pixels), BATCH_SIZE):
        yield np.concatenate(pixels[start : start + BATCH_SIZE])


@torch.inference_mode()
def _logits(model: Any, pixel_values: np.ndarray) -> np.ndarray:
    logits: np.ndarray = model(torch.from_numpy(pixel_values)).logits.numpy()
    return logits


def _compare(
    pairs: list[tuple[np.ndarray, np.ndarray]], num_images: int, *, options: ExportOptions
) -> Check:
    """Compare logits of the model with those of the export; refuse what differs too much."""
    expected, found = (np.concatenate(each) for each in zip(*pairs, strict=True))
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        raise ValueError(
            "the logits of the model and of its export must be finite; some are not. Look at the "
            "weights with convzoo inspect"
        )
    difference, largest = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    same = int((found.argmax(1) == expected.argmax(1))[:num_images].sum())
    is_int8 = options.form == "int8-onnx"
    if not is_int8 and difference > options.tolerance * max(1.0, largest):
        raise ValueError(
            f"logits must agree to {options.tolerance:g} of the largest; the export differs by "
            f"{difference:.2g} where the largest is {largest:.3g}, and nothing was written. Give "
            f"--tolerance if that is good enough"
        )
    if is_int8 and same < options.least_agreement * num_images:
        raise ValueError(
            f"at least {options.least_agreement:.0%} of the decisions must stay the same; "
            f"{same} of {num_images} do in int8, and nothing was written. Give more images like "
            f"those of the training, export as onnx, or lower --least-agreement"
        )
    return {
        "images": "",
        "num_images": num_images,
        "images_sha256": "",
        "calibration_images": 0,
        "largest_difference": difference,
        "largest_logit": largest,
        "same_decisions": same,
        "tolerance": None if is_int8 else options.tolerance,
        "least_agreement": options.least_agreement if is_int8 else None,
    }


def _facts(
    classifier: Classifier, file: Path, shape: list[str | int], *, options: ExportOptions
) -> dict[str, Any]:
    config, is_folder = classifier.model.config, Path(classifier.name).is_dir()
    return {
        "schema_version": SCHEMA_VERSION,
        "format": options.form,
        "file": file.name,
        "bytes": file.stat().st_size,
        "sha256": file_sha256(file),
        "model": {
            "name": Path(classifier.name).resolve().name if is_folder else classifier.name,
            "model_type": config.model_type,
            "base_model": options.base_model or (None if is_folder else classifier.name),
            "commit": getattr(config, "_commit_hash", None),
            "sha256": weights_sha256(classifier.name),
        },
        "input": {"name": "pixel_values", "type": "float32", "shape": shape},
        "output": {"name": "logits", "type": "float32", "shape": ["batch", config.num_labels]},
        "scores": kind_of_scores(config),
        "classes": classifier.labels,
        "command": command_line("convzoo"),
        "date": now(),
        "environment": describe_environment("onnx", "onnxscript", "onnxruntime"),
    }


def _license(name: str) -> dict[str, Any]:
    """Read what the card of the model says of its licence."""
    from huggingface_hub import ModelCard

    if not (path := file_of_model(name, "README.md")):
        return {}
    card = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    data: Any = card.data
    return {key: value for key, value in data.to_dict().items() if key.startswith("license")}
