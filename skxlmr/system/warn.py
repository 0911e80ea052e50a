"""Warnings that name a line of the user."""

from __future__ import annotations

import sys
import warnings

# Frames of these packages are skipped: a call may come through a pipeline, a worker or a thread.
SKIPPED_PACKAGES = {"skxlmr", "sklearn", "joblib", "torch", "concurrent", "threading", "contextlib"}


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning that names the line from which the library was called."""
    warnings.warn(message, category, stacklevel=_user_stacklevel())


def _user_stacklevel() -> int:
    """Return the `stacklevel`, as seen from `warn`, of the first frame outside the skipped packages.

    If there is none, as in a worker thread, it is that of the outermost frame.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _package(frame.f_globals) in SKIPPED_PACKAGES:
        level, frame = level + 1, frame.f_back
    return level


def _package(module_globals: dict[str, object]) -> str:
    return str(module_globals.get("__name__", "")).partition(".")[0]
