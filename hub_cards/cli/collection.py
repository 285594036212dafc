"""`hub-cards collection`: put models of the Hub into a collection."""

from typing import Annotated

from typer import Argument, Option

from hub_cards.cli.command import Command
from hub_cards.cli.options import DryRun, Json, Private, Quiet
from hub_cards.cli.publishing import start_talking
from hub_cards.cli.terminal import Terminal, print_error


def _collection(
    *,
    title: Annotated[
        str, Argument(metavar="TITLE", help="TITLE or USER/TITLE; created if it is not there")
    ],
    model_ids: Annotated[list[str], Argument(metavar="MODEL_ID...", help="USER/NAME on the Hub")],
    space_id: Annotated[
        str | None, Option("--space", metavar="USER/NAME", help="a Space, too")
    ] = None,
    private: Private = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Make a collection on the Hub hold models, the most accurate first.

    Their notes are made of their result files. Nothing is removed, and notes written by hand stay.
    """
    from dataclasses import asdict

    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # lazy

    from hub_cards.hub.collection import update_collection
    from hub_cards.hub.push_errors import PushError

    terminal = Terminal(json=json, quiet=quiet)
    start_talking(terminal)
    disable_progress_bars()
    try:
        result = update_collection(
            title, model_ids, space_id=space_id, private=private, dry_run=dry_run
        )
    except PushError as error:
        print_error(error)
        return error.exit_code
    done = f"{result.url}" if result.changes else f"nothing to change: {result.url}"
    terminal.say("dry run: nothing was sent" if dry_run else done)
    terminal.answer({"dry_run": dry_run, **asdict(result)})
    return 0


collection = Command(
    _collection,
    name="collection",
    epilog="Exit status: as of push; 1 is a model without usable files.",
    example="hub-cards collection USER/TITLE USER/NAME USER/OTHER --dry-run",
)
