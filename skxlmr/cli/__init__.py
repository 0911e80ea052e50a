"""The command line: the program `skxlmr`. One module per subject; each imports large libraries when a command runs."""

from skxlmr.cli.program import main

__all__ = ["main"]
