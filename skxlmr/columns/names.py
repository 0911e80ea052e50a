"""The names and the number of the columns of X."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_feature_names, _get_feature_names

from skxlmr.columns.text_column import TextColumn


def feature_names(X: Any, name: str = "X") -> np.ndarray | None:
    """Return the names of a frame's columns, (n_columns,), as scikit-learn's estimators do.

    None if X is not a frame, or if its columns are named by other things than strings, such as numbers.

    Raises
    ------
    TypeError
        If some of the names are strings and others are not; the message is that of scikit-learn.
    ValueError
        If two columns have the same name.
    """
    labels = _column_labels(X)
    if labels is None:
        return None
    twice = sorted({repr(label) for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(
            f"Expected unique column names, but {name} has several columns of the name {', '.join(twice)}. Rename them."
        )
    return _get_feature_names(_empty_frame(labels))


def input_names(X: Any) -> list[str] | None:
    """Return the names of the columns of a frame, or of a series; None if there are none that are strings."""
    names = feature_names(X)
    if names is not None:
        return list(names)
    series = nw.from_native(X, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(series, nw.Series) and isinstance(series.name, str) and series.name:
        return [series.name]
    return None


def check_feature_names(estimator: BaseEstimator, names: np.ndarray | None) -> None:
    """Raise scikit-learn's error if these are not the column names, in their order, that fit saw; None if X has none.

    Warns, as scikit-learn does, if only one of both has names.
    """
    try:
        _check_feature_names(estimator, None if names is None else _empty_frame(names), reset=False)
    except ValueError as error:
        raise ValueError(f"{error}Select the columns that fit saw: X{_selection(estimator)}.") from None


def check_n_features(estimator: BaseEstimator, column: TextColumn) -> None:
    """Raise scikit-learn's error unless a column has as many features as fit saw."""
    if column.n_features != estimator.n_features_in_:
        selected = f" Select those that fit saw: X{_selection(estimator)}." if _selection(estimator) else ""
        raise ValueError(
            f"X has {column.n_features} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input (columns of texts).{selected}"
        )


def _selection(estimator: BaseEstimator) -> str:
    """Return how to select the columns that fit saw of a frame; "" if they had no names."""
    names = getattr(estimator, "feature_names_in_", None)
    return "" if names is None else f"[{list(map(str, names))}]"


def _column_labels(X: Any) -> list | None:
    """Return the labels of a frame's columns; None if X is not a frame."""
    if isinstance(X, list):  # takes narwhals longer to find out
        return None
    if isinstance(X, pd.DataFrame):
        return list(X.columns)
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    return list(frame.columns) if isinstance(frame, nw.DataFrame) else None


def _empty_frame(labels: Sequence | np.ndarray) -> pd.DataFrame:
    """Return a frame of these columns without rows, which scikit-learn's functions take for any frame."""
    return pd.DataFrame(columns=pd.Index(labels, dtype=object, tupleize_cols=False))
