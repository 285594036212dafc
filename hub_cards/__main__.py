"""The command line: `python -m hub_cards render MODEL_FOLDER`."""

import argparse
import sys


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: the arguments; those of the process if None.

    Returns:
        The exit status: 0, or 1 after an error that the user can mend.
    """
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except ModuleNotFoundError as error:
        print(
            f"error: {error}. Install what cards need: pip install -e '.[cards]'", file=sys.stderr
        )
        return 1
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m hub_cards",
        description="Hub model cards from the files of a model folder, and from nothing else.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    render = commands.add_parser("render", help="write README.md into a model folder")
    render.add_argument("folder", metavar="MODEL_FOLDER", help="a finished model folder")
    render.add_argument("--repo-id", metavar="USER/NAME", help="where it will be on the Hub")
    render.add_argument("--output", metavar="FILE", help="write this file instead")
    render.add_argument("--force", action="store_true", help="replace a card edited by hand")
    render.set_defaults(run=_render)
    return parser


def _render(args):
    from hub_cards.model_card import write_card  # only here: --help stays fast

    print(write_card(args.folder, args.repo_id, args.output, args.force))


if __name__ == "__main__":
    sys.exit(main())
