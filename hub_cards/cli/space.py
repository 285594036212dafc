"""`hub-cards space`: put the demo page of models on the Hub."""

from functools import partial
from typing import Annotated

from typer import Argument, Option

from hub_cards.cli import options
from hub_cards.cli.command import Command
from hub_cards.cli.publishing import publish, write_folder
from hub_cards.cli.terminal import Terminal


def _space(  # noqa: PLR0913  # typer makes an option of each
    *,
    models: Annotated[
        list[str],
        Argument(
            metavar="MODEL...",
            help="model folders, copied into the Space, or ids on the Hub (USER/NAME[@REVISION]), "
            "of which it notes the commit",
        ),
    ],
    repo_id: options.SpaceId,
    gpu: Annotated[
        bool,
        Option("--gpu", help="for hardware with an NVIDIA GPU: install the PyTorch for CUDA"),
    ] = False,
    private: options.Private = False,
    revision: options.Revision = None,
    create_pr: options.CreatePr = False,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    output: options.SpaceFolder = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Make a Gradio Space show models: app.py, pinned requirements, examples, and a card.

    What it shows is decided by its files, so that a copy of it shows the same; run this again
    after a model has changed. Nothing is ever deleted there.
    """
    from hub_cards.hub.pushing import PushOptions
    from hub_cards.hub.spaces import build_space, push_space

    terminal = Terminal(json=json, quiet=quiet)
    if output:
        return write_folder(
            partial(build_space, models, repo_id, gpu=gpu), output, terminal=terminal
        )
    how = PushOptions(
        private=private,
        revision=revision or "main",
        create_pr=create_pr,
        dry_run=dry_run,
        force=force,
    )
    return publish(partial(push_space, models, repo_id, gpu=gpu), how, terminal=terminal)


space = Command(
    _space,
    name="space",
    epilog=options.PUSH_STATUSES,
    example="hub-cards space USER/NAME USER/DEMO --dry-run",
)
