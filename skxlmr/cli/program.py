"""The program: it runs one command, and reports errors, warnings and its exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

from skxlmr.cli import answering, completion, evaluating, models, predicting, training
from skxlmr.cli.output import Output, OutputError
from skxlmr.cli.parsing import EXAMPLES, WRONG_USAGE, CommandParser, UsageError, parse

ERROR = 1
INTERRUPTED = 128 + 2  # what shells report of a program that the signal SIGINT, number 2, has ended
READER_HAS_ENDED = 128 + 13  # and SIGPIPE, number 13

MODULES = (training, predicting, evaluating, answering, models, completion)

# Of the user's input, files, options and machine: these are reported in one line. Others are errors of this library.
REPORTED = (OSError, ValueError, TypeError, ImportError, ArithmeticError, MemoryError, RuntimeError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, default=None
        Arguments; None takes them from `sys.argv`.

    Returns
    -------
    int
        0, or 1 after an error, which is reported in one line on standard error. Wrong usage exits with 2. Commands that
        predict return 3 if rows have no prediction. 130 after an interruption, as by Ctrl-C. If a program that reads
        the output has ended, as `head` does, it is 141, which shells report for other tools, too.

    Examples
    --------
    >>> main(["convert", "fairseq", "nowhere/model.pt", "xlm-roberta-xl"])  # stderr: ... cannot be read ...
    1
    """
    output = Output(sys.stdout)
    try:
        with contextlib.redirect_stdout(output), warnings_in_one_line():
            try:
                return _run(sys.argv[1:] if argv is None else argv)
            finally:
                output.flush()
    except OutputError as error:
        output.abandon()
        return READER_HAS_ENDED if isinstance(error.cause, BrokenPipeError) else report(error.cause)
    except KeyboardInterrupt:
        print("skxlmr: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(argv: Sequence[str]) -> int:
    arguments = parse(new_parser(), argv)
    try:
        return arguments.run(arguments) or 0
    except UsageError as error:
        report(error)
        return WRONG_USAGE
    except REPORTED as error:
        if arguments.traceback:
            raise
        return report(error)


def new_parser() -> CommandParser:
    """Return the parser of all commands."""
    examples = (
        "skxlmr train reviews.csv --model e5-small --output sentiment",
        "skxlmr predict sentiment new.csv --output predicted.csv",
        "cat new.jsonl | skxlmr predict sentiment --json | head",
        "skxlmr evaluate sentiment test.csv --group-column language",
        "skxlmr COMMAND --help",
    )
    parser = CommandParser(
        prog="skxlmr",
        description="Train models on tables with columns of texts, predict with them, and manage their files.",
        epilog=EXAMPLES + "\n".join(f"  {line}" for line in examples),
    )
    parser.add_argument("--version", action="version", version=f"skxlmr {version('skxlmr')}")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from, for bug reports")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in MODULES:
        module.add_commands(commands)
    return parser


def report(error: BaseException) -> int:
    """Print an error in one line, and return the exit code of errors."""
    print(f"skxlmr: error: {one_line(error)}", file=sys.stderr)
    return ERROR


def one_line(error: BaseException | str) -> str:
    """Return a message in one line.

    Examples
    --------
    >>> one_line(ValueError("Wrong:\\n  this\\n  that"))
    'Wrong: this; that'
    """
    first, *rest = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    return " ".join([first, "; ".join(rest)]).strip()


@contextlib.contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Show warnings for users in one line on standard error, without the line of code that they come from."""

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        print(f"skxlmr: warning: {one_line(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        if not sys.warnoptions and "PYTHONWARNINGS" not in os.environ:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
