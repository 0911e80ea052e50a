"""Forked processes: what must not be carried over from the parent."""

from __future__ import annotations

import os
from collections.abc import Callable


def after_fork(function: Callable[[], None]) -> Callable[[], None]:
    """Have a function called in every child that is forked from now on; on systems without fork, never.

    Locks have to be made anew there: the thread that held one was not copied.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
    return function
