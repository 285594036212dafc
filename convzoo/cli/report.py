"""`convzoo report`: one page about the mistakes of a model."""

from pathlib import Path
from typing import Annotated

import typer

from convzoo.cli import options

EXAMPLES = """
convzoo report runs/quickstart/model
convzoo report runs/pets/model --data /photos/pets --images 50
convzoo report MODEL --result fashion-mnist-test --output report/index.html --figures
"""


def report(  # noqa: PLR0913  the options of a command are its parameters
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder that was evaluated.")],
    *,
    result: Annotated[
        str,
        options.text(
            "NAME", "Which result: the name of its file in predictions/; the newest by default."
        ),
    ] = "",
    images: Annotated[int, options.at_least(0, "Images in each list; 0 for none.")] = 24,
    no_gradcam: Annotated[
        bool, options.flag("--no-gradcam", "Draw no heat maps, which take longest.")
    ] = False,
    moved: options.MovedDatasetOptions,
    output: Annotated[
        str,
        options.text(
            "FILE", "HTML file; report.html in the model folder by default.", panel=options.OUTPUT
        ),
    ] = "",
    figures: Annotated[
        bool,
        options.flag(
            "--figures",
            "Also draw confusion_matrix.png and calibration.png beside the page.",
            panel=options.OUTPUT,
        ),
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Make one page of what a model gets wrong, from the predictions of an evaluation.

    It has the confusions, the accuracy of each class, the most confident errors with heat maps,
    ambiguous images, labels in doubt and the calibration, in one HTML file that needs no network.
    """
    options.start(quiet)
    with options.importing():
        from convzoo.report.reporting import ReportOptions, report_model

    options.hide_bars_of_transformers()
    written = report_model(
        model,
        ReportOptions(
            result=result,
            data=moved.reference(),
            output=Path(output) if output else None,
            images=images,
            grad_cam=not no_gradcam,
            figures=figures,
        ),
    )
    if as_json:
        options.print_json(
            {"page": str(written[0]), "figures": [str(each) for each in written[1:]]}
        )
    else:
        print(*written, sep="\n")
