"""`python -m skxlmr` is the command `skxlmr`."""

import sys

from skxlmr.cli import main

if __name__ == "__main__":
    sys.exit(main())
