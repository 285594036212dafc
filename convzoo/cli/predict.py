"""`convzoo predict`: classes of image files."""

import io
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from convzoo.cli import options

if TYPE_CHECKING:
    from convzoo.prediction.classifying import Answer

EXAMPLES = """
convzoo predict runs/quickstart/model runs/quickstart/model/examples
convzoo predict user/cnn-prelu-imagenet cat.jpg dog.jpg --top-k 3
convzoo predict MODEL 'photos/**/*.jpg' --output predictions.csv
find photos -name '*.jpg' -print0 | convzoo predict MODEL - --format jsonl
"""
NETWORK = "Network"
logger = logging.getLogger(__name__)


def predict(  # noqa: PLR0913  the options of a command are its parameters
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or Hub id.")],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image files; folders, for all images below them; patterns such as "
            "'photos/**/*.jpg'; URLs with --allow-urls; - for standard input, an image or a list "
            "of names.",
        ),
    ],
    *,
    top_k: Annotated[int, options.at_least(1, "Classes per image.", "--top-k", "-k")] = 5,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            "-d",
            help="Device of PyTorch, such as cpu or cuda:1; by default a GPU if there is one.",
            show_default=False,
        ),
    ] = "",
    calibrated: Annotated[
        bool,
        options.flag(
            "--calibrated", "Divide logits by the temperature in the model's eval_results.json."
        ),
    ] = False,
    batch_size: Annotated[int, options.at_least(1, "Images per step.")] = 16,
    num_workers: Annotated[int, options.at_least(0, "Decoding processes.")] = 2,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast/--no-fast",
            help="Fold batch norms and keep freed memory; logits differ by rounding (1e-5).",
        ),
    ] = True,
    bf16: Annotated[
        bool,
        options.flag(
            "--bf16", "Compute in bfloat16, too; probabilities change, by a hundredth or two."
        ),
    ] = False,
    trust_remote_code: options.TrustRemoteCode = False,
    allow_urls: Annotated[
        bool,
        options.flag("--allow-urls", "Download images of http and https.", panel=NETWORK),
    ] = False,
    allow_private_hosts: Annotated[
        bool,
        options.flag(
            "--allow-private-hosts", "Also from this machine and the local network.", panel=NETWORK
        ),
    ] = False,
    max_megabytes: Annotated[int, options.at_least(1, "Largest download.", panel=NETWORK)] = 20,
    timeout: Annotated[int, options.at_least(1, "Seconds for a download.", panel=NETWORK)] = 20,
    form: Annotated[
        Literal["text", "table", "csv", "json", "jsonl", "parquet"] | None,
        typer.Option(
            "--format",
            help="Form of the answers; by default that of the suffix of --output, else text.",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    output: Annotated[
        str | None,
        options.text("FILE", "Write the answers here, once all are known.", panel=options.OUTPUT),
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Classify image files.

    Images are turned by their EXIF orientation, as `pipeline` of Transformers turns them. A file
    that is no image is named, the others are classified, and the exit status is 1.
    """
    options.start(quiet)
    chosen = _chosen_format(form, output, as_json)
    if allow_private_hosts and not allow_urls:
        raise typer.BadParameter("--allow-private-hosts needs --allow-urls")
    if bf16 and not fast:
        raise typer.BadParameter("--bf16 needs --fast")
    with options.importing():
        from convzoo.prediction.answer_files import Layout, open_answers
        from convzoo.prediction.classifier import load_classifier
        from convzoo.prediction.classifying import Pace, classify
        from convzoo.prediction.downloading import DownloadLimits
        from convzoo.prediction.image_names import find_images

    found = find_images(images, sys.stdin.buffer.read, allow_urls=allow_urls)
    options.hide_bars_of_transformers()
    classifier = load_classifier(
        model,
        device=device,
        trust_remote_code=trust_remote_code,
        calibrated=calibrated,
        prepared=("bfloat16" if bf16 else "float32") if fast else None,
    )
    batches = classify(
        found,
        classifier,
        top_k=top_k,
        pace=Pace(batch_size=batch_size, num_workers=num_workers),
        limits=DownloadLimits(
            max_bytes=max_megabytes * 2**20, seconds=timeout, private_hosts=allow_private_hosts
        ),
    )
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name of a file need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    layout = Layout(images=found.names, labels=classifier.labels, top_k=top_k)
    file = Path(output) if output else None
    with open_answers(chosen, file, layout=layout, terminal=sys.stdout) as write:
        broken = _write_all(batches, write, total=len(found.names), to_file=bool(file))
    return _tell_result(len(found.names), broken, output)


def _chosen_format(form: str | None, output: str | None, as_json: bool) -> str:
    """The form that was asked for, else that of the output's suffix, else text."""
    if as_json:
        if form not in (None, "json"):
            raise typer.BadParameter(f"--json is --format json; got --format {form}, too")
        return "json"
    suffix = Path(output or "").suffix.lower().removeprefix(".")
    form = form or (suffix if suffix in ("csv", "json", "jsonl", "parquet") else "text")
    if form == "parquet" and not output:
        raise typer.BadParameter("--format parquet needs --output FILE")
    return form


def _write_all(
    batches: "Iterable[list[Answer]]",
    write: "Callable[[Iterable[Answer]], None]",
    *,
    total: int,
    to_file: bool,
) -> int:
    """Write the answers of each batch, name the images without; returns how many those are."""
    from tqdm import tqdm

    from convzoo.prediction.answer_files import one_line

    broken = 0
    # Answers on a terminal are the progress themselves; else TQDM_DISABLE decides.
    shown = sys.stderr.isatty() and (to_file or not sys.stdout.isatty())
    hidden: dict[str, Any] = {} if shown else {"disable": True}
    with tqdm(total=total, desc="predict", unit=" images", leave=False, **hidden) as bar:
        for answers in batches:
            write(answers)
            for answer in answers:
                if answer.error:
                    broken += 1
                    bar.clear()
                    print(f"error: {one_line(answer.image)}: {answer.error}", file=sys.stderr)
            bar.update(len(answers))
    return broken


def _tell_result(total: int, broken: int, output: str | None) -> int:
    where = f", in {output}" if output else ""
    if total > 1 or output:
        logger.info("%d of %d images classified%s", total - broken, total, where)
    return 1 if broken else 0
