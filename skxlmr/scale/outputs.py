"""Columns of predictions: their names and types, which do not depend on the rows that are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skxlmr.columns import as_objects

if TYPE_CHECKING:
    import pyarrow as pa

# What an output column is called, by the method that computes it.
PREFIXES = {
    "predict": "prediction",
    "predict_proba": "proba",
    "predict_log_proba": "log_proba",
    "decision_function": "decision",
    "transform": "vector",
    "log_likelihood": "log_likelihood",
    "pseudo_log_likelihood": "pseudo_log_likelihood",
}


@dataclass(frozen=True, eq=False)
class Column:
    """A column of results, with no value in the rows that failed.

    Attributes
    ----------
    values : ndarray of shape (n_predicted, ...)
        The values of the rows in which `predicted` is True: numbers, booleans or texts, or lists of them, as rows of a
        matrix or as objects.
    predicted : ndarray of shape (n_rows,) of bool
    dtype : numpy dtype
        Of the values, or of what is in the lists.
    depth : int
        0 for values, 1 for lists of them, 2 for lists of lists.
    """

    values: np.ndarray
    predicted: np.ndarray
    dtype: np.dtype
    depth: int

    def to_numpy(self) -> np.ndarray:
        """Return an array of all rows: NaN, or None where there is no NaN, in those that failed."""
        values = self.values
        if values.dtype.kind == "U":
            values = values.astype(object)
        if self.predicted.all():
            return values
        n_rows = len(self.predicted)
        if values.dtype.kind == "f":
            array = np.full((n_rows, *values.shape[1:]), np.nan, values.dtype)
            array[self.predicted] = values
            return array
        array = np.full(n_rows, None, object)
        array[self.predicted] = values if values.ndim == 1 else as_objects(list(values))
        return array

    def to_pandas(self) -> Any:
        """Return an array for a frame of pandas. Integers and booleans are nullable ones if a row failed."""
        if self.depth == 0 and self.dtype.kind in "iub" and not self.predicted.all():
            full = np.zeros(len(self.predicted), self.dtype)
            full[self.predicted] = self.values
            nullable: Any = pd.arrays.BooleanArray if self.dtype.kind == "b" else pd.arrays.IntegerArray
            return nullable(full, ~self.predicted)
        array = self.to_numpy()
        return array if array.ndim == 1 else as_objects(list(array))

    def to_arrow(self) -> pa.Array:
        """Return an array of Arrow, with nulls in the rows that failed."""
        import pyarrow as pa

        item = pa.string() if self.dtype.kind in "UO" else pa.from_numpy_dtype(self.dtype)
        if self.values.ndim == 2:  # without a Python object per number
            sizes = np.where(self.predicted, self.values.shape[1], 0)
            offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
            flat = pa.array(np.ascontiguousarray(self.values).reshape(-1), item)
            return pa.ListArray.from_arrays(offsets, flat, mask=pa.array(~self.predicted))
        kind = item
        for _ in range(self.depth):
            kind = pa.list_(kind)
        if self.depth == 0 and self.predicted.all() and self.dtype.kind != "U":
            return pa.array(self.values, kind)
        rows = np.full(len(self.predicted), None, object)
        rows[self.predicted] = as_objects([_plain(value) for value in self.values])
        return pa.array(rows.tolist(), kind)


@dataclass(frozen=True)
class Layout:
    """The columns of what a method returns, found from the result for an example row.

    Attributes
    ----------
    prefix : str
        The name of the column, or before the names of the classes if there is a column for each.
    classes : tuple of str
        The classes that have a column each; () for a single column.
    dtype, depth
        As in `Column`.
    """

    prefix: str
    classes: tuple[str, ...]
    dtype: np.dtype
    depth: int

    @classmethod
    def of(cls, outputs: np.ndarray, prefix: str, classes: np.ndarray | None) -> Layout:
        """Return the layout of outputs, (1, ...); `classes` are those of the estimator, or None.

        Raises
        ------
        TypeError
            If a row's output is something that a column cannot hold.
        """
        if outputs.ndim == 2:
            named = classes is not None and len(classes) == outputs.shape[1]
            names = tuple(map(str, classes)) if named and classes is not None else ()
            return cls(prefix, names, outputs.dtype, 0 if named else 1)
        value, depth = outputs[0], 0
        if outputs.dtype.kind != "O":
            return cls(prefix, (), outputs.dtype, 0)
        while isinstance(value, list | tuple | np.ndarray):
            depth += 1
            if isinstance(value, np.ndarray) and value.dtype.kind != "O":
                return cls(prefix, (), value.dtype, depth + value.ndim - 1)
            value = next(iter(value), "" if classes is None else classes[0])
        if not isinstance(value, str | np.generic | int | float):
            raise TypeError(f"The results are of the type {type(value).__name__}, which a column cannot hold.")
        return cls(prefix, (), np.asarray(value).dtype, depth)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [f"{self.prefix}_{label}" for label in self.classes] or [self.prefix]

    def columns(self, pieces: Sequence[np.ndarray], predicted: np.ndarray) -> dict[str, Column]:
        """Return the columns of what was predicted, piece after piece, (n_rows of the piece, ...) each."""
        values = self._joined(pieces)
        if not self.classes:
            return {self.prefix: Column(values, predicted, self.dtype, self.depth)}
        return {
            name: Column(np.ascontiguousarray(values[:, i]), predicted, self.dtype, self.depth)
            for i, name in enumerate(self.names)
        }

    def _joined(self, pieces: Sequence[np.ndarray]) -> np.ndarray:
        pieces = [piece for piece in pieces if len(piece)]
        if not pieces:
            of_text = self.dtype.kind == "U"
            if self.classes:
                return np.empty((0, len(self.classes)), self.dtype)
            return np.empty(0, object if self.depth or of_text else self.dtype)
        if len({piece.shape[1:] for piece in pieces}) == 1:
            return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        return as_objects([row for piece in pieces for row in piece])  # matrices of several widths


def _plain(value: Any) -> Any:
    """Return a value as Arrow reads it in lists: without arrays and scalars of NumPy."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
