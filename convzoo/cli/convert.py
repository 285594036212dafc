"""`convzoo convert`: published weights of another format as a model folder."""

from pathlib import Path
from typing import Annotated

import typer

from convzoo.cli import options

EXAMPLES = """
convzoo convert downloads/seed000.pth.tar converted/cnn
convzoo convert model.safetensors converted/cnn --labels class_names.txt
"""


def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Weights file, or a folder with one.")
    ],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder to create.")],
    *,
    labels: Annotated[
        str | None, typer.Option(metavar="FILE", help="Class names: one a line, or JSON.")
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn published weights of another format into a model folder.

    The format is recognised by its keys; what was found is printed and, as JSON, also written to
    conversion.json in the new folder.
    """
    options.start(quiet)
    from convzoo.conversion.converting import convert as convert_weights

    options.hide_bars_of_transformers()
    found = convert_weights(source, output, labels)
    if as_json:
        import json

        facts = json.loads((Path(output) / "conversion.json").read_text(encoding="utf-8"))
        options.print_json(facts | {"output": str(Path(output).resolve())})
    else:
        print(found)
