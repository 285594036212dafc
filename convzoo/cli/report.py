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
        typer.Option(
            metavar="NAME",
            help="Which result: the name of its file in predictions/; the newest by default.",
            show_default=False,
        ),
    ] = "",
    images: Annotated[int, options.at_least(0, "Images in each list; 0 for none.")] = 24,
    no_gradcam: Annotated[
        bool, typer.Option("--no-gradcam", help="Draw no heat maps, which take longest.")
    ] = False,
    data: options.MovedData = "",
    image_column: options.ImageColumn = "",
    label_column: options.LabelColumn = "",
    root: options.Root = "",
    output: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="HTML file; report.html in the model folder by default.",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = "",
    figures: Annotated[
        bool,
        typer.Option(
            "--figures",
            help="Also draw confusion_matrix.png and calibration.png beside the page.",
            rich_help_panel=options.OUTPUT,
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
    from convzoo.data.opening import DatasetReference
    from convzoo.report.reporting import ReportOptions, report_model

    options.hide_bars_of_transformers()
    reference = DatasetReference(
        data, image_column=image_column, label_column=label_column, root=root
    )
    written = report_model(
        model,
        ReportOptions(
            result=result,
            data=reference,
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
