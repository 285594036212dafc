"""The page of `hub-cards --help`: all commands with one line each, as typer would print it."""

import textwrap

DESCRIPTION = "Hub model cards from the files of a model folder, and from nothing else."
SUMMARIES = {
    "render": "write README.md into a model folder",
    "push": "put a model folder with its card on the Hub, in one commit",
    "space": "put the demo page of models on the Hub, as a Space",
    "metric": "put a metric on the Hub, as a Space from which evaluate.load gets it",
    "index": "a table of several models for a README or an organization card",
    "collection": "put models of the Hub into a collection, with notes from their results",
    "verify": "check a published model: files, card, and its numbers by measuring again",
}
OPTIONS = {
    "--version": "Print the version and exit.",
    "--install-completion": "Install completion for the current shell.",
    "--show-completion": "Show completion for the current shell, to copy it or customize the "
    "installation.",
    "-h, --help": "Show this message and exit.",
}
EXAMPLE = "Example:\n    hub-cards render runs/quickstart/model"
WIDTH = 78


def overview() -> str:
    """Write the page."""
    return "\n".join(
        [
            "Usage: hub-cards [OPTIONS] COMMAND [ARGS]...",
            "",
            f"  {DESCRIPTION}",
            "",
            "Options:",
            *_columns(OPTIONS),
            "",
            "Commands:",
            *_columns(SUMMARIES),
            "",
            f"  {EXAMPLE}",
        ]
    )


def _columns(rows: dict[str, str]) -> list[str]:
    indent = max(map(len, rows)) + 4
    return [
        line
        for name, text in rows.items()
        for line in textwrap.wrap(
            text,
            WIDTH,
            initial_indent=f"  {name}".ljust(indent),
            subsequent_indent=" " * indent,
        )
    ]
