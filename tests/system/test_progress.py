import sys
import types

import pytest

from skxlmr.system.progress import progress_bar


def written(capsys, **options):
    with progress_bar(3, "load", unit="step", **options) as bar:
        bar.update(3)
    return capsys.readouterr().err


def test_progress_bar_in_terminal_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "load: 100%" in written(capsys)
    assert written(capsys, shown=False) == ""


def test_progress_bar_without_terminal_writes_nothing(capsys):
    assert written(capsys) == ""


@pytest.mark.parametrize(("shell", "shown"), [({"kernel": object()}, True), ({}, False), (None, False)])
def test_progress_bar_in_ipython_is_shown_with_kernel_only(capsys, monkeypatch, shell, shown):
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: None if shell is None else types.SimpleNamespace(**shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert bool(written(capsys)) == shown


def test_progress_bar_of_bytes_scales_units(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar(5_000_000, "load") as bar:
        bar.update(5_000_000)
    assert "5.00M/5.00M" in capsys.readouterr().err
