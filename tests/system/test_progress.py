import os
import subprocess
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_progress_bar_in_child_of_process_whose_other_thread_draws_one():
    program = """
import os, sys, threading
from skxlmr.system.progress import progress_bar
sys.stderr.isatty = lambda: True
with progress_bar(3, "load") as bar:
    lock = type(bar).get_lock()
held = threading.Event()
def draw():
    with lock:
        held.set()
        threading.Event().wait(1)
thread = threading.Thread(target=draw)
thread.start()
held.wait()
child = os.fork()
if not child:
    with progress_bar(3, "load") as bar:
        bar.update(3)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "0\n", done.stderr
