"""Words: which pieces and which characters make them up."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from skxlmr.scripts import unspaced_script
from skxlmr.text.offsets import SPACE

if TYPE_CHECKING:
    from skxlmr.text.vocabulary import Vocabulary


def word_starts(vocabulary: Vocabulary, ids: np.ndarray) -> np.ndarray:
    """Return which pieces of one or several texts begin a word, (n_pieces,) bool.

    A word extends from one space to the next, without punctuation. In scripts without spaces between words each piece
    is a word.
    """
    distinct, inverse = np.unique(ids, return_inverse=True)
    pieces = vocabulary.to_tokens(distinct.tolist())
    alone = np.array([_stands_alone(piece) for piece in pieces], bool)[inverse]
    spaced = np.array([piece.startswith(SPACE) for piece in pieces], bool)[inverse]
    after_alone = np.concatenate([[True], alone[:-1]])[: len(ids)]
    return spaced | alone | after_alone


def _stands_alone(piece: str) -> bool:
    """Whether a piece, without "▁", begins with punctuation or with a script without spaces between words."""
    letters = piece.replace(SPACE, "")
    if not letters:
        return False
    first = letters[0]
    return unicodedata.category(first)[0] in "PS" or unspaced_script(first) is not None


def split_words(text: str) -> np.ndarray:
    """Return the characters of each token of a string, ``start, stop`` as (n_tokens, 2).

    Tokens are separated by whitespace. Each punctuation mark, each symbol and each character of Chinese and Japanese is
    a token; any other run of characters is one. Combining marks, and the selectors and joiners of emoji, belong to the
    character before them.

    Examples
    --------
    >>> [("Ada, 你好!")[start:end] for start, end in split_words("Ada, 你好!")]
    ['Ada', ',', '你', '好', '!']
    """
    found: list[tuple[int, int]] = []
    start = None
    for i, character in enumerate(text):
        kind = _kind(character)
        if kind == "mark" and start is None and found and found[-1][1] == i:
            found[-1] = (found[-1][0], i + 1)
            continue
        if kind in ("space", "alone") and start is not None:
            found.append((start, i))
            start = None
        if kind == "alone":
            found.append((i, i + 1))
        elif kind in ("word", "mark") and start is None:
            start = i
    if start is not None:
        found.append((start, len(text)))
    return np.array(found, np.int64).reshape(-1, 2)


@lru_cache(maxsize=20_000)
def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if character.isspace() or category in ("Zs", "Zl", "Zp", "Cc"):
        return "space"
    if category[0] == "M" or category == "Cf" or "\U0001f3fb" <= character <= "\U0001f3ff":  # skin tones
        return "mark"
    script = unspaced_script(character)
    alone = category[0] in "PS" or (script is not None and script.characters_are_words)
    return "alone" if alone else "word"
