"""Which pieces make up a word."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from skxlmr.text.offsets import SPACE

if TYPE_CHECKING:
    from skxlmr.text.vocabulary import Vocabulary

# Beginnings of the names of letters in scripts that are written without spaces between words.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")

# Scripts that are written without spaces: each character is a token.
ALONE = (
    (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)  # fmt: skip


def word_starts(vocabulary: Vocabulary, ids: np.ndarray) -> np.ndarray:
    """Say which pieces begin a word.

    A word goes from one space to the next. Punctuation is no part of it, and of scripts without spaces between words
    each piece is a word of its own.

    Parameters
    ----------
    vocabulary : Vocabulary
    ids : ndarray of shape (n_pieces,)
        Of one or of many texts, one after the other.

    Returns
    -------
    ndarray of shape (n_pieces,), bool

    Examples
    --------
    >>> from skxlmr.model import XLMRobertaXLTokenizer
    >>> tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")
    >>> (ids,) = tokenizer.encode_batch(["unbelievable, 我们"])
    >>> tokenizer.convert_ids_to_tokens(ids)
    ['▁un', 'be', 'li', 'ev', 'able', ',', '▁', '我们']
    >>> word_starts(tokenizer, ids).astype(int).tolist()
    [1, 0, 0, 0, 0, 1, 1, 1]
    """
    distinct, inverse = np.unique(ids, return_inverse=True)
    pieces = vocabulary.convert_ids_to_tokens(distinct)
    alone = np.array([_stands_alone(piece) for piece in pieces], bool)[inverse]
    spaced = np.array([piece.startswith(SPACE) for piece in pieces], bool)[inverse]
    after_alone = np.concatenate([[True], alone[:-1]])[: len(ids)]
    return spaced | alone | after_alone


def _stands_alone(piece: str) -> bool:
    """Whether a piece is punctuation, or of a script without spaces; "▁" before it says nothing."""
    letters = piece.replace(SPACE, "")
    if not letters:
        return False
    category = unicodedata.category(letters[0])
    return category[0] in "PS" or unicodedata.name(letters[0], "").startswith(UNSPACED)


def split_words(text: str) -> np.ndarray:
    """Where the tokens of a string lie, in characters: (n_tokens, 2).

    White space ends a token, and is none. Each punctuation mark and symbol is a token, and so is each character of
    Chinese and Japanese; any other run of characters is one. Combining marks, and the selectors and joiners of emoji,
    belong to the character before them.

    Examples
    --------
    >>> [("Ada, 你好!")[start:end] for start, end in split_words("Ada, 你好!")]
    ['Ada', ',', '你', '好', '!']
    """
    found, begun = [], None
    for i, character in enumerate(text):
        kind = _kind(character)
        if kind == "mark" and begun is None and found and found[-1][1] == i:
            found[-1] = (found[-1][0], i + 1)
            continue
        if kind in ("space", "alone") and begun is not None:
            found.append((begun, i))
            begun = None
        if kind == "alone":
            found.append((i, i + 1))
        elif kind in ("word", "mark") and begun is None:
            begun = i
    if begun is not None:
        found.append((begun, len(text)))
    return np.array(found, np.int64).reshape(-1, 2)


@lru_cache(maxsize=20_000)
def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if character.isspace() or category in ("Zs", "Zl", "Zp", "Cc"):
        return "space"
    if category[0] == "M" or category == "Cf" or "\U0001f3fb" <= character <= "\U0001f3ff":  # skin tones
        return "mark"
    if category[0] in "PS" or any(low <= ord(character) <= high for low, high in ALONE):
        return "alone"
    return "word"
