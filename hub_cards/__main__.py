"""The command line: `python -m hub_cards render MODEL_FOLDER`, and `push`."""

import argparse
import logging
import shutil
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: the arguments; those of the process if None.

    Returns:
        The exit status: 0, or 1 after an error that the user can mend; a push has more, which are
        in `hub_cards.hub.push_errors.EXIT_CODES`, and `verify` has those of
        `hub_cards.verify.verifying.EXIT_CODES`.
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
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


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
    render.add_argument(
        "--eval-results", action="store_true", help="also write .eval_results/*.yaml"
    )
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
    _add_space_commands(commands, push.epilog)

    index = commands.add_parser(
        "index",
        help="a table of several models for a README or an organization card",
        description="Make tables of several models from their result files, one for each dataset, "
        "split and protocol; printed, or put into files.",
        epilog="Exit status: 0 done; 1 an input or file is unusable or, with --check, out of date.",
    )
    index.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a model folder, a Hub id (USER/NAME or USER/NAME@REVISION), or a TOML file with "
        "[[results]] that are quoted or from a benchmark",
    )
    index.add_argument(
        "--readme",
        metavar="FILE",
        help="put the tables between the lines <!-- zoo table: begin --> and <!-- zoo table: end "
        "--> of this file",
    )
    index.add_argument(
        "--org-card", metavar="FILE", help="write the README.md of the Space USER/README"
    )
    index.add_argument("--plot", metavar="FILE", help="draw accuracy against size")
    index.add_argument(
        "--check", action="store_true", help="write no text; exit 1 if one is out of date"
    )
    index.set_defaults(run=_index)

    collection = commands.add_parser(
        "collection",
        help="put models of the Hub into a collection, with notes from their results",
        description="Make a collection on the Hub hold models, the most accurate first, with notes "
        "made of their result files. Nothing is removed, and notes written by hand stay.",
        epilog="Exit status: as of push; 1 is a model without usable files.",
    )
    collection.add_argument(
        "title", metavar="TITLE", help="TITLE or USER/TITLE; created if it is not there"
    )
    collection.add_argument("model_ids", nargs="+", metavar="MODEL_ID", help="USER/NAME on the Hub")
    collection.add_argument("--space", dest="space_id", metavar="USER/NAME", help="a Space, too")
    collection.add_argument("--private", action="store_true", help="create it as a private one")
    collection.add_argument("--dry-run", action="store_true", help="only show what would be sent")
    collection.set_defaults(run=_collection)

    verify = commands.add_parser(
        "verify",
        help="check a published model: files, card, and its numbers by measuring again",
        description="Download one commit of a model, compare its files with the Hub's hashes and "
        "its card with its result files, load it strictly in a process of its own, and repeat its "
        "evaluations on data that has the recorded fingerprint. Numbers hold if at most 0.1 % of "
        "the images (rounded up), or 0.001 or 0.1 % of the loss, are between them; of a sample, "
        "if the interval for all images has them. A card that was edited by hand, or written by "
        "another version, counts as not checked.",
        epilog="Exit status: 0 all holds; 1 input unusable or Hub not reached; 2 wrong command "
        "line; 3 something does not hold; 4 nothing contradicts the card, but something could not "
        "be checked.",
    )
    verify.add_argument("model", metavar="MODEL", help="USER/NAME on the Hub, or a model folder")
    verify.add_argument(
        "--data",
        nargs="+",
        default=(),
        metavar="DATA",
        help="folders or Hub datasets with the images of its evaluations",
    )
    verify.add_argument("--split", default="", help="their split in DATA (the recorded one)")
    verify.add_argument("--revision", help="commit, tag or branch (main); its commit is printed")
    verify.add_argument(
        "--sample",
        type=_positive,
        default=0,
        metavar="N",
        help="measure only N images of each evaluation, drawn at random without replacement",
    )
    verify.add_argument(
        "--seed", type=int, help="of the drawing (a new one, so that nobody can prepare for it)"
    )
    verify.add_argument("--result", metavar="FILE", help="write all of it here, as JSON")
    verify.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run the repository's own code instead of this package's; its process is no sandbox",
    )
    verify.add_argument("--image-column", default="", help="column of images in DATA")
    verify.add_argument("--label-column", default="", help="column of class numbers in DATA")
    verify.add_argument("--batch-size", type=_positive, default=64, help="images per step")
    verify.add_argument("--num-workers", type=int, default=2, help="decoding processes")
    verify.set_defaults(run=_verify)
    return parser


def _add_space_commands(commands, epilog):
    space = commands.add_parser(
        "space",
        help="put the demo page of models on the Hub, as a Space",
        description="Make a Gradio Space show models: app.py, pinned requirements, examples, and a "
        "card. What it shows is decided by its files, so that a copy of it shows the same; run "
        "this again after a model has changed. Nothing is ever deleted there.",
        epilog=epilog,
    )
    space.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="model folders, copied into the Space, or ids on the Hub (USER/NAME[@REVISION]), of "
        "which it notes the commit",
    )
    metric = commands.add_parser(
        "metric",
        help="put a metric on the Hub, as a Space from which evaluate.load gets it",
        description="Make a Space hold the module of an evaluate metric, with a page to try it.",
        epilog=epilog,
    )
    metric.add_argument("folder", metavar="FOLDER", help="with SPACE.py, the metric's module")
    for parser, run in ((space, _space), (metric, _metric)):
        parser.add_argument(
            "repo_id", metavar="USER/SPACE", help="where to; created if it is not there"
        )
        parser.add_argument("--private", action="store_true", help="create it as a private one")
        parser.add_argument("--revision", metavar="BRANCH", help="branch, created if need be")
        parser.add_argument("--create-pr", action="store_true", help="open a pull request instead")
        parser.add_argument("--dry-run", action="store_true", help="only show what would be sent")
        parser.add_argument(
            "--force", action="store_true", help="replace what was made or edited by hand"
        )
        parser.add_argument(
            "--output", metavar="FOLDER", help="write a new folder, to try it here; send nothing"
        )
        parser.set_defaults(run=run)


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1; got {text!r}")
    return int(text)


def _render(args):
    from hub_cards.card.eval_result_files import write_eval_result_files
    from hub_cards.card.rendering import write_card  # only here: --help stays fast
    from hub_cards.evidence.folder import read_evidence

    print(write_card(args.folder, args.repo_id, args.output, args.force))
    if args.eval_results:
        for path in write_eval_result_files(read_evidence(args.folder)):
            print(path)


def _push(args):
    from hub_cards.hub.pushing import push_folder

    return _publish(push_folder, args)


def _space(args):
    from hub_cards.hub.spaces import build_space, push_space

    return _publish(push_space, args, build_space, args.models)


def _metric(args):
    from hub_cards.hub.metric_spaces import build_metric, push_metric

    return _publish(push_metric, args, build_metric, args.folder)


def _publish(push, args, build=None, source=None):
    """Push, or only build a folder; print what came of it, and return the exit status."""
    from huggingface_hub.utils.logging import set_verbosity_error

    from hub_cards.hub.push_errors import PushError

    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("hub_cards").setLevel(logging.INFO)
    set_verbosity_error()  # its warnings show addresses that anybody may upload to
    arguments = {key: value for key, value in vars(args).items() if key != "run"}
    output = arguments.pop("output", None)
    try:
        if output:
            Path(output).mkdir(parents=True)
            try:
                build(source, args.repo_id, output)
            except BaseException:
                shutil.rmtree(output)
                raise
            print(f"{output}: written; `python app.py` there shows it, and nothing was sent")
            return 0
        result = push(**arguments)
    except PushError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if args.dry_run:
        print("dry run: nothing was sent")
    else:
        print(result.pull_request_url or result.commit_url or f"nothing to commit: {result.url}")
    return 0


def _index(args):
    from huggingface_hub.utils import disable_progress_bars

    from hub_cards.index.org_card import write_org_card
    from hub_cards.index.rows import read_rows
    from hub_cards.index.tables import make_tables, render_tables, write_readme

    if args.check and not (args.readme or args.org_card):
        raise ValueError("--check needs a file to compare: --readme FILE or --org-card FILE")
    disable_progress_bars()
    tables = make_tables(read_rows(args.models))
    outdated = 0
    for path, write in ((args.readme, write_readme), (args.org_card, write_org_card)):
        if path:
            current = write(path, tables, args.check)
            outdated += not current
            state = "up to date" if current else "out of date" if args.check else "written"
            print(f"{path}: {state}")
    if args.plot:
        from hub_cards.index.plot import write_plot

        write_plot(args.plot, tables)
        print(f"{args.plot}: written")
    if not (args.readme or args.org_card or args.plot):
        print(render_tables(tables, Path.cwd()))
    return int(args.check and outdated > 0)


def _collection(args):
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_error

    from hub_cards.hub.collection import update_collection
    from hub_cards.hub.push_errors import PushError

    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("hub_cards").setLevel(logging.INFO)
    set_verbosity_error()
    disable_progress_bars()
    arguments = {key: value for key, value in vars(args).items() if key != "run"}
    try:
        result = update_collection(**arguments)
    except PushError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if args.dry_run:
        print("dry run: nothing was sent")
    else:
        print(result.url if result.changes else f"nothing to change: {result.url}")
    return 0


def _verify(args):
    from hub_cards.hub.push_errors import PushError
    from hub_cards.verify.verifying import EXIT_CODES, report, verify, write_result

    if args.result and not Path(args.result).absolute().parent.is_dir():
        raise ValueError(f"--result must lie in a folder that exists; got {args.result}")
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("hub_cards").setLevel(logging.INFO)
    arguments = {key: value for key, value in vars(args).items() if key not in ("run", "result")}
    try:
        verification = verify(**arguments)
    except PushError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report(verification))
    if args.result:
        write_result(verification, args.result)
    return EXIT_CODES[verification.verdict]


if __name__ == "__main__":
    sys.exit(main())
