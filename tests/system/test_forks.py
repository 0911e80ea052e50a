import os
import subprocess
import sys

import pytest

from skxlmr.system.forks import after_fork

PROGRAM = """
import os
from skxlmr.system.forks import after_fork

calls = []

@after_fork
def note():
    calls.append(os.getpid())

child = os.fork()
if not child:
    os._exit(calls != [os.getpid()])
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), calls)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_fork_calls_function_in_child_only():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.stdout == "0 []\n", done.stderr


def test_after_fork_without_fork_returns_function(monkeypatch):
    monkeypatch.delattr(os, "register_at_fork", raising=False)

    def function():
        raise AssertionError

    assert after_fork(function) is function
