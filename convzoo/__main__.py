"""`python -m convzoo COMMAND` is `convzoo COMMAND`."""

import sys

from convzoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
