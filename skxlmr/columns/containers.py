"""Lists, arrays, frames and series of any library, as columns of plain values."""

from __future__ import annotations

import os
import re
from collections import UserString
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
from scipy import sparse

from skxlmr.columns.names import feature_names

# What reads the rows of a lazy frame of Spark, Dask, Ibis, DuckDB and polars.
READERS = ("toPandas", "compute", "to_pandas", "df", "collect")
NAME_OF_FILE = re.compile(r"\S+\.\w{1,7}")  # "reviews.csv", but not a sentence
SINGLE_TEXTS = (str, UserString, bytes, bytearray, memoryview)  # sequences that are not columns


def is_sequence(values: Any) -> bool:
    """Whether these are several values in order, such as a list, and not a single text."""
    return isinstance(values, Sequence) and not isinstance(values, SINGLE_TEXTS)


def split_columns(X: Any, name: str) -> tuple[list[list], list | None, pd.Index | None]:
    """Return the values of each column, the column names or None, and the index of pandas or None."""
    if isinstance(X, SINGLE_TEXTS):
        remedy = f"Put it into a list: [{name}]."
        if isinstance(X, str) and NAME_OF_FILE.fullmatch(X):
            remedy += f" If it is the name of a file, read this first, for example with pandas.read_csv({name})."
        raise TypeError(f"{name} is a single {type(X).__name__}. {remedy}")
    if isinstance(X, Mapping | Set | Iterator):
        remedy = f"Make it a list: list({name})."
        if isinstance(X, Mapping):
            remedy = (
                f"Make it a table: pandas.DataFrame({name}) if its values are columns, pandas.DataFrame([{name}]) if "
                f"it is one row."
            )
        raise TypeError(f"{name} is a {type(X).__name__}, which is not a column. {remedy}")
    if sparse.issparse(X):
        raise TypeError(f"{name} is a sparse matrix; a text column is needed, not features computed from one.")
    if isinstance(X, pd.DataFrame):
        return [X.iloc[:, i].tolist() for i in range(X.shape[1])], list(X.columns), X.index
    if isinstance(X, pd.Series):
        return [X.tolist()], None if X.name is None else [X.name], X.index
    if hasattr(X, "to_pylist") and not hasattr(X, "columns"):  # an array of pyarrow
        return [X.to_pylist()], None, None
    if isinstance(X, Sequence):  # a list, a tuple, a deque, a column of datasets, ...
        return _split_rows(list(X), name), None, None
    frame = nw.from_native(X, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        return [frame[column].to_list() for column in frame.columns], list(frame.columns), None
    if isinstance(frame, nw.Series):
        return [frame.to_list()], None, None
    if hasattr(X, "__array__"):
        return _split_array(as_unmasked(X), name), None, None
    raise not_a_column(X, name, "a list, an array or a Series of texts")


def not_a_column(values: Any, name: str, wanted: str) -> TypeError:
    """Return the error about something that is not a column, or whose rows are still to be read."""
    remedy = f"Use {wanted}."
    if isinstance(nw.from_native(values, pass_through=True), nw.LazyFrame):
        reader = next((method for method in READERS if hasattr(values, method)), READERS[-1])
        remedy = f"Read its rows first: {name}.{reader}()."
    elif isinstance(values, os.PathLike):
        remedy = f"Read the file first, for example with pandas.read_csv({name})."
    elif isinstance(columns := getattr(values, "column_names", None), list) and columns:  # a Dataset of datasets
        remedy = f"Select one of its columns, which are {columns[:5]}: {name}[{columns[0]!r}]."
    return TypeError(f"{name} is a {type(values).__name__}, which is not a column. {remedy}")


def as_unmasked(values: Any) -> np.ndarray:
    """Return an array; what a masked array hides is None in it, as missing values are in lists."""
    if not isinstance(values, np.ma.MaskedArray):
        return np.asarray(values)
    array = np.array(values.data, object)
    array[np.ma.getmaskarray(values)] = None
    return array


def one_column(X: Any, name: str) -> tuple[list, np.ndarray | None, pd.Index | None]:
    """Return the values of a column of any type, the name of a frame's column or None, and the index of pandas or None.

    Raises
    ------
    TypeError, ValueError
        If X is not a column, or has several.
    """
    if is_sequence(X):
        return list(X), None, None
    if isinstance(X, np.ndarray) and X.ndim == 1:
        return list(as_unmasked(X)), None, None
    if isinstance(X, np.ndarray):
        raise TypeError(f"{name} is an array of {X.ndim} dimensions, not a column of lists. Use {name}.tolist().")
    columns, labels, index = split_columns(X, name)
    names = feature_names(X, name)
    if len(columns) != 1:
        raise ValueError(f"{name} has {len(columns)} columns: {labels}. Select one: df['...'].")
    return columns[0], names, index


def _split_rows(rows: Sequence, name: str) -> list[list]:
    """Return the columns of a list of texts, or of a list of rows with one or two texts each."""
    if not rows or not _is_row(rows[0]):
        return [list(rows)]
    width = len(rows[0])
    for i, row in enumerate(rows):
        if not _is_row(row) or len(row) != width:
            got = f"{len(row)} values" if _is_row(row) else repr(row)[:40]
            raise ValueError(
                f"{name}, row {i}: {got}, but row 0 has {width} values. All rows need the same number of texts: 1, or "
                f"2 for text pairs. If these are the words of one text, join them: [' '.join(row) for row in {name}]."
            )
    return [list(column) for column in zip(*rows, strict=True)]


def _is_row(value: Any) -> bool:
    return is_sequence(value) or isinstance(value, np.ndarray)


def _split_array(array: np.ndarray, name: str) -> list[list]:
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} has {array.ndim} dimensions; a text column has one.")
    if array.dtype.kind == "f" and np.isnan(array).all():  # all of them are missing, so their type is not known
        array = array.astype(object)
    if array.dtype.kind not in "OUT" and array.size:
        hint = "Decode it first: np.char.decode." if array.dtype.kind == "S" else "Pass the texts themselves."
        raise TypeError(f"{name} is an array of {array.dtype}, but a column of texts is needed. {hint}")
    return [array.tolist()] if array.ndim == 1 else [array[:, i].tolist() for i in range(array.shape[1])]
