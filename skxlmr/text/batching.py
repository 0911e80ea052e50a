"""Planning of work: each distinct text once, in batches of about equal numbers of tokens."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def deduplicate(keys: Sequence[Hashable]) -> tuple[list[int], np.ndarray]:
    """Return the index of each distinct key, ascending, and the index of each key among these, int64.

    They satisfy ``keys[first[inverse[i]]] == keys[i]``.
    """
    places: dict[Hashable, int] = {}
    inverse = np.fromiter((places.setdefault(key, len(places)) for key in keys), np.int64, len(keys))
    first = np.full(len(places), len(keys), np.int64)
    np.minimum.at(first, inverse, np.arange(len(keys)))
    return first.tolist(), inverse


def token_batches(lengths: Sequence[int] | np.ndarray, budget: int) -> list[np.ndarray]:
    """Cut items of these numbers of tokens into batches of at most `budget` tokens, and return their indices.

    Items of similar length share a batch, which keeps padding small where there is any. The longest come first, so that
    a batch that does not fit into memory fails at once. An item longer than the budget is a batch of its own.
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
