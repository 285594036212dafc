"""The command line: `convzoo COMMAND`, or `python -m convzoo COMMAND`.

Each command has a file of its own: its arguments, and what it runs. Libraries are imported where a
command needs them, so that `--help` answers at once.
"""

import gc
import sys
from collections.abc import Sequence

from convzoo.errors import expected_problem

INTERRUPTED = 130  # the status of a process that Ctrl-C ended, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 1 for an error, 2 for a wrong command line."""
    own_process = argv is None
    if own_process:
        gc.disable()  # what is imported is no garbage; see convzoo.cli.options.importing
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv), freeze=own_process)
    except KeyboardInterrupt:  # also while importing
        status = INTERRUPTED
    if status == INTERRUPTED:
        print("interrupted", file=sys.stderr)
    return status


def _run(args: list[str], *, freeze: bool) -> int:
    """Run one command; whatever a user can get wrong becomes one line."""
    try:
        from convzoo.cli.parsing import UsageError, usage_message
        from convzoo.cli.program import build_program
    except ModuleNotFoundError as error:
        return _fail(error)
    try:
        program = build_program()
        if freeze:
            gc.freeze()
            gc.enable()
        status = program.main(args or ["--help"], prog_name="convzoo", standalone_mode=False)
        return status or (0 if args else 2)
    except UsageError as error:
        return _fail(usage_message(error), status=2)
    except Exception as error:
        if expected_problem(error) is None:
            raise
        return _fail(error)


def _fail(error: Exception | str, status: int = 1) -> int:
    message = expected_problem(error) if isinstance(error, Exception) else error
    print(f"error: {message}", file=sys.stderr)
    return status
