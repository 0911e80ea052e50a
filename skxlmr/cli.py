"""The command line: `skxlmr convert fairseq model.pt OUT`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from skxlmr.weights import layout
from skxlmr.weights.fairseq import convert_fairseq

# A command adds its parser, and leaves in the parsed arguments, as `run`, the function that carries it out.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, default=None
        Arguments; None takes those of the process.

    Returns
    -------
    int
        0, or 1 after an error, which is one line on the standard error stream. Wrong usage exits with 2.

    Examples
    --------
    >>> main(["convert", "fairseq", "nowhere/model.pt", "xlm-roberta-xl"])  # stderr: ... cannot be read ...
    1
    """
    parser = argparse.ArgumentParser(prog="skxlmr", description="Tools around the checkpoints that skxlmr runs.")
    parser.add_argument("--version", action="version", version=f"skxlmr {version('skxlmr')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add_command in COMMANDS:
        add_command(commands)
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except (OSError, ValueError) as error:
        print(f"skxlmr: error: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _one_line(error: Exception) -> str:
    first, *rest = (line.strip() for line in str(error).splitlines())
    return " ".join([first, "; ".join(rest)]).strip()


def _add_convert(commands: argparse._SubParsersAction) -> None:
    summary = "turn a checkpoint of another format into a directory that from_pretrained loads"
    parser = commands.add_parser("convert", help=summary, description=summary.capitalize() + ".")
    formats = parser.add_subparsers(metavar="FORMAT", required=True)
    fairseq = formats.add_parser(
        "fairseq",
        help="an original XLM-RoBERTa-XL or XXL file",
        description="Turn the model.pt of XLM-RoBERTa-XL or XXL, as fairseq wrote it, into a directory that "
        "from_pretrained loads, here and in transformers. No code in the file is run. Weights keep their precision. "
        f"A {layout.TOKENIZER} beside the file is copied along.",
    )
    fairseq.add_argument("model", type=Path, metavar="MODEL", help="the model.pt")
    fairseq.add_argument("out", type=Path, metavar="OUT", help="the directory to write")
    fairseq.add_argument(
        "--heads", type=int, metavar="N", help="number of attention heads, where the file does not tell it"
    )
    fairseq.add_argument("--force", action="store_true", help="replace a checkpoint that is already in OUT")
    fairseq.set_defaults(run=_convert_fairseq)


def _convert_fairseq(arguments: argparse.Namespace) -> None:
    config = convert_fairseq(
        arguments.model, arguments.out, num_attention_heads=arguments.heads, overwrite=arguments.force
    )
    print(
        f"{arguments.out}: {config['num_hidden_layers']} layers of width {config['hidden_size']}, "
        f"{config['num_attention_heads']} heads, {config['vocab_size']} tokens, {config['torch_dtype']}"
    )
    if not (arguments.out / layout.TOKENIZER).exists():
        print(f"There was no {layout.TOKENIZER} beside {arguments.model}: put it into {arguments.out} to read texts.")


COMMANDS = (_add_convert,)


if __name__ == "__main__":
    sys.exit(main())
