"""`convzoo finetune`: from a folder of images to a trained model."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convzoo.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convzoo.data.opening import DatasetReference
    from convzoo.own_images.looking import Findings
    from convzoo.recipe.settings import Recipe

CHOICES = tuple(field.name for field in fields(options.DatasetOptions))  # of a dataset
EXAMPLES = """
convzoo finetune pets
convzoo finetune pets --from user/cnn-prelu-imagenet train.epochs=5
convzoo finetune pets --from resnet50-a1
convzoo finetune data/fashion-mnist --only-recipe
"""


def finetune(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="Folder with a folder of images for each class, another dataset (docs/formats.md "
            "lists them), or Hub dataset id.",
        ),
    ],
    overrides: options.Overrides = None,
    *,
    model: Annotated[
        str,
        options.text(
            "MODEL",
            "Model folder, Hub id or name of `convzoo models` to start from; without it a "
            "small network starts from nothing.",
            "--from",
        ),
    ] = "",
    output: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="Folder for the recipe, NAME.toml, and its run, NAME.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = "runs",
    only_recipe: Annotated[
        bool, options.flag("--only-recipe", "Write the recipe and stop before the training.")
    ] = False,
    processes: Annotated[int, options.at_least(1, "Training processes, one for each GPU.")] = 1,
    quiet: options.Quiet = False,
) -> int:
    """Write a recipe for your own images, and train with it.

    Looks at the images, chooses the settings, prints the recipe and starts the training. The same
    command resumes a training that was stopped; a recipe that you edited is trained by the command
    that stands in it.
    """
    options.start(quiet)
    with options.importing():
        from convzoo.own_images.launching import launch, shown_command
        from convzoo.own_images.looking import look
        from convzoo.own_images.recipe_text import recipe_path, recipe_text
        from convzoo.own_images.starting_point import read_starting_point

    given = dict(each.partition("=")[::2] for each in overrides or ())
    options.hide_bars_of_transformers()
    start = read_starting_point(model) if model else None
    findings = look(_dataset(folder, overrides or ()))
    file = recipe_path(folder, start, output=output, name=given.get("run.name", ""))
    text = recipe_text(findings, start, file=file, overrides=overrides or ())
    recipe = _write(file, text)
    if not quiet:
        print(text, flush=True)
    if only_recipe:
        print(f"The recipe is {file}. Train with it:")
        print(f"  {shown_command(file)}")
        return 0
    status = launch(file, processes)
    if (recipe.folder / "model" / "train_results.json").is_file():
        _tell_next_commands(recipe, findings)
    elif not status:
        print(f"\nThe training was stopped. The same command resumes it from {recipe.folder}")
    return status


def _dataset(folder: str, overrides: "Sequence[str]") -> "DatasetReference":
    """Name the dataset, with what the settings say of it."""
    from convzoo.data.opening import DatasetReference
    from convzoo.recipe.files import parse_override

    assignments = map(parse_override, overrides)
    given = {key: str(value) for section, key, value in assignments if section == "data"}
    return DatasetReference(folder, **{key: given[key] for key in CHOICES if key in given})


def _write(file: Path, text: str) -> "Recipe":
    """Check and write the recipe; refuse to replace one that says something else."""
    import tomllib

    from convzoo.files import write_text
    from convzoo.own_images.launching import shown_command
    from convzoo.recipe.files import load_recipe, recipe_from_tables, recipe_to_toml
    from convzoo.training.run_folder import refuse_a_run_among_the_images

    recipe = recipe_from_tables(tomllib.loads(text), source=str(file))
    refuse_a_run_among_the_images(recipe)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    elif recipe_to_toml(load_recipe(file)) != recipe_to_toml(recipe):
        raise ValueError(
            f"{file} must be the recipe that this command writes; it was edited, or the images or "
            f"settings are others now. Train with it as it is: {shown_command(file)}. Or delete "
            f"it, or set run.name for another one"
        )
    return recipe


def _tell_next_commands(recipe: "Recipe", findings: "Findings") -> None:
    import shlex

    model, data = (shlex.quote(str(part)) for part in (recipe.folder / "model", findings.path))
    which = "--validation-share" if recipe.data.eval_fraction else "--split validation"
    for key in CHOICES:
        if value := getattr(recipe.data, key):
            data += f" --{key.replace('_', '-')} {shlex.quote(value)}"
    rotation = " --exif-rotation" if recipe.data.exif_rotation else ""
    print(f"\nThe model is in {model}. Next:")
    lines = [(f"convzoo evaluate {model} --data {data} {which}{rotation}", "its accuracy")]
    if findings.has_test:
        test = f"convzoo evaluate {model} --data {data} --split test{rotation}"
        lines.append((test, "on images that decided nothing"))
    lines += [
        (f"convzoo report {model}", "a page of its mistakes"),
        (f"convzoo predict {model} IMAGE", "the classes of an image"),
        (f"hub-cards render {model}", "its card, README.md"),
        (f"python app.py {model}", "a page in the browser"),
    ]
    width = max(len(command) for command, _ in lines)
    for command, what in lines:
        print(f"  {command:<{width}}  # {what}")
