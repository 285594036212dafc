"""Run the command line: `python -m hub_cards`."""

import sys

from hub_cards.cli import main

if __name__ == "__main__":
    sys.exit(main())
