"""`convzoo recipe`: every key explained, or a recipe with all its defaults."""

from typing import Annotated

import typer

from convzoo.cli import options

EXAMPLES = """
convzoo recipe
convzoo recipe recipes/quickstart.toml
convzoo recipe recipes/quickstart.toml train.epochs=2 'model.depths=[1, 1, 2]'
"""


def recipe(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE", help="Recipe to print with its defaults filled in.", show_default=False
        ),
    ] = None,
    overrides: options.Overrides = None,
    *,
    quiet: options.Quiet = False,
) -> None:
    """Explain all keys of a recipe, or fill in a recipe's defaults.

    Both are TOML. A recipe that has a mistake is explained instead.
    """
    options.start(quiet)
    from convzoo.recipe.files import describe_settings, load_recipe, recipe_to_toml

    text = recipe_to_toml(load_recipe(file, overrides or ())) if file else describe_settings()
    print(text, end="")
