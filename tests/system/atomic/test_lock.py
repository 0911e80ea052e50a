from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from skxlmr.system.atomic import lock
from skxlmr.system.atomic.lock import locked

fcntl = pytest.importorskip("fcntl", reason="Windows has no lock of directories")

HOLD = """
import sys
from pathlib import Path
from skxlmr.system.atomic.lock import locked

with locked(Path(sys.argv[1])) as is_locked:
    print(is_locked, flush=True)
    sys.stdin.readline()
"""


def test_locked_waits_for_other_thread(tmp_path: Path):
    order, entered = [], threading.Event()

    def first() -> None:
        with locked(tmp_path):
            entered.set()
            time.sleep(0.05)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    with locked(tmp_path) as is_locked:
        order.append("second")
    thread.join()
    assert is_locked
    assert order == ["first", "second"]
    assert os.listdir(tmp_path) == []


def test_locked_after_holder_was_killed_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        monkeypatch.setattr(lock, "LOCK_SECONDS", 0.05)
        with locked(tmp_path) as is_locked:
            assert not is_locked, "the other process holds it"
        holder.kill()
        holder.wait()
    monkeypatch.setattr(lock, "LOCK_SECONDS", 60)
    with locked(tmp_path) as is_locked:
        assert is_locked


def test_locked_where_locks_are_missing_yields_false(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path) as is_locked:
        assert not is_locked


def test_locked_creates_directory_that_another_writer_removed(tmp_path: Path):
    with locked(tmp_path / "gone") as is_locked:
        assert is_locked
    assert (tmp_path / "gone").is_dir()


def test_locked_with_error_in_block_releases(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path):
        raise KeyboardInterrupt
    with locked(tmp_path) as is_locked:
        assert is_locked
