"""The command line: `hub-cards`, or `python -m hub_cards`, with one file for each command.

`--help` needs nothing but this file and `overview`, so that it comes at once; a command loads
typer, and the libraries that it needs when it runs.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: those of the process if None.

    Returns:
        The exit status: 0, 1 after an error that the user can mend, 2 after a wrong command line,
        130 after Ctrl-C; a push has more, which are in `hub_cards.hub.push_errors.EXIT_CODES`, and
        `verify` has those of `hub_cards.verify.verifying.EXIT_CODES`.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given in (["--help"], ["-h"]):
        from hub_cards.cli.overview import overview

        print(overview())
        return 0
    try:
        from hub_cards.cli.application import run

        return run(given)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
