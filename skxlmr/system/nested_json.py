"""Parsing of JSON whose depth and number of values are bounded.

The result does not depend on the recursion limit of Python, and the memory that it takes is in proportion to the limit.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 100  # lists and objects within each other; the deepest of files that are in use have about ten

# A string, closed or not, so that the time of a scan is linear also for invalid JSON.
STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
NOT_A_BRACKET = re.compile(r"[^][{}]+")


def check_depth(text: str) -> None:
    """Raise a ValueError if lists and objects are nested deeper than `MAX_DEPTH` in a text of JSON.

    Examples
    --------
    >>> check_depth('{"a": [1, "[[["]}')
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in NOT_A_BRACKET.sub("", STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH} lists and objects")


def check_number_of_values(text: str, most: int) -> None:
    """Raise a ValueError if a text of JSON has more than about `most` values: lists, objects, and what is in them.

    Examples
    --------
    >>> check_number_of_values('{"a": ["b, c, d"]}', 2)
    """
    if text.count(",") + text.count("[") + text.count("{") <= most:
        return
    outside = STRING.sub("", text)
    if outside.count(",") + outside.count("[") + outside.count("{") > most:
        raise ValueError(f"it has more than {most:,} values, which is the limit")


def loads(text: str, *, max_values: int | None = None, **options: Any) -> Any:
    """Parse JSON, with the options of `json.loads`; `max_values` None means any number of values.

    Raises
    ------
    ValueError
        If the text is not JSON, nested deeper than `MAX_DEPTH`, or has more than `max_values`.
    """
    check_depth(text)
    if max_values is not None:
        check_number_of_values(text, max_values)
    return json.loads(text, **options)
