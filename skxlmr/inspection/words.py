"""The words of a text that an explanation gives a value to."""

from __future__ import annotations

import re
import unicodedata

import numpy as np

from skxlmr.scripts import unspaced_script
from skxlmr.text.words import split_words

# What may stand within a word, or within a number, as in Unicode Standard Annex 29.
WITHIN_WORD = "'\u2019._\u00b7\u2027"
WITHIN_NUMBER = "'\u2019.,_\u066b\u066c"
ZERO_WIDTH_JOINER = "\u200d"
FLAG_LETTER = re.compile("[\U0001f1e6-\U0001f1ff]")  # two of them are a flag


def whole_words(text: str) -> np.ndarray:
    """Return the characters of each word, ``start, stop`` as (n_words, 2).

    They are the tokens of `skxlmr.text.words.split_words`, so that punctuation marks, and characters of scripts without
    spaces between words, are words of their own; but "don't", "3.14" and emoji of several characters are one word.

    Examples
    --------
    >>> text = "I don't know: 3.14?"
    >>> [text[start:end] for start, end in whole_words(text)]
    ['I', "don't", 'know', ':', '3.14', '?']
    """
    tokens = split_words(text).tolist()
    words: list[list[int]] = []
    for i, (start, end) in enumerate(tokens):
        after = text[tokens[i + 1][0]] if i + 1 < len(tokens) and tokens[i + 1][0] == end else ""
        if words and words[-1][1] == start and _continues(text[words[-1][0] : start], text[start:end], after):
            words[-1][1] = end
        else:
            words.append([start, end])
    return np.array(words, np.int64).reshape(-1, 2)


def _continues(word: str, token: str, after: str) -> bool:
    """Whether a token belongs to the word before it; `after` is the character that follows it."""
    before = word[-1]
    if before == ZERO_WIDTH_JOINER:
        return True
    if FLAG_LETTER.fullmatch(token):
        return FLAG_LETTER.fullmatch(word) is not None
    if before in WITHIN_WORD + WITHIN_NUMBER and len(word) > 1:  # it was followed by a letter or a digit
        return True
    within = WITHIN_NUMBER if before.isdecimal() and after.isdecimal() else WITHIN_WORD
    return token in within and _is_letter(before) and _is_letter(after)


def _is_letter(character: str) -> bool:
    """Whether a character, if there is one, is a letter, a digit or a mark of a script with spaces between words."""
    if not character or unspaced_script(character) is not None:
        return False
    return character.isalnum() or unicodedata.category(character)[0] == "M"
