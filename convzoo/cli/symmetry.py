"""`convzoo symmetry`: other weights that are the same QLNet."""

from typing import Annotated

import typer

from convzoo.cli import options

EXAMPLES = """
convzoo symmetry converted/qlnet
convzoo symmetry converted/qlnet --data ILSVRC/imagenet-1k --split validation --output moved
convzoo symmetry user/qlnet --stages 3 --largest-factor 1
"""


def symmetry(  # noqa: PLR0913  the options of a command are its parameters
    model: Annotated[str, typer.Argument(metavar="MODEL", help="QLNet: folder or Hub id.")],
    *,
    data: Annotated[
        str,
        options.text(
            "DATASET",
            "Folder or Hub dataset id to compare on; noise without.",
            panel=options.DATASET,
        ),
    ] = "",
    split: options.SplitOfData = "test",
    dataset: options.DatasetOptions,
    limit: Annotated[
        int,
        options.at_least(0, "At most N images, evenly spaced; 0 for all.", panel=options.DATASET),
    ] = 256,
    stages: Annotated[
        list[str] | None,
        options.text("N...", "Stages to rotate, from 1; all that can be by default."),
    ] = None,
    largest_factor: Annotated[
        float, typer.Option(metavar="F", help="Scale products by 1/F to F; 1 leaves them alone.")
    ] = 2.0,
    seed: Annotated[int, options.at_least(0, "Seed of rotations and scales.")] = 0,
    output: Annotated[
        str,
        options.text(
            "FOLDER",
            "New folder for the moved model, symmetry.json and symmetry.png.",
            panel=options.OUTPUT,
        ),
    ] = "",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Rotate and scale the weights of a QLNet so that its answers stay the same.

    Prints how far the weights, the logits and the accuracy move, and writes the other weights as an
    ordinary model folder with a drawing.
    """
    options.start(quiet)
    from pathlib import Path

    with options.importing():
        from convzoo.inspection.symmetry import Motion, show_symmetry, symmetry_text

    if wrong := [number for number in stages or () if not number.isdigit()]:
        raise ValueError(f"--stages must be numbers of stages, from 1; got {wrong[0]!r}")
    options.hide_bars_of_transformers()
    report = show_symmetry(
        model,
        dataset.reference(data) if data else None,
        split=split,
        limit=limit,
        motion=Motion(
            stages=None if stages is None else tuple(int(number) for number in stages),
            largest_factor=largest_factor,
            seed=seed,
        ),
        output=Path(output) if output else None,
    )
    if as_json:
        options.print_json(report)
    else:
        print(symmetry_text(report))
        if output:
            print(f"output   {Path(output).resolve()}")
