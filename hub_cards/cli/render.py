"""`hub-cards render`: write the card of a model folder."""

from typing import Annotated

from typer import Option

from hub_cards.cli.command import Command
from hub_cards.cli.options import Json, ModelFolder, Quiet
from hub_cards.cli.terminal import Terminal


def _render(
    *,
    folder: ModelFolder,
    repo_id: Annotated[
        str | None, Option("--repo-id", metavar="USER/NAME", help="where it will be on the Hub")
    ] = None,
    output: Annotated[
        str | None, Option("--output", metavar="FILE", help="write this file instead")
    ] = None,
    force: Annotated[bool, Option("--force", help="replace a card edited by hand")] = False,
    eval_results: Annotated[
        bool, Option("--eval-results", help="also write .eval_results/*.yaml")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Write README.md, the model card, into a model folder."""
    from hub_cards.card.eval_result_files import write_eval_result_files
    from hub_cards.card.rendering import write_card
    from hub_cards.evidence.folder import read_evidence

    terminal = Terminal(json=json, quiet=quiet)
    card = write_card(folder, repo_id, output=output, force=force)
    terminal.say(card)
    written = write_eval_result_files(read_evidence(folder)) if eval_results else []
    for path in written:
        terminal.say(path)
    terminal.answer({"card": str(card), "eval_results": [str(path) for path in written]})
    return 0


render = Command(
    _render,
    name="render",
    epilog="Exit status: 0 done; 1 folder or card unusable, or edited by hand.",
    example="hub-cards render runs/quickstart/model --repo-id USER/NAME",
)
