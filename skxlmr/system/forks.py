"""Functions that run in forked processes."""

from __future__ import annotations

import os
from collections.abc import Callable


def after_fork(function: Callable[[], None]) -> Callable[[], None]:
    """Register a function to be called in every process that is forked from now on.

    Used to create new locks: the thread that holds a lock at the fork does not exist in the child. On systems without
    fork the function is never called.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
    return function
