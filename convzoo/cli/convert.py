"""`convzoo convert`: published weights of another format as a model folder, and back."""

from pathlib import Path
from typing import Annotated, Any

import typer

from convzoo.cli import options

EXAMPLES = """
convzoo convert downloads/seed000.pth.tar converted/cnn
convzoo convert model.safetensors converted/cnn --labels class_names.txt
convzoo convert timm/resnet50.a1_in1k converted/resnet50 --prelu
convzoo convert runs/pets/model pets-timm --to timm
"""


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Weights file, a folder with one, a Hub id, or a name that `convzoo models` "
            "lists; with --to a model folder.",
        ),
    ],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder to create.")],
    *,
    labels: Annotated[str | None, options.text("FILE", "Class names: one a line, or JSON.")] = None,
    revision: Annotated[
        str,
        options.text(
            "COMMIT", "Commit or tag on the Hub; that of the list, or the newest, by default."
        ),
    ] = "",
    prelu: Annotated[
        bool,
        options.flag("--prelu", "Give a ResNet PReLUs with slopes of 0, which training can move."),
    ] = False,
    to: Annotated[
        str,
        options.text("LIBRARY", "Write the format of timm, torchvision or transformers."),
    ] = "",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn published weights of another format into a model folder.

    The format is recognised by its keys; what was found is printed and, as JSON, also written to
    conversion.json in the new folder. With --to a model folder becomes one that another library
    loads.
    """
    options.start(quiet)
    given = {"labels": labels, "revision": revision, "prelu": prelu}
    chosen = {key: value for key, value in given.items() if value}
    options.hide_bars_of_transformers()
    if to:
        if chosen:
            raise ValueError(f"--to takes a model folder as it is; leave out {', '.join(chosen)}")
        from convzoo.conversion.writing import write_for

        found, facts = write_for(to, source, output=output)
    else:
        found, facts = _read(source, output, chosen)
    if as_json:
        options.print_json(facts | {"output": str(Path(output).resolve())})
    else:
        print(found)


def _read(source: str, output: str, chosen: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    import json

    from convzoo.conversion.converting import convert as convert_weights

    found = convert_weights(source, output, chosen.pop("labels", None), **chosen)
    return found, json.loads((Path(output) / "conversion.json").read_text(encoding="utf-8"))
