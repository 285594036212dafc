"""The command line: `python -m hub_cards render MODEL_FOLDER`, and `push`."""

import argparse
import logging
import sys


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: the arguments; those of the process if None.

    Returns:
        The exit status: 0, or 1 after an error that the user can mend; a push has more, which are
        in `hub_cards.push_errors.EXIT_CODES`.
    """
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except ModuleNotFoundError as error:
        print(
            f"error: {error}. Install what cards need: pip install -e '.[cards]'", file=sys.stderr
        )
        return 1
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


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

    push = commands.add_parser(
        "push",
        help="put a model folder with its card on the Hub, in one commit",
        description="Put a finished model folder with its card on the Hub, in one commit or not at "
        "all. Log in with `hf auth login` or set HF_TOKEN. Nothing is ever deleted there.",
        epilog="Exit status: 0 done; 1 folder or card unusable; 2 no valid name or branch; 3 no "
        "token, or not a valid one; 4 token may not write there; 5 name taken; 6 card edited by "
        "hand on the Hub; 7 Hub not reached; 8 terms not accepted; 9 refused by the Hub.",
    )
    push.add_argument("folder", metavar="MODEL_FOLDER", help="a finished model folder")
    push.add_argument("repo_id", metavar="USER/NAME", help="where to; created if it is not there")
    push.add_argument("--private", action="store_true", help="create it as a private one")
    push.add_argument("--revision", metavar="BRANCH", help="branch, created if it is not there")
    push.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    push.add_argument("--dry-run", action="store_true", help="only show what would be sent")
    push.add_argument(
        "--force",
        action="store_true",
        help="replace a card edited by hand on the Hub; use the name of a dataset or Space",
    )
    push.set_defaults(run=_push)
    return parser


def _render(args):
    from hub_cards.model_card import write_card  # only here: --help stays fast

    print(write_card(args.folder, args.repo_id, args.output, args.force))


def _push(args):
    from huggingface_hub.utils.logging import set_verbosity_error

    from hub_cards.push_errors import PushError
    from hub_cards.pushing import push_folder

    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("hub_cards").setLevel(logging.INFO)
    set_verbosity_error()  # its warnings show addresses that anybody may upload to
    arguments = {key: value for key, value in vars(args).items() if key != "run"}
    try:
        result = push_folder(**arguments)
    except PushError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if args.dry_run:
        print("dry run: nothing was sent")
    else:
        print(result.pull_request_url or result.commit_url or f"nothing to commit: {result.url}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
