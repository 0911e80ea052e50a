"""The maximum length of one text, which bounds the memory that a row can take."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

# In characters; those that normalisation replaces by several count as these: U+FDFA becomes 18. A text of this length
# is tokenised in 1 s, in 0.2 GB if it consists of words, and in 0.8 GB if it is Chinese; both are in proportion to the
# length. The longest novels have about this length.
MAX_TEXT_LENGTH = 10_000_000
LARGEST_GROWTH = 18  # of a character, in the normalisation NFKC
CHARACTERS_AT_ONCE = 2**16


def check_lengths(texts: Sequence[str], where: Callable[[int], str]) -> None:
    """Raise a ValueError if a text is longer than `MAX_TEXT_LENGTH`; `where` names it by its position.

    >>> check_lengths(["short", "x" * 10_000_001], lambda i: f"X, row {i}")
    Traceback (most recent call last):
        ...
    ValueError: X, row 1: the text has 10,000,001 characters, but at most 10,000,000 are read. Split it into several \
rows, for example paragraphs, or cut it: text[:10_000_000].
    """
    if max(map(len, texts), default=0) * LARGEST_GROWTH <= MAX_TEXT_LENGTH:
        return
    for i, text in enumerate(texts):
        length = normal_length(text)
        if length > MAX_TEXT_LENGTH:
            raise ValueError(
                f"{where(i)}: the text has {_described(len(text), length)}, but at most {MAX_TEXT_LENGTH:,} are read. "
                f"Split it into several rows, for example paragraphs, or cut it: text[:{MAX_TEXT_LENGTH:_}]."
            )


def normal_length(text: str) -> int:
    """Count the characters of a text in the normalisation NFKC; those of a short one, or a too long one, as it is.

    >>> normal_length("\\ufdfa" * 1_000_000)
    18000000
    """
    if len(text) * LARGEST_GROWTH <= MAX_TEXT_LENGTH or len(text) > MAX_TEXT_LENGTH or text.isascii():
        return len(text)
    parts = (text[start : start + CHARACTERS_AT_ONCE] for start in range(0, len(text), CHARACTERS_AT_ONCE))
    return sum(len(unicodedata.normalize("NFKC", part)) for part in parts)


def _described(length: int, normal: int) -> str:
    return f"{length:,} characters" + (f", which are {normal:,} when they are normalised" if normal > length else "")
