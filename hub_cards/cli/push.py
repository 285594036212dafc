"""`hub-cards push`: put a model folder on the Hub."""

from functools import partial
from typing import Annotated

from typer import Argument, Option

from hub_cards.cli import options
from hub_cards.cli.command import Command
from hub_cards.cli.publishing import publish
from hub_cards.cli.terminal import Terminal


def _push(  # noqa: PLR0913  # typer makes an option of each
    *,
    folder: options.ModelFolder,
    repo_id: Annotated[
        str, Argument(metavar="USER/NAME", help="where to; created if it is not there")
    ],
    private: options.Private = False,
    revision: options.Revision = None,
    create_pr: options.CreatePr = False,
    dry_run: options.DryRun = False,
    force: Annotated[
        bool,
        Option(
            "--force",
            help="replace a card edited by hand on the Hub; use the name of a dataset or Space",
        ),
    ] = False,
    with_predictions: Annotated[
        bool,
        Option(
            "--with-predictions",
            help="publish what the model said of each evaluated image, with the images' file names",
        ),
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Put a finished model folder with its card on the Hub, in one commit or not at all.

    Log in with `hf auth login` or set HF_TOKEN. Nothing is ever deleted there.
    """
    from hub_cards.hub.pushing import PushOptions, push_folder

    how = PushOptions(
        private=private,
        revision=revision or "main",
        create_pr=create_pr,
        dry_run=dry_run,
        force=force,
        with_predictions=with_predictions,
    )
    return publish(
        partial(push_folder, folder, repo_id),
        how,
        terminal=Terminal(json=json, quiet=quiet),
    )


push = Command(
    _push,
    name="push",
    epilog=options.PUSH_STATUSES,
    example="hub-cards push runs/quickstart/model USER/NAME --dry-run",
)
