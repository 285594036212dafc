"""Run a push with its options, and print what came of it."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hub_cards.cli.terminal import Terminal, print_error

if TYPE_CHECKING:
    from hub_cards.hub.pushing import PushOptions, PushResult


def publish(
    push: Callable[..., "PushResult"], options: "PushOptions", *, terminal: Terminal
) -> int:
    """Push, print the result, and return the exit status.

    Args:
        push: what pushes; it is given the options.
        options: how.
        terminal: where to print.
    """
    from hub_cards.hub.push_errors import PushError

    start_talking(terminal)
    try:
        result = push(options=options)
    except PushError as error:
        print_error(error)
        return error.exit_code
    done = result.pull_request_url or result.commit_url or f"nothing to commit: {result.url}"
    terminal.say("dry run: nothing was sent" if options.dry_run else done)
    terminal.answer({"dry_run": options.dry_run, **asdict(result)})
    return 0


def write_folder(build: Callable[..., object], output: str, *, terminal: Terminal) -> int:
    """Build a Space in a new folder instead of pushing it, and return the exit status.

    Args:
        build: what writes the files into a folder, its `target`.
        output: the folder, which must not be there yet; it is removed after an error.
        terminal: where to print.
    """
    from hub_cards.hub.push_errors import PushError

    start_talking(terminal)
    folder = Path(output)
    folder.mkdir(parents=True)
    try:
        build(target=folder)
    except BaseException as error:
        shutil.rmtree(folder)
        if not isinstance(error, PushError):
            raise
        print_error(error)
        return error.exit_code
    terminal.say(f"{output}: written; `python app.py` there shows it, and nothing was sent")
    terminal.answer({"folder": output})
    return 0


def start_talking(terminal: Terminal) -> None:
    """Print what happens, but no warnings of the Hub's client: they show signed addresses."""
    from huggingface_hub.utils.logging import set_verbosity_error

    terminal.show_log()
    set_verbosity_error()  # type: ignore[no-untyped-call]  # the library's
