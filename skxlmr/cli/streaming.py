"""What commands share that go through a table in blocks: options of the output, progress, and rows that failed."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from skxlmr.cli.loading import ROWS_FAILED
from skxlmr.cli.parameters import add_parameter_options
from skxlmr.cli.parsing import CommandParser, UsageError
from skxlmr.cli.tables import Block

SECONDS_BETWEEN_LINES = 10.0
OUTPUT_FORMATS = ("csv", "tsv", "jsonl", "parquet")


def add_output_options(
    parser: CommandParser, keep: str = "a column of the input to write, too; may be repeated; default: all"
) -> None:
    """Add the options of where and what is written; `keep` is the help of --keep."""
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="a file, which is replaced as a whole; default: standard output"
    )
    parser.add_argument(
        "--output-format",
        choices=OUTPUT_FORMATS,
        metavar="FORMAT",
        help=f"{', '.join(OUTPUT_FORMATS)}; default: by the name of the file, or that of the input",
    )
    parser.add_argument(
        "--json", action="store_const", const="jsonl", dest="output_format", help="write JSON lines, one per row"
    )
    parser.add_argument("--keep", action="append", metavar="NAME", help=keep)
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    add_parameter_options(parser)


def first_of(blocks: Iterator[Block]) -> tuple[Block, Iterator[Block]]:
    """Return the first block, and all of them.

    Raises
    ------
    ValueError
        If there is none.
    """
    first = next(blocks, None)
    if first is None:
        raise ValueError("The input has no rows.")
    return first, chain([first], blocks)


def check_output(arguments: argparse.Namespace) -> None:
    """Raise an error before anything is predicted if --output cannot be written."""
    if arguments.output is None:
        return
    output = Path(arguments.output).expanduser()
    if any(Path(name).expanduser().absolute() == output.absolute() for name in arguments.inputs):
        raise UsageError(f"--output {output} is also an input. Choose another file.")
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder. Name a file in it, or write in parts with --output-dir.")
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"The folder {output.parent} of --output does not exist. Create it first.")


class Failures:
    """Rows without a prediction."""

    def __init__(self) -> None:
        self._rows = self._count = 0
        self._first = ""

    def add(self, places: Sequence[str], errors: Sequence[str | None]) -> None:
        """Note the errors of rows; None where there was none."""
        self._rows += len(errors)
        for place, error in zip(places, errors, strict=True):
            if error is not None:
                self._count += 1
                self._first = self._first or f"{place}, {error}"

    def report(self) -> int:
        """Print how many they are on standard error, and return the exit code."""
        if not self._count:
            return 0
        print(
            f"skxlmr: {self._count:,} of {self._rows:,} rows have no prediction. The first: {self._first}",
            file=sys.stderr,
        )
        return ROWS_FAILED


class RowCount:
    """Shows on standard error how many rows are predicted: a line from time to time, in a terminal the same one."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet or sys.stderr is None
        self._terminal = not self._quiet and sys.stderr.isatty()
        self._count, self._started = 0, time.monotonic()
        self._next = self._started + (0 if self._terminal else SECONDS_BETWEEN_LINES)

    def __enter__(self) -> RowCount:
        return self

    def __exit__(self, *error: object) -> None:
        if self._terminal and self._count:
            print(file=sys.stderr)

    def add(self, n_rows: int) -> None:
        """Count rows."""
        self._count += n_rows
        now = time.monotonic()
        if self._quiet or now < self._next:
            return
        self._next = now + (0 if self._terminal else SECONDS_BETWEEN_LINES)
        rate = self._count / max(now - self._started, 1e-9)
        line = f"skxlmr: {self._count:,} rows, {rate:,.0f} rows/s"
        print(f"\r{line}" if self._terminal else line, file=sys.stderr, end="" if self._terminal else "\n", flush=True)
