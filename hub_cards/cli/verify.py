"""`hub-cards verify`: check a published model by measuring it again."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from hub_cards.cli.command import Command
from hub_cards.cli.options import Json, Quiet
from hub_cards.cli.terminal import Terminal, print_error


def _verify(  # noqa: PLR0913  # typer makes an option of each
    *,
    model: Annotated[
        str, Argument(metavar="MODEL", help="USER/NAME on the Hub, or a model folder")
    ],
    data: Annotated[
        list[str],
        Option(
            "--data",
            metavar="DATA...",
            help="folders or Hub datasets with the images of its evaluations",
        ),
    ] = [],  # noqa: B006  # typer reads it only
    split: Annotated[
        str, Option("--split", metavar="SPLIT", help="their split in DATA (the recorded one)")
    ] = "",
    revision: Annotated[
        str | None,
        Option(
            "--revision",
            metavar="REVISION",
            help="commit, tag or branch (main); its commit is printed",
        ),
    ] = None,
    sample: Annotated[
        int | None,
        Option(
            "--sample",
            metavar="N",
            min=1,
            help="measure only N images of each evaluation, drawn at random without replacement",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        Option(
            "--seed",
            metavar="SEED",
            help="of the drawing (a new one, so that nobody can prepare for it)",
        ),
    ] = None,
    real_labels: Annotated[
        str,
        Option(
            "--real-labels",
            metavar="FILE",
            help="real.json of google-research/reassessed-imagenet, to count accuracies by "
            "reassessed labels again",
        ),
    ] = "",
    result: Annotated[
        str | None, Option("--result", metavar="FILE", help="write all of it here, as JSON")
    ] = None,
    trust_remote_code: Annotated[
        bool,
        Option(
            "--trust-remote-code",
            help="run the repository's own code instead of this package's; its process is no "
            "sandbox",
        ),
    ] = False,
    image_column: Annotated[
        str, Option("--image-column", metavar="NAME", help="column of images in DATA")
    ] = "",
    label_column: Annotated[
        str, Option("--label-column", metavar="NAME", help="column of class numbers in DATA")
    ] = "",
    root: Annotated[
        str,
        Option(
            "--root",
            metavar="FOLDER",
            help="that the paths in DATA, a list of images, are relative to; that of the list by "
            "default",
        ),
    ] = "",
    batch_size: Annotated[
        int, Option("--batch-size", metavar="N", min=1, help="images per step")
    ] = 64,
    num_workers: Annotated[
        int, Option("--num-workers", metavar="N", help="decoding processes")
    ] = 2,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Check a published model: files, card, and its numbers by measuring again.

    Download one commit of a model, compare its files with the Hub's hashes and its card with its
    result files, load it strictly in a process of its own, and repeat its evaluations on data that
    has the recorded fingerprint.

    Numbers hold if at most 0.1 % of the images (rounded up), or 0.001 or 0.1 % of the loss, are
    between them; of a sample, if the interval for all images has them. A card that was edited by
    hand, or written by another version, counts as not checked.
    """
    from hub_cards.hub.push_errors import PushError
    from hub_cards.verify.report import report, verification_record, write_result
    from hub_cards.verify.verifying import EXIT_CODES, Measuring, verify

    if result and not Path(result).absolute().parent.is_dir():
        raise ValueError(f"--result must lie in a folder that exists; got {result}")
    if real_labels and not Path(real_labels).is_file():
        raise ValueError(f"--real-labels must name a file; there is no {real_labels}")
    terminal = Terminal(json=json, quiet=quiet)
    terminal.show_log()
    measuring = Measuring(
        data=tuple(data),
        split=split,
        image_column=image_column,
        label_column=label_column,
        root=root,
        sample=sample or 0,
        seed=seed,
        real_labels=real_labels,
        trust_remote_code=trust_remote_code,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    try:
        verification = verify(model, measuring, revision=revision)
    except PushError as error:
        print_error(error)
        return 1
    terminal.say(report(verification))
    terminal.answer(verification_record(verification))
    if result:
        write_result(verification, result)
    return EXIT_CODES[verification.verdict]


verify = Command(
    _verify,
    name="verify",
    epilog="Exit status: 0 all holds; 1 input unusable or Hub not reached; 2 wrong command line; 3 "
    "something does not hold; 4 nothing contradicts the card, but something could not be checked.",
    example="hub-cards verify USER/NAME --data data/fashion-mnist --sample 500",
)
