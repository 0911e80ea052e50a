"""The command `completion`: scripts with which shells complete commands, options and file names."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from skxlmr.cli.parsing import CommandParser, add_command

SHELLS = ("bash", "zsh", "tcsh")
FILES = ("FILE", "INPUT")  # metavars of arguments that are files
DIRECTORIES = ("DIR", "MODEL")


def add_commands(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "completion",
        _completion,
        "print a script with which a shell completes this command",
        "Needs the extra: pip install 'skxlmr[completion]'.",
        [
            "skxlmr completion bash > ~/.local/share/bash-completion/completions/skxlmr",
            "skxlmr completion zsh > ~/.zfunc/_skxlmr   # a folder of your $fpath",
        ],
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def _completion(arguments: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError as error:
        raise ImportError("completion needs shtab: pip install 'skxlmr[completion]'.") from error
    for action in actions_of(arguments.root):
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    print(shtab.complete(arguments.root, arguments.shell))


def actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser, and of all its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                assert isinstance(command, CommandParser)
                yield from actions_of(command)
