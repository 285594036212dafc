"""`hub-cards metric`: put a metric on the Hub."""

from functools import partial
from typing import Annotated

from typer import Argument

from hub_cards.cli import options
from hub_cards.cli.command import Command
from hub_cards.cli.publishing import publish, write_folder
from hub_cards.cli.terminal import Terminal


def _metric(  # noqa: PLR0913  # typer makes an option of each
    *,
    folder: Annotated[str, Argument(metavar="FOLDER", help="with SPACE.py, the metric's module")],
    repo_id: options.SpaceId,
    private: options.Private = False,
    revision: options.Revision = None,
    create_pr: options.CreatePr = False,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    output: options.SpaceFolder = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Make a Space hold the module of an evaluate metric, with a page to try it."""
    from hub_cards.hub.metric_spaces import build_metric, push_metric
    from hub_cards.hub.pushing import PushOptions

    terminal = Terminal(json=json, quiet=quiet)
    if output:
        return write_folder(partial(build_metric, folder, repo_id), output, terminal=terminal)
    how = PushOptions(
        private=private,
        revision=revision or "main",
        create_pr=create_pr,
        dry_run=dry_run,
        force=force,
    )
    return publish(partial(push_metric, folder, repo_id), how, terminal=terminal)


metric = Command(
    _metric,
    name="metric",
    epilog=options.PUSH_STATUSES,
    example="hub-cards metric convzoo/evaluation/metrics/topk_accuracy USER/topk_accuracy",
)
