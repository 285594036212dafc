"""`convzoo preprocess`: a copy of a dataset with smaller images."""

import os
from typing import Annotated, Literal

import typer

from convzoo.cli import options

EXAMPLES = """
convzoo preprocess data/fashion-mnist runs/presized
convzoo preprocess ILSVRC/imagenet-1k imagenet-256 --size 256 --splits train validation
"""
IMAGES, WORK = "Images", "Work"


def preprocess(  # noqa: PLR0913  the options of a command are its parameters
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Folder of images or other dataset, or Hub dataset id."
        ),
    ],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder to create.")],
    *,
    size: Annotated[int, options.at_least(1, "Shorter side, in pixels.", panel=IMAGES)] = 256,
    crop: Annotated[
        bool,
        options.flag("--crop", "Also cut to size x size, centred.", panel=IMAGES),
    ] = False,
    enlarge: Annotated[
        bool,
        options.flag("--enlarge", "Also enlarge smaller images.", panel=IMAGES),
    ] = False,
    interpolation: Annotated[
        Literal["bilinear", "bicubic"],
        typer.Option(help="Resize filter, antialiased.", rich_help_panel=IMAGES),
    ] = "bilinear",
    quality: Annotated[
        int, typer.Option(help="Quality of the JPEGs.", metavar="N", rich_help_panel=IMAGES)
    ] = 90,
    subsampling: Annotated[
        Literal["420", "444"],
        typer.Option(help="Subsampling of the colours.", rich_help_panel=IMAGES),
    ] = "420",
    exif_rotation: options.ExifRotation = False,
    splits: options.Splits = None,
    dataset: options.DatasetOptions,
    shard_megabytes: Annotated[
        float, typer.Option(help="Size of the largest file.", metavar="MB", rich_help_panel=WORK)
    ] = 400,
    workers: Annotated[
        int,
        options.at_least(
            1, "Number of processes; one for each CPU.", show_default=False, panel=WORK
        ),
    ] = os.cpu_count() or 1,
    max_bad_share: Annotated[
        float,
        typer.Option(
            help="Share of a split's images that may be unreadable and left out.",
            metavar="SHARE",
            rich_help_panel=WORK,
        ),
    ] = 0.001,
    quiet: options.Quiet = False,
) -> None:
    """Copy a dataset with smaller images, so that training decodes less.

    A copy that was stopped is continued by the same command.
    """
    options.start(quiet)
    with options.importing():
        from convzoo.environment import command_line
        from convzoo.resizing.command import preprocess as write_copy
        from convzoo.resizing.command import resizing_report_text
        from convzoo.resizing.rows import Presize

    report = write_copy(
        dataset.reference(source),
        output,
        presize=Presize(
            size=size,
            crop=crop,
            enlarge=enlarge,
            interpolation=interpolation,
            quality=quality,
            subsampling=subsampling,
            exif_rotation=exif_rotation,
        ),
        command=command_line("python -m convzoo"),
        splits=tuple(splits or ()),
        shard_bytes=round(shard_megabytes * 1e6),
        num_workers=workers,
        max_bad_share=max_bad_share,
    )
    print(resizing_report_text(report))
