import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import skxlmr
from skxlmr.system import forks
from skxlmr.system.forks import Gate, TorchThreads, after_fork

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

CHILD = """
import os
def in_child(function):
    child = os.fork()
    if not child:
        os._exit(function())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""

PROGRAM = """
from skxlmr.system.forks import after_fork

calls = []

@after_fork
def note():
    calls.append(os.getpid())

print(in_child(lambda: calls != [os.getpid()]), calls)
"""


def run(program):
    """Return the output of a program, which is killed after a minute."""
    done = subprocess.run([sys.executable, "-c", CHILD + program], capture_output=True, text=True, timeout=300)
    return done.stdout or done.stderr


@needs_fork
def test_after_fork_calls_function_in_child_only():
    assert run(PROGRAM) == "0 []\n"


def test_after_fork_without_fork_returns_function(monkeypatch):
    monkeypatch.delattr(os, "register_at_fork", raising=False)

    def function():
        raise AssertionError

    assert after_fork(function) is function


START_THREAD = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
MULTIPLY = "matrix = torch.ones(600, 600); matrix @ matrix\n"


@pytest.mark.skipif(not forks.TASKS.exists(), reason="needs /proc, to see the threads of a process")
@pytest.mark.parametrize(
    ("program", "threads"),
    [
        ("from skxlmr import load\nimport torch\n", 2),
        ("import skxlmr.model, torch\n", 2),
        ("from skxlmr import load\nimport torch\n" + MULTIPLY, 1),
        ("import skxlmr, torch\n" + MULTIPLY + "from skxlmr import load\n", 1),
        ("import torch\n" + MULTIPLY + "from skxlmr import load\n", 1),
        ("import skxlmr.model, torch\n" + START_THREAD, 2),
        ("import skxlmr, torch\n" + MULTIPLY + "in_child_of_child = True\n", 1),
    ],
    ids=[
        "nothing has run",
        "submodule",
        "after a product",
        "product between imports",
        "product before the import",
        "thread of Python",
        "grandchild",
    ],
)
def test_child_runs_torch_on_one_thread_if_its_parent_has_run_it(program, threads):
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    count = "torch.get_num_threads() if (torch.ones(600, 600) @ torch.ones(600, 600)).sum() else 0"
    fork = f"print(in_child(lambda: {count}))\n"
    if "in_child_of_child" in program:
        fork = f"print(in_child(lambda: in_child(lambda: {count})))\n"
    done = subprocess.run(
        [sys.executable, "-c", CHILD + program + fork], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"{threads}\n", done.stderr


def test_torch_threads_without_proc_may_have_started(monkeypatch, tmp_path):
    monkeypatch.setattr(forks, "TASKS", tmp_path / "missing")
    assert TorchThreads().may_have_started()


def entered(gate, go_on):
    """Enter a gate in another thread, which leaves it when the event is set; return the thread."""
    inside = threading.Event()

    def work():
        with gate.inside():
            inside.set()
            go_on.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(30)
    return thread


def test_gate_before_fork_waits_for_other_threads():
    gate, go_on = Gate(), threading.Event()
    worker = entered(gate, go_on)
    forking = threading.Thread(target=gate.before_fork)
    forking.start()
    forking.join(0.2)
    assert forking.is_alive(), "it forks although a thread is inside"
    go_on.set()
    forking.join(30)
    assert not forking.is_alive()
    late = threading.Thread(target=lambda: gate.inside().__enter__())
    late.start()
    late.join(0.2)
    assert late.is_alive(), "a thread enters during the fork"
    gate.after_in_parent()
    for thread in (late, worker):
        thread.join(30)
        assert not thread.is_alive()


def test_gate_before_fork_of_thread_that_is_inside_does_not_wait(monkeypatch):
    monkeypatch.setattr(forks, "SECONDS_TO_WAIT", 1e6)
    gate = Gate()
    with gate.inside():
        gate.before_fork()
        with gate.inside():  # it may enter again
            pass
        gate.after_in_parent()


def test_gate_before_fork_waits_for_a_limited_time(monkeypatch):
    monkeypatch.setattr(forks, "SECONDS_TO_WAIT", 0.01)
    gate, go_on = Gate(), threading.Event()
    worker = entered(gate, go_on)
    gate.before_fork()
    gate.after_in_parent()
    go_on.set()
    worker.join(30)
    assert not worker.is_alive()


@needs_fork
def test_gate_in_child_is_open_although_another_thread_was_inside():
    program = """
import threading
from skxlmr.system import forks
forks.SECONDS_TO_WAIT = 0.01
inside = threading.Event()
def work():
    with forks.gate.inside():
        inside.set()
        threading.Event().wait()
threading.Thread(target=work, daemon=True).start()
inside.wait()
def child():
    forks.SECONDS_TO_WAIT = 1e6
    with forks.gate.inside():
        return in_child(lambda: 0)
print(in_child(child))
"""
    assert run(program) == "0\n"


def test_package_has_no_property_with_a_lock():
    """`functools.cached_property` of Python 3.10 and 3.11 holds a lock, which nothing renews in a forked child."""
    sources = Path(skxlmr.__file__).parent.rglob("*.py")
    pattern = re.compile(r"^\s*@(functools\.)?cached_property|import .*\bcached_property", re.MULTILINE)
    assert [path.name for path in sources if pattern.search(path.read_text(encoding="utf-8"))] == []
