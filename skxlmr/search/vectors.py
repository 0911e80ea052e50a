"""Vectors from what a user passes, and similarities that do not depend on how rows are grouped into blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from skxlmr.columns import check_one_text

METRICS = ("cosine", "dot")
ROWS_AT_ONCE = 4096  # rows whose lengths are computed at once
VALUES_AT_ONCE = 2**22  # of float64: pairs of vectors that are multiplied at once


@dataclass(frozen=True)
class Vectors:
    """Rows of vectors (n, d), of any dtype of real numbers, perhaps in a file that numpy has mapped.

    `lengths` (n,) float64 are those of the rows rounded to float32.
    """

    values: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, values: Any, name: str) -> Vectors:
        """Check vectors; raises TypeError or ValueError."""
        values = _check_array(values, name)
        lengths = np.empty(len(values))
        for start in range(0, len(values), ROWS_AT_ONCE):
            rows = _as_float32(values[start : start + ROWS_AT_ONCE]).astype(np.float64)
            finite = np.isfinite(rows).all(1)
            if not finite.all():
                row = start + int(np.argmin(finite))
                raise ValueError(f"{name}, row {row}: has values that are NaN, infinite or too large for float32.")
            lengths[start : start + ROWS_AT_ONCE] = np.sqrt((rows * rows).sum(1))
        return cls(values, lengths)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        """Number of dimensions."""
        return self.values.shape[1]

    def take(self, rows: np.ndarray) -> Vectors:
        """Select rows, which are copied."""
        return Vectors(_as_float32(self.values[rows]), self.lengths[rows])

    def scaled(self, start: int, stop: int, scale: float | None = None) -> np.ndarray:
        """Return rows (stop - start, d) float32, each divided by its length, or all by `scale`; zeros stay zeros."""
        lengths = self.lengths[start:stop, None] if scale is None else np.full((stop - start, 1), scale)
        with np.errstate(under="ignore"):
            return (self.values[start:stop] / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def similarities(self, rows: np.ndarray, other: Vectors, others: np.ndarray, metric: str) -> np.ndarray:
        """Return the similarity of each pair of a row of these and a row of others, (n,) float32.

        Products of float32 are exact in float64, and each pair is added up in the same order, whatever the other pairs.
        """
        found = np.empty(len(rows), np.float32)
        at_once = max(VALUES_AT_ONCE // max(self.width, 1), 1)
        for start in range(0, len(rows), at_once):
            i, j = rows[start : start + at_once], others[start : start + at_once]
            products = _as_float32(self.values[i]).astype(np.float64)
            products *= _as_float32(other.values[j])
            sums = products.sum(1)
            if metric == "cosine":
                lengths = self.lengths[i] * other.lengths[j]
                sums /= np.where(lengths > 0, lengths, 1)
                np.clip(sums, -1, 1, out=sums)
            with np.errstate(over="ignore"):
                found[start : start + at_once] = sums
        return found


def margin(width: int) -> np.float32:
    """Return how far a product of two float32 vectors of length 1 may be from the exact one, generously."""
    return np.float32(4 * (width + 8) * 2.0**-24)


def blocks(n_rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the first row of each block, and the one after its last."""
    for start in range(0, n_rows, size):
        yield start, min(start + size, n_rows)


def is_texts(X: Any) -> bool:
    """Whether X has texts and not vectors."""
    if sparse.issparse(X):
        return False
    if isinstance(X, np.ndarray):
        return X.dtype.kind in "UT" or (X.dtype.kind == "O" and X.size > 0 and isinstance(X.flat[0], str))
    if isinstance(X, str):
        return True
    try:
        first = X.iloc[0] if hasattr(X, "iloc") else next(iter(X), None)
    except (TypeError, IndexError):
        return False
    return isinstance(first, str) or getattr(getattr(first, "dtype", None), "kind", "") == "O"


def read_texts(X: Any, name: str, embedder: Any) -> list[str]:
    """Check a column of texts, for which an embedder is needed."""
    if embedder is None:
        raise ValueError(
            f"{name} has texts, of which vectors are compared: pass embedder=XLMRXLEmbedder('e5-small'), or vectors in "
            f"place of the texts."
        )
    return check_one_text(X, name=name).texts


def embed(embedder: Any, texts: list[str], method: str = "transform") -> np.ndarray:
    """Return vectors of texts (n, d), by the method if the embedder has it, otherwise by `transform`."""
    return getattr(embedder, method, embedder.transform)(texts)


def fitted(embedder: Any, texts: list[str]) -> Any:
    """Return the embedder, or a copy of it that is fitted on the texts if it is not fitted."""
    try:
        check_is_fitted(embedder)
    except NotFittedError:
        return clone(embedder).fit(texts)
    return embedder


def check_metric(metric: str) -> None:
    """Raise a ValueError if there is no such metric."""
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(map(repr, METRICS))}, got {metric!r}.")


def check_count(value: Any, name: str) -> int:
    """Return a number as an int; raise an error if it is not a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
    return int(value)


def _check_array(values: Any, name: str) -> np.ndarray:
    if sparse.issparse(values):
        raise TypeError(f"{name} is a sparse matrix. Make it dense first, for example with TruncatedSVD.")
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, a vector in each row, but its shape is {array.shape}.")
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} has values of the type {array.dtype}; vectors of real numbers, or texts, are needed.")
    if not array.shape[1]:
        raise ValueError(f"{name} has vectors of 0 dimensions.")
    return array


def _as_float32(rows: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(rows, np.float32)
