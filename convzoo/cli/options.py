"""Options that several commands have, and what they do.

Options that go together are the fields of a dataclass, which is one parameter of a command: see
`convzoo.cli.parsing.with_options_of_groups`.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from convzoo.cli.parsing import whole_number

if TYPE_CHECKING:
    from convzoo.data.opening import DatasetReference
    from convzoo.evaluation.chosen_images import Choice

DATASET = "Dataset"
OUTPUT = "Output"


def text(metavar: str, help: str, *names: str, panel: str | None = None) -> Any:
    """An option that takes a text, and shows no default; its names, if not the parameter's."""
    return typer.Option(
        *names, metavar=metavar, help=help, show_default=False, rich_help_panel=panel
    )


def flag(name: str, help: str, *, panel: str | None = None) -> Any:
    """An option without a value."""
    return typer.Option(name, help=help, rich_help_panel=panel)


def at_least(least: int, help: str, *names: str, panel: str | None = None, **settings: Any) -> Any:
    """An option that takes a whole number from `least` on; its names, if not the parameter's."""
    return typer.Option(
        *names,
        parser=whole_number(least),
        metavar="N",
        help=help,
        rich_help_panel=panel,
        **settings,
    )


AnyModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Model folder, folder of an export, .onnx or .pt2 file, Hub id, or timm:NAME.",
    ),
]
RecipeFile = Annotated[str, typer.Argument(metavar="RECIPE", help="TOML file, as in recipes/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SECTION.KEY=VALUE",
        help="Values that replace those of the recipe.",
        show_default=False,
    ),
]
Split = Annotated[
    str, typer.Option(metavar="NAME", help="Split to evaluate on.", rich_help_panel=DATASET)
]
SplitOfData = Annotated[
    str, typer.Option(metavar="NAME", help="Its split.", rich_help_panel=DATASET)
]
Splits = Annotated[
    list[str] | None, text("NAME...", "Only these splits; all by default.", panel=DATASET)
]
ImageColumn = Annotated[
    str, text("COLUMN", "Column of images, if there are several.", panel=DATASET)
]
LabelColumn = Annotated[
    str, text("COLUMN", "Column of class numbers, if there are several.", panel=DATASET)
]
Root = Annotated[
    str,
    text(
        "FOLDER",
        "Folder that the paths in a list of images are relative to; that of the list by default.",
        panel=DATASET,
    ),
]
ExifRotation = Annotated[bool, flag("--exif-rotation", "Turn images as their EXIF data says.")]
BatchSize = Annotated[int, at_least(1, "Images per step.")]
NumWorkers = Annotated[int, at_least(0, "Decoding processes.")]
TrustRemoteCode = Annotated[
    bool,
    flag(
        "--trust-remote-code", "Run the code that a model on the Hub brings along. Read it first."
    ),
]
AsJson = Annotated[bool, flag("--json", "Print the result as JSON.", panel=OUTPUT)]
Quiet = Annotated[
    bool,
    flag("--quiet", "Show no progress bars, and of the log lines only warnings.", panel=OUTPUT),
]


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """What else names a dataset, besides its path."""

    name: Annotated[
        str, text("NAME", "Configuration of a dataset with several.", panel=DATASET)
    ] = ""
    revision: Annotated[str, text("COMMIT", "Commit or tag on the Hub.", panel=DATASET)] = ""
    image_column: ImageColumn = ""
    label_column: LabelColumn = ""
    root: Root = ""

    def reference(self, path: str) -> "DatasetReference":
        """Name the dataset at a path."""
        from convzoo.data.opening import DatasetReference

        return DatasetReference(path, **asdict(self))


@dataclass(frozen=True, kw_only=True)
class MovedDatasetOptions:
    """Where a dataset lies that a result names."""

    data: Annotated[
        str,
        text("DATASET", "Where the dataset is, if not where it was evaluated.", panel=DATASET),
    ] = ""
    image_column: ImageColumn = ""
    label_column: LabelColumn = ""
    root: Root = ""

    def reference(self) -> "DatasetReference":
        """Name the dataset; its path is "" where it has not moved."""
        from convzoo.data.opening import DatasetReference

        columns = {"image_column": self.image_column, "label_column": self.label_column}
        return DatasetReference(self.data, **columns, root=self.root)


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions:
    """Which images of a split are evaluated, and which classes of the model theirs are."""

    classes: Annotated[
        list[str] | None,
        text(
            "[NAME...]",
            "Only images of these classes; without names, those of the model.",
            panel=DATASET,
        ),
    ] = None
    limit: Annotated[
        int,
        at_least(
            0,
            "At most N images, evenly spaced; 0 for all.",
            show_default=False,
            panel=DATASET,
        ),
    ] = 0
    match_classes: Annotated[
        Literal["name", "number"],
        typer.Option(
            help="How labels of the data find the model's classes.", rich_help_panel=DATASET
        ),
    ] = "name"
    label_map: Annotated[
        str,
        text(
            "FILE",
            "JSON or CSV that says which class of the model each class of the data is.",
            panel=DATASET,
        ),
    ] = ""
    restrict_logits: Annotated[
        bool,
        flag(
            "--restrict-logits",
            "Let the model choose among the classes of the data only, as ImageNet-A and -R are "
            "measured.",
            panel=DATASET,
        ),
    ] = False

    def choice(self, **others: Any) -> "Choice":
        """Choose the images; other fields of the choice are given by name."""
        from convzoo.evaluation.chosen_images import Choice
        from convzoo.evaluation.label_maps import read_label_map

        return Choice(
            classes=None if self.classes == [""] else self.classes or (),
            limit=self.limit,
            match_by=self.match_classes,
            label_map=read_label_map(Path(self.label_map)) if self.label_map else None,
            restricted=self.restrict_logits,
            **others,
        )


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How the images of an evaluation are read: fields of an `EvaluationProtocol`."""

    exif_rotation: ExifRotation = False
    unreadable: Annotated[
        Literal["stop", "wrong"],
        typer.Option(help="At an image that cannot be read: stop, or count it as wrong."),
    ] = "stop"
    batch_size: BatchSize = 64
    num_workers: NumWorkers = 2


@contextmanager
def importing() -> Iterator[None]:
    """Import libraries without searching them for garbage, neither now nor later.

    Only in a process of its own, which `main` froze what it has imported in: what is frozen is
    never freed, which would be too much where Python code runs one command after another.
    """
    if not gc.get_freeze_count():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


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
