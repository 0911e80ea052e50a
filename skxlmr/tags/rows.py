"""Errors of many rows in one message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

SHOWN = 10  # rows in one message


def name_rows(names: Sequence[str] | None, i: int) -> str:
    """Return the name of a row."""
    return f"row {i}" if names is None else names[i]


def raise_for_rows(
    name: str,
    problems: Sequence[tuple[str, str]],
    n_rows: int,
    what: str,
    advice: str = "",
    error: type[Exception] = ValueError,
) -> NoReturn:
    """Raise an error that counts the rows with a problem, and shows the first ten.

    Parameters
    ----------
    name : str
        Name of the column.
    problems : sequence of tuple
        (name of the row, what is wrong with it), at least one.
    n_rows : int
    what : str
        What all these rows have; "" if that differs.
    advice : str, default=""
        What to do.
    error : type, default=ValueError

    Examples
    --------
    >>> raise_for_rows("y", [("row 3", "tag 0 is '0'")], 5, "an odd tag", "Write O.")
    Traceback (most recent call last):
    ValueError: y, row 3: tag 0 is '0', an odd tag. Write O.
    """
    if len(problems) == 1:
        row, message = problems[0]
        raise error(" ".join(filter(None, [f"{name}, {row}: {message}{what and ', ' + what}.", advice])))
    first = f"; the first {SHOWN} are" if len(problems) > SHOWN else ""
    shown = [f"  {name}, {row}: {message}." for row, message in problems[:SHOWN]]
    counted = f"{name}: {len(problems)} of {n_rows} rows have {what or 'errors'}{first}:"
    raise error("\n".join(filter(None, [counted, *shown, advice])))
