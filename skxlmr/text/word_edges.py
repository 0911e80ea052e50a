"""Where words begin and end in a text."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np

from skxlmr.scripts import unspaced_script

JOINERS = "\u00ad\u200c\u200d"  # soft hyphen, and what joins or separates the letters of a word


def word_edges(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return at which positions of a text something may begin, and end, without cutting a word; two (len + 1,) bool.

    A word is a run of letters, digits and combining marks. In scripts without spaces between words each character, with
    its marks, is one. A Korean word may end anywhere, since its particles are written without a space.

    Examples
    --------
    >>> begins, ends = word_edges("my cat")
    >>> begins.tolist()
    [True, False, True, True, False, False, True]
    """
    kinds = np.array([0, *map(_kind, text), 0])
    before, after = kinds[:-1], kinds[1:]
    inside = (before > 0) & ((after == _MARK) | ((before != _UNSPACED) & (after > 0) & (after != _UNSPACED)))
    return ~inside, ~inside | ((before == _HANGUL) & (after == _HANGUL))


_LETTER, _HANGUL, _UNSPACED, _MARK = range(1, 5)  # 0 for what is not a part of a word


@lru_cache(maxsize=20_000)
def _kind(character: str) -> int:
    category = unicodedata.category(character)[0]
    if category == "M" or character in JOINERS:
        return _MARK
    if category not in "LN":
        return 0
    if unspaced_script(character) is not None:
        return _UNSPACED
    return _HANGUL if unicodedata.name(character, "").startswith("HANGUL") else _LETTER
