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


ZERO_WIDTH_SPACE = "\u200b"
# Byte order mark, word joiner, and the marks, embeddings and isolates of the direction of writing.
INVISIBLE = frozenset("\ufeff\u2060\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Of Khmer, Burmese, Lanna, Balinese and Javanese: the next consonant stands below the one before.
STACKERS = frozenset("\u17d2\u1039\u1a60\u1b44\ua9c0")
# The vowel AM of Thai and Lao, which extends a grapheme cluster, and the voicing marks of half-width katakana.
LETTERS_AS_MARKS = frozenset("\u0e33\u0eb3\uff9e\uff9f")


def word_starts(vocabulary: Vocabulary, ids: np.ndarray) -> np.ndarray:
    """Return which pieces of one or several texts begin a word, (n_pieces,) bool.

    A word extends from one space to the next, without punctuation. In scripts without spaces between words each piece
    is a word; so is each added token.
    """
    distinct, inverse = np.unique(ids, return_inverse=True)
    pieces = vocabulary.to_tokens(distinct.tolist())
    added = {token.id for token in vocabulary.added}
    alone = np.array([i in added or stands_alone(p) for i, p in zip(distinct.tolist(), pieces, strict=True)], bool)
    alone = alone[inverse]
    spaced = np.array([piece.startswith(SPACE) for piece in pieces], bool)[inverse]
    after_alone = np.concatenate([[True], alone[:-1]])[: len(ids)]
    return spaced | alone | after_alone


def stands_alone(piece: str) -> bool:
    """Whether a piece, without "▁", begins with punctuation or with a script without spaces between words."""
    letters = piece.replace(SPACE, "")
    if not letters:
        return False
    first = letters[0]
    return unicodedata.category(first)[0] in "PS" or unspaced_script(first) is not None


def split_words(text: str) -> np.ndarray:
    """Return the characters of each token of a string, ``start, stop`` as (n_tokens, 2).

    Tokens are separated by white space and zero-width spaces. Each punctuation mark, each symbol and each letter of
    Chinese, Japanese, Thai, Lao, Khmer, Burmese and scripts like them is a token; any other run of characters is one.
    Combining marks, and the selectors and joiners of emoji, belong to the character before them, so that tokens of
    these scripts are grapheme clusters (Unicode Standard Annex 29); the consonants of a stack, which Khmer and Burmese
    write below each other, are one token. A byte order mark and the marks of direction of writing are not part of a
    token at its ends.

    Examples
    --------
    >>> [("Ada, 你好!")[start:end] for start, end in split_words("Ada, 你好!")]
    ['Ada', ',', '你', '好', '!']
    """
    found: list[tuple[int, int]] = []
    start = None
    for i, character in enumerate(text):
        kind = _kind(character)
        follows = start is None and bool(found) and found[-1][1] == i
        if follows and (kind == "mark" or (kind == "alone" and text[i - 1] in STACKERS)):
            found[-1] = (found[-1][0], i + 1)
            continue
        if kind in ("space", "alone") and start is not None:
            found.append((start, _end_of_token(text, i)))
            start = None
        if kind == "alone":
            found.append((i, i + 1))
        elif kind in ("word", "mark") and start is None:
            start = i
    if start is not None:
        found.append((start, _end_of_token(text, len(text))))
    return np.array(found, np.int64).reshape(-1, 2)


def _end_of_token(text: str, end: int) -> int:
    """Return the end of a token that ends at most here, without invisible marks."""
    while text[end - 1] in INVISIBLE:
        end -= 1
    return end


@lru_cache(maxsize=20_000)
def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if character in INVISIBLE:
        return "invisible"
    if character.isspace() or character == ZERO_WIDTH_SPACE or category in ("Zs", "Zl", "Zp", "Cc"):
        return "space"
    if category[0] == "M" or category == "Cf" or character in LETTERS_AS_MARKS:
        return "mark"
    if "\U0001f3fb" <= character <= "\U0001f3ff":  # skin tones
        return "mark"
    script = unspaced_script(character)
    is_letter = category[0] != "N" or not character.isdecimal()  # digits are words together
    alone = category[0] in "PS" or (script is not None and script.splits and is_letter)
    return "alone" if alone else "word"
