"""What makes forked processes usable: new locks, one thread for torch, forks between two batches.

A fork copies one thread, that which forks. Two things are then broken in the child: locks that other threads held, and
torch's thread pool (that of GNU OpenMP), whose threads do not exist there. A product that is divided among them waits
for ever. So a child in which torch finds a pool without threads runs it on one thread, from the beginning.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TASKS = Path("/proc/self/task")  # the threads of this process, on Linux
SECONDS_TO_WAIT = 10.0  # for other threads at a fork


def after_fork(function: Callable[[], None]) -> Callable[[], None]:
    """Register a function to be called in every process that is forked from now on.

    Used to create new locks: the thread that holds a lock at the fork does not exist in the child. On systems without
    fork the function is never called.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
    return function


def _threads() -> set[int] | None:
    """Return the ids of the threads of this process; None where the system does not tell."""
    try:
        return {int(path.name) for path in TASKS.iterdir()}
    except OSError:
        return None


class TorchThreads:
    """Whether torch may have started its thread pool in this process, and what a forked child does if it has.

    No function of torch tells whether the pool exists. But the system lists the threads of a process. Those that are
    neither Python's nor were started by the imports, as NumPy's are, may be the pool. They may also be those of another
    library; then a child runs on one thread although it need not.
    """

    def __init__(self) -> None:
        self._of_imports: set[int] = set()
        self._imported_before = "torch" in sys.modules  # torch may have run, and its threads look like NumPy's
        self._started = False

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Import modules of this package inside of it: none of them uses torch's pool, and their threads are noted.

        If torch may have run before, they are not, since its threads cannot be told from those of the imports.

        Yields
        ------
        None
        """
        clean = not self._imported_before and not ("torch" in sys.modules and self.may_have_started())
        yield
        if clean:
            self._of_imports = _threads() or set()

    def note_imports(self, since: str) -> None:
        """Note the threads at the end of a module that is imported directly, if torch was imported `since` it began."""
        order = list(sys.modules)
        if not self._imported_before and order.index("torch") > order.index(since):
            self._of_imports = _threads() or set()

    def may_have_started(self) -> bool:
        """Whether there are threads that may be torch's; True where the system does not tell."""
        threads = _threads()
        if threads is None:
            return True
        of_python = {thread.native_id for thread in threading.enumerate()}
        return not threads <= (self._of_imports | of_python)

    def before_fork(self) -> None:
        """Look for the threads, which can no longer be seen in the child."""
        self._started = "torch" in sys.modules and self.may_have_started()

    def after_in_child(self) -> None:
        """Run torch on one thread if the parent had a pool; it holds for all threads that the child starts, too."""
        self._of_imports = set()
        if self._started:
            sys.modules["torch"].set_num_threads(1)


class Gate:
    """Lets a process be forked only while no other thread is inside a `with gate.inside()` block.

    Inside are the computations with torch, one batch at a time: its own locks, such as those of random generators, can
    neither be seen nor renewed, and a child that inherits one that is held waits for it for ever.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._depths: dict[int, int] = {}  # how often each thread is inside
        self._forks = 0  # threads that wait for a fork, or fork

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be inside; first wait for forks that have begun, unless this thread is inside already."""
        thread = threading.get_ident()
        with self._changed:
            while self._forks and thread not in self._depths:
                self._changed.wait()
            self._depths[thread] = self._depths.get(thread, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._depths[thread] -= 1
                if not self._depths[thread]:
                    del self._depths[thread]
                    self._changed.notify_all()

    def before_fork(self) -> None:
        """Let no further thread in, and wait until all others are out, at most `SECONDS_TO_WAIT`."""
        thread = threading.get_ident()
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: self._depths.keys() <= {thread}, SECONDS_TO_WAIT)

    def after_in_parent(self) -> None:
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def after_in_child(self) -> None:
        """Forget the threads that do not exist here, and the lock that one of them may hold."""
        thread = threading.get_ident()
        depth = self._depths.get(thread)
        self.__init__()  # type: ignore[misc]
        if depth:
            self._depths[thread] = depth


torch_threads = TorchThreads()
gate = Gate()
if hasattr(os, "register_at_fork"):
    for _part in (torch_threads, gate):
        os.register_at_fork(before=_part.before_fork, after_in_child=_part.after_in_child)
    os.register_at_fork(after_in_parent=gate.after_in_parent)
