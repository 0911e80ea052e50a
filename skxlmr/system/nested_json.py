"""Parsing of JSON whose depth is bounded, so that it does not depend on the recursion limit of Python."""

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


def loads(text: str, **options: Any) -> Any:
    """Parse JSON, with the options of `json.loads`.

    Raises
    ------
    ValueError
        If the text is not JSON, or nested deeper than `MAX_DEPTH`.
    """
    check_depth(text)
    return json.loads(text, **options)
