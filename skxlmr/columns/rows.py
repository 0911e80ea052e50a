"""The rows of a column: their names in messages, their number, lengths and weights."""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Sized
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import _check_sample_weight

from skxlmr.system.warn import warn


def name_row(position: int, index: pd.Index | None) -> str:
    """Name a row by its position and, if different, its label in the index."""
    if index is None or index[position] == position:
        return f"row {position}"
    label = index[position]
    return f"row {position} (index {label.item() if isinstance(label, np.generic) else label!r})"


def check_n_rows(values: Sequence | np.ndarray, texts: Sequence, name: str = "y") -> None:
    """Raise a ValueError unless there is one value for each row of X.

    Examples
    --------
    >>> check_n_rows([1, 0, 1], ["good", "bad"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: Found input variables with inconsistent numbers of samples: X has 2 rows, but y has 3. ...
    """
    if len(values) != len(texts):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {name.replace('y', 'X', 1)} has {len(texts)} "
            f"rows, but {name} has {len(values)}. Each row of X needs its value of y: take both from the same table."
        )


def warn_of_same_texts(keys: Sequence[Hashable]) -> None:
    """Warn if all rows, of several, are the same, by their keys."""
    if len(keys) > 1 and all(key == keys[0] for key in keys):
        warn(f"All {len(keys)} rows of X are the same, {keys[0]!r:.40}, so they tell nothing apart. Check the column.")


def warn_of_other_order(X: Any, values: Any, name: str = "y") -> None:
    """Warn if X and values of pandas have the same labels of rows in another order, since rows go by position.

    Examples
    --------
    >>> import warnings
    >>> df = pd.DataFrame({"text": ["good", "bad"], "label": [1, 0]})
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_of_other_order(df.text, df.label.sort_values())
    >>> "y.loc[X.index]" in str(caught[0].message)
    True
    """
    if not (isinstance(X, pd.Series | pd.DataFrame) and isinstance(values, pd.Series | pd.DataFrame)):
        return
    ours, theirs = X.index, values.index
    if len(ours) != len(theirs) or ours.equals(theirs) or not (ours.is_unique and theirs.is_unique):
        return
    if ours.isin(theirs).all():
        row, of = int(np.argmax(ours != theirs)), "X_val" if name.endswith("_val") else "X"
        warn(
            f"The rows of {of} and of {name} have the same index, but in another order: row {row} is {ours[row]!r} in "
            f"{of} and {theirs[row]!r} in {name}. Rows go together by position. Unless this is meant, pass "
            f"{name}.loc[{of}.index]."
        )


def check_sample_weight(
    sample_weight: Any, texts: Sequence, name: str = "sample_weight", *, non_negative: bool = False
) -> np.ndarray:
    """Return the weights of the rows, (n_rows,) float64; None and a number stand for equal ones.

    Raises
    ------
    ValueError
        If there is not one for each row, or, with `non_negative`, if one is negative; the message names its row.
    """
    if isinstance(sample_weight, np.ma.MaskedArray):
        sample_weight = np.ma.filled(sample_weight.astype(np.float64), np.nan)
    shape = np.asarray(sample_weight).shape
    if len(shape) == 1 and shape[0] != len(texts):
        of = name.replace("sample_weight", "X")
        raise ValueError(f"{name} has {shape[0]} values, but {of} has {len(texts)} rows. Give one for each row.")
    index = sample_weight.index if isinstance(sample_weight, pd.Series) else None
    try:
        weights = _check_sample_weight(sample_weight, texts, dtype=np.float64)
    except ValueError as error:
        odd = _first_odd_weight(sample_weight, index)
        raise ValueError(f"{name} is not valid: {str(error).removesuffix('.')}.{odd}") from None
    if non_negative and (weights < 0).any():
        row = int(np.argmax(weights < 0))
        raise ValueError(
            f"Negative values in data passed to `{name}`: that of {name_row(row, index)} is {weights[row]:g}. "
            f"Use 0 to leave a row out."
        )
    return weights


def _first_odd_weight(sample_weight: Any, index: pd.Index | None) -> str:
    """Name the row of the first weight that is not a finite number; "" if there is none."""
    for row, weight in enumerate(np.ravel(np.asarray(sample_weight, object))):
        try:
            finite = bool(np.isfinite(float(weight)))
        except (TypeError, ValueError):
            finite = False
        if not finite:
            return f" The first such weight is {weight!r:.40}, of {name_row(row, index)}."
    return ""


def as_objects(values: Sequence) -> np.ndarray:
    """Return an array of objects (n,) with these values, which may be of any type."""
    array = np.empty(len(values), object)
    for i, value in enumerate(values):  # at once, values of one length would be taken for a matrix
        array[i] = value
    return array


def lengths(values: Sequence[Sized]) -> np.ndarray:
    """Return the length of each value, (n,) int64."""
    return np.fromiter(map(len, values), np.int64, len(values))


def total_lengths(rows: Sequence[Sequence[Sized]]) -> np.ndarray:
    """Return the total length of the values in each row, (n,) int64."""
    return np.fromiter((sum(map(len, row)) for row in rows), np.int64, len(rows))
