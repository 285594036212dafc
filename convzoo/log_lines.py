"""Which log lines a person sees: ours, and of the libraries those that say what went wrong."""

import logging

OWN_HANDLERS = ("huggingface_hub", "datasets")  # libraries that print their lines themselves
NEEDLESS = "huggingface_hub.repocard"  # a dataset needs no card, and each split would be told so


def show_log_lines(*names: str, level: int) -> None:
    """Print the lines of some loggers from a level on, and each line of a library once.

    Of all others warnings are printed: HTTP clients log each request at INFO.

    Args:
        names: of our loggers.
        level: as in `logging`.
    """
    logging.basicConfig(format="%(message)s")
    for name in names:
        logging.getLogger(name).setLevel(level)
    for name in OWN_HANDLERS:
        logging.getLogger(name).propagate = False
    logging.getLogger(NEEDLESS).setLevel(logging.ERROR)
