"""`convzoo models`: what training can start from."""

from typing import TYPE_CHECKING, Annotated

import typer

from convzoo.cli import options
from convzoo.text_table import text_table

if TYPE_CHECKING:
    from convzoo.conversion.published import PublishedModel

EXAMPLES = """
convzoo models
convzoo models resnet50-a1
convzoo models --json
"""


def models(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Say all that is known of one.", show_default=False),
    ] = "",
    *,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """List the models that training can start from.

    The names are for `convzoo finetune --from`, `finetune.pretrained` of a recipe, and `convzoo
    convert`. Accuracies of others are quoted, not measured here.
    """
    options.start(quiet)
    from convzoo.conversion.published import find_published, published_models

    if name:
        found = find_published(name)
        if found is None:
            known = ", ".join(model.name for model in published_models())
            raise ValueError(f"the name must be one of {known}; got {name!r}")
        if as_json:
            options.print_json(found.to_dict())
        else:
            width = max(map(len, found.to_dict()))
            for key, value in found.to_dict().items():
                print(f"{key:<{width}}  {value}")
    elif as_json:
        options.print_json([model.to_dict() for model in published_models()])
    else:
        print(_table(published_models()))


def _table(found: "tuple[PublishedModel, ...]") -> str:
    """Draw a line for each model."""
    rows = [("name", "family", "parameters", "top-1", "measured with", "licence", "from")]
    rows += [
        (
            model.name,
            model.family,
            _short(model.num_parameters),
            "-" if model.top1_accuracy is None else f"{100 * model.top1_accuracy:.2f} %",
            model.protocol or "-",
            model.license,
            model.place + (f" @ {model.commit[:7]}" if model.commit else ""),
        )
        for model in found
    ]
    notes = (
        "Accuracies of our own folders were measured here, the others are quoted: `convzoo models "
        "NAME`\nsays from where. What has no @ is taken in its newest version. To start from one:",
        "convzoo finetune FOLDER --from NAME",
        "convzoo convert NAME OUTPUT",
    )
    return "\n".join([text_table(rows, left=range(len(rows[0]))), "", *notes])


def _short(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"
