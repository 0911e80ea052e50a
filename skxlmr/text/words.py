"""Which pieces make up a word."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np

from skxlmr.text.offsets import SPACE

if TYPE_CHECKING:
    from skxlmr.text.vocabulary import Vocabulary

# Beginnings of the names of letters in scripts that are written without spaces between words.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


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
