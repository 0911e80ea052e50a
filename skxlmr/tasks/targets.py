"""Reading y: whatever its container, the same values mean the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
from scipy import sparse

from skxlmr.columns import (
    SINGLE_TEXTS,
    TextColumn,
    as_objects,
    as_unmasked,
    check_n_rows,
    is_missing,
    is_sequence,
    name_row,
    not_a_column,
)
from skxlmr.system.warn import warn

LEAVE_OUT = "Leave it out of X: df['text'] for single texts, df[['first', 'second']] for pairs."
SCALARS = {str, int, float, bool, type(None)}  # types that are not vectors


@dataclass(frozen=True, eq=False)
class Target:
    """The values of y: one per row, or a table.

    Attributes
    ----------
    values : ndarray of shape (n_rows,), or (n_rows, n_columns)
        Values that are vectors or sets of their own are objects, in one dimension.
    name : str
        What messages call it.
    names : list or None
        Names of the columns of a table.
    index : pandas.Index or None
    is_column : bool
        Whether one dimension was a table of one column.
    is_list : bool
        Whether the values came as Python objects, whose type is still to be inferred.
    """

    values: np.ndarray
    name: str = "y"
    names: list | None = None
    index: pd.Index | None = None
    is_column: bool = False
    is_list: bool = False

    def where(self, row: int) -> str:
        """Name a row, for messages."""
        return f"{self.name}, {name_row(row, self.index)}"

    @property
    def has_vectors(self) -> bool:
        """Whether some of the values are vectors or sets."""
        if self.values.ndim != 1 or self.values.dtype != object or set(map(type, self.values)) <= SCALARS:
            return False
        return any(map(is_vector, self.values))

    def stack(self) -> np.ndarray | None:
        """Return vectors as the rows of a table of floats, with NaN for what is missing.

        None if they are not vectors of one length, in order, of numbers.
        """
        rows = self.values
        if not all(is_vector(row) and not isinstance(row, Set) for row in rows) or len(set(map(len, rows))) != 1:
            return None
        table = _as_numbers(np.stack([as_objects(list(row)) for row in rows]))
        return None if table.dtype == object else table


def read_target(y: Any, column: TextColumn | None, name: str = "y") -> Target:
    """Read a y of any container that `skxlmr.columns` reads, or a sparse matrix, for a column of texts if there is one.

    A table of one column is the same as this column, and a column of vectors of numbers can be taken as a table.

    Raises
    ------
    TypeError
        If y is not a column or a table.
    ValueError
        If it has not as many rows as the column of texts, or more than two dimensions.
    """
    if isinstance(y, (*SINGLE_TEXTS, Mapping, Set, Iterator)) or np.isscalar(y):
        raise TypeError(f"{name} is a {type(y).__name__}, which is not a column. Use a list, an array or a Series.")
    target = _read(y, name)
    if column is not None:
        check_n_rows(target.values, column.texts, name)
    return target


def _read(y: Any, name: str) -> Target:
    if sparse.issparse(y):
        return Target(y.toarray(), name)
    if is_sequence(y):
        return Target(_as_lists(list(y)), name, is_list=True)
    if isinstance(y, pd.Series):
        return Target(_as_array(y), name, index=y.index)
    if not isinstance(y, pd.DataFrame):
        native = nw.from_native(y, eager_only=True, allow_series=True, pass_through=True)
        if isinstance(native, nw.Series):
            return Target(_as_lists(native.to_list()), name, is_list=True)
        if isinstance(native, nw.DataFrame):
            y = pd.DataFrame({label: native[label].to_list() for label in native.columns})
    if isinstance(y, pd.DataFrame):
        if y.shape[1] == 1:
            return Target(_as_array(y.iloc[:, 0]), name, index=y.index, is_column=True)
        return Target(_as_numbers(y.to_numpy()), name, names=y.columns.tolist(), index=y.index)
    if hasattr(y, "to_pylist"):  # an array of pyarrow
        return Target(_as_lists(y.to_pylist()), name, is_list=True)
    if not hasattr(y, "__array__"):
        raise not_a_column(y, name, "a list, an array or a Series")
    array = _as_array(y)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} has {array.ndim} dimensions; one or two are needed.")
    if array.ndim == 2 and array.shape[1] == 1:
        return Target(array[:, 0], name, is_column=True)
    return Target(_as_numbers(array) if array.ndim == 2 else array, name)


def _as_array(values: Any) -> np.ndarray:
    array = as_unmasked(values)
    return array.astype(object) if array.dtype.kind == "T" else array  # scikit-learn does not know NumPy's StringDType


def _as_numbers(table: np.ndarray) -> np.ndarray:
    """Return a table of objects that are numbers, or missing, as floats; any other as it is."""
    if table.dtype != object:
        return table
    values = [np.nan if is_missing(value) else value for value in table.flat]
    return np.array(values, np.float64).reshape(table.shape) if all(map(_is_number, values)) else table


def _as_lists(values: list) -> np.ndarray:
    """Return an array of objects; arrays and series among them become lists."""
    return as_objects([np.asarray(value).tolist() if _dimensions(value) >= 0 else value for value in values])


def is_vector(value: Any) -> bool:
    """Whether the value of one row has several values of its own, in order or as a set."""
    return is_sequence(value) or isinstance(value, Set) or _dimensions(value) > 0


def _dimensions(value: Any) -> int:
    """Return the number of dimensions of an array, a series or a tensor; -1 of anything else."""
    if not hasattr(value, "__array__") or isinstance(value, np.generic):
        return -1
    return np.ndim(np.asarray(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_) or _dimensions(value) == 0


def refuse_y_as_text(column: TextColumn, values: np.ndarray) -> None:
    """Raise a ValueError if one of two columns of texts has the labels, or the numbers, (n_rows,), of y."""
    for i, texts in enumerate((column.texts, column.pairs) if column.pairs is not None else ()):
        if all(map(_says, texts, values.tolist())):
            raise ValueError(
                f"X, column {_name_column(column, i)}: it is the same as y, so the answers would be read with the "
                f"texts. {LEAVE_OUT}"
            )


def warn_of_y_in_other_words(column: TextColumn, classes: np.ndarray) -> None:
    """Warn if one of two columns of texts has one text per class, (n_rows,), and the other column has other texts.

    So it is where X is a whole frame, with the names of the labels, and y has their numbers.
    """
    if column.pairs is None:
        return
    n_classes, n_texts = len(np.unique(classes)), [len(set(texts)) for texts in (column.texts, column.pairs)]
    for i, texts in enumerate((column.texts, column.pairs)):
        if n_texts[i] == n_classes == len(set(zip(texts, classes.tolist(), strict=True))) < n_texts[1 - i] / 2:
            warn(
                f"X, column {_name_column(column, i)}: it has one text for each class of y, so it may be the answers. "
                f"{LEAVE_OUT}"
            )


def warn_of_swapped(column: TextColumn, labels: np.ndarray) -> None:
    """Warn if X and y may be swapped, or be one column: from single texts, and the label of each row, (n_rows,)."""
    if column.pairs is not None or labels.dtype.kind not in "OU" or len(labels) < 3:
        return
    n_texts, n_labels = len(set(column.texts)), len(set(labels.tolist()))
    if column.texts == labels.tolist():
        warn("y is the same as X: each text is its own label. Check the columns: fit(df['text'], df['label']).")
    elif 1 < n_texts <= n_labels / 2:
        warn(
            f"X has {n_texts} different texts, such as {column.texts[0]!r:.40}, but y has {n_labels} different labels, "
            f"such as {str(labels[0])!r:.40}. Are X and y swapped? It is fit(texts, labels)."
        )


def _name_column(column: TextColumn, i: int) -> str:
    return str(i) if column.feature_names is None else repr(column.feature_names[i])


def _says(text: str, value: Any) -> bool:
    """Whether a text is a label or a number, written out."""
    if text == str(value):
        return True
    try:
        return isinstance(value, int | float) and float(text) == value
    except ValueError:
        return False
