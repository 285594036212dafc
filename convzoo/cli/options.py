"""Options that several commands have, and what they do."""

import os
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from convzoo.cli.parsing import whole_number

DATASET = "Dataset"
OUTPUT = "Output"

AnyModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Model folder, folder of an export, .onnx or .pt2 file, Hub id, or timm:NAME.",
    ),
]
Name = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Configuration of a dataset with several.",
        show_default=False,
        rich_help_panel=DATASET,
    ),
]
Revision = Annotated[
    str,
    typer.Option(
        metavar="COMMIT",
        help="Commit or tag on the Hub.",
        show_default=False,
        rich_help_panel=DATASET,
    ),
]
ImageColumn = Annotated[
    str,
    typer.Option(
        metavar="COLUMN",
        help="Column of images, if there are several.",
        show_default=False,
        rich_help_panel=DATASET,
    ),
]
LabelColumn = Annotated[
    str,
    typer.Option(
        metavar="COLUMN",
        help="Column of class numbers, if there are several.",
        show_default=False,
        rich_help_panel=DATASET,
    ),
]
Root = Annotated[
    str,
    typer.Option(
        metavar="FOLDER",
        help="Folder that the paths in a list of images are relative to; that of the list by "
        "default.",
        show_default=False,
        rich_help_panel=DATASET,
    ),
]
Splits = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME...", help="Only these splits; all by default.", rich_help_panel=DATASET
    ),
]
ExifRotation = Annotated[
    bool, typer.Option("--exif-rotation", help="Turn images as their EXIF data says.")
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the code that a model on the Hub brings along. Read it first.",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        help="Show no progress bars, and of the log lines only warnings.",
        rich_help_panel=OUTPUT,
    ),
]


def at_least(least: int, help: str, *names: str, **settings: Any) -> Any:
    """An option that takes a whole number from `least` on; its names, if not the parameter's."""
    return typer.Option(*names, parser=whole_number(least), metavar="N", help=help, **settings)


Classes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME...]",
        help="Only images of these classes; without names, those of the model.",
        rich_help_panel=DATASET,
    ),
]
Limit = Annotated[
    int,
    at_least(
        0,
        "At most N images, evenly spaced; 0 for all.",
        show_default=False,
        rich_help_panel=DATASET,
    ),
]
MatchClasses = Annotated[
    Literal["name", "number"],
    typer.Option(
        help="How labels of the data find the model's classes.",
        rich_help_panel=DATASET,
    ),
]
LabelMap = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="JSON or CSV that says which class of the model each class of the data is.",
        show_default=False,
        rich_help_panel=DATASET,
    ),
]
RestrictLogits = Annotated[
    bool,
    typer.Option(
        "--restrict-logits",
        help="Let the model choose among the classes of the data only, as ImageNet-A and -R are "
        "measured.",
        rich_help_panel=DATASET,
    ),
]
Unreadable = Annotated[
    Literal["stop", "wrong"],
    typer.Option(help="At an image that cannot be read: stop, or count it as wrong."),
]
MovedData = Annotated[
    str,
    typer.Option(
        metavar="DATASET",
        help="Where the dataset is, if not where it was evaluated.",
        show_default=False,
        rich_help_panel=DATASET,
    ),
]


def start(quiet: bool) -> None:
    """Set up log lines and progress bars, before a command imports its libraries."""
    import logging

    from convzoo.log_lines import show_log_lines

    show_log_lines("convzoo", level=logging.WARNING if quiet else logging.INFO)
    if quiet:
        os.environ["TQDM_DISABLE"] = "1"
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


def hide_bars_of_transformers() -> None:
    """Loading and writing a few tensors needs no progress bars."""
    from transformers.utils.logging import disable_progress_bar

    disable: Callable[[], None] = disable_progress_bar  # Transformers has no types there
    disable()


def print_json(result: Any) -> None:
    """Print a result as JSON, spelled as in result files."""
    import json

    print(json.dumps(result, indent=2))
