"""Patterns that select modules by the end of their names, as in peft; safe for patterns that come from files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set

# A pattern is tried on each module of a model. Within these limits its time is polynomial and short, whatever it is:
# names have about 60 characters.
MAX_LENGTH = 1000
MAX_REPEATS, MAX_UNBOUNDED = 8, 4
MAX_PATTERNS, MAX_UNBOUNDED_TOGETHER = 500, 16  # of one dict

REPEAT = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?|[*+?{]|.", re.DOTALL)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a regular expression for the names of modules.

    Raises ValueError if it is not one, or one whose evaluation may take long: with a repeated group, or with more
    than a few repeats.

    >>> bool(compile_pattern(r".*layer\\.(0|1)\\..*").fullmatch("encoder.layer.1.attention.self.query"))
    True
    """
    if len(pattern) > MAX_LENGTH:
        raise ValueError(f"has {len(pattern):,} characters; at most {MAX_LENGTH:,} are read")
    repeats = _repeats(pattern)
    unbounded = [before for before, repeat in repeats if repeat != "?"]
    if ")" in unbounded or len(unbounded) > MAX_UNBOUNDED or len(repeats) > MAX_REPEATS:
        raise ValueError(
            f"repeats a group, or has more than {MAX_UNBOUNDED} repeats: it could take forever. List the names instead"
        )
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression: {error}") from error


def _repeats(pattern: str) -> list[tuple[str, str]]:
    """Return the repeats of a regular expression ("*", "+", "?" or "{"), each after the part that it repeats."""
    tokens = [found[0] for found in REPEAT.finditer(pattern)]
    repeats = [(before, token) for before, token in zip(["", *tokens], tokens, strict=False) if token in set("*+?{")]
    lazy_or_possessive = [(before, token) for before, token in repeats if token in "?+" and before in set("*+?}")]
    return [repeat for repeat in repeats if repeat not in lazy_or_possessive]


def ends_with_one(name: str, endings: Set[str]) -> bool:
    """Whether a name is one of `endings`, or ends with a dot and one of them.

    >>> ends_with_one("layers.3.query", {"query", "key"}), ends_with_one("layers.3.query", {"ery"})
    (True, False)
    """
    parts = name.split(".")
    return any(".".join(parts[first:]) in endings for first in range(len(parts)))


class Patterns:
    """Values by patterns of module names: regular expressions that match a name, or its end after a dot.

    Parameters
    ----------
    patterns : iterable of str
        The first one that matches a name is the one that counts.

    Raises
    ------
    ValueError
        If a pattern is not valid; the message begins with it.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._compiled: dict[str, re.Pattern[str]] = {}
        n_unbounded = 0
        patterns = list(patterns)
        if len(patterns) > MAX_PATTERNS:
            raise ValueError(f"{patterns[0][:60]!r} is one of {len(patterns):,}; at most {MAX_PATTERNS} are read")
        for pattern in patterns:
            n_unbounded += sum(repeat != "?" for _, repeat in _repeats(pattern[:MAX_LENGTH]))
            if n_unbounded > MAX_UNBOUNDED_TOGETHER:
                raise ValueError(f"{pattern[:60]!r} is one of too many patterns with repeats; list the names instead")
            try:
                compile_pattern(pattern)
                self._compiled[pattern] = re.compile(rf"(.*\.)?({pattern})$")
            except (ValueError, re.error) as error:
                raise ValueError(f"{pattern[:60]!r} {error}") from error

    def matching(self, name: str) -> str | None:
        """Return the first pattern that matches a name; None if none does.

        >>> Patterns(["layers.0.query", "query"]).matching("layers.1.query")
        'query'
        """
        return next((pattern for pattern, compiled in self._compiled.items() if compiled.match(name)), None)
