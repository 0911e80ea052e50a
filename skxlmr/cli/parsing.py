"""The parser of arguments: help with examples, and errors that say what was probably meant."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

WRONG_USAGE = 2  # the exit code; that of argparse
EXAMPLES = "examples:\n"
MISSING = "the following arguments are required"


class UsageError(ValueError):
    """Options that do not go together, or values that an option does not take."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that names the known name that is most similar, or "".

    Examples
    --------
    >>> did_you_mean("txt", ["text", "label"])
    "Did you mean 'text'?"
    """
    similar = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {similar[0]!r}?" if similar else ""


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs, and leaves examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(EXAMPLES):
            return text
        return super()._fill_text(text, width, indent)


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors suggest the command, the option or the value that was probably meant."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter, "allow_abbrev": False, **settings})
        self._given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As of argparse; keeps the arguments for messages."""
        self._given = list(args or ())
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            meant = did_you_mean(str(value), known)
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}. {meant or 'Choose'} ({', '.join(known)})")

    def error(self, message: str) -> NoReturn:
        """Print a message in one line, and exit with 2."""
        if message.startswith(MISSING):  # perhaps it was misspelt
            message += "".join(f"; {self.unknown(each)}" for each in self._given if self._is_unknown(each))
        end = "" if message.endswith((".", "?", ")")) else "."
        self.exit(WRONG_USAGE, f"{self.prog}: error: {message}{end} See `{self.prog} --help`.\n")

    def unknown(self, argument: str) -> str:
        """Say that an argument is not known, and which one was probably meant."""
        meant = self._similar_option(argument.partition("=")[0])
        if not meant and argument.startswith("--") and "--param" in self._option_string_actions:
            meant = "Parameters of the estimator are set by --param name=value."
        return f"unrecognized argument: {argument}. {meant}".rstrip()

    def _similar_option(self, option: str) -> str:
        """Return a question that names a similar option, or ""; dashes are no similarity."""
        known = {each.lstrip("-"): each for each in self._option_string_actions}
        name = option.lstrip("-")
        longer = [each for each in known if name and each.startswith(name)]
        similar = (longer or difflib.get_close_matches(name, known))[:1]
        return f"Did you mean {known[similar[0]]!r}?" if similar and option.startswith("-") else ""

    def _is_unknown(self, argument: str) -> bool:
        return argument.startswith("--") and argument.partition("=")[0] not in self._option_string_actions


def parse(parser: CommandParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse arguments; exit with 2 if some are not known. The result has the parser as `root`."""
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        of_command: CommandParser = getattr(arguments, "parser", parser)
        of_command.error(of_command.unknown(unknown[0]))
    arguments.root = parser
    return arguments


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int | None] | None,
    summary: str,
    details: str = "",
    examples: Sequence[str] = (),
) -> CommandParser:
    """Add a command, and return its parser.

    Parameters
    ----------
    commands : result of `add_subparsers`
    name : str
    run : callable
        Carries the command out, from its arguments; returns the exit code, None for 0. None for a command that has
        commands of its own.
    summary : str
        One line, for the list of commands.
    details : str, default=""
        What follows it in the help of the command.
    examples : sequence of str
        Command lines.
    """
    shown = EXAMPLES + "\n".join(f"  {line}" for line in examples) if examples else None
    sentence = f"{summary[0].upper()}{summary[1:]}."
    parser = commands.add_parser(name, help=summary, description=f"{sentence} {details}".strip(), epilog=shown)
    if run is not None:
        parser.set_defaults(run=run, parser=parser)
    return parser
