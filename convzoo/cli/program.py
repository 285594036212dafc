"""The program `convzoo`: its commands, each loaded from its own file once it is needed."""

import importlib
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from convzoo.cli.parsing import Command, UsageError, with_options_of_groups

# In the order of `convzoo --help`; these are the first sentences of the commands' own help, kept
# here so that the list of commands needs no command.
COMMANDS = {
    "finetune": "Write a recipe for your own images, and train with it.",
    "runs": "Compare training runs: accuracy, loss, speed, and which settings differ.",
    "sweep": "Train a recipe with several settings, and compare the runs.",
    "evaluate": "Measure top-1 and top-5 accuracy of a model, every image once.",
    "calibrate": "Fit the temperature that makes the probabilities of a model chances of being "
    "right.",
    "robustness": "Measure accuracy under the corruptions of ImageNet-C, computed from their "
    "definitions.",
    "compare": "Say which model is better on the same images, as far as that can be said.",
    "report": "Make one page of what a model gets wrong, from the predictions of an evaluation.",
    "predict": "Classify image files.",
    "models": "List the models that training can start from.",
    "convert": "Turn published weights of another format into a model folder.",
    "export": "Write a model as a file that runs without this package, checked on images.",
    "benchmark": "Measure images per second, latency and memory of a model, beside others.",
    "recipe": "Explain all keys of a recipe, or fill in a recipe's defaults.",
    "lr-range": "Try growing learning rates on a recipe's first batches, and plot the loss.",
    "preprocess": "Copy a dataset with smaller images, so that training decodes less.",
    "inspect": "Say what is in a dataset, or in a model.",
    "symmetry": "Rotate and scale the weights of a QLNet so that its answers stay the same.",
}
# Plain text: Rich takes longer to import than everything else here.
PLAIN: dict[str, Any] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"max_content_width": 100},
}


class Group(TyperGroup):
    """All commands, in the order of COMMANDS."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its options: they are flags, and None would be checked by pydantic, slow to import."""
        parameters = super().get_params(ctx)
        for parameter in parameters:
            if parameter.default is None:
                parameter.default = False
        return parameters

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands, loaded or not."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command, loaded from its file."""
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            function = cmd_name.replace("-", "_")
            module = importlib.import_module(f"convzoo.cli.{function}")
            app = typer.Typer(add_completion=False, **PLAIN)
            run = with_options_of_groups(getattr(module, function))
            app.command(cmd_name, cls=Command, epilog=module.EXAMPLES)(run)
            self.commands[cmd_name] = get_command(app)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments begin with; for an unknown one, the nearest is told."""
        if args[0] == "train":
            raise UsageError(
                "there is no command 'train': `accelerate launch -q train_accelerate.py RECIPE` "
                "trains a recipe, and `convzoo finetune FOLDER` on your own images"
            )
        if args[0] not in COMMANDS:
            for name in COMMANDS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of commands in the help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def build_program() -> Any:
    """The program; call its `main`."""
    app = typer.Typer(cls=Group, **PLAIN)

    @app.callback()
    def convzoo(
        version: bool = typer.Option(
            False, "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ) -> None:
        """Evaluate, use and convert image classifiers, and look into them and their data."""

    return get_command(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        import convzoo

        print(f"convzoo {convzoo.__version__}")
        raise typer.Exit()
