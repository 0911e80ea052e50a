"""Integers that a caller gives."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def check_integer(name: str, value: Any, least: int) -> None:
    """Raise TypeError if an argument is not an integer, or is a bool, and ValueError if it is too small.

    >>> check_integer("top_k", 0, 1)
    Traceback (most recent call last):
        ...
    ValueError: top_k must be at least 1, got 0.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r:.60}.")
    if int(value) < least:
        raise ValueError(f"{name} must be at least {least}, got {int(value)}.")
