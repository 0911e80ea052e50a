"""Faults at file operations: each call of the functions that change or open files is counted, and one of them fails."""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from skxlmr.system.atomic import whole

FUNCTIONS = [
    *((os, name) for name in "open write close fsync rename replace unlink remove mkdir rmdir link chmod".split()),
    *((os, name) for name in "scandir listdir statvfs lseek".split()),
    (io, "open"),
    (builtins, "open"),
    (fcntl, "flock"),
    (whole, "exchange"),
]
ALWAYS_DONE = ("close",)  # even if they report an error


class Fault:
    """What happens in an operation, instead of it or after it."""

    def __init__(self, name: str, number: int | None = None, *, after: bool = False, lasting: bool = False) -> None:
        self.name, self.errno, self.after, self.lasting = name, number, after, lasting

    def happen(self) -> None:
        if self.name.startswith("SIGKILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.errno is None:
            raise KeyboardInterrupt
        raise OSError(self.errno, os.strerror(self.errno))


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("SIGKILL"),
        Fault("SIGINT before"),
        Fault("SIGINT after", after=True),
        Fault("ENOSPC", errno.ENOSPC),
        Fault("ENOSPC from then on", errno.ENOSPC, lasting=True),
        Fault("EMFILE", errno.EMFILE),
        Fault("EACCES", errno.EACCES),
        Fault("EACCES from then on", errno.EACCES, lasting=True),
    )
}


class Counter:
    """The operations so far; the one with the number `at` meets the fault."""

    def __init__(self, fault: Fault | None, at: int) -> None:
        self.fault, self.at, self.names = fault, at, []
        self.opened: list[Any] = []  # files that an interrupted caller does not know of

    def call(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.names.append(name)
        fault, number = self.fault, len(self.names)
        if fault is None or not (number == self.at or (fault.lasting and number > self.at)):
            return None if name == "fsync" else original(*args, **kwargs)
        if fault.after or name in ALWAYS_DONE:
            result = original(*args, **kwargs)
            self.opened += [result] if name == "open" else []
        elif name == "write":
            original(args[0], args[1][: len(args[1]) // 2])
        fault.happen()
        return None


@contextmanager
def counted(fault: Fault | None = None, at: int = 0) -> Iterator[Counter]:
    """Count the file operations in the block; the fault happens in number `at`. Nothing is flushed to the disk."""
    counter, originals = Counter(fault, at), [getattr(module, name) for module, name in FUNCTIONS]

    def replaced(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: counter.call(name, original, *args, **kwargs)

    for (module, name), original in zip(FUNCTIONS, originals, strict=True):
        setattr(module, name, replaced(name, original))
    try:
        yield counter
    finally:
        for (module, name), original in zip(FUNCTIONS, originals, strict=True):
            setattr(module, name, original)
        for opened in counter.opened:
            os.close(opened) if isinstance(opened, int) else opened.close()
