"""A lock of a directory, for which writers wait."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_SECONDS = 60.0  # it is held while files are renamed, which takes milliseconds
POLL_SECONDS = 0.005


@contextmanager
def locked(directory: Path) -> Iterator[bool]:
    """Hold the lock of a directory, which is created if absent, in the block; yield False where that is impossible.

    It is the system's lock (flock) of the directory itself: it needs no file, works between threads and processes, and
    ends with the process that holds it. There is none on Windows and on some network file systems, nor if another
    process that is stopped holds it for longer than `LOCK_SECONDS`.
    """
    held = _acquire(directory)
    try:
        yield held is not None
    finally:
        if held is not None:
            held.release()


class _OpenDirectory:
    """An open directory, which is closed at the latest when the object is deleted."""

    def __init__(self, directory: Path) -> None:
        self.descriptor = -1
        self.descriptor = os.open(directory, os.O_RDONLY)

    def release(self) -> None:
        """Unlock and close it; a child process that was forked meanwhile has a copy of the descriptor."""
        import fcntl

        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            try:
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            finally:
                with suppress(OSError):
                    os.close(descriptor)

    __del__ = release


def _acquire(directory: Path) -> _OpenDirectory | None:
    try:
        import fcntl
    except ImportError:  # on Windows
        return None
    deadline = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline:
        try:
            opened = _OpenDirectory(directory)
            fcntl.flock(opened.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another writer may have put a new directory in its place meanwhile.
            if os.path.samestat(os.fstat(opened.descriptor), os.stat(directory)):
                return opened
            opened.release()
        except FileNotFoundError:  # another writer has failed, and removed the directory that it had created
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                return None  # the file system has no locks, or the directory is not readable
            time.sleep(POLL_SECONDS)
    return None
