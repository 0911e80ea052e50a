from __future__ import annotations

import pytest

from skxlmr.cli.parsing import CommandParser, add_command, did_you_mean, parse


@pytest.fixture
def parser() -> CommandParser:
    parser = CommandParser(prog="try")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run = add_command(commands, "run", lambda arguments: 0, "run it", "At once.", ["try run --fast   # quickly"])
    run.add_argument("--speed", choices=["slow", "fast"])
    run.add_argument("--output", required=True)
    run.add_argument("inputs", nargs="*")
    run.add_argument("--param")
    return parser


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["rum"], "invalid choice: 'rum'. Did you mean 'run'? (run)"),
        (["run", "--output", "x", "--sped", "fast"], "unrecognized argument: --sped. Did you mean '--speed'?"),
        (["run", "--outptu", "x"], "required: --output; unrecognized argument: --outptu. Did you mean '--output'?"),
        (["run", "--output", "x", "--speed", "fats"], "argument --speed: invalid choice: 'fats'. Did you mean 'fast'?"),
        (["run", "--output", "x", "--lr=3"], "--lr=3. Parameters of the estimator are set by --param name=value."),
        (["run", "--out", "x"], "Did you mean '--output'?"),  # options are not abbreviated
    ],
    ids=str,
)
def test_errors_say_what_was_meant(parser, argv, expected, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(parser, argv)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert expected in printed
    assert printed.startswith("try")
    assert printed.count("\n") == 1


def test_parse_returns_the_command(parser):
    arguments = parse(parser, ["run", "--output", "x", "a", "b"])
    assert (arguments.run(arguments), arguments.inputs, arguments.root) == (0, ["a", "b"], parser)


def test_help_fills_paragraphs_and_not_examples(parser, capsys):
    with pytest.raises(SystemExit):
        parse(parser, ["run", "--help"])
    printed = capsys.readouterr().out
    assert "Run it. At once." in printed
    assert printed.endswith("examples:\n  try run --fast   # quickly\n")


def test_did_you_mean_nothing_is_empty():
    assert did_you_mean("colour", ["text", "label"]) == ""
