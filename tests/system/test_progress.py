import io
import logging
import os
import subprocess
import sys
import types

import pytest

from skxlmr.system import progress
from skxlmr.system.progress import progress_bar


def written(capsys, **options):
    with progress_bar(3, "load", unit="step", **options) as bar:
        bar.update(3)
    return capsys.readouterr().err


def test_progress_bar_in_terminal_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "load: 100%" in written(capsys)
    assert written(capsys, shown=False) == ""


def test_progress_without_terminal_writes_lines_of_long_work_only(capsys, monkeypatch):
    assert written(capsys) == "", "it takes less than SECONDS_BETWEEN_LINES"
    clock = iter([0.0, 10.0, 60.0, 70.0, 240.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress_bar(4000, "predict", unit="char") as bar:
        for _ in range(4):
            bar.update(1000)
    assert capsys.readouterr().err == "predict: 50% of 4,000 char, 1:00 passed, 1:00 left\n"


def test_progress_bar_with_lines_false_without_terminal_writes_nothing(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert written(capsys, lines=False) == ""


def test_progress_in_worker_process_is_not_a_bar(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert progress.can_draw()
    monkeypatch.setattr(progress.multiprocessing, "parent_process", object)
    assert not progress.can_draw()


def test_progress_without_stderr_writes_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # pythonw, services
    with progress_bar(3, "load") as bar:
        bar.update(3)
    progress.write_line("epoch 1")


@pytest.mark.parametrize(("level", "shown"), [(logging.INFO, False), (logging.WARNING, True)])
def test_line_that_a_handler_of_the_log_shows_is_not_written_twice(capsys, monkeypatch, level, shown):
    handler = logging.StreamHandler(io.StringIO())
    logger = logging.getLogger("skxlmr")
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, handler])
    monkeypatch.setattr(logger, "level", level)
    logger.manager._clear_cache()
    progress.write_line("epoch 1")
    logger.manager._clear_cache()
    assert bool(capsys.readouterr().err) == shown


def test_fits_of_clones_of_one_object_are_counted_together():
    class Estimator:
        pass

    user, search, other = Estimator(), Estimator(), Estimator()
    progress.count_with_siblings(search, user)
    candidates = [Estimator() for _ in range(3)]
    for candidate in candidates:
        progress.count_with_siblings(candidate, search)
    assert [progress.number_of_fit(candidate) for candidate in candidates] == [1, 2, 3]
    assert progress.number_of_fit(search) == 1
    assert progress.number_of_fit(other) is None


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
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout == "0\n", done.stderr
