"""Exchanging two directories in one step, which Linux can."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux' fcntl.h and stdio.h


def can_exchange(directory: Path) -> bool:
    """Whether another directory beside this one may take its place.

    It may not if that is a mount point, or if this process is at work in it, whose relative paths would lead to the
    old directory from then on.
    """
    parent = directory.parent
    try:
        return (
            _renameat2() is not None
            and not os.path.ismount(directory)
            and os.stat(parent).st_dev == os.stat(directory).st_dev
            and os.access(parent, os.W_OK | os.X_OK)
            and not Path(os.getcwd()).is_relative_to(directory)
        )
    except OSError:
        return False


def exchange(first: Path, second: Path) -> None:
    """Exchange two paths at once; raises OSError if the system or the file system cannot."""
    function = _renameat2()
    if function is None:
        raise NotImplementedError("renameat2")
    if function(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(second))


@cache
def _renameat2() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # an old or another C library
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function
