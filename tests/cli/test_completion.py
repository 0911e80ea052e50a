from __future__ import annotations

import importlib.util
import sys

import pytest

from skxlmr.cli import main
from skxlmr.cli.completion import SHELLS, actions_of
from skxlmr.cli.program import new_parser


@pytest.mark.skipif(importlib.util.find_spec("shtab") is None, reason="shtab is not installed")
@pytest.mark.parametrize("shell", SHELLS)
def test_completion_prints_a_script_with_commands_and_options(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("skxlmr", "evaluate", "text-column"):
        assert word in script


def test_completion_without_shtab_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert capsys.readouterr().err == "skxlmr: error: completion needs shtab: pip install 'skxlmr[completion]'.\n"


def test_actions_are_those_of_all_commands():
    options = {option for action in actions_of(new_parser()) for option in action.option_strings}
    assert {"--version", "--text-column", "--heads", "--force", "--json"} <= options
