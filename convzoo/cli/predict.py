"""`convzoo predict`: classes of image files."""

import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from convzoo.cli import options

EXAMPLES = """
convzoo predict runs/quickstart/model runs/quickstart/model/examples
convzoo predict user/cnn-prelu-imagenet cat.jpg dog.jpg --top-k 3
convzoo predict MODEL photos --json > predictions.json
"""


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or Hub id.")],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE", help="Image files; a folder means all images in it, sorted."
        ),
    ],
    *,
    top_k: Annotated[int, options.at_least(1, "Classes per image.")] = 5,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Classify image files.

    Images are turned by their EXIF orientation, as `pipeline` of Transformers turns them. A file
    that is no image is named, the others are classified, and the exit status is 1.
    """
    options.start(quiet)
    from convzoo.images.decoding import DARK_IMAGES, open_rgb

    classify = None
    show = _print_json if as_json else _print_text
    status = count = 0
    for file in list(_image_files(images)):  # a wrong folder stops before the first answer
        try:
            data = Path(file).read_bytes()
            DARK_IMAGES.look(data, partial(str, file))
            image = open_rgb(data, exif_rotation=True)  # as `pipeline` does
        except (ValueError, OSError) as error:
            print(f"error: {file}: {getattr(error, 'strerror', '') or error}", file=sys.stderr)
            status = 1
            continue
        classify = classify or _load(model, trust_remote_code)
        guesses = classify(image, top_k=top_k)
        if not all(math.isfinite(guess["score"]) for guess in guesses):
            raise ValueError(
                f"probabilities of {model} must be finite; those of {file} are not. Its weights "
                f"may be ruined: `convzoo inspect {model}`"
            )
        show(file, guesses, count)
        count += 1
    if as_json:
        print("\n]" if count else "[]")
    return status


def _image_files(names: list[str]) -> Iterator[str]:
    """The names, a folder replaced by the images in it."""
    for name in names:
        if not Path(name).is_dir():
            yield name
            continue
        from convzoo.images.allowed_formats import image_suffixes

        suffixes = image_suffixes()
        files = [file for file in Path(name).rglob("*") if file.suffix.lower() in suffixes]
        if not files:
            raise ValueError(f"{name} must be an image file, or a folder with some; it has none")
        yield from map(str, sorted(files))


def _load(model: str, trust_remote_code: bool) -> Callable[..., list[dict[str, Any]]]:
    """The function that classifies; loaded once an image is readable."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    import modeling  # noqa: F401  registers our families with the Auto classes

    options.hide_bars_of_transformers()
    trust = {"trust_remote_code": trust_remote_code}
    processor: Any = AutoImageProcessor  # Transformers has no types there
    classify: Callable[..., list[dict[str, Any]]] = pipeline(
        "image-classification",
        model=AutoModelForImageClassification.from_pretrained(model, **trust),
        image_processor=processor.from_pretrained(model, **trust),
    )
    return classify


def _print_text(file: str, guesses: list[dict[str, Any]], count: int) -> None:
    print(file)
    for guess in guesses:
        print(f"  {guess['score']:6.1%}  {guess['label']}")


def _print_json(file: str, guesses: list[dict[str, Any]], count: int) -> None:
    """One item of a JSON list, on a line of its own as soon as it is known."""
    import json

    item = json.dumps({"image": file, "predictions": guesses})
    print(",\n" if count else "[\n", item, sep="", end="", flush=True)
