"""Planning of work: each distinct text once, in batches of about equal numbers of tokens."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def deduplicate(keys: Sequence[Hashable]) -> tuple[list[int], np.ndarray]:
    """Find the distinct keys.

    Returns
    -------
    first : list of int
        Index of the first occurrence of each distinct key, ascending.
    inverse : ndarray of shape (len(keys),), int64
        Index of each key among the distinct ones: `keys[first[inverse[i]]] == keys[i]`.

    Examples
    --------
    >>> first, inverse = deduplicate(["a", "b", "a"])
    >>> first, inverse.tolist()
    ([0, 1], [0, 1, 0])
    """
    places: dict[Hashable, int] = {}
    inverse = np.fromiter((places.setdefault(key, len(places)) for key in keys), np.int64, len(keys))
    first = np.full(len(places), len(keys), np.int64)
    np.minimum.at(first, inverse, np.arange(len(keys)))
    return first.tolist(), inverse


def token_batches(lengths: Sequence[int] | np.ndarray, budget: int) -> list[np.ndarray]:
    """Cut items into batches of at most `budget` tokens, longest first.

    Items of similar length share a batch, which keeps padding small where there is any. The longest come first, so that
    a batch that does not fit into memory fails at once. An item longer than the budget is a batch of its own.

    Parameters
    ----------
    lengths : array-like of shape (n,)
        Number of tokens of each item, at least 1.
    budget : int
        Maximum number of tokens of a batch.

    Returns
    -------
    list of ndarray
        Indices of the items of each batch.

    Examples
    --------
    >>> [batch.tolist() for batch in token_batches([3, 9, 4, 2], budget=8)]
    [[1], [2, 0], [3]]
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    batches, start, tokens = [], 0, 0
    for end, item in enumerate(order):
        if tokens + lengths[item] > budget and end > start:
            batches.append(order[start:end])
            start, tokens = end, 0
        tokens += lengths[item]
    return [*batches, order[start:]] if len(order) else []
