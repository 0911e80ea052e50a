"""Outlier columns that are found in each input, `Int8(outliers="dynamic")`, without waiting for a GPU.

The host must know how many there are before it can request a product with them. Instead of waiting for their number in
each layer, it may guess that there are not more than a few. If there are, the results are NaN, and whoever guessed
computes them again without guessing. Both ways the results are the same.

Notation: T tokens, K input features, k outlier columns.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

COLUMNS_PER_GUESS = 16  # the guess is that at most one column in this many is an outlier
MULTIPLE = 16


class _Guessing(threading.local):
    """Whether this thread guesses now, and whether it has."""

    allowed = False
    used = False


_guessing = _Guessing()


class Guess:
    """What a `guessing` block returns."""

    used = False  # whether results depend on a guess: if they are not finite, it may have been wrong

    @property
    def used_so_far(self) -> bool:
        """The same within the block."""
        return _guessing.used


@contextmanager
def guessing(allowed: bool | None = True) -> Iterator[Guess]:
    """Allow guesses in a `with` statement, or forbid them; None leaves that as it is.

    Examples
    --------
    >>> with guessing() as guess:
    ...     pass  # run a model
    >>> guess.used
    False
    """
    before, guess = (_guessing.allowed, _guessing.used), Guess()
    _guessing.allowed, _guessing.used = before[0] if allowed is None else allowed, False
    try:
        yield guess
    finally:
        guess.used = _guessing.used
        _guessing.allowed, _guessing.used = before[0], before[1] or guess.used


@dataclass
class OutlierColumns:
    """The outlier columns of an input."""

    columns: Tensor  # (k,) int64; after a guess, as many as there are at most
    is_outlier: Tensor | None = None  # (K,) bool; None without a guess
    counts: Tensor | None = None  # (k,) bool, which of `columns` are outliers; None without a guess
    poison: Tensor | None = None  # () float32, 0, or NaN if there are more outliers; None without a guess

    @classmethod
    def find(cls, x: Tensor, threshold: float) -> OutlierColumns:
        """Find the columns of an input (T, K) that reach the threshold anywhere."""
        is_outlier = x.abs().amax(0) >= threshold
        if not (x.is_cuda and _guessing.allowed):
            return cls(is_outlier.nonzero()[:, 0])
        _guessing.used = True
        most = min(len(is_outlier), -(-len(is_outlier) // (COLUMNS_PER_GUESS * MULTIPLE)) * MULTIPLE)
        columns = is_outlier.int().argsort(descending=True, stable=True)[:most]
        poison = torch.where(is_outlier.sum() > most, torch.nan, 0.0)
        return cls(columns, is_outlier, is_outlier[columns], poison)

    def without(self, x: Tensor) -> Tensor:
        """Return the input with zeros in place of the outliers, (t, K) -> (t, K)."""
        return x.index_fill(1, self.columns, 0) if self.is_outlier is None else x.masked_fill(self.is_outlier, 0)

    def of(self, x: Tensor) -> Tensor:
        """Return the outliers of the input, (t, K) -> (t, k)."""
        outliers = x[:, self.columns]
        return outliers if self.counts is None else outliers.masked_fill(~self.counts, 0)

    def put(self, low: Tensor, values: Tensor) -> None:
        """Write the low bytes of outliers (t, k) into the columns of `values`, (t, K), in place."""
        low = low.to(values.dtype)
        if self.counts is not None:
            low = torch.where(self.counts, low, values[:, self.columns])
        values.index_copy_(1, self.columns, low)

    def marked(self, scales: Tensor) -> Tensor:
        """Return scales, all NaN if a guess was wrong: the product then shows it."""
        return scales if self.poison is None else scales + self.poison
