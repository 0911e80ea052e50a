"""Sizes in messages."""

from __future__ import annotations


def in_bytes(n_bytes: int) -> str:
    """Return a size with the unit in which it has at least one digit before the point.

    >>> in_bytes(14_200_000_000), in_bytes(3_450_000), in_bytes(20)
    ('14.2 GB', '3.5 MB', '20 bytes')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} bytes"
