"""Tokenizers that users pass: functions that split a string into tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np

from skxlmr.text.words import split_words

# From a string to its tokens: their characters (start, end), or the tokens themselves, in order.
Tokenizer = Callable[[str], Iterable[Any]]


def token_offsets(tokenizer: Tokenizer, text: str, where: str) -> np.ndarray:
    """Return the characters of each token of a string, ``start, stop`` as (n_tokens, 2); errors begin with `where`.

    Examples
    --------
    >>> token_offsets(str.split, "Ada  left", "X, row 0").tolist()
    [[0, 3], [5, 9]]
    """
    found, end = [], 0
    tokens = tokenizer(text)
    if isinstance(tokens, str) or not isinstance(tokens, Iterable):
        raise TypeError(
            f"{where}: the tokenizer returned {tokens!r:.60}, a {type(tokens).__name__}. It must return a list of str, "
            f"or of pairs (start, end)."
        )
    for token in tokens:
        if isinstance(token, str):
            start = text.find(token, end)
            if not token or start < 0:
                raise ValueError(
                    f"{where}: the tokenizer returned {token!r:.60}, which is not in the text after character {end}: "
                    f"{text[end:]!r:.60}. It must return parts of the text in order, or pairs (start, end)."
                )
            stop = start + len(token)
        else:
            start, stop = _read_pair(token, where)
            if not end <= start < stop <= len(text):
                raise ValueError(
                    f"{where}: the tokenizer returned the token ({start}, {stop}) after one that ends at {end}, of a "
                    f"text of {len(text)} characters. Tokens must be in order, not empty, and not overlap."
                )
        found.append((start, stop))
        end = stop
    return np.array(found, np.int64).reshape(-1, 2)


def _read_pair(token: Any, where: str) -> tuple[int, int]:
    pair = tuple(token) if isinstance(token, list | tuple | np.ndarray) else ()
    if len(pair) != 2 or not all(isinstance(value, Integral) for value in pair):
        raise TypeError(
            f"{where}: the tokenizer returned {token!r:.60}, a {type(token).__name__}. It must return a list of str, "
            f"or of pairs (start, end)."
        )
    return int(pair[0]), int(pair[1])


def tokenizer_name(tokenizer: Tokenizer | None) -> str:
    """Return the name by which a fitted estimator stores its tokenizer; None stands for `split_words`."""
    if tokenizer is None:
        tokenizer = split_words
    function = tokenizer.func if isinstance(tokenizer, partial) else tokenizer
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(named, "__module__", None)  # methods of classes that are written in C have none
    return f"{module}.{named.__qualname__}" if module else named.__qualname__
